"""What sampling from a policy gives, in law."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def best_of_n(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    samples: ArrayLike,
) -> Float[Array, "*batch outputs"]:
    """The law of the best, by reward, of ``N`` independent samples; of equally good ones, the first drawn.

    ``P(y) = pi(y)/m (F^N - (F - m)^N)`` with ``m`` the mass of the outputs of the same reward, and ``F`` that
    of the outputs of no higher reward (arXiv:2503.15477, Proposition 1). Its relative precision is kept for
    any ``N`` and any masses: it is written ``F^N (1 - (1 - m/F)^N)``, with ``ln F`` taken from the mass above
    where that is the smaller one.

    Args:
        probabilities: of the policy; zero for an output that does not exist.
        rewards: by which the best is chosen.
        samples: ``N``, at least 1, of a shape that broadcasts against the batch.

    Returns:
        Probabilities of the outputs.
    """
    return _best_of_n(probabilities, rewards, jnp.asarray(samples, float))


@jax.jit
@partial(jnp.vectorize, signature="(k),(k),()->(k)")
def _best_of_n(probabilities: Array, rewards: Array, samples: Array) -> Array:
    # By group of equal rewards, the lowest first; trailing groups may be empty.
    _, group = jnp.unique(rewards, return_inverse=True, size=rewards.size)
    mass = jnp.zeros_like(probabilities).at[group].add(probabilities)
    up_to = jnp.cumsum(mass)
    below = jnp.concatenate([jnp.zeros(1), up_to[:-1]])
    above = jnp.concatenate([jnp.cumsum(mass[::-1])[-2::-1], jnp.zeros(1)])

    present = mass > 0.0
    share = jnp.where(present, mass / jnp.where(present, up_to, 1.0), 0.5)
    log_up_to = _log(up_to, above)
    log_missed = _log(below / jnp.where(present, up_to, 1.0), share)
    chosen = -jnp.exp(samples * log_up_to) * jnp.expm1(samples * log_missed)
    return jnp.where(
        probabilities > 0.0, probabilities / jnp.where(present, mass, 1.0)[group] * chosen[group], 0.0
    )


def _log(value: Array, complement: Array) -> Array:
    """The logarithm of a number that is given together with what it lacks to one."""
    # Kahan's log1p: that of XLA is off by up to 3e-14, which the power would multiply.
    rounded = 1.0 - complement
    correction = complement / jnp.where(rounded == 1.0, 1.0, 1.0 - rounded)
    near_one = jnp.where(rounded == 1.0, -complement, jnp.log(rounded) * correction)
    return jnp.where(complement < 0.5, near_one, jnp.log(value))
