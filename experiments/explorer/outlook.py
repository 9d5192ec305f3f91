"""What becomes of learning in a situation: everything that the page shows, as plain numbers.

All is that of the commands: hitting times, trajectories, itineraries, statuses, rules of errors, bounds and
laws. Problems are filled up to one number of outputs and compiled for that, so that nothing is compiled as
outputs come and go.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.experiments.aims import share, statuses
from goodteacher.experiments.explorer.law_times import LawTime, law_time
from goodteacher.experiments.explorer.situation import MOST, Situation
from goodteacher.sim.clocks import BatchScaled, Enumerated, Natural
from goodteacher.sim.flow import Control, hitting_times, is_solvable, trajectories
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.itineraries import itineraries
from goodteacher.sim.metrics import METRICS, comparisons, pairwise_accuracy
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray
from goodteacher.theory.error_kinds import Category, categories, log_ratio, trained_on, wrong
from goodteacher.theory.hitting_time_bound import goal_time_lower_bound

_SPACED, _NEAR = 40, 13  # points of a path: over the whole time, and around each escape, itself among them
_LATE = 1e100  # the end of a path, at most
_MOST_STEPS = 4000  # of a flow that is integrated
_DRAWN = Control(tolerance=1e-5, max_steps=_MOST_STEPS)  # paths that are integrated
_TOLD = 1e-9  # tolerance of times that are integrated, of which six digits are told
_MEASURES = (
    "proxy_reward_variance",
    "on_policy_accuracy",
    "on_policy_accuracy_where_truth_differs",
    "uniform_accuracy_where_truth_differs",
)


class Held(NamedTuple):
    """An output that is the most probable one for a while."""

    output: int
    start: float
    end: float


class Outlook(NamedTuple):
    """What becomes of a situation.

    Attributes:
        situation: the state.
        times: of the paths.
        probabilities: ``[times, outputs]``, trained on the proxy.
        proxy: ``[times]``, expected proxy reward.
        truth: ``[times]``, expected ground truth reward.
        truth_on_truth: ``[times]``, the same if trained on the ground truth.
        level: of the expected ground truth reward that is waited for.
        time, status: of the goal, trained on the proxy.
        time_on_truth, status_on_truth: trained on the ground truth.
        held: which outputs hold the flow up, in their order.
        solved: whether that is known from the solution of the flow, not from the path alone.
        law: of the time.
        bound: Proposition 3; ``nan`` where it does not apply.
        measures: of the proxy, by name.
        kinds: of the error at each output, by rule.
    """

    situation: Situation
    times: Float[np.ndarray, " times"]
    probabilities: Float[np.ndarray, "times outputs"]
    proxy: Float[np.ndarray, " times"]
    truth: Float[np.ndarray, " times"]
    truth_on_truth: Float[np.ndarray, " times"]
    level: float
    time: float
    status: Status
    time_on_truth: float
    status_on_truth: Status
    held: tuple[Held, ...]
    solved: bool
    law: LawTime
    bound: float
    measures: dict[str, float]
    kinds: tuple[Category, ...]


class Problem(NamedTuple):
    """A situation as an instance, mostly filled up, with the goal."""

    instance: Instance
    goal: Goal

    @property
    def concrete(self) -> bool:
        """Whether it is followed by what is not compiled."""
        return isinstance(self.instance.clock, Natural | BatchScaled)


def problem(situation: Situation) -> Problem:
    """What is to be computed.

    Raises:
        ValueError: if what is followed does not go with the rewards or the policy.
    """
    instance = situation.instance()
    # Of groups that are enumerated, outputs that do not exist would make more.
    if not isinstance(instance.clock, Enumerated):
        instance = situation.instance(MOST)
    return Problem(instance, share(instance, situation.goal))


def outlook(situation: Situation) -> Outlook:
    """What becomes of a situation, but for the effects of errors.

    Raises:
        ValueError: as :func:`problem`.
    """
    what = problem(situation)
    instance, goal = what
    count = len(situation.proxy)
    both = np.stack([np.asarray(instance.rewards), np.asarray(instance.ground_truth_rewards)])
    times, status = _times(what, both, situation.horizon)
    on_proxy, on_truth = statuses(instance, goal, status)
    solved = is_solvable(instance) and not what.concrete
    held = _held(instance, situation.horizon) if solved else ()
    at = _points(times, [stop.start for stop in held], situation.horizon)
    log_p = np.asarray(_paths(what, both, at))[..., 0, :]
    policies = np.exp(log_p)[..., :count]
    proxy, truth = np.array(situation.proxy), np.array(situation.truth)
    measured = jax.device_get(_measured(instance, goal))
    level = float(np.asarray(goal.level)[0])
    return Outlook(
        situation,
        at,
        policies[0],
        policies[0] @ proxy,
        policies[0] @ truth,
        policies[1] @ truth,
        level,
        float(times[0]),
        on_proxy,
        float(times[1]),
        on_truth,
        held if solved else _along(policies[0], at),
        solved,
        law_time(situation, instance, level),
        float(measured.pop("bound")) if instance.clock is None else math.nan,
        {name: float(of) for name, of in measured.items() if name in (*_MEASURES, "acc", "hacc")},
        tuple(Category(int(code)) for code in measured["kinds"][:count]),
    )


def effects(situation: Situation, time: float) -> Float[np.ndarray, " outputs"]:
    """By how much each error changes the hitting time, as ``log10``; ``nan`` where there is no error.

    Args:
        situation: the state.
        time: that learning takes with all of its errors.
    """
    what = problem(situation)
    count = len(situation.proxy)
    proxy, truth = np.asarray(what.instance.rewards), np.asarray(what.instance.ground_truth_rewards)
    corrected = np.where(np.eye(proxy.shape[1], dtype=bool)[:, None], truth, proxy)
    times, _ = _times(what, corrected, situation.horizon)
    ratios = np.asarray(log_ratio(np.full(len(times), time), times))
    return np.where(np.asarray(_wrong(what.instance))[0], ratios, np.nan)[:count]


_wrong = jax.jit(wrong)


# Flows ----------------------------------------------------------------------------------------


def _batch(instance: Instance, rewards: Any) -> Instance:
    """A problem with each of many proxies."""
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(rewards), *leaf.shape)), instance)
    return trained_on(same, jnp.asarray(rewards))


def _hit(instance: Instance, goal: Goal, rewards: AnyArray, horizon: AnyArray) -> tuple[Array, Array]:
    goals = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(rewards), *leaf.shape)), goal)
    control = Control(tolerance=_TOLD, horizon=horizon, max_steps=_MOST_STEPS)
    found = hitting_times(_batch(instance, rewards), goals, control)
    return found.time[:, 0], found.status[:, 0]


_hit_compiled = jax.jit(_hit)


def _times(what: Problem, rewards: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """Hitting times and statuses with each of many proxies, ``[proxies, 1, outputs]``."""
    hit = _hit if what.concrete else _hit_compiled
    time, status = jax.device_get(hit(*what, rewards, np.asarray(horizon)))
    return time, status


def _follow(instances: Instance, times: AnyArray) -> Array:
    parameters = trajectories(instances, times, _DRAWN)
    return jax.vmap(lambda instance, path: jax.vmap(instance.log_probabilities)(path))(instances, parameters)


_follow_compiled = jax.jit(_follow)


def _paths(what: Problem, rewards: np.ndarray, times: np.ndarray) -> Any:
    """Log-probabilities ``[proxies, times, 1, outputs]``: the paths side by side."""
    follow = _follow if what.concrete else _follow_compiled
    return follow(_batch(what.instance, rewards), np.broadcast_to(times, (len(rewards), len(times))))


def _points(hits: np.ndarray, takeovers: list[float], horizon: float) -> np.ndarray:
    """Times of a path, always as many: spaced on a logarithmic scale, and close together at escapes."""
    events = [float(t) for t in (*hits, *takeovers[1:]) if 0 < t < _LATE]
    last = min(max([100.0, *(30.0 * t for t in events)]), horizon, _LATE)
    first = min([0.1, *(t / 30.0 for t in events)])
    spaced = np.geomspace(min(first, last / 10.0), last, _SPACED)
    near = [np.geomspace(*((t / 3.0, 3.0 * t) if 0 < t < _LATE else (spaced[0], last)), _NEAR) for t in hits]
    return np.minimum(np.sort(np.concatenate([spaced, *near])), last)


# What holds the flow up -----------------------------------------------------------------------


def _held(instance: Instance, horizon: float) -> tuple[Held, ...]:
    (itinerary,) = itineraries(instance, compiled=True)
    return tuple(Held(s.output, s.start, s.end) for s in itinerary.stops if s.start < horizon)


def _along(probabilities: np.ndarray, times: np.ndarray) -> tuple[Held, ...]:
    """From the path: the most probable outputs, to the closest of its points."""
    known = np.isfinite(probabilities).all(1)
    modal = probabilities[known].argmax(1)
    changes = np.flatnonzero(np.diff(modal)) + 1
    starts = [0.0, *times[known][changes]]
    outputs = modal[[0, *changes]] if len(modal) else []
    return tuple(
        Held(int(y), float(s), float(e))
        for y, s, e in zip(outputs, starts, [*starts[1:], math.inf], strict=False)
    )


# Measures -------------------------------------------------------------------------------------


@jax.jit
def _measured(instance: Instance, goal: Goal) -> dict[str, Array]:
    start = instance.initial_parameters
    ranking = pairwise_accuracy(comparisons(instance, start))
    return {
        **{name: METRICS[name](instance, start)[0] for name in _MEASURES},
        "acc": ranking.acc,
        "hacc": ranking.hacc,
        "bound": goal_time_lower_bound(instance, goal)[0],
        "kinds": categories(instance)[0],
    }
