"""Hitting times of autoregressive policies: a low reward variance makes every reward slow to rise.

Notation of :mod:`goodteacher.theory.token_gradient_bounds`.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.autoregressive import Autoregressive, TokenFunction
from goodteacher.sim.flow import HORIZON, Control, HittingTime, hitting_times
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, expected_reward
from goodteacher.sim.status import Status
from goodteacher.theory.draws import Source, Task, random_kl_coefficient, random_rewards
from goodteacher.theory.rises import paths
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement
from goodteacher.theory.token_draws import (
    SHAPE,
    mlp_policy,
    random_linear_policy,
    random_parameters,
    random_scaled_rewards,
    stretched,
)


def hitting_time_lower_bound(
    instance: Instance, gamma: ArrayLike, jacobian_norm: ArrayLike
) -> Float[Array, ""]:
    """No prompt's expectation of any reward within ``[-1, 1]`` rises by ``gamma`` in less time.

    ``min{1 - exp(-gamma/9), 1 - exp(-7/(3 lambda))} / (8 L^2 J^2) (mean_x Var r(x, .))^(-1/3)``, with the
    variance of the proxy under the initial policy; the second term is one at ``lambda = 0``.
    arXiv:2503.15477, Theorem 4. Time is that of the flow of the mean over prompts, with equal weights.

    Args:
        instance: the problem, its reference the initial policy.
        gamma: in ``(0, 2)``.
        jacobian_norm: ``J``, the largest of :meth:`goodteacher.sim.policies.Policy.jacobian_norms` over
            prompts and prefixes and up to the hitting time.
    """
    probabilities = instance.probabilities(instance.initial_parameters)
    return _time(instance, gamma, jacobian_norm, reward_variance(probabilities, instance.rewards).mean())


def _time(instance: Instance, gamma: ArrayLike, jacobian_norm: ArrayLike, variance: ArrayLike) -> Array:
    kl = 0.0 if instance.regularizer is None else instance.regularizer.kl
    rise = jnp.minimum(-jnp.expm1(-jnp.asarray(gamma) / 9.0), -jnp.expm1(-7.0 / (3.0 * jnp.asarray(kl))))
    return rise / (8.0 * (instance.policy.length * jnp.asarray(jacobian_norm)) ** 2 * jnp.cbrt(variance))


# Statements -------------------------------------------------------------------


def _task(policy: Autoregressive, source: Source, most_kl: float) -> Task:
    """For the time of the proxy itself, of what it praises, or of a reward unrelated to it."""
    weights = random_parameters(source, policy)
    rewards, unrelated = random_scaled_rewards(source), random_rewards(source, SHAPE)
    start = jax.nn.softmax(policy.logits(weights))
    praised = jnp.where(advantage(start, rewards) > 0, 1.0, -1.0)
    truth = jnp.stack([rewards, praised, unrelated])[source.integer(0, 2)]
    headroom = (truth.max(-1) - expected_reward(start, truth)).max()
    instance = Instance(
        rewards,
        truth,
        policy=policy,
        start=Parameters(weights),
        regularizer=Regularizer(kl=random_kl_coefficient(source, high=most_kl)),
    )
    return Task(instance, jnp.maximum(headroom * source.log_uniform(1e-3, 0.99), 1e-6))


_SOLVER, _TOLERANCE = diffrax.Bosh3(), 1e-6  # few stages, soon compiled; the bound is far
_DECADES = 3.5  # beyond the bound, up to which a flow is followed
_WAY, _POINTS = 30.0, 4  # multiples of the bound up to which Jacobian norms are taken, at so many points
_NEAR = 1e-4  # tolerance of these points


class Elapsed(NamedTuple):
    """A task, what the first prompt's hitting time is at least, and the Jacobian norm on the way to it.

    Some points are enough: by a smaller norm than the largest on the way the bound is more than the theorem
    claims.
    """

    task: Task
    time: Float[Array, ""]
    jacobian_norm: Float[Array, ""]


def _observe(tasks: Task) -> Elapsed:
    goals, horizon = _prepare(tasks)
    flow = hitting_times(tasks.instance, goals, Control(_SOLVER, _TOLERANCE, horizon))
    time, on_the_way = _times(tasks, flow, horizon)
    way = tasks.instance.initial_parameters[:, None]
    if isinstance(tasks.instance.policy, TokenFunction):  # of the others the Jacobian is constant
        way = paths(tasks.instance, on_the_way, _NEAR, solver=_SOLVER)
    return _elapsed(tasks, time, way)


@jax.jit
@jax.vmap
def _prepare(task: Task) -> tuple[Goal, Array]:
    """A flow is followed to so many decades beyond the bound by the norm at its start."""
    horizon = jnp.minimum(10.0**_DECADES * _bound_at_start(task), HORIZON)
    return reward_increase(task.instance, task.gamma), horizon


def _norm(instance: Instance, parameters: Array) -> Array:
    return instance.policy.jacobian_norms(parameters).max()


def _bound_at_start(task: Task) -> Array:
    return _time_bound(task, _norm(task.instance, task.instance.initial_parameters))


@jax.jit
@jax.vmap
def _times(task: Task, flow: HittingTime, horizon: Array) -> tuple[Array, Array]:
    """What the first prompt's hitting time is at least, and some times up to it."""
    # A flow that the integrator took no further has not met its goal by where it ended.
    stopped = flow.status == Status.NOT_CONVERGED
    time = jnp.where(stopped, flow.end, jnp.minimum(flow.time, horizon)).min()
    return time, jnp.minimum(time, _WAY * _bound_at_start(task)) * jnp.linspace(0.0, 1.0, _POINTS)


@jax.jit
@jax.vmap
def _elapsed(task: Task, time: Array, way: Array) -> Elapsed:
    return Elapsed(task, time, jax.vmap(partial(_norm, task.instance))(way).max())


_TimeBound = Callable[[Task, Array], Array]


def _time_bound(task: Task, jacobian_norm: Array) -> Array:
    return hitting_time_lower_bound(task.instance, task.gamma, jacobian_norm)


def _variance_of_tenfold(task: Task, jacobian_norm: Array) -> Array:
    instance = task.instance
    probabilities = instance.probabilities(10.0 * instance.initial_parameters)
    variance = reward_variance(probabilities, instance.rewards).mean()
    return _time(instance, task.gamma, jacobian_norm, variance)


def _variance_itself(task: Task, jacobian_norm: Array) -> Array:
    instance = task.instance
    probabilities = instance.probabilities(instance.initial_parameters)
    variance = reward_variance(probabilities, instance.rewards).mean()
    return _time(instance, task.gamma, jacobian_norm, variance**3)


def _time_judge(bound: _TimeBound) -> Judge:
    def judge(elapsed: Elapsed) -> Sides:
        task, time, jacobian_norm = elapsed
        positive = _time_bound(task, jacobian_norm) < jnp.inf
        return Sides(jnp.where(positive, bound(task, jacobian_norm), 0.0), time)

    return judge


_WITHOUT_JACOBIAN = Dropped(
    lambda task: task._replace(instance=stretched(task.instance)),
    _time_judge(lambda task, norm: norm**2 * _time_bound(task, norm)),
)


def _time_statement(
    name: str, of: str, policy: Callable[[Source], Autoregressive], most_kl: float, **more: Dropped
) -> Statement:
    return Statement(
        name=name,
        title=f"A low reward variance makes any reward wait, {of}",
        citation="arXiv:2503.15477, Theorem 4 (Theorem 1 in detail)",
        formula="t_γ ≥ min{1 − exp(−γ/9), 1 − exp(−7/(3λ))} / (8 L² J²) · (mean_x Var r_RM(x,·))^(−1/3)",
        draw=lambda source: _task(policy(source), source, most_kl),
        judge=_time_judge(_time_bound),
        observe=_observe,
        sabotages=MappingProxyType(
            {
                "variance of the policy of tenfold parameters": _time_judge(_variance_of_tenfold),
                "variance in place of its cube root": _time_judge(_variance_itself),
                **more,
            }
        ),
        bound=True,
    )


HITTING_TIME = _time_statement(
    "hitting_time_autoregressive",
    "tables and linear next-token logits",
    random_linear_policy,
    30.0,
    **{"Jacobian norm dropped": _WITHOUT_JACOBIAN},
)
HITTING_TIME_MLP = _time_statement(
    "hitting_time_mlp", "next-token logits of a neural network", lambda source: mlp_policy(), 1.0
)

STATEMENTS = (HITTING_TIME, HITTING_TIME_MLP)
