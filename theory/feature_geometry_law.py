"""How the angle between the features of the best and the middling output changes a stall (arXiv:2604.25872).

The paper's Section 3.3 and Appendix A.1 find by simulation that a negative inner product makes a stall worse
and a positive one shortens it. Here is the law, with its exponent and its constant.

Notation of :mod:`goodteacher.theory.stalling`: ``*`` has the best reward and is rare at first, ``eps =
pi_0(*)``; ``m`` has the second best, ``b = r_* - r_m``; the others ``j`` are low, ``a_j = r_m - r_j``. One
prompt, linear softmax, features over the temperature that are orthogonal but for ``c = <feature(*),
feature(m)>``, and of norm one but for ``n = |feature(*)|^2``. With ``alpha = 1 - c``, ``beta = 1 + (K-2) c``
and ``s = alpha / (n - c)``, as ``eps -> 0``,

    ``t = beta^kappa B(1 + s, 1 + kappa) ((n - c) b A)^-(1 + kappa)``,  ``1 + kappa = (K-1)/beta``,
    ``A = eps pi_0(m)^-c [pi_0(m) prod_j a_j pi_0(j)]^(-alpha/(K-1))``,

so the exponent of ``1/eps`` is ``(K-1) / (1 + (K-2) c)``: ``K - 1`` for orthogonal features, more for a
negative inner product, and towards one for a positive one. Below ``c = -1/(K-2)`` the flow never escapes:
the probability of ``*`` falls faster than those of the low outputs, and the policy ends at the middling one.

Derived here. The logits move by ``z_y' = sum_z <feature(y), feature(z)> pi(z) A(z)``. While ``eps`` is
negligible ``z_y' = pi(y) A(y)`` for ``y != *``, with a conserved sum, and ``z_* - c z_m`` is conserved. Near
the vertex of ``m`` put ``u = pi(*)`` and ``x_j = a_j pi(j)``, which become equal to one ``x``. Then
``pi(m) A(m) = -(b u - (K-2) x)`` and

    ``u' = u [(n + 1 - 2 c) b u - alpha (K-2) x]``,  ``x' = x [alpha b u - (K-1) x]``,

so for ``w = x/u``, ``w' = -w u ((n-c) b + beta w)`` and ``u = C w^-(1 + s) ((n-c) b + beta w)^(1 + s +
kappa)`` with ``kappa = alpha (K-2) / beta``. The time is ``int_0^inf dw / (w u ((n-c) b + beta w))``, a Beta
integral. Where ``w`` is large ``u = C beta^(1 + s + kappa) w^kappa``, and the conserved quantities say that
there ``u^(1-q) = A w^q``, ``q = alpha (K-2)/(K-1)``; ``1 - q = beta/(K-1)``, so ``C = beta^-(1 + s + kappa)
A^(1 + kappa)``. If ``beta < 0``, ``w`` only grows where it is large; if ``beta = 0``, it starts at ``1/A``
and falls with ``ln t``, so that the time is exponential in ``1/eps``.

The ``x_j`` become equal slowly: along the solved flow of the others ``1/x_j`` is in proportion to ``tau +
d_j``, ``d_j = (1/pi_0(j) - 1/pi_0(m)) / a_j``, with ``t = pi_0(m) prod_j a_j pi_0(j) tau^(K-1) / (K-1)``.
What that adds is of second order, ``E = sum_j (d_j - mean d)^2 / tau^2``, as the first order is a shift of
``tau``. At the time of the escape ``E`` is of order ``eps^(2/beta)``: negligible for orthogonal features,
but the larger correction where ``beta > 2``.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import betaln
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.flow import Control, hitting_times_only
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.draws import Source, without
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import first_output_goals
from goodteacher.theory.stalling_extensions import rounding, with_rare_best
from goodteacher.theory.statements import Judge, Sides, Statement


def log_stalling_time(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    inner_product: Float[ArrayLike, "*batch"],
    squared_norm: Float[ArrayLike, "*batch"] = 1.0,
    *,
    shared: Number = 1.0,
    gap: Number = 1.0,
    middling: Number = 1.0,
    low: Number = 1.0,
    power: Number = 1.0,
) -> Float[Array, "*batch"]:
    """Natural logarithm of the time to escape; ``inf`` where no power of ``1/eps`` is long enough.

    Args:
        log_probabilities: of the initial policy, normalised: the best output, the middling one, then low
            ones; ``-inf`` for an output that does not exist.
        rewards: in the same order.
        inner_product: ``c``, between the features of the first two outputs.
        squared_norm: ``n``, of the first feature; it exceeds ``c``. The others are of norm one.
        shared, gap, middling, low: exponents of ``pi_0(m)^-c``, ``b``, ``pi_0(m)`` and ``prod_j a_j pi_0(j)``
            within the brackets.
        power: a factor of ``1 + kappa`` in its role as the power.
    """
    exists = jnp.isfinite(log_probabilities[..., 2:])
    outputs = 2.0 + exists.sum(-1)
    c = jnp.asarray(inner_product)
    alpha, beta, ahead = 1.0 - c, 1.0 + (outputs - 2.0) * c, squared_norm - c
    escapes = beta > 0
    beta = jnp.where(escapes, beta, 1.0)
    kappa = alpha * (outputs - 2.0) / beta
    drop = jnp.where(exists, rewards[..., 1:2] - rewards[..., 2:], 1.0)
    rest = jnp.where(exists, jnp.log(drop) + jnp.where(exists, log_probabilities[..., 2:], 0.0), 0.0).sum(-1)
    of_middling = log_probabilities[..., 1]
    log_a = log_probabilities[..., 0] - shared * c * of_middling
    log_a -= alpha / (outputs - 1.0) * (middling * of_middling + low * rest)
    scale = jnp.log(ahead) + gap * jnp.log(rewards[..., 0] - rewards[..., 1]) + log_a
    integral = betaln(1.0 + alpha / ahead, 1.0 + kappa)
    time = kappa * jnp.log(beta) + integral - power * (1.0 + kappa) * scale
    return jnp.where(escapes, time, jnp.inf)


# Statement --------------------------------------------------------------------

_OUTPUTS = 6
_FLOOR = 1e-4  # of the law's error, that of the integration included
_CONTROL = Control(tolerance=1e-8, horizon=1e150)


class Geometry(NamedTuple):
    """A problem, the inner product of its first two features, the squared norm of the first one, and the
    probability of the best output that counts as escape."""

    instance: Instance
    inner_product: Float[Array, ""]
    squared_norm: Float[Array, ""]
    level: Float[Array, ""]


def _draw(source: Source) -> Geometry:
    """Inner products from half the most negative at which the flow escapes to a large positive one."""
    index = jnp.arange(_OUTPUTS)
    outputs = source.integer(3, _OUTPUTS)
    exists = index < outputs
    sign = source.integer(-1, 1)
    most = jnp.where(sign < 0, 0.5 / (outputs - 2.0), 0.5)
    inner_product = sign * most * source.uniform(0.05, 1.0)
    gap = source.uniform(0.2, 0.8)
    rewards = (
        source.uniform(-1.0, 1.0 - 1.2 * gap, (_OUTPUTS,)).at[:2].set(jnp.stack([jnp.ones(()), 1.0 - gap]))
    )
    weights = jnp.where(exists, source.uniform(jnp.log(0.1), 0.0, (_OUTPUTS,)), -jnp.inf)
    log_p = with_rare_best(jnp.log(source.log_uniform(1e-9, 3e-7)), weights)
    squared_norm = source.log_uniform(0.6, 2.5)
    rest = jnp.sqrt(squared_norm - inner_product**2)
    features = jnp.eye(_OUTPUTS).at[0, :2].set(jnp.stack([rest, inner_product]))
    start = jnp.where(exists, log_p, 0.0)
    start = start.at[0].set((start[0] - inner_product * start[1]) / rest)
    instance = Instance(rewards, start=Parameters(start), policy=LinearSoftmax(features[None]))
    return Geometry(without(instance, exists[None]), inner_product, squared_norm, source.uniform(0.2, 0.8))


class Escaped(NamedTuple):
    """A problem, and when its best output wins."""

    drawn: Geometry
    time: Float[Array, ""]


def _observe(drawn: Geometry) -> Escaped:
    goals = first_output_goals(drawn.instance, drawn.level)
    return Escaped(drawn, hitting_times_only(drawn.instance, goals, _CONTROL)[0][:, 0])


def unequal(
    log_probabilities: Float[Array, " outputs"], rewards: Float[Array, " outputs"], time: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """``E``, by how much low outputs are still unequal at a time; see above.

    Args:
        log_probabilities, rewards: as for :func:`log_stalling_time`.
        time: that of the escape.
    """
    exists = jnp.isfinite(log_probabilities[2:])
    count = exists.sum()
    log_p = jnp.where(exists, log_probabilities[2:], 0.0)
    drop = jnp.where(exists, rewards[1] - rewards[2:], 1.0)
    offset = (jnp.exp(-log_p) - jnp.exp(-log_probabilities[1])) / drop
    offset = jnp.where(exists, offset - offset.sum(where=exists) / count, 0.0)
    log_product = log_probabilities[1] + (jnp.log(drop) + log_p).sum()
    log_tau = (jnp.log((count + 1.0) * jnp.asarray(time)) - log_product) / (count + 1.0)
    return (offset**2).sum() * jnp.exp(-2.0 * log_tau)


_Law = Callable[[Array, Array, Array, Array], Array]


def _judge(law: _Law) -> Judge:
    def judge(escaped: Escaped) -> Sides:
        instance, inner_product, squared_norm, _ = escaped.drawn
        start, rewards = instance.reference_log_probabilities[0], instance.rewards[0]
        log_time = law(start, rewards, inner_product, squared_norm)
        error = jnp.abs(jnp.expm1(jnp.log(escaped.time) - log_time))
        beta = 1.0 + (jnp.isfinite(start).sum() - 2.0) * inner_product
        allowed = _FLOOR + rounding(start[0], 0.0) / jnp.minimum(beta, 1.0)
        return Sides(error, allowed + 3.0 * unequal(start, rewards, escaped.time))

    return judge


def _misread(change: Callable[[Array], Array]) -> Judge:
    """With another inner product."""
    return _judge(lambda start, rewards, c, n: log_stalling_time(start, rewards, change(c), n))


FEATURE_GEOMETRY = Statement(
    name="feature_geometry",
    title="The stalling law where the features of the best and the middling output are not orthogonal",
    assumptions="one prompt, linear policy, λ = 0; features orthonormal but for those of the best and "
    "the middling output; c > −1/(K−2); a rare best output",
    citation="theory/feature_geometry_law.py (derived here); after arXiv:2604.25872, Section 3.3",
    formula="t = β^κ B(1+α/(n−c), 1+κ) ((n−c) b A)^−(1+κ), 1+κ = (K−1)/β, α = 1−c, β = 1+(K−2)c, "
    "c = ⟨φ*, φ_m⟩, n = |φ*|², A = ε π₀(m)^−c [π₀(m) Π_j a_j π₀(j)]^(−α/(K−1)); to "
    "1e-4 + 20 ε ln(1/ε) / min(1, β) + 3 E, E = Σ_j (d_j − d̄)² / τ², d_j = (1/π₀(j) − 1/π₀(m)) / a_j",
    draw=_draw,
    judge=Formula(log_stalling_time, _judge),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "orthogonal": _misread(jnp.zeros_like),
            "sign of the inner product": _misread(jnp.abs),
            "norm of the best feature": _judge(lambda start, r, c, n: log_stalling_time(start, r, c)),
        }
    ),
)

STATEMENTS = (FEATURE_GEOMETRY,)
