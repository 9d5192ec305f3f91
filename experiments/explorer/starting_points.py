"""Where the page can start: published problems, random ones, instance files and files of rollouts."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from goodteacher.experiments.explorer.situation import Situation
from goodteacher.experiments.instances import SIMILARITIES, beneficial_errors, feature_similarity
from goodteacher.sim.files import is_instance_file, read_instance
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown

PUBLISHED: Mapping[str, Callable[[], Instance]] = MappingProxyType(
    {
        f"{trained_on.replace('_', ' ')}, {probability:g}": partial(
            beneficial_errors, initial_probability=probability, trained_on=trained_on
        )
        for trained_on in ("ground_truth", "proxy")
        for probability in (0.05, 0.01)
    }
    | {
        f"{name} features, {trained_on.replace('_', ' ')}": partial(
            feature_similarity, similarity=cosine, trained_on=trained_on
        )
        for name, cosine in SIMILARITIES.items()
        for trained_on in ("ground_truth", "proxy")
    }
)
"""The runs of arXiv:2604.25872: what they are trained on, and the initial probability of ``y*``."""

FIRST = "proxy, 0.05"


def published(name: str) -> Situation:
    """A published problem.

    Raises:
        ValueError: for a name that is not known.
    """
    if name not in PUBLISHED:
        raise unknown("start", name, PUBLISHED)
    return Situation.of(PUBLISHED[name]())


def drawn(seed: int) -> Situation:
    """A random problem of four to eight outputs, whose proxy errs at some of them.

    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; give a whole number from 0")
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 9))
    truth = random.uniform(-1.0, 1.0, count).round(2)
    errs = random.random(count) < 0.4
    proxy = np.where(errs, random.uniform(-1.0, 1.0, count).round(2), truth)
    start = random.dirichlet(np.full(count, 0.7)) + 1e-6
    start = tuple(map(float, start / start.sum()))
    return Situation(tuple(map(float, proxy)), tuple(map(float, truth)), start)


class Collection(NamedTuple):
    """Problems of a file.

    Attributes:
        name: of the file.
        instance: all prompts.
        prompts: what they are called.
    """

    name: str
    instance: Instance
    prompts: tuple[str, ...]

    def situation(self, prompt: int) -> Situation:
        """One of its prompts; raises as :meth:`Situation.of`."""
        return Situation.of(self.instance, prompt)


def read_problems(path: Path) -> Collection:
    """The problems of an instance file, or of rollouts, whose first reward is trained on.

    Args:
        path: of the file, by whose name they go.

    Raises:
        ValueError: if it cannot be read or holds none.
    """
    if is_instance_file(path):
        instance = read_instance(path)
        return Collection(path.name, instance, tuple(map(str, range(len(instance.rewards)))))

    # pandas and what reads with it take long to import, and few need them.
    from goodteacher.experiments.rollouts.intake import read_rollouts
    from goodteacher.experiments.rollouts.problems import as_problem

    problem = as_problem(read_rollouts([path]), like_truth=True)
    return Collection(path.name, problem.instance, tuple(problem.prompts))
