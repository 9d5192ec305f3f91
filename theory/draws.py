"""Random problems for statements: wide, with near-ties, nearly deterministic policies and rare outputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.instance import Instance

REGULARIZED_OUTPUTS = 6
"""Outputs at most of a tabular problem whose flow has to be integrated."""


class Source:
    """A point of the unit cube, handed out coordinate by coordinate: what a random instance is made of.

    A uniformly random point gives a random instance; a search for the least favourable one moves the point.
    """

    def __init__(self, point: Float[Array, " dimension"]):
        self._point = point
        self.used = 0

    def uniform(
        self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        """Numbers between ``low`` and ``high``."""
        size = math.prod(shape)
        part = self._point[self.used : self.used + size].reshape(shape)
        self.used += size
        return jnp.asarray(low + (high - jnp.asarray(low)) * part)

    def log_uniform(
        self, low: ArrayLike, high: ArrayLike, shape: tuple[int, ...] = ()
    ) -> Float[Array, "..."]:
        """Numbers whose logarithm is uniform between those of ``low`` and ``high``."""
        return jnp.exp(self.uniform(jnp.log(low), jnp.log(high), shape))

    def normal(self, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Standard normal numbers, none beyond 8."""
        return jax.scipy.special.ndtri(jnp.clip(self.uniform(shape=shape), 1e-15, 1.0 - 1e-15))

    def bernoulli(self, probability: ArrayLike = 0.5, shape: tuple[int, ...] = ()) -> Bool[Array, "..."]:
        """True with the given probability."""
        return self.uniform(shape=shape) < probability

    def integer(self, low: int, high: ArrayLike, shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Whole numbers from ``low`` to ``high``, both included."""
        number = jnp.floor(self.uniform(low, high + 1.0, shape))
        return jnp.minimum(number, high).astype(int)

    def permutation(self, length: int) -> Int[Array, " length"]:
        """A random order of ``0 .. length - 1``."""
        return jnp.argsort(self.uniform(shape=(length,)))


def dimension(draw: Callable[[Source], Any]) -> int:
    """How many coordinates a function takes from its source."""

    def count(point: Array) -> Array:
        source = Source(point)
        draw(source)
        return jnp.zeros(source.used)

    return jax.eval_shape(count, jax.ShapeDtypeStruct((_MOST_COORDINATES,), float)).shape[0]


_MOST_COORDINATES = 1 << 20


class Task(NamedTuple):
    """A problem, and an increase of the expected ground truth reward that is waited for at every prompt."""

    instance: Instance
    gamma: Float[Array, ""]


def random_logits(
    source: Source, shape: tuple[int, ...], low: float = 0.1, high: float = 20.0
) -> Float[Array, "..."]:
    """Normal logits at a scale that is random too: policies from nearly uniform to nearly deterministic."""
    return source.log_uniform(low, high) * source.normal(shape)


def random_rewards(source: Source, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Rewards in ``[-1, 1]``; in half of the draws the first two outputs are nearly tied."""
    rewards = source.uniform(-1.0, 1.0, shape)
    gap = source.log_uniform(1e-9, 1e-1)
    first = rewards[..., 0]
    tied = jnp.where(first > 0, first - gap, first + gap)
    return rewards.at[..., 1].set(jnp.where(source.bernoulli(), tied, rewards[..., 1]))


def random_kl_coefficient(source: Source, low: float = 1e-3, high: float = 10.0) -> Float[Array, ""]:
    """Zero in a quarter of the draws."""
    return jnp.where(source.bernoulli(0.25), 0.0, source.log_uniform(low, high))


def random_prompt_weights(source: Source, prompts: int) -> Float[Array, " prompts"]:
    """Equal in a third of the draws, unequal up to a hundredfold in others, else one for a single prompt."""
    kind = source.integer(0, 2)
    weights = jnp.where(kind == 0, 1.0, source.log_uniform(1e-2, 1.0, (prompts,)))
    weights = jnp.where((kind == 2) & (jnp.arange(prompts) > 0), 0.0, weights)
    return weights / weights.sum()


def random_outputs(
    source: Source, shape: tuple[int, int], fewest: int = 2
) -> tuple[Bool[Array, "prompts outputs"], Bool[Array, ""]]:
    """Which outputs exist, the first ones of each prompt; and whether the problem is to be regularised.

    It is in a quarter of the draws; then only :data:`REGULARIZED_OUTPUTS` exist at most, for the flow has to
    be integrated.
    """
    regularized = source.bernoulli(0.25)
    most = jnp.where(regularized, min(REGULARIZED_OUTPUTS, shape[1]), shape[1])
    return jnp.arange(shape[1]) < source.integer(fewest, most, (shape[0], 1)), regularized


def random_mask(source: Source, shape: tuple[int, int], fewest: int = 2) -> Bool[Array, "prompts outputs"]:
    """Which outputs exist: the first ones, of each prompt some number of its own."""
    return jnp.arange(shape[1]) < source.integer(fewest, shape[1], (shape[0], 1))


def without(
    instance: Instance,
    exists: Bool[Array, "prompts outputs"],
    reference_logits: Float[Array, "prompts outputs"] | None = None,
) -> Instance:
    """A problem of which only some outputs exist, decided at run time.

    One shape then serves every number of outputs. (A mask that is given to the constructor is concrete.)
    The reference becomes the initial policy, if none is given.
    """
    masked = eqx.tree_at(lambda i: i.mask, instance, exists, is_leaf=lambda leaf: leaf is None)
    if reference_logits is None:
        reference = masked.log_probabilities(masked.initial_parameters)
    else:
        reference = jax.nn.log_softmax(jnp.where(exists, reference_logits, -jnp.inf))
    return eqx.tree_at(lambda i: i.reference_log_probabilities, masked, reference)
