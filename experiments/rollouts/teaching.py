"""How a policy is taught: exact flows of the model policies of many prompts, as values to choose from.

An estimator knows when an expectation has risen by an increase, and where the policies are at given times.
Every prompt is a problem by itself, of weight one.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.estimates import first_crossing, tilt
from goodteacher.sim.flow import Control, final_policies, hitting_times
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.names import unknown

_BLOCK = 1024  # problems at a time: one size, which is compiled once
# Of tau times the spread of the rewards, on which a first crossing is looked for.
_GRID = np.concatenate([[0.0], np.geomspace(1e-2, 1e7, 120)])

Problems = Float[np.ndarray, "n outputs"]


class Estimator(Protocol):
    """What a policy follows."""

    title: ClassVar[str]
    paths: ClassVar[int]  # policies that are looked at along training, all together

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

    def policies(self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, " n"]) -> Problems:
        """Log-probabilities at given times, one for each problem."""
        ...


@dataclass(frozen=True)
class GradientFlow:
    """The gradient flow of a tabular policy."""

    title: ClassVar[str] = "gradient flow"
    paths: ClassVar[int] = 12_000

    def times(
        self, log_p: Problems, rewards: Problems, truth: Problems, increase: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """See :class:`Estimator`."""

        def solve(instances: Instance, gains: np.ndarray) -> Array:
            goals = _increases(instances, gains)
            return hitting_times(instances, goals).time[:, 0]

        return _by_blocks(solve, log_p, rewards, truth, increase)

    def policies(self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, " n"]) -> Problems:
        """See :class:`Estimator`."""

        def solve(instances: Instance, horizons: np.ndarray) -> Array:
            # A time of zero is as good as the smallest.
            horizons = np.maximum(horizons, np.finfo(float).tiny)
            return final_policies(instances, Control(horizon=horizons))[0][:, 0]

        return _by_blocks(solve, log_p, rewards, rewards, times)


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
    """In blocks of one size; the last is filled up with its last problem."""
    parts = []
    for first in range(0, len(log_p), _BLOCK):
        rows = slice(first, first + _BLOCK)
        block = [each[rows] for each in (log_p, rewards, truth, of)]
        count = len(block[0])
        filled = [np.concatenate([each, np.repeat(each[-1:], _BLOCK - count, axis=0)]) for each in block]
        parts.append(np.asarray(solve(_instances(*filled[:3]), filled[3]))[:count])
    return np.concatenate(parts) if parts else np.zeros(of.shape)


@dataclass(frozen=True)
class NaturalFlow:
    """The natural gradient flow of a tabular policy, ``pi exp(tau r)``, in closed form."""

    title: ClassVar[str] = "natural gradient flow"
    paths: ClassVar[int] = 300_000

    def times(
        self, log_p: Problems, rewards: Problems, truth: Problems, increase: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """See :class:`Estimator`. Found where the sign changes on a fine logarithmic grid."""
        parts = [
            _natural_times(*(of[first : first + _BLOCK] for of in (log_p, rewards, truth, increase)))
            for first in range(0, len(log_p), _BLOCK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def policies(self, log_p: Problems, rewards: Problems, times: Float[np.ndarray, " n"]) -> Problems:
        """See :class:`Estimator`."""
        return tilt(log_p, rewards, times).log_probabilities


def _natural_times(log_p: Problems, rewards: Problems, truth: Problems, increase: np.ndarray) -> np.ndarray:
    exists = np.isfinite(log_p)
    p = np.exp(log_p)
    start = (p * truth).sum(1)
    above = np.where(exists, p * (truth - (start + increase)[:, None]), 0.0)
    high = np.where(exists, rewards, -np.inf).max(1, keepdims=True)
    low = np.where(exists, rewards, np.inf).min(1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    below_best = np.where(exists, (rewards - high) / spread, 0.0)

    def beyond(which: np.ndarray, tau: np.ndarray) -> np.ndarray:
        return np.einsum("xy,xy->x", above[which], np.exp(below_best[which] * tau[:, None]))

    return first_crossing(beyond, len(log_p), _GRID) / spread[:, 0]


ESTIMATORS = MappingProxyType({"gradient": GradientFlow(), "natural": NaturalFlow()})


def find_estimator(estimator: Any) -> Estimator:
    """An estimator by its name, or itself.

    Raises:
        ValueError: for a name that is not known.
    """
    if not isinstance(estimator, str):
        return estimator
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    return ESTIMATORS[estimator]
