"""The stall of the stalling law (:mod:`goodteacher.theory.stalling`) under GRPO and MaxRL in the limit.

In its setting, and with its ``b = r_* - r_m``, ``a_j = r_m - r_j``, ``u = pi(*)``, ``x`` what all ``a_j
pi(j)`` become near the vertex, ``w = x / u``: ``u = C w^-2 (b + w)^K`` with ``C = eps^(K-1) / (pi_0(m) prod_j
a_j pi_0(j))``, and ``dt = -dw / (w u (b + w))`` under the gradient. There the variance of the reward is ``u
(b^2 + w sum_j a_j)``, so that under GRPO::

    t = integral sqrt(u (b^2 + w A)) dw / (w u (b + w))
      = C^(-1/2) integral sqrt(b^2 + w A) (b + w)^(-K/2-1) dw

with ``A = sum_j a_j``: the exponent of ``eps`` is halved. With ``w = b s / (1 - s)`` and ``1 - s = sin^2
f`` the integral is ``2 b^(-(K-1)/2) int_0^(pi/2) sqrt(b + (A - b) cos^2 f) sin^(K-2) f cos f df``.

Under MaxRL ``1/m = V``, which stays at the middling reward for as long as the stall lasts: the exponent stays
``K - 1``, and the time is the gradient's times ``r_m``. What MaxRL wins where the alternative to success is a
reward of zero, it does not win where that is partial credit.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.clocks import Clock, Grpo, MaxRl
from goodteacher.theory import stalling
from goodteacher.theory.draws import Source
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.stalling import Escape, Stall, log_time, small_parameter
from goodteacher.theory.statements import Judge, Sides, Statement

_NODES = 64
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
    exists = jnp.isfinite(log_probabilities)
    outputs = exists.sum()
    best, middling = jax.lax.top_k(jnp.where(exists, rewards, -jnp.inf), 2)[0]
    gap = best - middling
    below = jnp.where(exists & (rewards < middling), middling - rewards, 0.0).sum()
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    angle, weights = (points + 1.0) * (np.pi / 4.0), weights * (np.pi / 4.0)
    near, far = np.cos(angle), np.sin(angle)
    integral = (weights * near * jnp.sqrt(gap + (below - gap) * near**2) * far ** (outputs - 2)).sum()
    # The stalling law is 1 / (C b^(K-1) K (K-1)).
    log_c = -(log_time(log_probabilities, rewards) + (outputs - 1) * jnp.log(gap))
    log_c -= jnp.log(outputs * (outputs - 1.0))
    return jnp.log(constant) - share * log_c - share * (outputs - 1) * jnp.log(gap) + jnp.log(integral)


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
    """Besides, what the integral counts before the start, from infinite ``w`` on.

    Less than ``sqrt(A / C) 2 / (K - 1) w_0^(-(K-1)/2)``, with the smallest ``a_j pi_0(j)`` in ``w_0``.
    """
    exists = jnp.isfinite(start)
    outputs = exists.sum()
    top = jax.lax.top_k(jnp.where(exists, rewards, -jnp.inf), 2)[0]
    low = exists & (rewards < top[1])
    below = jnp.where(low, top[1] - rewards, 1.0)
    x = jnp.where(low, jnp.log(below) + start, 0.0)
    middling = jnp.where(rewards == top[1], start, -jnp.inf).max()
    log_size = 0.5 * (middling + x.sum() + jnp.log(jnp.where(low, below, 0.0).sum()))
    nearest = jnp.where(low, x, jnp.inf).min()
    tail = jnp.exp(log_size - 0.5 * (outputs - 1) * nearest) * 2.0 / (outputs - 1)
    return _first_order(start, rewards, time) + 2.0 * tail / time


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

STATEMENTS = (GRPO, MAX_RL)
