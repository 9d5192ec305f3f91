"""The problems that are measured, and the plain diffrax solution that they are measured against."""

from functools import partial
from typing import Any

import diffrax
import jax
import optimistix as optx
from jaxtyping import Array, Float

from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import expected_reward, gradient


def random_problems(count: int, outputs: int = 8, seed: int = 0) -> tuple[Instance, Goal]:
    """Standard normal logits times 2, rewards uniform in [-1, 1]; half of the attainable increase."""

    def problem(key: Array) -> tuple[Instance, Goal]:
        logits_key, rewards_key = jax.random.split(key)
        rewards = jax.random.uniform(rewards_key, (1, outputs), minval=-1.0)
        logits = 2.0 * jax.random.normal(logits_key, (1, outputs))
        instance = Instance(rewards, start=Parameters(logits))
        value = expected_reward(instance.probabilities(logits), rewards)
        return instance, reward_increase(instance, 0.5 * (rewards.max(-1) - value), rewards)

    return jax.jit(jax.vmap(problem))(jax.random.split(jax.random.key(seed), count))


def _field(t: Any, y: Any, args: tuple[Instance, Goal]) -> Array:
    return gradient(args[0], y)


def _gap(t: Any, y: Any, args: tuple[Instance, Goal], **kwargs: Any) -> Array:
    instance, goal = args
    value = expected_reward(instance.probabilities(y), goal.values)
    return (value - goal.level).max()


@partial(jax.jit, static_argnames="tolerance")
def plain_hitting_time(instance: Instance, goal: Goal, tolerance: float) -> Float[Array, ""]:
    """The hitting time as one would write it with diffrax alone: ``diffeqsolve`` with an event."""
    problem = (instance, goal)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        diffrax.Dopri8(),
        t0=0.0,
        t1=1e60,
        dt0=None,
        y0=instance.initial_parameters,
        args=problem,
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=tolerance),
        event=diffrax.Event(_gap, optx.Newton(rtol=1e-10, atol=1e-10)),
        max_steps=10_000,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )
    assert solution.ts is not None
    return solution.ts[-1]
