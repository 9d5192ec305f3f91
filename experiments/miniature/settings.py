"""The five settings of which arXiv:2503.15477 gives correlations and curves, in miniature.

There a second policy is smaller, and what follows changes one thing each: the data it was fitted on, the
ground truth, and over which outputs rewards are normalised.
"""

from types import MappingProxyType

import numpy as np

from goodteacher.experiments.miniature.lessons import Scale, lessons
from goodteacher.experiments.miniature.networks import Networks
from goodteacher.experiments.miniature.worlds import Family, close_by_digit

_SMALL = Networks(width=8)
# By the published table: what is the case, the family of worlds, and changes of the course.
SETTINGS = MappingProxyType(
    {
        "Table 2 (Fig 2 Pythia-2.8B)": ("larger policy", Family(), {}),
        "Table 4 (Fig 5 Pythia-1B)": ("smaller policy", Family(policy=_SMALL), {}),
        "Table 6 (Fig 7 Pythia-1B SFT UF)": ("other fit", Family(policy=_SMALL, noise=0.6), {}),
        "Table 8 (Fig 9 GRM ground truth)": (
            "other truth",
            Family(truth=close_by_digit, policy=_SMALL),
            {},
        ),
        "Table 9 (Fig 11 other normalisation)": (
            "other normalisation",
            Family(policy=_SMALL),
            {"on_policy_scale": False},
        ),
    }
)


def runs(scale: Scale, block: str) -> dict[str, np.ndarray]:
    """:func:`goodteacher.experiments.miniature.lessons.lessons` of every setting, the second axis."""
    found = [lessons(scale, block, family, **changes) for _, family, changes in SETTINGS.values()]
    return {name: np.stack([each[name] for each in found], 1) for name in found[0]}
