"""Exactly solved dynamics of a tabular policy: oracles for every simulation.

All functions are for one prompt of weight one and batch over leading axes by broadcasting; with prompt
weight ``w`` (``1 / |S|`` for the plain mean over prompts) a time of gradient flow is divided by ``w``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

_NEWTON_STEPS = 6  # from arcsinh(y), converge to rounding for every y


def one_good_output_time(
    initial_probability: ArrayLike, probability: ArrayLike, reward_gap: ArrayLike, outputs: ArrayLike = 2
) -> Float[Array, "..."]:
    """Time in which gradient flow takes the best output from one probability to another.

    One output has reward ``r1``, the ``K - 1`` others ``r2 < r1`` and equal probabilities. Then
    ``dp/dt = K / (K - 1) (r1 - r2) p^2 (1 - p)^2``, so ``t = (K - 1) / K [F(p1) - F(p0)] / (r1 - r2)`` with
    ``F(p) = -1/p + 1/(1-p) + 2 ln(p / (1-p))``. Two outputs are the case ``K = 2``.

    The difference of ``F`` is taken as ``(p1 - p0) [1 / (p0 p1) + 1 / ((1-p0)(1-p1))] + 2 log1p((p1 - p0) /
    (p0 (1-p1)))``, whose terms have one sign: the relative error is a few units of rounding, for the
    probabilities as they are given, however close or extreme.

    Args:
        initial_probability: ``p0`` in (0, 1).
        probability: ``p1`` in (0, 1); below ``p0``, the time is negative: the flow was there before.
        reward_gap: ``r1 - r2``, positive.
        outputs: ``K``, at least 2.

    Returns:
        Times, of the broadcast shape; ``inf`` for a probability of exactly one.
    """
    p0, p1, gap, count = map(jnp.asarray, (initial_probability, probability, reward_gap, outputs))
    rise = p1 - p0
    algebraic = rise * (1.0 / (p0 * p1) + 1.0 / ((1.0 - p0) * (1.0 - p1)))
    difference = algebraic + 2.0 * jnp.log1p(rise / (p0 * (1.0 - p1)))
    return (count - 1.0) / count * difference / gap


def one_good_output_log_odds(
    initial_probability: ArrayLike, time: ArrayLike, reward_gap: ArrayLike, outputs: ArrayLike = 2
) -> Float[Array, "..."]:
    """Log-odds ``u = ln(p / (1-p))`` of the best output at a time: inverse of :func:`one_good_output_time`.

    In log-odds ``F = 2 (sinh u + u)``, and the flow is ``sinh u + u = y`` with ``y`` linear in time, solved
    by Newton's method. Log-odds, because a probability near one cannot tell how near. The error is a few
    units of rounding of ``u`` and of ``y``: near the escape ``y`` passes zero as the difference of two large
    numbers, and the state there is as sensitive to the time as that.

    Args and shapes as for :func:`one_good_output_time`; ``time`` may be negative.
    """
    p0, t, gap, count = map(jnp.asarray, (initial_probability, time, reward_gap, outputs))
    half_f = 0.5 * (2.0 * p0 - 1.0) / (p0 * (1.0 - p0)) + jnp.log(p0) - jnp.log1p(-p0)
    y = half_f + 0.5 * count / (count - 1.0) * gap * t
    u = jnp.arcsinh(y)
    for _ in range(_NEWTON_STEPS):
        u -= (jnp.sinh(u) + u - y) / (jnp.cosh(u) + 1.0)
    return u


def natural_gradient_flow(
    initial_log_probabilities: Float[Array, "*#batch outputs"],
    rewards: Float[Array, "*#batch outputs"],
    time: ArrayLike,
) -> Float[Array, "*batch outputs"]:
    """Log-probabilities along natural policy gradient flow: ``pi_t`` proportional to ``pi_0 exp(r t)``.

    The flow ``d theta / dt = Fisher^+ grad V`` of a tabular policy (Kakade 2001); its logits grow by the
    advantages. An excluded output has log-probability ``-inf`` and keeps it.

    Args:
        initial_log_probabilities: ``ln pi_0``.
        rewards: of every output.
        time: with the shape of the batch.
    """
    return jax.nn.log_softmax(initial_log_probabilities + _below_best(rewards) * jnp.asarray(time)[..., None])


def kl_optimum(
    reference_log_probabilities: Float[Array, "*#batch outputs"],
    rewards: Float[Array, "*#batch outputs"],
    kl_coefficient: ArrayLike,
) -> Float[Array, "*batch outputs"]:
    """Log-probabilities of the policy that maximises ``V - lambda KL(pi || ref)``: ``ref exp(r / lambda)``.

    Args:
        reference_log_probabilities: ``ln ref``, ``-inf`` for an excluded output.
        rewards: of every output.
        kl_coefficient: ``lambda``, positive, with the shape of the batch.
    """
    tilt = _below_best(rewards) / jnp.asarray(kl_coefficient)[..., None]
    return jax.nn.log_softmax(reference_log_probabilities + tilt)


def _below_best(rewards: Array) -> Array:
    # A shift of the rewards changes no policy, but large equal exponents would round the small ones away.
    return rewards - rewards.max(-1, keepdims=True)
