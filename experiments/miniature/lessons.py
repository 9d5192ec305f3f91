"""The runs that the papers' tables are made of: all reward models in many worlds, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from goodteacher.experiments.miniature.classrooms import Course, classrooms, teach
from goodteacher.experiments.miniature.worlds import Family

DEFAULT = Family()
EARLY = 0.1  # of the training
TIME = 100.0  # learning rate times updates of every run
_BLOCK = 4  # worlds at a time

# Of pairs of outputs, drawn from the policy or all alike.
ON_POLICY, UNIFORM = "on-policy accuracy where truth differs", "uniform accuracy where truth differs"
MEASURES = {
    "variance": "proxy_reward_variance",
    ON_POLICY: "on_policy_accuracy_where_truth_differs",
    UNIFORM: "uniform_accuracy_where_truth_differs",
}


@dataclass(frozen=True)
class Scale:
    """How many runs of which size.

    Attributes:
        worlds: seeds from 0 on.
        prompts: of each split.
        updates: of each run.
        records: along it.
    """

    worlds: int = 4
    prompts: int = 200
    updates: int = 200
    records: int = 15

    def __post_init__(self) -> None:
        """Validates the numbers.

        Raises:
            ValueError: naming the number and the fix.
        """
        for name, least in {"worlds": 2, "prompts": 2, "updates": 1, "records": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")

    def course(self, *, rate: float = 1.0, **changes: Any) -> Course:
        """The course of these runs, of the same time whatever the number of updates.

        Args:
            rate: by what the learning rate is multiplied.
            changes: of other fields of :class:`goodteacher.experiments.miniature.classrooms.Course`.
        """
        return Course(
            prompts=self.prompts,
            updates=self.updates,
            records=self.records,
            learning_rate=rate * TIME / self.updates,
            **changes,
        )


LARGE = Scale(worlds=200, updates=400, records=21)


def early_record(counts: Int[np.ndarray, " records"]) -> int:
    """Which record is nearest to :data:`EARLY` of the training."""
    return int(np.abs(counts - EARLY * counts[-1]).argmin())


def blocks(scale: Scale) -> list[str]:
    """The names of blocks of worlds: the seed of the first one, and that after the last."""
    starts = range(0, scale.worlds, _BLOCK)
    return [f"{first}-{min(first + _BLOCK, scale.worlds)}" for first in starts]


def seeds(block: str) -> range:
    """Of the worlds of a block."""
    return range(*map(int, block.split("-")))


def lessons(
    scale: Scale, block: str, family: Family = DEFAULT, **changes: Any
) -> dict[str, Float[np.ndarray, "worlds models *records"]]:
    """Runs on the five mixes, the perfect but flat model and the truth.

    Args:
        scale: of the runs.
        block: of worlds.
        family: of these.
        changes: of the course.

    Returns:
        Metrics along the runs, named ``train.NAME`` and ``held_out.NAME``, and accuracies ``start.NAME``.
    """
    course = scale.course(**changes)
    taught = teach(family, course, classrooms(family, course, seeds(block)))
    return {
        f"{kind}.{name}": np.asarray(values)
        for kind in ("train", "held_out", "start")
        for name, values in getattr(taught, kind).items()
    }


def joined(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Blocks of worlds one after the other."""
    every = list(parts.values())
    return {name: np.concatenate([part[name] for part in every]) for name in every[0]}


def at_start(runs: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, "worlds models"]]:
    """The measures of arXiv:2503.15477, Table 1, under the initial policy, by :data:`MEASURES`.

    What is "off-policy" there is over uniform pairs here.
    """
    variance, *accuracies = MEASURES.items()
    found = {variance[0]: runs[f"train.{variance[1]}"][..., 0]}
    return found | {name: runs[f"start.{metric}"] for name, metric in accuracies}


def crossings(
    counts: Sequence[int] | np.ndarray, leading: Float[np.ndarray, "*batch records"]
) -> Float[np.ndarray, " *batch"]:
    """After how many updates a lead that is positive at first ends for good, by linear interpolation.

    ``0`` if there is none after the first record, ``inf`` if it lasts.
    """
    ahead = leading[..., 1:] > 0
    last = ahead.shape[-1] - ahead[..., ::-1].argmax(-1)  # record of the last lead
    x = np.asarray(counts, float)
    following = np.minimum(last + 1, len(x) - 1)
    high, low = (np.take_along_axis(leading, of[..., None], -1)[..., 0] for of in (last, following))
    share = np.divide(high, high - low, out=np.zeros(high.shape), where=high != low)
    at = x[last] + share * (x[following] - x[last])
    return np.where(ahead.any(-1), np.where(ahead[..., -1], np.inf, at), 0.0)
