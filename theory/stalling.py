"""The stalling law: how long a middling output holds gradient flow up.

Tabular policy, no regularisation, one prompt of weight one (with weight ``w``, divide times by it). One
output ``*`` has the best reward, one ``m`` the second best, the ``K - 2`` others ``j`` are worse. The best is
rare at first, ``eps = pi_0(*)``. The flow then goes to ``m``, and escapes to ``*`` at

    ``t = pi_0(m) prod_j [(r_m - r_j) pi_0(j)] / [K (K-1) (r_* - r_m)^(K-1) eps^(K-1)] (1 + kappa eps + ...)``

whatever level of ``pi(*)`` in (0, 1), or of ``V`` between ``r_m`` and ``r_*``, is waited for.

The next order, ``kappa``. Write ``b = r_* - r_m``, ``a_j = r_m - r_j``, ``U = pi_*/pi_m``,
``Q_j = pi_j/pi_m`` and ``D = sum_j a_j pi_j``. Exactly,
``d/dt ln(U^(K-1) / prod_j Q_j) = K d theta_*/dt = K pi_* (b (1 - pi_*) + D)``. The law takes into account
what this does near the vertex of ``m``, where it makes ``K ln(1 + b pi_*/x)`` with ``x`` the common
value of ``a_j pi_j`` there. Away from the vertex and to first order in ``pi_*``, ``dU/dt = -D pi_*``, and for
``G = b U mean_j 1/(a_j Q_j)``, which becomes ``b pi_*/x``, ``dG/dt = b pi_* (1 - D mean_j 1/a_j)``. So
``pi_* (b + D) = dG/dt - (1 + b mean_j 1/a_j) dU/dt``, whose integral is ``G(t) - G(0) + (1 + b mean_j 1/a_j)
U(0)`` when ``U(t)`` is gone. ``K G(t)`` is the law's; the rest changes the conserved ratio, and so the
time, by the factor ``exp(kappa eps)``,

    ``kappa = K [ b mean_j 1/(a_j pi_0(j)) - (1 + b mean_j 1/a_j) / pi_0(m) ]``.

The law is thus good while both terms of ``kappa eps`` are small: not for a low output so rare or so close
to the middling one that ``a_j pi_0(j)`` is no longer large against ``b eps``. What remains is of the order of
their squares; for ``K = 3`` times ``ln(1/eps)``, from the last moments of the escape.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from goodteacher.sim.flow import Control
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draws import Source, without
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import escape_times
from goodteacher.theory.statements import Judge, Sides, Statement

# Rates of arXiv:2604.25872: maximising the ground truth takes Omega(eps^-14/13) (Theorem 1), maximising a
# proxy that gives the middling output the low reward O(eps^-1) (Theorem 2).
PUBLISHED_GROUND_TRUTH_EXPONENT = Fraction(14, 13)
PUBLISHED_PROXY_EXPONENT = Fraction(1)


class Roles(NamedTuple):
    """Who is who in a stall.

    Attributes:
        best, middling: which output it is.
        log_best, log_middling: their log-probabilities.
        gap: ``b``, between their rewards.
        low: which are the others.
        drop: ``a_j`` of these, one elsewhere.
        log_low: their log-probabilities, zero elsewhere.
        outputs: ``K``.
    """

    best: Bool[Array, "*batch outputs"]
    middling: Bool[Array, "*batch outputs"]
    log_best: Float[Array, "*batch"]
    log_middling: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    low: Bool[Array, "*batch outputs"]
    drop: Float[Array, "*batch outputs"]
    log_low: Float[Array, "*batch outputs"]
    outputs: Float[Array, "*batch"]


def find_roles(
    log_probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Roles:
    """By the rewards of the outputs that exist. Args as for :func:`log_time`."""
    present = jnp.isfinite(log_probabilities)
    index = jnp.arange(rewards.shape[-1])
    ranked = jnp.where(present, rewards, -jnp.inf)
    best = index == ranked.argmax(-1, keepdims=True)
    rest = jnp.where(best, -jnp.inf, ranked)
    middling = index == rest.argmax(-1, keepdims=True)
    low = present & ~best & ~middling
    second = rest.max(-1)

    def at(output: Array) -> Array:
        return jnp.where(output, log_probabilities, 0.0).sum(-1)

    return Roles(
        best=best,
        middling=middling,
        log_best=at(best),
        log_middling=at(middling),
        gap=ranked.max(-1) - second,
        low=low,
        drop=jnp.where(low, second[..., None] - rewards, 1.0),
        log_low=jnp.where(low, log_probabilities, 0.0),
        outputs=present.sum(-1).astype(float),
    )


def exponent(outputs: int) -> int:
    """The power of ``1 / eps`` with which the time grows: ``K - 1``."""
    return outputs - 1


def log_time(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1.0,
    middling: Number = 1.0,
    drop: Number = 1.0,
    low: Number = 1.0,
    gap: Number = 1.0,
    rarity: Number = 1.0,
) -> Float[Array, "*batch"]:
    """Natural logarithm of the leading term of the time to escape.

    Nothing overflows, however rare the best output is. With two outputs it is the leading term ``pi_0(m) /
    (2 b eps)`` of the exact solution.

    Args:
        log_probabilities: of the initial policy, normalised; ``-inf`` for an output that does not exist.
        rewards: that are trained on; the best and the second best output are found by them.
        constant: a factor of the time.
        middling, drop, low, gap, rarity: exponents of ``pi_0(m)``, ``a_j`` and ``pi_0(j)``, and factors of
            those of ``b`` and ``eps``, which are ``1 - K``.

    Returns:
        ``inf`` if the two best are tied, ``-inf`` if the second best is not unique: no law for these.
    """
    roles = find_roles(log_probabilities, rewards)
    of_low = (drop * jnp.log(roles.drop) + low * roles.log_low).sum(-1)
    count = roles.outputs
    return (
        jnp.log(constant)
        + middling * roles.log_middling
        + of_low
        - jnp.log(count * (count - 1.0))
        - (count - 1.0) * (gap * jnp.log(roles.gap) + rarity * roles.log_best)
    )


def time(
    log_probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """The leading term of the time to escape; see :func:`log_time`."""
    return jnp.exp(log_time(log_probabilities, rewards))


def _correction_terms(log_probabilities: Array, rewards: Array) -> tuple[Array, Array]:
    roles = find_roles(log_probabilities, rewards)

    def mean(values: Array) -> Array:
        return jnp.where(roles.low, values, 0.0).sum(-1) / (roles.outputs - 2.0)

    relative = jnp.exp(roles.log_best[..., None] - roles.log_low)
    head_start = roles.gap * mean(relative / roles.drop)
    spent = (1.0 + roles.gap * mean(1.0 / roles.drop)) * jnp.exp(roles.log_best - roles.log_middling)
    return roles.outputs * head_start, roles.outputs * spent


def correction(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    head_start: Number = 1.0,
    spent: Number = 1.0,
) -> Float[Array, "*batch"]:
    """``kappa eps``: to next order, the time is ``exp(log_time + correction)``. At least three outputs.

    Args as for :func:`log_time`, and:
        head_start, spent: factors of what the low outputs and the middling one contribute.
    """
    of_low, of_middling = _correction_terms(log_probabilities, rewards)
    return head_start * of_low - spent * of_middling


def log_time_to_next_order(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1.0,
    head_start: Number = 1.0,
    spent: Number = 1.0,
) -> Float[Array, "*batch"]:
    """``log_time + correction``. Args as for these."""
    first = log_time(log_probabilities, rewards, constant=constant)
    return first + correction(log_probabilities, rewards, head_start=head_start, spent=spent)


def small_parameter(
    log_probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """The terms of :func:`correction` added in magnitude: the law holds where this is small against one.

    Args as for :func:`log_time`.
    """
    head_start, spent = _correction_terms(log_probabilities, rewards)
    return head_start + spent


def natural_gradient_time(
    log_probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """Leading term ``ln(pi_0(m) / eps) / (r_* - r_m)`` of the same time under natural gradient: no stall.

    The time to ``pi(*) = 1/2`` is no smaller, and larger by at most ``ln(1 / pi_0(m)) / (r_* - r_m)``.

    Args as for :func:`log_time`.
    """
    roles = find_roles(log_probabilities, rewards)
    return (roles.log_middling - roles.log_best) / roles.gap


# Statements -------------------------------------------------------------------

_MOST_OUTPUTS = 8
_SMALLEST_START, _LATEST = 1e-12, 1e50
_HORIZON = 1e120  # of the simulations
_LARGEST_PARAMETER = 0.02  # of :func:`small_parameter`
_INTEGRATION = 1e-9  # relative error of a simulated time


class Stall(NamedTuple):
    """A problem that stalls, and the level at which it counts as escaped."""

    instance: Instance
    goal: Goal


def _stall(source: Source) -> Stall:
    index = jnp.arange(_MOST_OUTPUTS)
    outputs = source.integer(3, _MOST_OUTPUTS)
    exists = index < outputs
    gap = source.log_uniform(0.02, 1.0)
    best = source.uniform(gap - 0.9, 1.0)
    drop = source.log_uniform(0.02, best - gap + 1.0, (_MOST_OUTPUTS,))
    rewards = jnp.where(index == 0, best, best - gap - jnp.where(index == 1, 0.0, drop))

    # The others' probabilities, then as rare a best output as law and integration are made for.
    weights = jnp.where(exists & (index > 0), source.log_uniform(1e-4, 1.0, (_MOST_OUTPUTS,)), 0.0)
    others = jnp.log(weights / weights.sum())

    def start(log_eps: Array) -> Array:
        return jnp.where(index == 0, log_eps, others + jnp.log1p(-jnp.exp(log_eps)))

    common = jnp.where(index == 0, 0.0, others)  # all for eps = 1, of which both are powers
    most = jnp.log(_LARGEST_PARAMETER / small_parameter(common, rewards))
    least = (log_time(common, rewards) - jnp.log(_LATEST)) / (outputs - 1.0)
    least = jnp.minimum(jnp.maximum(least, jnp.log(_SMALLEST_START)), most)
    logits = start(source.uniform(least, most))

    order = source.permutation(_MOST_OUTPUTS)
    exists, rewards, logits = exists[order], rewards[order], logits[order]
    instance = Instance(jnp.where(exists, rewards, 0.0), start=Parameters(jnp.where(exists, logits, 0.0)))
    share = source.uniform(0.05, 0.95)
    of_probability = source.bernoulli()
    indicator = (order == 0).astype(float)
    goal = Goal(
        jnp.where(of_probability, indicator, instance.rewards[0])[None],
        jnp.where(of_probability, share, best - gap + share * gap)[None],
    )
    return Stall(without(instance, exists[None]), goal)


class Escape(NamedTuple):
    """Where a stall starts, what is rewarded, and when it is over."""

    log_start: Float[Array, " outputs"]
    rewards: Float[Array, " outputs"]
    time: Float[Array, ""]


def _observe(stall: Stall) -> Escape:
    instances = stall.instance
    time = escape_times(instances, stall.goal, Control(horizon=_HORIZON))
    return Escape(instances.reference_log_probabilities[:, 0], instances.rewards[:, 0], time)


_Law = Callable[[Array, Array], Array]


def _judge(tolerance: Callable[[Array, Array], Array], law: _Law) -> Judge:
    """With a law for the logarithm of the time, and a tolerance from the small parameter and ``eps``."""

    def judge(escape: Escape) -> Sides:
        start, rewards, time = escape
        deviation = jnp.abs(jnp.expm1(jnp.log(time) - law(start, rewards)))
        allowed = tolerance(small_parameter(start, rewards), jnp.exp(find_roles(start, rewards).log_best))
        return Sides(deviation, jnp.maximum(allowed, _INTEGRATION))

    return judge


def _first_order(parameter: Array, eps: Array) -> Array:
    return 1.5 * parameter


def _second_order(parameter: Array, eps: Array) -> Array:
    return (1.0 + jnp.log(1.0 / eps)) * parameter**2


def _less_spent(start: Array, rewards: Array) -> Array:
    roles = find_roles(start, rewards)
    one = jnp.exp(roles.log_best - roles.log_middling)
    return log_time_to_next_order(start, rewards) + roles.outputs * one


LAW = Statement(
    name="stalling_law",
    title="The stalling law",
    assumptions="one prompt of weight one, tabular policy, λ = 0; one best, one second best output; ε "
    "= π₀(*) small against the low outputs (σ ≤ 0.02)",
    citation="theory/stalling.py (derived for this project)",
    formula="t = (1 + O(ε)) π₀(m) Π_j [(r_m−r_j) π₀(j)] / [K (K−1) (r*−r_m)^(K−1) ε^(K−1)]; |O(ε)| ≤ 1.5 σ, "
    "σ = K ε [b mean_j 1/(a_j π₀(j)) + (1 + b mean_j 1/a_j)/π₀(m)] ≤ 0.02",
    draw=_stall,
    judge=Formula(log_time, partial(_judge, _first_order)),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "K² for K (K-1)": _judge(
                _first_order, lambda p, r: log_time(p, r) + jnp.log1p(-1.0 / jnp.isfinite(p).sum(-1))
            ),
            "published exponent 14/13": _judge(
                _first_order, lambda p, r: float(PUBLISHED_GROUND_TRUTH_EXPONENT) * -find_roles(p, r).log_best
            ),
        }
    ),
)

NEXT_ORDER = Statement(
    name="stalling_law_next_order",
    title="The stalling law with its first correction",
    assumptions="one prompt of weight one, tabular policy, λ = 0; one best, one second best output; ε "
    "= π₀(*) small against the low outputs (σ ≤ 0.02)",
    citation="theory/stalling.py (derived for this project)",
    formula="t = law · exp(κ ε + O(σ²)), κ = K [b mean_j 1/(a_j π₀(j)) − (1 + b mean_j 1/a_j)/π₀(m)]; "
    "|O(σ²)| ≤ (1 + ln(1/ε)) σ²",
    draw=_stall,
    judge=Formula(log_time_to_next_order, partial(_judge, _second_order)),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "correction dropped": _judge(_second_order, log_time),
            "one dropped from the second term": _judge(_second_order, _less_spent),
        }
    ),
)

_MORE_OUTPUTS = 12
_EPS, _ERROR = 1e-7, 1e-4


def _many_outputs(source: Source) -> Stall:
    """Up to twelve outputs, none of them so rare or so close to the middling one that 1e-7 is not small."""
    index = jnp.arange(_MORE_OUTPUTS)
    exists = index < source.integer(3, _MORE_OUTPUTS)
    gap = source.uniform(0.05, 0.6)
    drop = source.uniform(gap, 1.4, (_MORE_OUTPUTS,))
    rewards = (1.0 - gap - drop).at[:2].set(jnp.stack([jnp.ones(()), 1.0 - gap]))
    weights = jnp.where(exists & (index > 0), source.uniform(0.4, 1.0, (_MORE_OUTPUTS,)), 0.0)
    probabilities = ((1.0 - _EPS) * weights / weights.sum()).at[0].set(_EPS)
    logits = jnp.log(jnp.where(exists, probabilities, 1.0))
    goal = Goal((index == 0).astype(float)[None], source.uniform(0.05, 0.95, (1,)))
    return Stall(without(Instance(rewards, start=Parameters(logits[None])), exists[None]), goal)


def _to_four_digits(parameter: Array, eps: Array) -> Array:
    return jnp.full_like(parameter, _ERROR)


MANY_OUTPUTS = Statement(
    name="stalling_law_many_outputs",
    title="The stalling law at a rarity of 1e-7, for up to twelve outputs",
    assumptions="one prompt of weight one, tabular policy, λ = 0; ε = 1e-7; low outputs neither rare "
    "nor close to the middling one; up to twelve outputs",
    citation="theory/stalling.py (derived for this project)",
    formula="t = π₀(m) Π_j [(r_m−r_j) π₀(j)] / [K (K−1) (r*−r_m)^(K−1) ε^(K−1)] to below 1e-4 relative",
    draw=_many_outputs,
    judge=Formula(log_time, partial(_judge, _to_four_digits)),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "0.1 % more": _judge(_to_four_digits, lambda p, r: log_time(p, r) + 1e-3),
            "one output less": _judge(
                _to_four_digits, lambda p, r: log_time(p, r) + jnp.log((r.max() - r[1]) * 1e-7)
            ),
        }
    ),
)

STATEMENTS = (LAW, NEXT_ORDER, MANY_OUTPUTS)
