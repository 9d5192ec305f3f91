"""What the papers report of their runs, computed of those in miniature."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from goodteacher.experiments.miniature.classrooms import PUBLISHED, TRUE, increases
from goodteacher.experiments.miniature.lessons import Scale, at_start, early_record
from goodteacher.experiments.statistics import rank_correlation

INCREASED = {"proxy": "train.expected_proxy_reward", "ground truth": "train.expected_ground_truth_reward"}


def measures(runs: Mapping[str, np.ndarray]) -> Float[np.ndarray, "measures worlds models"]:
    """Those of arXiv:2503.15477, Table 2, of the initial policy: variance, accuracies, their means."""
    variance, on_policy, uniform = at_start(runs).values()
    both = 0.5 * (on_policy + uniform)
    return np.stack([variance, on_policy, uniform, both, 0.5 * (variance + both)])


def correlations(
    runs: Mapping[str, np.ndarray], scale: Scale
) -> Float[np.ndarray, "measures increases 2 worlds"]:
    """Rank correlations over all reward models but the truth, early and at the end.

    Args:
        runs: as :func:`goodteacher.experiments.miniature.lessons.lessons` gives them.
        scale: theirs.
    """
    proxies = np.array([name != TRUE for name in PUBLISHED])
    early = early_record(scale.course().counts)
    of = measures(runs)[:, None, None, :, proxies]
    rises = np.stack([increases(runs[name])[:, proxies][..., [early, -1]] for name in INCREASED.values()])
    return rank_correlation(of, np.moveaxis(rises, -1, 1)[None])
