"""Low reward variance makes every reward slow to rise, for a tabular policy (arXiv:2503.15477, Prop. 3)."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, expected_reward
from goodteacher.sim.policies import LinearSoftmax, Policy, Tabular
from goodteacher.theory.draws import (
    Source,
    Task,
    random_outputs,
    random_prompt_weights,
    random_rewards,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import SHAPE, rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

_FAR = 100.0  # hitting times under regularisation are followed to so many times the sharp bound


def hitting_time_lower_bound(
    instance: Instance,
    gamma: ArrayLike,
    *,
    constant: Number = 2.0,
    rate: Number = 1 / 2,
    prompts: Number = 1.0,
    variance: Number = -1 / 2,
) -> Float[Array, " prompts"]:
    """``2 |S| (1 - exp(-gamma / 2)) / sqrt(Var r_RM)``: no reward in ``[-1, 1]`` rises by ``gamma`` before.

    For the flow of a tabular policy from its reference, with any ``lambda >= 0``; ``Var`` is the variance of
    the reward that is trained on, under the initial policy. ``|S|`` stands for one over the prompt's
    weight, as prompts do not interact. arXiv:2503.15477, Proposition 3.

    Args:
        instance: the problem.
        gamma: the increase.
        constant: 2.
        rate: that of ``gamma``.
        prompts: exponent of ``|S|``.
        variance: exponent of the variance.
    """
    scale = instance.prompt_weights ** -jnp.asarray(prompts)
    return constant * -jnp.expm1(-rate * jnp.asarray(gamma)) * scale * _variance(instance) ** variance


def sharp_hitting_time_lower_bound(
    instance: Instance,
    gamma: ArrayLike,
    *,
    constant: Number = 2.0,
    rate: Number = 1.0,
    prompts: Number = 1.0,
    variance: Number = -1 / 2,
) -> Float[Array, " prompts"]:
    """``2 |S| (1 - exp(-gamma)) / sqrt(Var r_RM)``: the same, up to twice as late.

    Derived here; the proof is that of :func:`goodteacher.theory.token_hitting_times.sharp_lower_bound`, for
    one token and one prompt, whose clock runs with its weight. With ``sigma`` the standard deviation of
    ``r_KL``, any reward in ``[-1, 1]`` rises at a rate of at most ``sigma / (2 |S|)``, and ``sigma`` grows at
    one of at most ``sigma^2 / (2 |S|)``. Both are attained together as ``gamma`` goes to zero, by two outputs
    of probability one half each with rewards ``+-sigma`` and ground truth ``+-1``.

    Args as for :func:`hitting_time_lower_bound`.
    """
    return hitting_time_lower_bound(
        instance, gamma, constant=constant, rate=rate, prompts=prompts, variance=variance
    )


def hitting_time_lower_bound_by_odds(
    instance: Instance,
    gamma: ArrayLike,
    *,
    constant: Number = 2.0,
    odds: Number = 1 / 2,
    prompts: Number = 1.0,
    variance: Number = -1 / 2,
) -> Float[Array, " prompts"]:
    """``2 |S| (1 - sqrt(o_0/o_gamma)) / sqrt(Var r_RM)``, with the odds ``o = (1 + V_G)/(1 - V_G)`` at the
    start and where the rise is complete: the same, later still; infinite where ``V_G(0) + gamma >= 1``.

    It is at least ``4 |S| gamma / ((2 + gamma) sqrt(Var r_RM))``, what it is for ``V_G(0) = -gamma/2``; that
    is more than ``2 |S| (1 - exp(-gamma)) / sqrt(Var r_RM)`` and ``|S| gamma / sqrt(Var r_RM)``. Derived
    here, as :func:`sharp_hitting_time_lower_bound`, but for one step: with ``V = V_G``, by the logits of the
    prompt,

        ``|grad V|^2 <= (1 - V^2)^2 / 2``,

    so that with ``|grad phi| <= sigma / sqrt 2`` the rate of ``V`` is at most ``w sigma (1 - V^2) / 2``, and
    that of ``artanh V = ln(o) / 2`` at most ``w sigma / 2``. As ``sigma(t) <= sigma_0 / (1 - w sigma_0 t /
    2)``, ``ln(o_t/o_0) / 2 <= -ln(1 - w sigma_0 t / 2)``; solve for ``t``.

    The inequality: ``|grad V|^2 = sum_y pi(y)^2 (r_G(y) - V)^2`` is convex in ``r_G``, so for a given ``V``
    it is largest where all rewards but that of one output ``m`` are ``+-1``. With ``a = 1 - V`` and ``b = 1 +
    V``, let ``x = a P`` and ``y = b Q`` for the probabilities ``P`` and ``Q`` of the rewards 1 and -1, each
    at one output at worst; ``m`` has ``pi(m) (r_G(m) - V) = y - x``. If ``y >= x``, then ``pi(m) >= (y -
    x)/a``, and ``P + Q + pi(m) = 1`` gives ``y (1/a + 1/b) <= 1``, that is ``y <= a b / 2``. So ``|grad V|^2
    = x^2 + y^2 + (y - x)^2 <= 2 y^2 <= a^2 b^2 / 2``, for the sum is convex in ``x`` between 0 and ``y``. If
    ``y < x``, exchange them.

    Args as for :func:`hitting_time_lower_bound`, and:
        odds: exponent of the ratio of odds.
    """
    policy = instance.probabilities(instance.initial_parameters)
    above, below = ((policy * (1.0 + sign * instance.ground_truth_rewards)).sum(-1) for sign in (1.0, -1.0))
    possible = gamma < below
    grown = jnp.log1p(gamma / above) - jnp.log1p(-jnp.where(possible, gamma / below, 0.0))
    scale = instance.prompt_weights ** -jnp.asarray(prompts)
    bound = constant * -jnp.expm1(-odds * grown) * scale * _variance(instance) ** variance
    return jnp.where(possible, bound, jnp.inf)


def goal_time_lower_bound(instance: Instance, goal: Goal) -> Float[Array, " prompts"]:
    """:func:`hitting_time_lower_bound` of a goal, ``nan`` where the proposition does not apply.

    The goal's values are shifted and scaled into ``[-1, 1]``, which their rise is scaled with. It applies to
    policies whose logits move like those of a table, that start at their reference and are regularised by
    ``KL(pi || ref)`` alone.
    """
    log_p = instance.log_probabilities(instance.initial_parameters)
    exists = jnp.isfinite(log_p)
    highest = goal.values.max(-1, where=exists, initial=-jnp.inf)
    lowest = goal.values.min(-1, where=exists, initial=jnp.inf)
    rise = goal.level - expected_reward(jnp.exp(log_p), goal.values)
    applies = _moves_like_a_table(instance.policy)
    if instance.regularizer is not None:
        applies &= (instance.regularizer.forward_kl == 0) & (instance.regularizer.entropy == 0)
        applies &= jnp.allclose(log_p, instance.reference_log_probabilities)
    bound = hitting_time_lower_bound(instance, 2.0 * rise / (highest - lowest))
    return jnp.where(applies, bound, jnp.nan)


def _moves_like_a_table(policy: Policy) -> Bool[Array, ""]:
    """Whether it is tabular, or linear with orthonormal features, which moves the logits in the same way."""
    if isinstance(policy, LinearSoftmax):
        features = policy.features.reshape(-1, policy.features.shape[-1]) / policy.temperature
        many = len(features)
        return jnp.allclose(features @ features.T, jnp.eye(many), atol=1e-12)
    return jnp.asarray(isinstance(policy, Tabular))


def _variance(instance: Instance) -> Array:
    policy = instance.probabilities(instance.initial_parameters)
    return reward_variance(policy, instance.rewards)


# Statement --------------------------------------------------------------------


def _task(source: Source) -> Task:
    """A quarter of the policies are nearly even between two outputs, where the bound is tightest."""
    exists, regularized = random_outputs(source, SHAPE)
    even = source.bernoulli(0.25)
    spread = jnp.where(even, source.log_uniform(1e-3, 1.0), source.log_uniform(0.1, 20.0))
    rare = even & (jnp.arange(SHAPE[1]) > 1)
    logits = jnp.where(rare, -20.0, 0.0) + spread * source.normal(SHAPE)
    probabilities = jax.nn.softmax(jnp.where(exists, logits, -jnp.inf))

    # Down to a variance of 1e-12, so that no exponent of it but the right one will do.
    rewards = source.log_uniform(1e-6, 1.0) * random_rewards(source, SHAPE)
    advantages = advantage(probabilities, rewards)
    extreme = jnp.where(advantages > 0, 1.0, -1.0)
    unrelated = random_rewards(source, SHAPE)
    rise = (probabilities**2 * advantages * advantage(probabilities, unrelated)).sum(-1, keepdims=True)
    kind = source.integer(0, 2)
    truth = jnp.where(rise < 0, -unrelated, unrelated)
    truth = jnp.where(kind == 0, rewards, jnp.where(even | (kind == 1), extreme, truth))
    best = jnp.where(exists, truth, -jnp.inf).max(-1)
    within = (best - expected_reward(probabilities, truth)).min()
    # A KL coefficient far above the deviation of the reward holds the policy where it is.
    deviation = jnp.sqrt(reward_variance(probabilities, rewards)).min()
    kl = jnp.where(regularized, deviation * source.log_uniform(1e-3, 1.0), 0.0)
    instance = Instance(
        rewards,
        truth,
        start=Parameters(logits),
        regularizer=Regularizer(kl=kl),
        prompt_weights=random_prompt_weights(source, SHAPE[0]),
    )
    gamma = jnp.maximum(within, 1e-9) * source.log_uniform(1e-3, 0.99)
    return Task(without(instance, exists), gamma)


class Risen(NamedTuple):
    """A task, how long its flow is followed, and when each prompt has risen."""

    task: Task
    horizon: Float[Array, ""]
    time: Float[Array, " prompts"]


def _observe(tasks: Task) -> Risen:
    horizon = _horizon(tasks)
    return Risen(tasks, horizon, rise_times(tasks, horizon).time)


@jax.jit
@jax.vmap
def _horizon(task: Task) -> Array:
    bounds = jnp.stack(
        [_FAR * sharp_hitting_time_lower_bound(*task), 2.0 * hitting_time_lower_bound_by_odds(*task)]
    )
    return jnp.minimum(jnp.where(jnp.isfinite(bounds), bounds, 0.0).max(), 1e250)


def _judge(bound: Callable[[Instance, Array], Array]) -> Judge:
    def judge(risen: Risen) -> Sides:
        task, horizon, time = risen
        bounds = bound(*task)
        # A prompt without variance or weight stands still.
        never = jnp.isinf(bounds) & jnp.isinf(time)
        waited = jnp.where(_regularized(task.instance), jnp.minimum(time, horizon), time)
        return Sides(jnp.where(never, 0.0, bounds), waited, time < jnp.inf).tightest()

    return judge


def _regularized(instance: Instance) -> Bool[ArrayLike, ""]:
    return instance.regularizer is not None and instance.regularizer.kl > 0


def _scaled_truth(factor: float, task: Task) -> Task:
    return eqx.tree_at(lambda t: t.instance.ground_truth_rewards, task, replace_fn=lambda r: factor * r)


def _other_policy(instance: Instance, gamma: Array) -> Array:
    """With the variance under the policy of the outputs in turn."""
    turned = eqx.tree_at(lambda i: i.rewards, instance, replace_fn=lambda r: jnp.roll(r, 1, axis=-1))
    return hitting_time_lower_bound(turned, gamma)


_TITLE = "Low reward variance makes every reward slow to rise"

LOWER_BOUND = Statement(
    name="hitting_time_tabular",
    title=_TITLE,
    assumptions="tabular policy; rewards in [−1, 1]; the hitting time of any reward, trained on or "
    "not; any λ ≥ 0; the reference is the initial policy",
    citation="arXiv:2503.15477, Proposition 3 (Theorem 1 for a tabular policy)",
    formula="t_γ ≥ 2 |S| (1 − exp(−γ/2)) / √Var_{π₀} r_RM, any reward for t_γ, every λ ≥ 0",
    draw=_task,
    judge=Formula(hitting_time_lower_bound, _judge),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "variance under another policy": _judge(_other_policy),
            "ground truth 2.2 times as large": Dropped(partial(_scaled_truth, 2.2)),
        }
    ),
    bound=True,
)

SHARP = Statement(
    name="hitting_time_tabular_sharp",
    title=f"{_TITLE}, by the sharp bound",
    assumptions="tabular policy; rewards in [−1, 1]; the hitting time of any reward, trained on or "
    "not; any λ ≥ 0; the reference is the initial policy",
    citation="theory/hitting_time_bound.py (derived here)",
    formula="t_γ ≥ 2 |S| (1 − exp(−γ)) / √Var_{π₀} r_RM, any reward for t_γ, every λ ≥ 0",
    draw=_task,
    judge=Formula(sharp_hitting_time_lower_bound, _judge),
    observe=_observe,
    sabotages=MappingProxyType({"ground truth 5 % larger": Dropped(partial(_scaled_truth, 1.05))}),
    bound=True,
)

BY_ODDS = Statement(
    name="hitting_time_tabular_odds",
    title=f"{_TITLE}, by the odds of the ground truth",
    assumptions="tabular policy; rewards in [−1, 1]; the hitting time of any reward, trained on or "
    "not; any λ ≥ 0; the reference is the initial policy",
    citation="theory/hitting_time_bound.py (derived here)",
    formula="t_γ ≥ 2 |S| (1 − √(o₀/o_γ)) / √Var_{π₀} r_RM, o₀ = (1+V)/(1−V), o_γ = (1+V+γ)/(1−V−γ), "
    "V = V_G(0), every λ ≥ 0; at least 4 |S| γ / ((2+γ) √Var_{π₀} r_RM)",
    draw=_task,
    judge=Formula(hitting_time_lower_bound_by_odds, _judge),
    observe=_observe,
    sabotages=MappingProxyType({"ground truth 5 % larger": Dropped(partial(_scaled_truth, 1.05))}),
    bound=True,
)

STATEMENTS = (LOWER_BOUND, SHARP, BY_ODDS)
