"""What ``goodteacher run`` does: follows an instance along the flow or through ascent, and reports on it."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from rich import box
from rich.table import Table

from goodteacher.experiments.aims import after_updates, statuses
from goodteacher.experiments.reports.called import output_name, prompt_name, prompts_named
from goodteacher.experiments.text import digits, plain, reward_text
from goodteacher.sim.clocks import Natural
from goodteacher.sim.flow import HORIZON, Control, final_policy, hitting_time, is_solvable
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.itineraries import itineraries
from goodteacher.sim.metrics import accuracy_where_truth_differs, product_accuracy, reward_variance
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.status import Status
from goodteacher.theory.hitting_time_bound import goal_time_lower_bound

if TYPE_CHECKING:
    from goodteacher.experiments.progress import Progress

_FROM_BEST_TO_WORST = (
    Status.FINISHED,
    Status.REACHED,
    Status.NOT_REACHED,
    Status.STATIONARY,
    Status.OPTIMUM,
    Status.NOTHING_TO_GAIN,
    Status.NO_SIGNAL,
    Status.OUT_OF_REACH,
    Status.NOT_KNOWN,
    Status.NOT_CONVERGED,
)
_MEASURES = (
    "expected_proxy_reward",
    "expected_ground_truth_reward",
    "reward_variance",
    "on_policy_accuracy",
    "on_policy_accuracy_where_truth_differs",
)
_OF_THE_TRUTH = (
    "expected_ground_truth_reward",
    "on_policy_accuracy",
    "on_policy_accuracy_where_truth_differs",
)
_ROUNDING = 1e-12  # relative change of a probability that is none


class Outcome(NamedTuple):
    """How a simulation ended.

    Attributes:
        clock: ``{"time": t}`` of the flow, ``{"updates": n}`` of ascent.
        status: of every prompt; ``FINISHED`` if there was no goal.
        hitting_time: ``[prompts]``; not finite where not reached or without a goal.
        lower_bound: ``[prompts]``, of the hitting time along the gradient flow; ``nan`` where none is known.
        probabilities: ``[prompts, outputs]``: the policy at each prompt's hitting time along the flow, or
            at the end.
    """

    clock: Mapping[str, float]
    status: Sequence[Status]
    hitting_time: Float[np.ndarray, " prompts"]
    lower_bound: Float[np.ndarray, " prompts"]
    probabilities: Float[np.ndarray, "prompts outputs"]


def with_kl_coefficient(instance: Instance, coefficient: float) -> Instance:
    """The same problem with another KL coefficient.

    Raises:
        ValueError: if it is negative or not finite.
    """
    old = instance.regularizer or Regularizer()
    new = Regularizer(coefficient, old.forward_kl, old.entropy)
    absent = not (new.kl or new.forward_kl or new.entropy)
    return eqx.tree_at(
        lambda i: i.regularizer, instance, None if absent else new, is_leaf=lambda leaf: leaf is None
    )


@dataclass(frozen=True)
class AlongFlow:
    """A run along the gradient flow, until the goal is reached or to the horizon.

    Raises:
        ValueError: if the horizon is not positive and finite.
    """

    horizon: float = HORIZON
    parts: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Validates the horizon."""
        self._control()

    def _control(self) -> Control:
        return Control(horizon=self.horizon)

    @property
    def title(self) -> str:
        """In words."""
        return f"gradient flow to time {self.horizon:g}"

    def follow(self, instance: Instance, goal: Goal | None, progress: "Progress") -> Outcome:
        """What becomes of an instance."""
        control = self._control()
        unknown = np.full(len(instance.rewards), np.nan)
        if goal is None:
            last, time = jax.device_get(final_policy(instance, control))
            status = Status.FINISHED if time == self.horizon else Status.NOT_CONVERGED
            clock = {"time": float(time)}
            return Outcome(clock, [status] * len(unknown), unknown, unknown, np.exp(last))
        result = jax.device_get(hitting_time(instance, goal, control))
        time, policy = result.end, result.log_probabilities
        if not np.isin(result.status, (Status.REACHED, Status.NOT_CONVERGED)).all():
            # The search may have ended as soon as that was certain.
            last, time = jax.device_get(final_policy(instance, control))
            policy = np.where(np.isfinite(result.time)[:, None], policy, last)
        bound = unknown  # of the gradient flow alone
        if instance.clock is None:
            bound = jax.device_get(jax.jit(goal_time_lower_bound)(instance, goal))
        status = statuses(instance, goal, result.status)
        bound = np.where([one is Status.NOTHING_TO_GAIN for one in status], np.nan, bound)
        return Outcome({"time": float(time)}, status, result.time, bound, np.exp(policy))


@dataclass(frozen=True)
class ThroughAscent:
    """A run of discrete ascent with exact gradients.

    Attributes:
        steps: how many updates.
        learning_rate: of the optimiser.
        optimizer: see :data:`goodteacher.sim.ascent.OPTIMIZERS`.

    Raises:
        ValueError: naming the one that is out of range or unknown.
    """

    steps: int = 50_000
    learning_rate: float = 0.1
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Validates the numbers and the name."""
        from goodteacher.sim.ascent import optimizer

        if not 0 < self.steps < 2**63:
            raise ValueError(f"steps is {self.steps}; give a whole number from 1 to 2^63 - 1")
        optimizer(self.optimizer, self.learning_rate)

    @property
    def parts(self) -> int:
        """How many there are to be done."""
        return self.steps

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.steps} updates of {self.optimizer} at learning rate {self.learning_rate:g}"

    def follow(self, instance: Instance, goal: Goal | None, progress: "Progress") -> Outcome:
        """What becomes of an instance."""
        # Here, because optax takes long to import.
        from goodteacher.sim.ascent import ascend, optimizer

        direction, transformation = optimizer(self.optimizer, self.learning_rate)
        watched = progress.watch(transformation)
        result = ascend(instance, watched, self.steps, direction=direction, goal=goal)
        probabilities = np.asarray(instance.probabilities(result.parameters))
        unknown = np.full(len(probabilities), np.nan)
        first = unknown if result.first_update is None else np.asarray(result.first_update)
        finite = np.isfinite(probabilities.sum(1))
        status = [Status.FINISHED if one else Status.NOT_CONVERGED for one in finite]
        if goal is not None:
            status = statuses(instance, goal, after_updates(instance, goal, first, finite))
        return Outcome({"updates": self.steps}, status, first, unknown, probabilities)


DYNAMICS = MappingProxyType({"flow": AlongFlow, "ascent": ThroughAscent})


def report(
    instance: Instance,
    followed: Instance,
    outcome: Outcome,
    unknown: Collection[int] = (),
    *,
    has_truth: bool = True,
) -> dict[str, Any]:
    """What the output file holds: lists per prompt, ``None`` for what is not finite or not known.

    Args:
        instance: the problem.
        followed: the problem as it was followed: under its clock, regularised.
        outcome: how it ended.
        unknown: prompts of which that is not known.
        has_truth: whether there is a ground truth.
    """
    if unknown:
        outcome = _without(outcome, unknown)
    initial = jax.jit(Instance.probabilities)(instance, instance.initial_parameters)
    return {
        "status": max(outcome.status, key=_FROM_BEST_TO_WORST.index).title,
        **outcome.clock,
        "prompt_status": [status.title for status in outcome.status],
        "hitting_time": plain(outcome.hitting_time),
        "hitting_time_lower_bound": plain(outcome.lower_bound),
        "initial": _state(instance, initial, has_truth),
        "final": _state(instance, outcome.probabilities, has_truth),
        "itinerary": stops(followed, unknown),
    }


def _without(outcome: Outcome, unknown: Collection[int]) -> Outcome:
    lost = np.isin(np.arange(len(outcome.status)), list(unknown))
    return Outcome(
        outcome.clock,
        [Status.NOT_KNOWN if no else status for no, status in zip(lost, outcome.status, strict=True)],
        np.where(lost, np.nan, outcome.hitting_time),
        np.where(lost, np.nan, outcome.lower_bound),
        np.where(lost[:, None], np.nan, outcome.probabilities),
    )


def stops(instance: Instance, unknown: Collection[int] = ()) -> list[list[dict[str, Any]]] | None:
    """Which outputs hold each prompt's flow up, in their order; ``None`` where that is known of none."""
    if not is_solvable(instance) or isinstance(instance.clock, Natural):
        return None
    return [
        [
            {"output": stop.output, "from": plain(stop.start), "to": plain(stop.end)}
            for stop in itinerary.stops
            if prompt not in unknown
        ]
        for prompt, itinerary in enumerate(itineraries(instance))
    ]


def on_the_way(result: Mapping[str, Any], prompts: Sequence[int] | None = None) -> str:
    """Itineraries of a report in words, a line for each of some prompts; empty where they are not known.

    Args:
        result: the report.
        prompts: which; all if not given.
    """
    lines = []
    rows = result["itinerary"] or []
    for prompt in range(len(rows)) if prompts is None or not rows else prompts:
        if not (row := rows[prompt]):
            continue
        way = ", ".join(
            output_name(result, prompt, stop["output"])
            + (f" (from t = {digits(stop['from'], 4)})" if stop["from"] else " (at the start)")
            for stop in row
        )
        lines.append(f"prompt {prompt_name(result, prompt)}: most probable in turn are outputs {way}")
    return "\n".join(lines)


def _state(instance: Instance, probabilities: ArrayLike, has_truth: bool) -> dict[str, list[Any]]:
    measured = jax.device_get(_measured(instance, probabilities))
    values = dict(zip(_MEASURES, measured, strict=True))
    if not has_truth:
        values |= {name: np.full_like(values[name], np.nan) for name in _OF_THE_TRUTH}
    return {name: plain(value) for name, value in {"probabilities": probabilities, **values}.items()}


@jax.jit
def _measured(instance: Instance, probabilities: Float[Array, "prompts outputs"]) -> tuple[Array, ...]:
    """The measures, ``[prompts]`` each."""
    proxy, truth = instance.rewards, instance.ground_truth_rewards
    return (
        expected_reward(probabilities, proxy),
        expected_reward(probabilities, truth),
        reward_variance(probabilities, proxy),
        product_accuracy(proxy, truth, probabilities),
        accuracy_where_truth_differs(proxy, truth, probabilities),
    )


def table(result: Mapping[str, Any], rows: int | None = None) -> Table:
    """Two lines for each of the first prompts, its initial and its final policy.

    Args:
        result: the report.
        rows: how many prompts; all if not given.
    """
    aims = any(status != Status.FINISHED.title for status in result["prompt_status"])
    columns = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("prompt", "policy"):
        columns.add_column(name, no_wrap=True)
    names = (
        *("proxy reward", "ground truth reward", "reward variance"),
        *("on-policy accuracy", "where truth differs", "gained most", "lost most"),
    )
    for name in names:
        columns.add_column(name, justify="right")
    if aims:
        columns.add_column("hitting time", justify="right")
        columns.add_column("status")

    def measures(state: str, prompt: int) -> list[str]:
        proxy, truth, variance, *accuracies = (result[state][name][prompt] for name in _MEASURES)
        shares = [digits(accuracy, 3) for accuracy in accuracies]
        return [reward_text(proxy), reward_text(truth), digits(variance), *shares]

    times = zip(
        result["prompt_status"], result["hitting_time"], result["hitting_time_lower_bound"], strict=True
    )
    for prompt, (status, time, bound) in enumerate(itertools.islice(times, rows)):
        before, after = (
            np.asarray(result[state]["probabilities"][prompt], float) for state in ("initial", "final")
        )
        change = np.where(np.abs(after - before) > _ROUNDING * before, after - before, 0.0)
        moved = [
            "-" if np.isnan(change).all() else _moved(result, prompt, y, change[y], sign)
            for y, sign in ((int(change.argmax()), 1), (int(change.argmin()), -1))
        ]
        at_least = [] if bound is None else ["", "", f"≥ {digits(bound)}"]
        columns.add_row(prompt_name(result, prompt), "initial", *measures("initial", prompt), *at_least)
        reached = [digits(time, 9), status] if aims else []
        columns.add_row("", "final", *measures("final", prompt), *moved, *reached)
    return columns


def _moved(result: Mapping[str, Any], prompt: int, output: int, change: float, sign: int) -> str:
    """Which output of a prompt gained (sign 1) or lost (-1) most."""
    return f"{output_name(result, prompt, output)} ({change:+.3g})" if sign * change > 0 else "none"


def note(result: Mapping[str, Any]) -> str:
    """Why goals were not reached, and what would help; empty if all were, or if there was none."""
    end = "time" if "time" in result else "number of updates"
    said = {
        Status.NOT_REACHED: f"the goal was still ahead at the end; a larger {end} would decide",
        Status.STATIONARY: "the velocity at the start is zero, to rounding: whether it is left is unknown",
        Status.OPTIMUM: f"the policy rests at an optimum short of the goal, which no larger {end} reaches",
        Status.NOTHING_TO_GAIN: "the ground truth is the same for all outputs",
        Status.NO_SIGNAL: "the objective does not change with the policy, so that nothing is learned",
        Status.OUT_OF_REACH: "no policy has the expectation that is asked for; a goal that is a share of "
        "what is possible would be in reach",
        Status.NOT_CONVERGED: "the steps ran out, or rounding errors decide where the policy goes: no claim",
    }
    sentences = []
    for status, sentence in said.items():
        prompts = [p for p, title in enumerate(result["prompt_status"]) if title == status.title]
        if prompts:
            sentences.append(f"{prompts_named(result, prompts)}: {sentence}.")
    return "\n".join(sentences)
