"""Low reward variance makes every reward slow to rise, for a tabular policy (arXiv:2503.15477, Prop. 3)."""

from collections.abc import Callable
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
from goodteacher.theory.draws import Source, Task, random_kl_coefficient, random_rewards
from goodteacher.theory.rises import SHAPE, rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

TIGHTEST_RATIO = 2.0
"""The smallest ratio of hitting time and bound, as ``gamma`` goes to zero.

``dV_G/dt = sum_y r_G(y) dpi(y)/dt <= sum_y |dpi(y)/dt| <= sqrt(Var) / 2``, with equality for two rewards of
probability one half each and ``r_G = +-1`` in their order. The last step, and that no larger ``gamma`` gives
less, are the outcome of a numerical search over 2 to 6 outputs.
"""

_FAR = 100.0  # hitting times are followed to so many times the bound


def hitting_time_lower_bound(instance: Instance, gamma: ArrayLike) -> Float[Array, " prompts"]:
    """``2 |S| (1 - exp(-gamma / 2)) / sqrt(Var r_RM)``: no reward in ``[-1, 1]`` rises by ``gamma`` before.

    For the flow of a tabular policy from its reference, with any ``lambda >= 0``; ``Var`` is the variance of
    the reward that is trained on, under the initial policy. ``|S|`` stands for one over the prompt's
    weight, as prompts do not interact. arXiv:2503.15477, Proposition 3.
    """
    return _bound(instance, gamma, _initial(instance))


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


def _initial(instance: Instance) -> Array:
    return instance.probabilities(instance.initial_parameters)


def _bound(instance: Instance, gamma: ArrayLike, policy: Array) -> Array:
    deviation = jnp.sqrt(reward_variance(policy, instance.rewards))
    return -2.0 * jnp.expm1(-0.5 * jnp.asarray(gamma)) / (instance.prompt_weights * deviation)


# Statement --------------------------------------------------------------------


def _task(source: Source) -> Task:
    """A quarter of the policies are nearly even between two outputs, where the bound is tightest."""
    even = source.bernoulli(0.25)
    spread = jnp.where(even, source.log_uniform(1e-3, 1.0), source.log_uniform(0.1, 20.0))
    rare = even & (jnp.arange(SHAPE[1]) > 1)
    logits = jnp.where(rare, -20.0, 0.0) + spread * source.normal(SHAPE)
    probabilities = jax.nn.softmax(logits)

    rewards = source.log_uniform(1e-3, 1.0) * random_rewards(source, SHAPE)
    advantages = advantage(probabilities, rewards)
    extreme = jnp.where(advantages > 0, 1.0, -1.0)
    unrelated = random_rewards(source, SHAPE)
    rise = (probabilities**2 * advantages * advantage(probabilities, unrelated)).sum(-1, keepdims=True)
    kind = source.integer(0, 2)
    truth = jnp.where(rise < 0, -unrelated, unrelated)
    truth = jnp.where(kind == 0, rewards, jnp.where(even | (kind == 1), extreme, truth))
    within = (truth.max(-1) - expected_reward(probabilities, truth)).min()
    # A KL coefficient far above the deviation of the reward holds the policy where it is.
    deviation = jnp.sqrt(reward_variance(probabilities, rewards)).min()
    instance = Instance(
        rewards,
        truth,
        start=Parameters(logits),
        regularizer=Regularizer(kl=deviation * random_kl_coefficient(source, high=3.0)),
    )
    return Task(instance, source.log_uniform(1e-3, jnp.maximum(within, 2e-3)))


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
    return jnp.minimum(_FAR * hitting_time_lower_bound(*task).max(), 1e250)


def _judge(bound: Callable[[Instance, Array], Array]) -> Judge:
    def judge(risen: Risen) -> Sides:
        bounds = bound(*risen.task)
        never = jnp.isinf(bounds) & jnp.isinf(risen.time)  # no variance
        return Sides(jnp.where(never, 0.0, bounds), jnp.minimum(risen.time, risen.horizon)).tightest()

    return judge


def _exaggerated(task: Task) -> Task:
    return eqx.tree_at(lambda t: t.instance.ground_truth_rewards, task, replace_fn=lambda r: 10.0 * r)


LOWER_BOUND = Statement(
    name="hitting_time_tabular",
    title="Low reward variance makes every reward slow to rise",
    citation="arXiv:2503.15477, Proposition 3 (Theorem 1 for a tabular policy)",
    formula="t_γ ≥ 2 |S| (1 − exp(−γ/2)) / √Var_{π₀} r_RM, any reward for t_γ, every λ ≥ 0",
    draw=_task,
    judge=_judge(hitting_time_lower_bound),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "constant 5% above the tightest": _judge(
                lambda i, gamma: 1.05 * TIGHTEST_RATIO * hitting_time_lower_bound(i, gamma)
            ),
            "variance under another policy": _judge(
                lambda i, gamma: _bound(i, gamma, jnp.roll(_initial(i), 1, axis=-1))
            ),
            "variance for its root": _judge(
                lambda i, gamma: (
                    hitting_time_lower_bound(i, gamma) ** 2
                    / (-2.0 * jnp.expm1(-gamma / 2.0))
                    * i.prompt_weights
                )
            ),
            "ground truth ten times as large": Dropped(_exaggerated),
        }
    ),
    bound=True,
)

STATEMENTS = (LOWER_BOUND,)
