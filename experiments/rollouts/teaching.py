"""How a policy is taught: exact flows of the model policies of many prompts, as values to choose from.

An estimator knows when an expectation has risen by an increase, and where the policies are at given times.
Every prompt is a problem by itself, of weight one.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.experiments.followed import Followed
from goodteacher.experiments.rollouts.outputs import SIZES
from goodteacher.experiments.workers import cores
from goodteacher.sim import natural
from goodteacher.sim.clocks import BatchScaled, Clock, Gradient, Natural, Objections, see
from goodteacher.sim.flow import hitting_times_only, policies
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters

BLOCK = 512  # problems at a time

Problems = Float[np.ndarray, "n outputs"]


class Estimator(Protocol):
    """What a policy follows."""

    @property
    def title(self) -> str:
        """In words."""
        ...

    paths: ClassVar[int]  # policies that are looked at along training, all together

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of outputs that problems are filled up to."""
        ...

    def objections(self, exists: Bool[np.ndarray, "n outputs"], rewards: Problems) -> Objections:
        """Why it cannot be followed with the rewards of some problems."""
        ...

    def times(
        self, log_p: Problems, rewards: Problems, truth: Problems, increase: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """When the expected ground truth has risen by an increase; ``inf`` if never, ``nan`` if not known.

        Args:
            log_p: of the initial policies; ``-inf`` where there is no output.
            rewards: what is trained on.
            truth: whose expectation is to rise.
            increase: by how much.
        """
        ...

    def policies(
        self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, "n times"]
    ) -> Float[np.ndarray, "n times outputs"]:
        """Log-probabilities of every problem, at times of its own."""
        ...

    def rises(self, log_p: Problems, rewards: Problems, truth: Problems) -> Bool[np.ndarray, " n"]:
        """Whether the expected ground truth rises at first."""
        ...


@dataclass(frozen=True)
class GradientFlow:
    """The gradient flow of a tabular policy, or what an estimator makes of it on average.

    Attributes:
        clock: what is followed.

    Raises:
        ValueError: for a clock that is none of a prompt by itself.
    """

    clock: Clock = field(default_factory=Gradient)
    paths: ClassVar[int] = 12_000

    def __post_init__(self) -> None:
        """Refuses a clock of all prompts together: what is asked of is one prompt, of many resamples."""
        if isinstance(self.clock, BatchScaled):
            raise ValueError(
                f"estimator is {self.clock.title}, under which all prompts are on one clock, and prompts are "
                "diagnosed one by one; give one that divides by the deviation of each group"
            )

    @property
    def title(self) -> str:
        """In words."""
        return "gradient flow" if isinstance(self.clock, Gradient) else self.clock.title

    @property
    def sizes(self) -> Sequence[int]:
        """All, where groups of outputs may have to be enumerated: of more there are very many more."""
        group = getattr(getattr(self.clock, "of", self.clock), "group", math.inf)
        return SIZES if group == math.inf else range(2, SIZES[-1])

    def objections(self, exists: Bool[np.ndarray, "n outputs"], rewards: Problems) -> Objections:
        """See :class:`Estimator`."""
        return self.clock.objections(see(rewards, None, exists), exists)

    def times(
        self, log_p: Problems, rewards: Problems, truth: Problems, increase: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """See :class:`Estimator`."""

        def solve(instances: Instance, gains: np.ndarray) -> Array:
            instances = instances.following(self.clock)
            goals = _increases(instances, gains)
            return hitting_times_only(instances, goals)[0][:, 0]

        return _by_blocks(solve, log_p, rewards, truth, increase)

    def policies(
        self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, "n times"]
    ) -> Float[np.ndarray, "n times outputs"]:
        """See :class:`Estimator`."""

        def solve(instances: Instance, times: np.ndarray) -> Array:
            return policies(instances.following(self.clock), times)[:, :, 0]

        return _by_blocks(solve, log_p, rewards, rewards, times)

    def rises(self, log_p: Problems, rewards: Problems, truth: Problems) -> Bool[np.ndarray, " n"]:
        """See :class:`Estimator`."""
        p = np.exp(log_p)
        return (p**2 * _centred(p, rewards) * _centred(p, truth)).sum(1) > 0


def _centred(p: Problems, values: Problems) -> Problems:
    return values - (p * values).sum(1, keepdims=True)


@jax.jit
def _increases(instances: Instance, gains: Array) -> Goal:
    return jax.vmap(lambda instance, gain: reward_increase(instance, gain))(instances, gains)


@jax.jit
@jax.vmap
def _instances(log_p: Array, rewards: Array, truth: Array) -> Instance:
    exists = jnp.isfinite(log_p)
    instance = Instance(rewards, truth, Parameters(jnp.where(exists, log_p, 0.0)))
    return eqx.tree_at(lambda i: i.mask, instance, exists[None], is_leaf=lambda leaf: leaf is None)


def _by_blocks(solve: Any, log_p: Problems, rewards: Problems, truth: Problems, of: np.ndarray) -> np.ndarray:
    """In blocks of few sizes, side by side; the last problem fills them up.

    Each size is compiled once: JAX lets a thread wait that needs what another one compiles.
    """

    def solved(first: int) -> np.ndarray:
        rows = slice(first, first + BLOCK)
        block = [each[rows] for each in (log_p, rewards, truth, of)]
        count = len(block[0])
        missing = (1 << (count - 1).bit_length() if len(log_p) <= BLOCK else BLOCK) - count
        filled = [np.concatenate([each, np.repeat(each[-1:], missing, axis=0)]) for each in block]
        return np.asarray(solve(_instances(*filled[:3]), filled[3]))[:count]

    if len(log_p) == 0:
        return np.zeros(of.shape)
    with ThreadPoolExecutor(cores()) as several:
        return np.concatenate([*several.map(solved, range(0, len(log_p), BLOCK))])


@dataclass(frozen=True)
class NaturalFlow:
    """The natural gradient flow of a tabular policy, ``pi exp(tau r)``, in closed form."""

    paths: ClassVar[int] = 300_000

    @property
    def title(self) -> str:
        """In words."""
        return "natural gradient flow"

    @property
    def sizes(self) -> Sequence[int]:
        """Few."""
        return SIZES

    def objections(self, exists: Bool[np.ndarray, "n outputs"], rewards: Problems) -> Objections:
        """See :class:`Estimator`."""
        return {}

    def times(
        self, log_p: Problems, rewards: Problems, truth: Problems, increase: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """See :class:`Estimator`."""
        return natural.times(log_p, rewards, truth, increase)

    def policies(
        self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, "n times"]
    ) -> Float[np.ndarray, "n times outputs"]:
        """See :class:`Estimator`."""
        return natural.policies(log_p, rewards, times)

    def rises(self, log_p: Problems, rewards: Problems, truth: Problems) -> Bool[np.ndarray, " n"]:
        """See :class:`Estimator`."""
        p = np.exp(log_p)
        return (p * _centred(p, rewards) * _centred(p, truth)).sum(1) > 0


def find_estimator(estimator: Any) -> Estimator:
    """An estimator by its name, or itself; a clock is followed.

    Raises:
        ValueError: for a name that is not one of :data:`goodteacher.experiments.followed.ESTIMATORS`, or that
            needs a number beside it.
    """
    clock = Followed(estimator).clock() if isinstance(estimator, str) else estimator
    if isinstance(clock, Natural):
        return NaturalFlow()
    return GradientFlow(clock) if isinstance(clock, Clock) else clock
