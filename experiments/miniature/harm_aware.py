"""Where does harm-awareness pay? Accuracies beside what is taught (arXiv:2604.25872, Section 4)."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.experiments.miniature.classrooms import ALL, TRUE, classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import Scale, seeds
from goodteacher.experiments.miniature.networks import Networks
from goodteacher.experiments.miniature.training import problem
from goodteacher.experiments.miniature.worlds import TRAIN, Family
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.sim.metrics import RankingAccuracy, comparisons, one_vs_many_accuracy, pairwise_accuracy

PROXIES = tuple(name for name in ALL if name != TRUE)
MEASURES = tuple(
    f"{name.replace('_', '-')}, {how}"
    for how in ("pairwise", "one-vs-many")
    for name in RankingAccuracy._fields
)
_TRUTH = "expected_ground_truth_reward"


def correlations(scale: Scale, block: str) -> Float[np.ndarray, "measures worlds"]:
    """Rank correlations of all ranking accuracies with the increase of the ground truth, over the proxies."""
    family, course = Family(), scale.course()
    room = classrooms(family, course, seeds(block), PROXIES)
    found = np.asarray(_accuracies(family.policy)(*room))  # worlds, models, measures
    rises = increases(teach(family, course, room, (_TRUTH,), ()).train[_TRUTH])[..., -1]
    return rank_correlation(np.moveaxis(found, -1, 0), rises)


@cache
def _accuracies(kind: Networks) -> Any:
    def look(images: Array, start: Array, truth: Array, rewards: Array) -> Array:
        instance = problem(kind.policy(images, TRAIN), start, rewards[TRAIN], truth[TRAIN])
        compared = comparisons(instance, start)
        return jnp.stack([*pairwise_accuracy(compared), *one_vs_many_accuracy(compared)])

    return jax.jit(jax.vmap(jax.vmap(look, (None, None, None, 0))))
