"""What finite groups do to rare outputs: they bring back the exponents of the gradient.

Two outputs of rewards 1 and 0, the better one with probability ``p``. ``S' ~ Binomial(G - 2, p)`` of
:mod:`goodteacher.sim.clocks` is zero with probability ``(1-p)^(G-2)``, and no scale is smaller than that of
one success in a group (of GRPO the deviation, of MaxRL the mean). With the rate of such a group, ``m_1 =
(G-1) / sqrt(G)`` under GRPO and ``G - 1`` under MaxRL::

    m_1 (1-p)^(G-2) <= m <= m_1.

The time is between that of the gradient over ``m_1`` and ``integral dp / (2 m_1 p^2 (1-p)^G)``: as ``p0 ->
0`` it is ``1 / (2 m_1 p0)``, and the ``p0^(-1/2)`` of large groups of GRPO ends at ``p0 = 1 / (4 m_1^2)``,
which is about ``1 / (4 G)``.

The stall with partial credit. Near the vertex of the middling output a group holds one other sample at
most, up to terms of second order. Its deviation is ``|r - r_m| sqrt(G-1) / G``, by which the gap cancels:
GRPO weighs any better sample by one number and any worse one by its negative. The flow is that of the
gradient on the rewards ``(1, 0, -1, ...)`` in the time ``m_1 t``. The product that the stalling law needs
is conserved under any estimator, for it is a sum of logits. So the law holds with all ``a_j = b = 1``, over
``m_1``::

    t = pi_0(m) prod_j pi_0(j) / (m_1 K (K-1) eps^(K-1)),

whatever the rewards between are. Under MaxRL the mean of such a group, ``r_m + (r - r_m) / G``, takes the
place of the deviation, and the law holds with the rewards ``w(r) = (1 - 1/G) (r - r_m) / (r_m + (r - r_m) /
G)``. Large groups halve the exponent only down to where no group holds a ``y*`` in the time that counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.clocks import Clock, Grpo, MaxRl
from goodteacher.sim.flow import hitting_times_only
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draws import Source
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.stalling import log_time, small_parameter
from goodteacher.theory.statements import Judge, Sides, Statement, all_of

_CITATION = "theory/finite_group_laws.py (derived for this project)"
_GROUPS = 2, 8, 32
_ROUNDING = 1e-9

# Two outputs -----------------------------------------------------------------------------


class Rare(NamedTuple):
    """From a rare success to one that is not."""

    start: Float[Array, ""]
    end: Float[Array, ""]

    @property
    def instance(self) -> Instance:
        """With rewards 1 and 0."""
        return _two_outputs(self)[0]


class Times(NamedTuple):
    """A way, and its time by the solved flow for each size of groups."""

    way: Rare
    time: Float[Array, " groups"]


def _draw(source: Source) -> Rare:
    return Rare(source.log_uniform(1e-100, 1e-8), source.uniform(1e-3, 0.1))


def _two_outputs(way: Rare) -> tuple[Instance, Goal]:
    start = jnp.stack([jnp.log(way.start), jnp.log1p(-way.start)])[None]
    instance = Instance([[1.0, 0.0]], start=Parameters(start))
    return instance, Goal(jnp.asarray([[1.0, 0.0]]), way.end[None])


def _observe(kind: Callable[[int], Clock]) -> Callable[[Rare], Times]:
    @jax.jit
    def problems(ways: Rare) -> tuple[Instance, Goal]:
        return jax.vmap(_two_outputs)(ways)

    def observe(ways: Rare) -> Times:
        instances, goals = problems(ways)
        times = [hitting_times_only(instances.following(kind(group)), goals)[0][:, 0] for group in _GROUPS]
        return Times(ways, jnp.stack(times, -1))

    return observe


def _spent(start: Array, end: Array) -> Array:
    """``integral dp / (p (1-p))^2``."""

    def escape(q: Array) -> Array:
        return -1.0 / q + 1.0 / (1.0 - q) + 2.0 * (jnp.log(q) - jnp.log1p(-q))

    return escape(end) - escape(start)


def grpo_time(
    start: Array,
    end: Array,
    group: int,
    *,
    constant: Number = 1 / 2,
    others: Number = 1.0,
    root: Number = -1 / 2,
) -> Array:
    """Time of two outputs under GRPO with groups of a size, as the start becomes rare."""
    return constant * _spent(start, end) / ((group - 1.0) ** others * group**root)


def max_rl_time(
    start: Array, end: Array, group: int, *, constant: Number = 1 / 2, others: Number = 1.0
) -> Array:
    """The same under MaxRL."""
    return constant * _spent(start, end) / (group - 1.0) ** others


def _between(law: Callable[..., Array]) -> Judge:
    """To the room between both bounds, with ``(1-p)^-G <= 1 + c p`` up to the end."""

    def judge(times: Times) -> Sides:
        start, end = times.way
        sides = []
        for group, time in zip(_GROUPS, times.time, strict=True):
            growth = jnp.expm1(-group * jnp.log1p(-end)) / end
            most = 1.0 / start - 1.0 / end + growth * jnp.log(end / start)
            room = most / _spent(start, end) - 1.0
            deviation = jnp.abs(time / law(start, end, group) - 1.0)
            sides.append(Sides(deviation, jnp.maximum(room, _ROUNDING)))
        return all_of(sides).tightest()

    return judge


def _two(
    name: str, title: str, formula: str, law: Callable[..., Array], kind: Callable[[int], Clock]
) -> Statement:
    judge = Formula(law, _between)
    return Statement(
        name=name,
        title=title,
        assumptions="one prompt, tabular policy, λ = 0; two outputs of rewards 1 and 0; a rare success",
        citation=_CITATION,
        formula=formula,
        draw=_draw,
        judge=judge,
        observe=_observe(kind),
        sabotages=judge.off_by_a_tenth(),
    )


# The stall -------------------------------------------------------------------------------

_GROUP, _OUTPUTS = 4, 4
_TOLERANCE = 3.0  # times the small parameter of the law; measured


class Held(NamedTuple):
    """A rare best output, a middling one and low ones in this order: log-probabilities and rewards."""

    start: Float[Array, " outputs"]
    rewards: Float[Array, " outputs"]

    @property
    def instance(self) -> Instance:
        """Without a clock."""
        return Instance(self.rewards[None], start=Parameters(self.start[None]))


class Stalled(NamedTuple):
    """Such a problem, and its time of escape by the integrated flow of the mean over all groups."""

    held: Held
    time: Float[Array, ""]


def _draw_held(source: Source) -> Held:
    rare = source.log_uniform(1e-6, 1e-4)
    middling = source.uniform(0.3, 0.7)
    low = source.uniform(0.3, 1.0, (_OUTPUTS - 2,))
    low = (1.0 - middling - rare) * low / low.sum()
    reward = source.uniform(0.4, 0.8)
    rewards = reward * source.uniform(0.0, 0.8, (_OUTPUTS - 2,))
    ends = jnp.stack([rare, middling]), jnp.stack([jnp.ones(()), reward])
    return Held(jnp.log(jnp.concatenate([ends[0], low])), jnp.concatenate([ends[1], rewards]))


def _observe_held(clock: Clock) -> Callable[[Held], Stalled]:
    @jax.jit
    def problems(held: Held) -> tuple[Instance, Goal]:
        instances = jax.vmap(lambda one: one.instance)(held)
        return instances, jax.vmap(lambda instance: probability_level(instance, 0, 0.5))(instances)

    def observe(held: Held) -> Stalled:
        instances, goals = problems(held)
        return Stalled(held, hitting_times_only(instances.following(clock), goals)[0][:, 0])

    return observe


def grpo_stall(
    start: Array, rewards: Array, *, constant: Number = 1.0, others: Number = 1.0, root: Number = -1 / 2
) -> Array:
    """The logarithm of the time of escape under GRPO with finite groups, whatever the rewards."""
    signs = jnp.sign(rewards - rewards[1])
    rate = others * jnp.log(_GROUP - 1.0) + root * jnp.log(1.0 * _GROUP)
    return jnp.log(constant) + log_time(start, signs) - rate


def max_rl_stall(
    start: Array, rewards: Array, *, constant: Number = 1.0, share: Number = 1 / _GROUP
) -> Array:
    """The same under MaxRL."""
    gaps = rewards - rewards[1]
    seen = (1.0 - 1.0 / _GROUP) * gaps / (rewards[1] + share * gaps)
    return jnp.log(constant) + log_time(start, seen)


def _stalled(law: Callable[..., Array]) -> Judge:
    def judge(stalled: Stalled) -> Sides:
        start, rewards = stalled.held
        deviation = jnp.abs(jnp.expm1(jnp.log(stalled.time) - law(start, rewards)))
        return Sides(deviation, _TOLERANCE * small_parameter(start, rewards))

    return judge


def _stall(name: str, title: str, formula: str, law: Callable[..., Array], clock: Clock) -> Statement:
    judge = Formula(law, _stalled)
    return Statement(
        name=name,
        title=title,
        assumptions="the stalling law's: one prompt, tabular policy, λ = 0, one best, one middling output, a "
        "rare best one; rewards not negative; groups of G",
        citation=_CITATION,
        formula=formula,
        draw=_draw_held,
        judge=judge,
        observe=_observe_held(clock),
        sabotages=judge.off_by_a_tenth(),
    )


STATEMENTS = (
    _two(
        "grpo_finite_group",
        "Finite groups of GRPO are back at the power of the gradient",
        "t = (1 + O(G p₀ ln 1/p₀)) (F(p₁) − F(p₀)) / (2 (G−1)/√G); G = 2, 8, 32",
        grpo_time,
        Grpo,
    ),
    _two(
        "maxrl_finite_group",
        "Finite groups of MaxRL are back at the power of the gradient",
        "t = (1 + O(G p₀ ln 1/p₀)) (F(p₁) − F(p₀)) / (2 (G−1)); G = 2, 8, 32",
        max_rl_time,
        MaxRl,
    ),
    _stall(
        "stalling_law_grpo_finite_group",
        "Finite groups of GRPO bring back the exponent of the stall, whatever the rewards between",
        "t = (1 + O(ε)) π₀(m) Π π₀(j) / ((G−1)/√G K (K−1) ε^(K−1)); K = G = 4",
        grpo_stall,
        Grpo(_GROUP),
    ),
    _stall(
        "stalling_law_maxrl_finite_group",
        "The stalling law of finite groups of MaxRL",
        "that of the rewards (1 − 1/G)(r − r_m)/(r_m + (r − r_m)/G); K = G = 4",
        max_rl_stall,
        MaxRl(_GROUP),
    ),
)
