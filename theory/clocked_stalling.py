"""The stall of the stalling law (:mod:`goodteacher.theory.stalling`) under GRPO and MaxRL in the limit.

In its setting, and with its ``b = r_* - r_m``, ``a_j = r_m - r_j``, ``u = pi(*)``, ``x`` what all ``a_j
pi(j)`` become near the vertex, ``w = x / u``: ``u = C w^-2 (b + w)^K`` with ``C = eps^(K-1) / (pi_0(m) prod_j
a_j pi_0(j))``, and ``dt = -dw / (w u (b + w))`` under the gradient. There the variance of the reward is ``u
(b^2 + w sum_j a_j)``, so that under GRPO::

    t = integral sqrt(u (b^2 + w A)) dw / (w u (b + w))
      = C^(-1/2) integral sqrt(b^2 + w A) (b + w)^(-K/2-1) dw

with ``A = sum_j a_j``: the exponent of ``eps`` is halved. With ``w = b s / (1 - s)`` and ``1 - s = sin^2
f`` the integral is ``2 b^(-(K-1)/2) int_0^(pi/2) sqrt(b + (A - b) cos^2 f) sin^(K-2) f cos f df``.

Its next order. In the measure of time ``d tau = dt / Z`` of :mod:`goodteacher.sim.solved` every output has a
line ``x_y = 1/pi_0(y) - r_y tau + W``, and as ``pi_y = 1/(x_y Z)``, exactly::

    t = integral Z sqrt(Var) d tau = integral sqrt(sum_{y < z} (r_y - r_z)^2 / (x_y x_z)) d tau.

While ``m`` has the policy, ``x_m`` is tiny, pairs with ``m`` are all that counts, ``1/x_m = prod_y pi_0(y)
prod_{y != m} x_y`` by the sum of the logits, and less the line of ``m`` those of the others are ``x_j = a_j
(tau + d_j)`` with ``d_j = (1/pi_0(j) - 1/pi_0(m)) / a_j``, and ``x_* = b (T - tau)`` with ``b T = 1/eps -
1/pi_0(m)``. So the square of the integrand is, but for the constant ``prod_y pi_0(y) prod_j a_j``::

    b^2 prod_j (tau + d_j) + b (T - tau) sum_j a_j prod_{i != j} (tau + d_i).

``tau`` is of the order of ``1/eps``. To first order in ``d`` and with ``tau = T s``, ``s = sin^2 f``, ``q =
b s + A (1 - s)``, ``D = sum_j d_j`` and ``D' = sum_j d_j (A - a_j)`` the time is the law's times ``exp(kappa
eps)``,

    ``kappa = (b/2) I_1 / I_0 - K / (2 pi_0(m))``,    ``I_0 = int_0^1 s^((K-3)/2) sqrt(q) ds``,
    ``I_1 = int_0^1 s^((K-5)/2) (b D s + D' (1 - s)) / sqrt(q) ds``,

the second term being that of ``T^(K/2)``. At the end, ``x_*`` and ``x_m`` meet: these two outputs alone are
left, on GRPO's clock of two outputs, of which the integral up to ``T`` has counted the first half. A level
``l`` of ``pi(*)``, or of the share of the way that ``V`` has gone from ``r_m`` to ``r_*``, adds ``F(l) =
(2l - 1) / sqrt(l (1 - l))``, whatever the problem. That is of the relative order of ``eps^((K-1)/2)``: for
``K = 3`` as large as ``kappa eps``. So is what the start adds, where ``tau`` is of the order of one; but for
``K = 3`` it adds nothing, for there ``1/(x_j x_m)`` is ``x_*`` times a constant at any ``tau``.

Under MaxRL ``1/m = V``, which stays at the middling reward for as long as the stall lasts: the exponent stays
``K - 1``, and the time is the gradient's times ``r_m``. What MaxRL wins where the alternative to success is a
reward of zero, it does not win where that is partial credit.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.clocks import Clock, Grpo, MaxRl
from goodteacher.theory import stalling
from goodteacher.theory.clock_laws import grpo_time
from goodteacher.theory.draws import Source
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.stalling import (
    Escape,
    Roles,
    Stall,
    correction,
    find_roles,
    log_time,
    small_parameter,
)
from goodteacher.theory.statements import Judge, Sides, Statement

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_ANGLES, _WEIGHTS = (_POINTS + 1.0) * (np.pi / 4.0), _WEIGHTS * (np.pi / 4.0)  # f
_NEAR, _FAR = np.cos(_ANGLES), np.sin(_ANGLES)
_ROUNDING = 1e-9  # relative error of a simulated time
_SHIFT = 1.0  # of rewards, for none to be negative
_CITATION = "theory/clocked_stalling.py (derived for this project)"


def log_grpo_time(
    log_probabilities: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    *,
    constant: Number = 2.0,
    share: Number = 1 / 2,
) -> Float[Array, ""]:
    """The logarithm of the time of escape under GRPO in the limit, with ``epsilon`` zero.

    Args:
        log_probabilities: initial ones; ``-inf`` for outputs that do not exist.
        rewards: the best one's is the largest, the middling one's the second largest.
        constant, share: numbers of the law.
    """
    roles = find_roles(log_probabilities, rewards)
    outputs = roles.outputs
    integral = (_WEIGHTS * _NEAR * jnp.sqrt(_spread(roles)) * _FAR ** (outputs - 2.0)).sum()
    # The stalling law is 1 / (C b^(K-1) K (K-1)).
    log_c = -(log_time(log_probabilities, rewards) + (outputs - 1.0) * jnp.log(roles.gap))
    log_c -= jnp.log(outputs * (outputs - 1.0))
    return (
        jnp.log(constant) - share * log_c - share * (outputs - 1.0) * jnp.log(roles.gap) + jnp.log(integral)
    )


def _spread(roles: Roles) -> Float[Array, " nodes"]:
    """``b + (A - b) cos^2 f`` at the nodes."""
    return roles.gap + (_all_drops(roles) - roles.gap) * _NEAR**2


def _all_drops(roles: Roles) -> Float[Array, ""]:
    """``A``."""
    return jnp.where(roles.low, roles.drop, 0.0).sum()


def grpo_correction(
    log_probabilities: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    *,
    head_start: Number = 1.0,
    spent: Number = 1.0,
) -> Float[Array, ""]:
    """``kappa eps`` of GRPO. Args as for :func:`log_grpo_time`, and:

    head_start, spent: factors of what the low outputs and the middling one contribute.
    """
    roles = find_roles(log_probabilities, rewards)
    outputs, relative = roles.outputs, jnp.exp(roles.log_best - roles.log_middling)
    ahead = (jnp.exp(roles.log_best - roles.log_low) - relative) / roles.drop  # eps d_j
    ahead = jnp.where(roles.low, ahead, 0.0)
    of_others = (ahead * (_all_drops(roles) - roles.drop)).sum()
    spread = _spread(roles)
    power = _WEIGHTS * _NEAR * _FAR ** (outputs - 4.0)
    gained = power * (roles.gap * ahead.sum() * _FAR**2 + of_others * _NEAR**2) / jnp.sqrt(spread)
    ratio = gained.sum() / (power * jnp.sqrt(spread) * _FAR**2).sum()
    return head_start * roles.gap * ratio / 2.0 - spent * outputs * relative / 2.0


def log_grpo_time_to_next_order(
    log_probabilities: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    level: Float[Array, ""],
    *,
    constant: Number = 2.0,
    head_start: Number = 1.0,
    spent: Number = 1.0,
    last: Number = 1.0,
) -> Float[Array, ""]:
    """The logarithm of ``law exp(kappa eps) + F(level)``.

    Args:
        log_probabilities, rewards: as for :func:`log_grpo_time`.
        level: of ``pi(*)``, or of the share of the way from ``r_m`` to ``r_*`` that ``V`` has gone.
        constant, head_start, spent: as there, and for :func:`grpo_correction`.
        last: a factor of ``F``.
    """
    law = log_grpo_time(log_probabilities, rewards, constant=constant)
    law += grpo_correction(log_probabilities, rewards, head_start=head_start, spent=spent)
    return law + jnp.log1p(last * grpo_time(1 / 2, level) * jnp.exp(-law))


def log_max_rl_time(
    log_probabilities: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    *,
    power: Number = 1.0,
) -> Float[Array, ""]:
    """The same under MaxRL in the limit, of rewards that are not negative."""
    exists = jnp.isfinite(log_probabilities)
    middling = jax.lax.top_k(jnp.where(exists, rewards, -jnp.inf), 2)[0][1]
    return log_time(log_probabilities, rewards) + power * jnp.log(middling)


def _draw(source: Source) -> Stall:
    stall = stalling.LAW.draw(source)
    instance, goal = stall.instance, stall.goal
    of_rewards = (goal.values == instance.rewards).all()
    exists = instance.mask
    assert exists is not None
    shifted = jnp.where(exists, instance.rewards + _SHIFT, 0.0)
    instance = eqx.tree_at(lambda i: (i.rewards, i.ground_truth_rewards), instance, (shifted, shifted))
    goal = eqx.tree_at(
        lambda g: (g.values, g.level),
        goal,
        (jnp.where(of_rewards, shifted, goal.values), goal.level + jnp.where(of_rewards, _SHIFT, 0.0)),
    )
    return Stall(instance, goal)


def _under(clock: Clock) -> Callable[[Stall], Escape]:
    def observe(stall: Stall) -> Escape:
        return stalling.LAW.observe(stall._replace(instance=stall.instance.following(clock)))

    return observe


_Tolerance = Callable[[Array, Array, Array], Array]


def _judged(tolerance: _Tolerance) -> Callable[[Callable[..., Array]], Judge]:
    """With a tolerance from the start, the rewards and the time."""

    def judged(law: Callable[..., Array]) -> Judge:
        def judge(escape: Escape) -> Sides:
            start, rewards, time = escape
            deviation = jnp.abs(jnp.expm1(jnp.log(time) - law(start, rewards)))
            return Sides(deviation, jnp.maximum(tolerance(start, rewards, time), _ROUNDING))

        return judge

    return judged


def _first_order(start: Array, rewards: Array, time: Array) -> Array:
    return 1.5 * small_parameter(start, rewards)


def _with_approach(start: Array, rewards: Array, time: Array) -> Array:
    """Besides, what the integral counts before the start, from infinite ``w`` on."""
    roles = find_roles(start, rewards)
    log_start = -(jnp.log(roles.drop) + roles.log_low)
    return _first_order(start, rewards, time) + 2.0 * _counted_up_to(log_start, roles) / time


def _counted_up_to(log_tau: Array, roles: Roles) -> Array:
    """By the law, up to the latest of some ``tau``, one for each low output, of the order of one.

    Less than ``sqrt(A / C) 2 / (K - 1) w^(-(K-1)/2)`` with ``w = 1/(eps tau)``.
    """
    log_size = roles.log_middling + jnp.where(roles.low, jnp.log(roles.drop) + roles.log_low, 0.0).sum()
    log_size = 0.5 * (log_size + jnp.log(_all_drops(roles)))
    latest = jnp.where(roles.low, log_tau, -jnp.inf).max()
    return jnp.exp(log_size + 0.5 * (roles.outputs - 1.0) * latest) * 2.0 / (roles.outputs - 1.0)


class Passed(NamedTuple):
    """An escape, and at which share of the way from the middling to the best output it counts as one."""

    escape: Escape
    level: Float[Array, ""]


def _observe_level(stall: Stall) -> Passed:
    escape = _under(Grpo())(stall)
    return Passed(escape, _levels(escape, stall.goal.values[:, 0], stall.goal.level[:, 0]))


@jax.jit
@jax.vmap
def _levels(escape: Escape, values: Array, level: Array) -> Array:
    roles = find_roles(escape.log_start, escape.rewards)
    best, middling = (jnp.where(which, values, 0.0).sum() for which in (roles.best, roles.middling))
    return (level - middling) / (best - middling)


def _second_order(start: Array, rewards: Array, time: Array) -> Array:
    """Of its square; and of more than three outputs what the start adds."""
    roles = find_roles(start, rewards)
    square = (1.0 - roles.log_best) * small_parameter(start, rewards) ** 2
    log_start = jnp.logaddexp(-roles.log_low, -roles.log_middling) - jnp.log(roles.drop)  # d_j in magnitude
    return square + jnp.where(roles.outputs > 3.0, _counted_up_to(log_start, roles) / time, 0.0)


def _passed(law: Callable[..., Array]) -> Judge:
    """With a law that knows the level."""

    def judge(passed: Passed) -> Sides:
        return _judged(_second_order)(partial(law, level=passed.level))(passed.escape)

    return judge


def _without(term: str) -> Judge:
    return _NEXT.altered(**{term: 0.0})


def _of_gradient(start: Array, rewards: Array, level: Array) -> Array:
    """With the correction of the gradient's time, halved as its exponent is."""
    law = log_grpo_time(start, rewards) + correction(start, rewards) / 2.0
    return law + jnp.log1p(grpo_time(1 / 2, level) * jnp.exp(-law))


_NEXT = Formula(log_grpo_time_to_next_order, _passed)


_GRPO = Formula(log_grpo_time, _judged(_with_approach))
_MAX_RL = Formula(log_max_rl_time, _judged(_first_order))

GRPO = Statement(
    name="stalling_law_grpo",
    title="The stalling law under GRPO: half the exponent",
    assumptions="the stalling law's: one prompt, tabular policy, λ = 0, one best, one middling "
    "output, a rare best one; groups in the limit, ε = 0",
    citation=_CITATION,
    formula="t = (1 + O) C^(−1/2) ∫₀^∞ √(b² + w Σa) (b + w)^(−K/2−1) dw, C = ε^(K−1) / (π₀(m) Π a_j π₀(j)); "
    "G → ∞",
    draw=_draw,
    judge=_GRPO,
    observe=_under(Grpo()),
    sabotages=_GRPO.off_by_a_tenth(),
)

GRPO_NEXT_ORDER = Statement(
    name="stalling_law_grpo_next_order",
    title="The stalling law under GRPO with its first correction",
    assumptions="the stalling law's: one prompt, tabular policy, λ = 0, one best, one middling "
    "output, a rare best one; groups in the limit, ε = 0",
    citation=_CITATION,
    formula="t = law · exp(κ ε) + (2ℓ − 1)/√(ℓ(1−ℓ)), κ = (b/2) I₁/I₀ − K/(2π₀(m)), "
    "I₀ = ∫₀¹ s^((K−3)/2) √q ds, I₁ = ∫₀¹ s^((K−5)/2) (b D s + D′(1−s))/√q ds, q = b s + (1−s) Σa, "
    "D = Σ d_j, D′ = Σ d_j (Σa − a_j), d_j = (1/π₀(j) − 1/π₀(m))/a_j; G → ∞; "
    "to (1 + ln(1/ε)) σ², and O(ε^((K−1)/2)) if K > 3",
    draw=_draw,
    judge=_NEXT,
    observe=_observe_level,
    sabotages=MappingProxyType(
        {
            "head start dropped": _without("head_start"),
            "the middling output's part dropped": _without("spent"),
            "any level": _without("last"),
            "half of the gradient's correction": _passed(_of_gradient),
        }
    ),
)

MAX_RL = Statement(
    name="stalling_law_maxrl",
    title="The stalling law under MaxRL: the same exponent where there is partial credit",
    assumptions="the stalling law's: one prompt, tabular policy, λ = 0, one best, one middling "
    "output, a rare best one; rewards not negative; groups in the limit",
    citation=_CITATION,
    formula="t = (1 + O(ε)) r_m t_gradient; G → ∞, r ≥ 0",
    draw=_draw,
    judge=_MAX_RL,
    observe=_under(MaxRl()),
    sabotages=_MAX_RL.off_by_a_tenth(),
)

STATEMENTS = (GRPO, GRPO_NEXT_ORDER, MAX_RL)
