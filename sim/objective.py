"""Values, divergences and advantages of a policy, and the one vector field that all dynamics use."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.clocks import Natural, see
from goodteacher.sim.instance import Instance

_FISHER_FLOOR = 1e-12  # least weight of an output in the natural gradient


def advantage(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch outputs"]:
    """The advantage ``A(y) = r(y) - E r`` with full relative precision near a vertex of the simplex.

    The reward of the modal output is subtracted first; its own term in the expectation is then
    exactly zero, where plain subtraction would cancel catastrophically.
    """
    relative = rewards - jax.lax.stop_gradient(of_modal(probabilities, rewards))
    return relative - (probabilities * relative).sum(-1, keepdims=True)


def of_modal(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch 1"]:
    """The reward of the most probable output, the first if there are several."""
    # Not where a probability equals the largest: a program may compute it twice, and round it differently.
    modal = jnp.arange(rewards.shape[-1]) == probabilities.argmax(-1, keepdims=True)
    return jnp.where(modal, rewards, 0.0).sum(-1, keepdims=True)


def expected_reward(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """``V = E_{y ~ pi} r(y)``."""
    return (probabilities * rewards).sum(-1)


def kl_divergence(
    log_p: Float[Array, "*batch outputs"], log_q: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """``KL(p || q)`` in nats; outputs that ``p`` excludes (log-probability ``-inf``) count zero."""
    return (jnp.exp(log_p) * _log_ratio(log_p, log_q)).sum(-1)


def entropy(log_p: Float[Array, "*batch outputs"]) -> Float[Array, "*batch"]:
    """Shannon entropy in nats."""
    return -(jnp.exp(log_p) * _log_ratio(log_p, jnp.zeros_like(log_p))).sum(-1)


def _log_ratio(log_p: Array, log_q: Array) -> Array:
    # An output that p excludes must not turn 0 * inf into NaN, in the value or in its derivative.
    present = jnp.isfinite(log_p)
    return jnp.where(present, jnp.where(present, log_p, 0.0) - jnp.where(present, log_q, 0.0), 0.0)


def objective(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, ""]:
    """``phi``: weighted mean over prompts of ``V - lambda KL(pi||ref) - lambda' KL(ref||pi) + beta H``."""
    log_p = instance.log_probabilities(parameters)
    value = expected_reward(jnp.exp(log_p), instance.rewards)
    if instance.regularizer is not None:
        log_reference = instance.reference_log_probabilities
        value += (
            -instance.regularizer.kl * kl_divergence(log_p, log_reference)
            - instance.regularizer.forward_kl * kl_divergence(log_reference, log_p)
            + instance.regularizer.entropy * entropy(log_p)
        )
    return (instance.prompt_weights * value).sum()


def log_ratio_along(instance: Instance, displacement: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
    """``ln(pi / ref)`` where the parameters have moved by a displacement, however small, from the start.

    As a difference of the two logarithms it has their rounding errors, which near a reference that the policy
    starts from are more than the ratio.
    """
    start = instance.initial_parameters
    log_start = instance.log_probabilities(start)
    change = instance.policy.displacement(start, displacement)
    present = jnp.isfinite(log_start)
    change = jnp.where(present, change, 0.0)
    little = jnp.abs(change).max(-1, keepdims=True) < 1.0
    growth = jnp.expm1(jnp.where(little, change, 0.0))
    small = change - jnp.log1p(expected_reward(jnp.exp(log_start), growth))[..., None]
    large = _log_ratio(instance.log_probabilities(start + displacement), log_start)
    moved = jnp.where(present, jnp.where(little, small, large), 0.0)
    return moved + _log_ratio(log_start, instance.reference_log_probabilities)


def regularized_advantage(
    instance: Instance,
    logits: Float[Array, "prompts outputs"],
    log_ratio: Float[Array, "prompts outputs"] | None = None,
) -> Float[Array, "prompts outputs"]:
    """Advantage of the reward minus ``lambda ln(pi / ref)`` minus ``beta ln pi``.

    The forward divergence is no expectation under the policy and enters in :func:`logit_gradient`.

    Args:
        instance: the problem.
        logits: of the policy.
        log_ratio: ``ln(pi / ref)``, if it is known better than as a difference.
    """
    rewards = _regularized_rewards(instance, jax.nn.log_softmax(logits), log_ratio)
    return advantage(jax.nn.softmax(logits), rewards)


def _followed_rewards(instance: Instance, log_p: Array) -> Array:
    """The rewards whose gradient is followed: the given ones, or as the clock makes them."""
    if instance.clock is None or isinstance(instance.clock, Natural):
        return instance.rewards
    advantages = advantage(jnp.exp(log_p), instance.rewards)
    seen = see(instance.rewards, instance.reward_variances, instance.mask)
    return instance.clock.pull(seen, log_p, advantages, instance.prompt_weights)


def _regularized_rewards(instance: Instance, log_p: Array, log_ratio: Array | None) -> Array:
    followed = _followed_rewards(instance, log_p)
    if instance.regularizer is None:
        return followed
    if log_ratio is None:
        log_ratio = _log_ratio(log_p, instance.reference_log_probabilities)
    # Over that of the modal output, for the regularisation not to be rounded to the rewards.
    rewards = followed - jax.lax.stop_gradient(of_modal(jnp.exp(log_p), followed))
    return (
        rewards
        - instance.regularizer.kl * log_ratio
        - instance.regularizer.entropy * _log_ratio(log_p, jnp.zeros_like(log_p))
    )


def logit_gradient(
    instance: Instance,
    logits: Float[Array, "prompts outputs"],
    log_ratio: Float[Array, "prompts outputs"] | None = None,
) -> Float[Array, "prompts outputs"]:
    """Gradient of the objective by the logits: ``w(x) pi(y) A(y)`` (arXiv:2503.15477, Lemma 7).

    Args as for :func:`regularized_advantage`.
    """
    probabilities = jax.nn.softmax(logits)
    gradient = probabilities * regularized_advantage(instance, logits, log_ratio)
    if instance.regularizer is not None:
        reference = jnp.exp(instance.reference_log_probabilities)
        gradient += instance.regularizer.forward_kl * (reference - probabilities)
    return instance.prompt_weights[:, None] * gradient


def logit_gradient_rounding(
    instance: Instance,
    logits: Float[Array, "prompts outputs"],
    log_ratio: Float[Array, "prompts outputs"],
) -> Float[Array, "prompts outputs"]:
    """How large the rounding error of :func:`logit_gradient` is, about.

    Nothing is lost in the advantage of the modal output, from whose reward the others are counted.
    """
    log_p = jax.nn.log_softmax(logits)
    probabilities = jnp.exp(log_p)
    rewards = _regularized_rewards(instance, log_p, log_ratio)
    advantages = jnp.abs(advantage(probabilities, rewards))
    size = jnp.zeros_like(log_p)
    if instance.regularizer is not None:
        zero = jnp.zeros_like(log_p)
        # Of a ratio that is large, that of the two logarithms.
        log_reference = instance.reference_log_probabilities
        logarithms = -_log_ratio(log_reference, zero) - _log_ratio(log_p, zero)
        size += instance.regularizer.kl * jnp.minimum(jnp.abs(log_ratio), 1.0) * logarithms
        size -= instance.regularizer.entropy * _log_ratio(log_p, zero)
    relative = jnp.abs(rewards - of_modal(probabilities, rewards))
    size = jnp.where(relative > 0, relative + size + of_modal(probabilities, size), 0.0)
    size += expected_reward(probabilities, size)[..., None]
    size += advantages * (1.0 + jnp.where(probabilities > 0, jnp.abs(logits), 0.0))
    size *= probabilities
    if instance.regularizer is not None:
        reference = jnp.exp(instance.reference_log_probabilities)
        size += instance.regularizer.forward_kl * jnp.maximum(probabilities, reference)
    return jnp.finfo(float).eps * instance.prompt_weights[:, None] * size


def gradient_along(instance: Instance, displacement: Float[Array, "..."]) -> Float[Array, "..."]:
    """:func:`gradient` where the parameters have moved by a displacement, however small, from the start."""
    parameters = instance.initial_parameters + displacement
    log_ratio = None if instance.regularizer is None else log_ratio_along(instance, displacement)
    return instance.policy.pullback(
        parameters, logit_gradient(instance, instance.logits(parameters), log_ratio)
    )


def gradient(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, "..."]:
    """The vector field of flows and of ascent: the exact gradient of :func:`objective`.

    Under a clock (:mod:`goodteacher.sim.clocks`) the rewards' part of it is what the estimator makes of it on
    average; what regularises is not multiplied.
    """
    if isinstance(instance.clock, Natural):
        return natural_gradient(instance, parameters)
    return instance.policy.pullback(parameters, logit_gradient(instance, instance.logits(parameters)))


def natural_gradient(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, "..."]:
    """Pseudo-inverse of the Fisher matrix, weighted by prompts, times :func:`gradient`."""
    logits = instance.logits(parameters)
    advantages = regularized_advantage(instance, logits)
    if instance.regularizer is not None:
        log_p = jax.nn.log_softmax(logits)
        ratio = jnp.exp(_log_ratio(instance.reference_log_probabilities, log_p))
        strength = instance.regularizer.forward_kl
        advantages += jnp.where(strength > 0, strength * (ratio - 1.0), 0.0)  # the ratio may overflow
    # A constant per prompt changes no probability; without it the tabular direction is the
    # pseudo-inverse's own, the smallest one.
    valid = jnp.isfinite(logits) & (instance.prompt_weights[:, None] > 0)
    advantages = jnp.where(valid, advantages - advantages.mean(-1, keepdims=True, where=valid), 0.0)
    # Below the floor the Fisher matrix is singular to rounding; its limit is not.
    probabilities = jax.nn.softmax(logits)
    weights = jnp.where(valid, jnp.maximum(probabilities, _FISHER_FLOOR), 0.0)
    return instance.policy.natural_direction(
        parameters, advantages, probabilities, instance.prompt_weights[:, None] * weights
    )
