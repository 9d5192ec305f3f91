"""The tabular flow solved, and what its solution says of stalls: one integral of a polynomial.

Notation of :mod:`goodteacher.sim.lines`: ``x_y = 1 / E_y`` are lines of slope ``-r_y`` but for one common
shift, ``prod_y x_y`` keeps its value ``C = prod_y 1 / p_y``, and ``t = int Z dtau``, ``Z = sum_y 1 / x_y``.

**Theorem.** At each ``tau`` let ``m`` be the modal output, whose line is lowest, ``x`` its reciprocal and
``g_y`` the heights of the other lines over it, and ``P = prod_{y != m} g_y``. Then

    ``P / C  <=  Z  <=  P / C + 2 sum_{y != m} 1 / x_y``,

so that with ``T = (1 / C) int P dtau``, the integral of a polynomial on each segment of the envelope,

    ``T  <=  t  <=  T + 2 int_0^t (1 - max_y pi(y)) dt``.

Proof. ``x_y = g_y + x`` and ``x prod_{y != m} (g_y + x) = C``. So ``Z >= 1 / x = prod (g_y + x) / C``, which
is no less than ``P / C``. Replacing the factors ``g_y + x`` by ``g_y`` one after the other takes off ``x``
times the others, each time at most ``x prod_{z != y} (g_z + x)``. So ``1 / x - P / C`` is at most
``sum_y x prod_{z != m, y} (g_z + x) / C = sum_y 1 / x_y``. What ``Z`` has beyond ``1 / x`` is the same sum.
And ``dtau / x_y = pi(y) dt``. With two outputs the upper bound is attained.

So a stall is where ``T`` is large: the time that is not spent at the modal output, at the corners, is a
matter of logarithms, for ``dtau / x_y = dtheta_y / (r_y - V)``. Laws of stalls are cases of this integral:

- One best output ``*``, rare, on a segment that ``m`` holds: ``g_j = a_j tau`` and ``g_* = 1 / eps - b tau``
  give ``prod_j a_j / C`` times ``int tau^(K-2) (1 / eps - b tau) dtau``, a Beta function: the law of
  :mod:`goodteacher.theory.stalling`.
- A hierarchy of ever rarer better outputs: a segment for each, its breakpoint the time of the takeover.
- Near ties keep their gaps in ``P`` as they are; outputs that are never modal count as any other.

It asks for no rarity: where it is no good, the second integral says so. And as the shift is common, the order
of the lines is that of the probabilities: the envelope names the modal output at all times.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim import integrated
from goodteacher.sim.flow import LANES, Control, hitting_times_only
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.lines import Lines, Position, base, pick, state
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.quadrature import time
from goodteacher.sim.separation import envelopes, separate
from goodteacher.theory.draws import Source, without
from goodteacher.theory.statements import Judge, Sides, Statement

_CITATION = "theory/stall_integral.py (derived for this project)"
_OUTPUTS = 8
_ROUNDING = 1e-9  # relative error of a time


def log_integrals(flow: Lines) -> Float[Array, "outputs n"]:
    """``ln T`` at each breakpoint of the envelope.

    By Gauss's rule, which is exact: the heights are interpolated between breakpoints, so that nothing cancels
    or overflows.

    Returns:
        ``-inf`` at the first breakpoint, the start; ``inf`` where there is none any more.
    """
    outputs = len(flow.rewards)
    points, weights = np.polynomial.legendre.leggauss(outputs // 2 + 1)
    points, log_weights = (points + 1.0) / 2.0, jnp.log(weights / 2.0)

    def segment(number: Array) -> Array:
        start, end = (base(flow, jnp.full(flow.normalizer.shape, k)).gaps for k in (number, number + 1))
        length = flow.breakpoints[number + 1] - flow.breakpoints[number]
        heights = start + (end - start) * points[:, None, None]
        modal = jnp.arange(outputs)[:, None] == flow.modal[number]
        return logsumexp(jnp.log(jnp.where(modal, 1.0, heights)).sum(1) + log_weights[:, None], 0) + jnp.log(
            length
        )

    logs = jax.lax.map(segment, jnp.arange(outputs - 1)) + flow.start.total
    logs = jnp.concatenate([jnp.full((1, logs.shape[1]), -jnp.inf), logs])
    logs = jnp.where(jnp.isfinite(flow.breakpoints), logs, jnp.inf)
    return jax.lax.associative_scan(jnp.logaddexp, logs)


_NODES, _POWER = 24, 4


def _elsewhere(flow: Lines, last: Int[Array, " n"]) -> Array:
    """The time up to a breakpoint that is not spent at the modal output, by halves of segments."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    points, weights = (points + 1.0) / 2.0, weights / 2.0
    crowded, weights = points**_POWER, weights * _POWER * points ** (_POWER - 1)

    def half(number: Array) -> Array:
        segment, second = number // 2, number % 2
        anchor = jnp.full(last.shape, segment + second)
        sign = 1.0 - 2.0 * second
        on = segment < last
        length = 0.5 * (flow.breakpoints[segment + 1] - flow.breakpoints[segment])
        of = base(flow, anchor)

        def node(at: tuple[Array, Array]) -> Array:
            share, weight = at
            here = state(of, sign * jnp.where(on, length, 0.0) * share)
            return weight * ((1.0 / here.x).sum(0) - 1.0 / here.least)

        spent = jax.lax.map(node, (jnp.asarray(crowded), jnp.asarray(weights))).sum(0)
        return jnp.where(on, length * spent, 0.0)

    return jax.lax.map(half, jnp.arange(2 * (len(flow.rewards) - 1))).sum(0)


# The bounds ------------------------------------------------------------------------------


class Flow(NamedTuple):
    """A problem, a share of the way to its best reward, and which of the stops is looked at."""

    instance: Instance
    share: Float[Array, ""]
    stop: Float[Array, ""]


def _draw(source: Source) -> Flow:
    """Two to eight outputs, better ones often ever rarer; rewards may be nearly tied."""
    outputs = source.integer(2, _OUTPUTS)
    exists = jnp.arange(_OUTPUTS) < outputs
    rewards = source.uniform(-1.0, 1.0, (_OUTPUTS,))
    close = rewards[0] + source.log_uniform(1e-9, 1e-1)
    rewards = rewards.at[1].set(jnp.where(source.bernoulli(0.3), close, rewards[1]))
    logits = source.log_uniform(0.1, 4.0) * source.normal((_OUTPUTS,))
    logits = logits - source.uniform(0.0, 15.0) * rewards
    instance = Instance(rewards, start=Parameters(logits[None]))
    share = source.uniform(0.02, 0.98)
    return Flow(without(instance, exists[None]), share, source.uniform())


class Bounds(NamedTuple):
    """The time at which the last output takes over, with what bounds it.

    Attributes:
        time: of the takeover; 0 if the first modal output is the best.
        integral: ``T``.
        elsewhere: the time that is not spent at the modal output.
    """

    time: Float[Array, " n"]
    integral: Float[Array, " n"]
    elsewhere: Float[Array, " n"]


def _flows(instances: Instance) -> Lines:
    return envelopes(separate(instances, None))


@jax.jit
def _observe_bounds(drawn: Flow) -> Bounds:
    flow = _flows(drawn.instance)
    last, none = jnp.asarray(flow.last), jnp.zeros(flow.normalizer.shape)
    integral = jnp.exp(jnp.asarray(pick(log_integrals(flow), last)))
    return Bounds(jnp.asarray(time(flow, Position(last, none))), integral, _elsewhere(flow, last))


def _bounds(low: float, corners: float) -> Judge:
    """With factors of the integral in the lower bound, and of the corners in the upper one."""

    def judge(of: Bounds) -> Sides:
        lower, upper = low * of.integral, of.integral + corners * of.elsewhere
        return Sides(jnp.stack([lower, of.time]), (1.0 + _ROUNDING) * jnp.stack([of.time, upper])).tightest()

    return judge


INTEGRAL = Statement(
    name="stall_integral",
    title="Every stall is the integral of a polynomial",
    assumptions="one prompt, tabular policy, λ = 0; no output need be rare",
    citation=_CITATION,
    formula="T ≤ t ≤ T + 2 ∫ (1 − max π) dt,  T = Π_y π₀(y) ∫ Π_{y≠m} (line of y − line of m) dτ",
    draw=_draw,
    judge=_bounds(1.0, 2.0),
    observe=_observe_bounds,
    sabotages=MappingProxyType(
        {
            "lower bound a millionth larger": _bounds(1.0 + 1e-6, 2.0),
            "factor 1.999 for 2": _bounds(1.0, 1.999),
        }
    ),
)


# The order of the modal outputs ----------------------------------------------------------

_CLOSE = 1e-7  # error of a simulated probability


class Stay(NamedTuple):
    """A policy that is simulated up to the middle of a stop of the itinerary.

    Attributes:
        probabilities: there.
        modal: the output that the itinerary names.
        following: the output of the reward next above, whether it is ever modal or not.
        likeliest: the output that is the likeliest at the start of those of better rewards.
    """

    probabilities: Float[Array, " outputs"]
    modal: Int[Array, ""]
    following: Int[Array, ""]
    likeliest: Int[Array, ""]


@jax.jit
def _stops(drawn: Flow) -> tuple[Array, Array, Array, Array]:
    flow = _flows(drawn.instance)
    stop = jnp.minimum((drawn.stop * (flow.last + 1)).astype(int), flow.last)
    none = jnp.zeros(flow.normalizer.shape)
    start = time(flow, Position(stop, none))
    following = jnp.minimum(stop + 1, flow.last)
    end = jnp.where(stop < flow.last, time(flow, Position(following, none)), 2.0 * start + 1.0)
    modal = pick(flow.modal, stop)
    above = flow.rewards > pick(flow.rewards, modal)
    nearest = jnp.where(above, flow.rewards, jnp.inf).argmin(0)
    likeliest = jnp.where(above, flow.logits, -jnp.inf).argmax(0)
    within = start + drawn.share * (end - start)
    return jnp.asarray(within), jnp.asarray(modal), nearest, likeliest


def _observe_stays(drawn: Flow) -> Stay:
    within, *outputs = _stops(drawn)
    policies, _ = integrated.final_policies(drawn.instance, within, Control(), LANES)
    return Stay(jnp.exp(policies[:, 0]), *outputs)


def _stay_judge(output: Callable[[Stay], Array]) -> Judge:
    """With the output that is claimed to be modal."""

    def judge(stay: Stay) -> Sides:
        return Sides(stay.probabilities.max(), stay.probabilities[output(stay)] + _CLOSE)

    return judge


ITINERARY = Statement(
    name="itinerary",
    title="Modal outputs follow the lower envelope of the lines",
    assumptions="one prompt, tabular policy, λ = 0; no output need be rare",
    citation=_CITATION,
    formula="argmax_y π(y) = argmin_y 1/π₀(y) − r_y τ at all times",
    draw=_draw,
    judge=_stay_judge(lambda stay: stay.modal),
    observe=_observe_stays,
    sabotages=MappingProxyType(
        {
            "the next better reward": _stay_judge(lambda stay: stay.following),
            "the likeliest better output": _stay_judge(lambda stay: stay.likeliest),
        }
    ),
)


# The solution ----------------------------------------------------------------------------

_ALTERED = 1e-6


class Solution(NamedTuple):
    """A hitting time by both ways, and of problems that are a little different.

    Attributes:
        integrated: step by step.
        solved: by one root and one quadrature.
        of_lower_level: solved, the level a little nearer to the start.
        of_other_rewards: solved, all rewards a little larger.
    """

    integrated: Float[Array, ""]
    solved: Float[Array, ""]
    of_lower_level: Float[Array, ""]
    of_other_rewards: Float[Array, ""]


@jax.jit
def _goals(drawn: Flow, altered: ArrayLike, scale: ArrayLike) -> tuple[Instance, Goal]:
    """The rewards may be scaled, and the level be nearer to the start by a share of the way."""

    def goal(one: Flow) -> tuple[Instance, Goal]:
        instance, exists = one.instance, one.instance.mask
        assert exists is not None
        initial = expected_reward(instance.probabilities(instance.initial_parameters), instance.rewards)
        best = jnp.where(exists, instance.rewards, -jnp.inf).max(-1)
        level = initial + one.share * (1.0 - altered) * (best - initial)
        scaled = Instance(scale * instance.rewards, start=Parameters(instance.initial_parameters))
        return without(scaled, exists), Goal(scaled.rewards, jnp.asarray(scale * level))

    return jax.vmap(goal)(drawn)


def _observe_solution(drawn: Flow) -> Solution:
    instances, goals = _goals(drawn, 0.0, 1.0)
    horizons = jnp.full(drawn.share.shape, 1e200)
    found = integrated.hitting_times(instances, goals, horizons, Control(), LANES)
    solved, lower, other = (
        hitting_times_only(*_goals(drawn, altered, scale))[0][:, 0]
        for altered, scale in ((0.0, 1.0), (_ALTERED, 1.0), (0.0, 1.0 + _ALTERED))
    )
    return Solution(found.time[:, 0], solved, lower, other)


def _solution_judge(solved: Callable[[Solution], Array]) -> Judge:
    """With the time that is claimed to be that of the integrator."""

    def judge(of: Solution) -> Sides:
        return Sides(jnp.abs(solved(of) / of.integrated - 1.0), jnp.asarray(_ROUNDING))

    return judge


SOLUTION = Statement(
    name="solved_flow",
    title="The tabular flow by one root and one quadrature",
    assumptions="tabular policy, λ = 0",
    citation=_CITATION,
    formula="1/E_y = 1/π₀(y) − r_y τ + W(τ), Π E_y conserved, t = ∫ Σ_y E_y dτ",
    draw=_draw,
    judge=_solution_judge(lambda of: of.solved),
    observe=_observe_solution,
    sabotages=MappingProxyType(
        {
            "a level lower by a millionth of the way": _solution_judge(lambda of: of.of_lower_level),
            "rewards larger by a millionth": _solution_judge(lambda of: of.of_other_rewards),
        }
    ),
)

STATEMENTS = (SOLUTION, INTEGRAL, ITINERARY)
