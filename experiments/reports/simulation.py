"""What ``goodteacher run`` does: follows an instance along the flow or through ascent, and reports on it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich import box
from rich.table import Table

from goodteacher.experiments.text import digits, plain, reward_text
from goodteacher.sim.ascent import Direction, ascend
from goodteacher.sim.flow import Control, final_policy, hitting_time
from goodteacher.sim.goals import Goal, check_reachable, reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import product_accuracy, reward_variance
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.policies import LinearSoftmax, Policy, Tabular
from goodteacher.sim.status import Status
from goodteacher.theory.hitting_time_bound import hitting_time_lower_bound

STATUS = ("finished", "reached", "not reached", "not converged")  # from best to worst

_MEASURES = ("expected_proxy_reward", "expected_ground_truth_reward", "reward_variance", "accuracy")


class Outcome(NamedTuple):
    """How a simulation ended.

    Attributes:
        clock: ``{"time": t}`` of the flow, ``{"updates": n}`` of ascent.
        status: of every prompt, from :data:`STATUS`; ``finished`` if there was no goal.
        hitting_time: of every prompt; ``None`` where not reached or without a goal.
        lower_bound: of every prompt's hitting time along the flow; ``None`` where none is known.
        probabilities: ``[prompts, outputs]``: the policy at each prompt's hitting time along the flow, or
            at the end.
    """

    clock: Mapping[str, float]
    status: list[str]
    hitting_time: list[float | None]
    lower_bound: list[float | None]
    probabilities: Float[Array, "prompts outputs"]


def increase(instance: Instance, gamma: float) -> Goal:
    """The goal that the expected ground truth reward rises by ``gamma``.

    Raises:
        ValueError: if that is not positive, or more than any policy can give.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}; give a positive increase of the expected ground truth reward")
    goal = reward_increase(instance, gamma)
    check_reachable(instance, goal)
    return goal


def follow_flow(instance: Instance, goal: Goal | None, horizon: float) -> Outcome:
    """Gradient flow until the goal is reached, or to the horizon.

    Raises:
        ValueError: if the horizon is not positive and finite.
    """
    if goal is None:
        last, time = jax.device_get(final_policy(instance, Control(horizon=horizon)))
        status = ["finished" if time == horizon else "not converged"] * len(last)
        unknown: list[float | None] = [None] * len(last)
        return Outcome({"time": float(time)}, status, unknown, unknown, jnp.exp(last))
    result = jax.device_get(hitting_time(instance, goal, Control(horizon=horizon)))
    titles = {Status.REACHED: "reached", Status.NOT_CONVERGED: "not converged"}
    status = [titles.get(Status(value), "not reached") for value in result.status]
    time, policy = result.end, result.log_probabilities
    if worst(status) == "not reached":
        # The search may have ended as soon as that was certain.
        last, time = jax.device_get(final_policy(instance, Control(horizon=horizon)))
        policy = np.where(np.isfinite(result.time)[:, None], policy, last)
    bound = _lower_bound(instance, goal)
    return Outcome({"time": float(time)}, status, plain(result.time), bound, jnp.exp(policy))


def _lower_bound(instance: Instance, goal: Goal) -> list[float | None]:
    """Of the time of each prompt, from the reward variance (arXiv:2503.15477, Proposition 3).

    The ground truth is shifted and scaled into ``[-1, 1]``, which its rise is scaled with. None is given for
    policies whose outputs share parameters, that start away from their reference, or that are regularised
    otherwise.
    """
    initial = instance.log_probabilities(instance.initial_parameters)
    regularizer = instance.regularizer
    others = regularizer is not None and (regularizer.forward_kl > 0 or regularizer.entropy > 0)
    away = regularizer is not None and not jnp.allclose(initial, instance.reference_log_probabilities)
    if not _moves_like_a_table(instance.policy) or others or away:
        return [None] * len(initial)
    exists = jnp.isfinite(initial)
    values = goal.values
    half_range = 0.5 * (
        values.max(-1, where=exists, initial=-jnp.inf) - values.min(-1, where=exists, initial=jnp.inf)
    )
    rise = goal.level - expected_reward(jnp.exp(initial), values)
    return plain(hitting_time_lower_bound(instance, rise / half_range))


def _moves_like_a_table(policy: Policy) -> bool:
    """Whether it is tabular, or linear with orthonormal features, which moves the logits in the same way."""
    if isinstance(policy, LinearSoftmax):
        features = policy.features.reshape(-1, policy.features.shape[-1]) / policy.temperature
        many, few = features.shape
        return many <= few and bool(jnp.allclose(features @ features.T, jnp.eye(many), atol=1e-12))
    return isinstance(policy, Tabular)


def follow_ascent(
    instance: Instance,
    goal: Goal | None,
    transformation: optax.GradientTransformation,
    updates: int,
    direction: Direction,
) -> Outcome:
    """Discrete ascent; arguments as for :func:`goodteacher.sim.ascent.ascend`."""
    result = ascend(instance, transformation, updates, direction=direction, goal=goal)
    probabilities = instance.probabilities(result.parameters)
    first: list[float | None] = [None] * len(probabilities)
    if result.first_update is not None:
        first = [None if update is None else int(update) for update in plain(result.first_update)]
    unmet = "finished" if goal is None else "not reached"
    if not jnp.isfinite(probabilities).all():
        unmet = "not converged"
    status = [unmet if update is None else "reached" for update in first]
    return Outcome({"updates": updates}, status, first, [None] * len(first), probabilities)


def worst(status: list[str]) -> str:
    """The status of all prompts together."""
    return max(status, key=STATUS.index)


def report(instance: Instance, outcome: Outcome) -> dict[str, Any]:
    """What the output file holds: lists per prompt, ``None`` for what is not finite."""
    initial = instance.probabilities(instance.initial_parameters)
    return {
        "status": worst(outcome.status),
        **outcome.clock,
        "hitting_time": outcome.hitting_time,
        "hitting_time_lower_bound": outcome.lower_bound,
        "initial": _state(instance, initial),
        "final": _state(instance, outcome.probabilities),
    }


def table(result: Mapping[str, Any], status: list[str]) -> Table:
    """The report on two lines per prompt, its initial and its final policy; outputs are numbered from 0."""
    aims = any(value != "finished" for value in status)
    columns = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("prompt", "policy"):
        columns.add_column(name, no_wrap=True)
    names = ("proxy reward", "ground truth reward", "reward variance", "accuracy", "gained most", "lost most")
    for name in names:
        columns.add_column(name, justify="right")
    if aims:
        columns.add_column("hitting time", justify="right")
        columns.add_column("status")

    def measures(state: str, prompt: int) -> list[str]:
        proxy, truth, variance, accuracy = (result[state][name][prompt] for name in _MEASURES)
        return [reward_text(proxy), reward_text(truth), digits(variance), digits(accuracy, 3)]

    times = zip(status, result["hitting_time"], result["hitting_time_lower_bound"], strict=True)
    for prompt, (value, time, bound) in enumerate(times):
        before, after = (result[state]["probabilities"][prompt] for state in ("initial", "final"))
        change = np.asarray(after, float) - np.asarray(before, float)
        moved = [f"{y} ({change[y]:+.3g})" if change[y] else "-" for y in (change.argmax(), change.argmin())]
        at_least = [] if bound is None else ["", "", f"≥ {digits(bound)}"]
        columns.add_row(str(prompt), "initial", *measures("initial", prompt), *at_least)
        columns.add_row(
            "", "final", *measures("final", prompt), *moved, *[digits(time, 9), value][: 2 * aims]
        )
    return columns


def _state(instance: Instance, probabilities: Float[Array, "prompts outputs"]) -> dict[str, list[Any]]:
    measured = [
        probabilities,
        expected_reward(probabilities, instance.rewards),
        expected_reward(probabilities, instance.ground_truth_rewards),
        reward_variance(probabilities, instance.rewards),
        product_accuracy(instance.rewards, instance.ground_truth_rewards, probabilities),
    ]
    return dict(zip(("probabilities", *_MEASURES), map(plain, measured), strict=True))
