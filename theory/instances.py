"""Random problems for statements: wide, with near-ties, nearly deterministic policies and rare outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from sim.instance import Instance


def log_uniform(key: Array, low: ArrayLike, high: ArrayLike, shape: tuple[int, ...] = ()) -> Array:
    """Numbers whose logarithm is uniform between those of ``low`` and ``high``."""
    return jnp.exp(jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high)))


def random_logits(
    key: Array, shape: tuple[int, ...], low: float = 0.1, high: float = 20.0
) -> Float[Array, "..."]:
    """Normal logits at a scale that is random too: policies from nearly uniform to nearly deterministic."""
    of_scale, of_logits = jax.random.split(key)
    return log_uniform(of_scale, low, high) * jax.random.normal(of_logits, shape)


def random_rewards(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Rewards in ``[-1, 1]``; in half of the draws the first two outputs are nearly tied."""
    of_rewards, of_tie, of_gap = jax.random.split(key, 3)
    rewards = jax.random.uniform(of_rewards, shape, minval=-1.0, maxval=1.0)
    gap = log_uniform(of_gap, 1e-9, 1e-1)
    first = rewards[..., 0]
    tied = jnp.where(first > 0, first - gap, first + gap)
    return rewards.at[..., 1].set(jnp.where(jax.random.bernoulli(of_tie), tied, rewards[..., 1]))


def random_kl_coefficient(key: Array, low: float = 1e-3, high: float = 10.0) -> Float[Array, ""]:
    """Zero in a quarter of the draws."""
    of_zero, of_size = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(of_zero, 0.25), 0.0, log_uniform(of_size, low, high))


def without(instance: Instance, exists: Bool[Array, "prompts outputs"]) -> Instance:
    """A problem of which only some outputs exist, decided at run time.

    One shape then serves every number of outputs. (A mask that is given to the constructor is concrete.)
    The reference becomes the initial policy.
    """
    masked = eqx.tree_at(lambda i: i.mask, instance, exists, is_leaf=lambda leaf: leaf is None)
    reference = masked.log_probabilities(masked.initial_parameters)
    return eqx.tree_at(lambda i: i.reference_log_probabilities, masked, reference)
