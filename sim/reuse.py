"""Stale samples: every batch serves several updates (RE(S), arXiv:2609.36945), with exact expectations.

The samples of a batch are those of the policy ``q`` at its refresh. On average an update by the logits is
``q(y) r(y) - (sum_z q(z) r(z)) pi(y)``, which at ``q = pi`` is the gradient: away from it, what has become
likely since does not hold the rest back. With ratios that are clipped, as in PPO, samples weigh ``r(y)
min(pi/q, ...)`` less a baseline, and push no further where the clipped ratio is the binding one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward


class Reused(NamedTuple):
    """How updates on stale samples ended.

    Attributes:
        update: after how many the level was reached; -1 if it was not.
        log_probabilities: of the policy there, or at the end.
    """

    update: Int[Array, ""]
    log_probabilities: Float[Array, " outputs"]


def stale_gradient(
    log_p: Float[Array, " outputs"],
    log_q: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    clip: ArrayLike | None = None,
) -> Float[Array, " outputs"]:
    """The mean update by the logits.

    Args:
        log_p: of the policy.
        log_q: of that which drew the samples.
        rewards: of the outputs.
        clip: of the ratio's distance from one, beyond which it is not followed in the direction that the
            advantage under ``q`` asks for; the plain update if not given.
    """
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    if clip is None:
        return q * rewards - expected_reward(q, rewards) * p
    advantages = rewards - expected_reward(q, rewards)
    ratio = jnp.exp(log_p - log_q)
    follows = jnp.where(advantages > 0, ratio < 1.0 + clip, ratio > 1.0 - clip)
    weights = jnp.where(follows, p * advantages, 0.0)
    return weights - weights.sum() * p


@jax.jit
def updates_until(
    start: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    level: ArrayLike,
    rate: ArrayLike,
    reuses: ArrayLike,
    most: ArrayLike,
    clip: ArrayLike | None = None,
) -> Reused:
    """As :func:`reuse`, of logits and rewards and without validation, for ``jax.vmap``."""

    def short(carry: tuple[Array, Array, Array]) -> Array:
        logits, _, count = carry
        return (expected_reward(jax.nn.softmax(logits), rewards - level) < 0) & (count < most)

    def update(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        logits, log_q, count = carry
        log_p = jax.nn.log_softmax(logits)
        log_q = jnp.where(count % reuses == 0, log_p, log_q)
        return logits + rate * stale_gradient(log_p, log_q, rewards, clip), log_q, count + 1

    logits, _, count = jax.lax.while_loop(short, update, (start, start, jnp.zeros((), int)))
    log_p = jax.nn.log_softmax(logits)
    reached = expected_reward(jnp.exp(log_p), rewards - level) >= 0
    return Reused(jnp.where(reached, count, -1), log_p)


def reuse(
    instance: Instance,
    level: float,
    *,
    learning_rate: float,
    reuses: int,
    updates: int,
    clip: float | None = None,
) -> Reused:
    """Updates of a tabular policy of one prompt until its expected reward reaches a level.

    Args:
        instance: the problem.
        level: of the rewards that are trained on.
        learning_rate: of every update.
        reuses: updates for each batch, ``S``.
        updates: after which to give up.
        clip: see :func:`stale_gradient`.

    Raises:
        ValueError: for more than one prompt, or a number that is not positive.
    """
    if instance.rewards.shape[0] != 1 or instance.initial_parameters.shape != instance.rewards.shape:
        raise ValueError("stale samples are those of a tabular policy of one prompt; give such an instance")
    for name, value in {"learning_rate": learning_rate, "reuses": reuses, "updates": updates}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; give a positive number")
    if clip is not None and not 0 < clip < 1:
        raise ValueError(f"clip is {clip}; give a number between 0 and 1")
    logits = instance.logits(instance.initial_parameters)[0]
    numbers = [jnp.asarray(of) for of in (level, learning_rate, reuses, updates)]
    return updates_until(logits, instance.rewards[0], *numbers, None if clip is None else jnp.asarray(clip))
