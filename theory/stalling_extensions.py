"""The stalling law beyond tables and distinct rewards (derived here): norms, ties, KL.

Notation of :mod:`goodteacher.theory.stalling`: ``*`` has the best reward and is rare at first, ``eps =
pi_0(*)``; ``m``
has the second best, ``b = r_* - r_m``; the others ``j`` are low, ``a_j = r_m - r_j``. One prompt; tabular, or
linear softmax with orthogonal features and ``n_y = |feature(y)|^2 / temperature^2``.

**One integral.** The logits move by ``n_y pi(y) (r_y - V)``. Let ``Z`` normalise ``E_y = exp(logit(y))``,
at first the probabilities, and let ``dtau = dt/Z``. Then ``1/E_y`` falls at the rate ``n_y (r_y - V)``, so
with ``W = int V dtau`` the flow is linear but for one unknown, ``1/E_y = 1/pi_0(y) - n_y (r_y tau - W)``, and
the conserved ``sum_y logit(y) / n_y`` gives that one. ``E_*`` only grows; count time by ``y = 1 - eps/E_*``
from 0 to 1, so that ``n_* (r_* tau - W) = y/eps``. With ``s = W - r_m tau``, for every other output ``z``,

    ``1/E_z = 1/pi_0(z) + n_z [a_z y/(n_* b eps) + (1 + a_z/b) s]``,  ``a_m = 0``,
    ``sum_z ln(pi_0(z)/E_z) / n_z = -ln(1 - y) / n_*``,

of which the second has one root ``s``, and ``d(1/E_*)/dt`` gives the time. While ``E_*`` is negligible in
``Z``,

    ``t = 1/(n_* eps) int_0^1 Z^2 / sum_z (r_* - r_z) E_z dy``,  ``Z = sum_z E_z``,

up to a relative error of order ``eps ln(1/eps)``, whatever the rewards and the probabilities of the others,
and whatever level of ``pi(*)`` is waited for. (With ``E_*`` in ``Z`` and an integral up to the level it is
exact.) What it says as ``eps -> 0``:

- Orthogonal features. With ``N = sum_j 1/n_j`` the integral is a beta function,
  ``t = B(1 + n_m/n_*, 1 + n_m N) pi_0(m) prod_j (n_j a_j pi_0(j))^(n_m/n_j) / (n_* b eps)^(1 + n_m N)``.
  The exponent is ``1 + |feature(m)|^2 sum_j 1/|feature(j)|^2``; norms one give back ``K - 1``.
- Ties. Outputs ``i`` that share the middling reward keep their differences of ``1/(n_i E_i)`` for ever, so
  the one of largest ``n_i pi_0(i)``, call it ``m``, takes all. The law holds with ``m`` alone, times
  ``prod_i (1 - n_i pi_0(i)/(n_m pi_0(m)))^(n_m/n_i)``. Where several are largest together they stay so and
  act as one output with ``1/n_m = sum_i 1/n_i`` and their joint probability: tabular, ``k`` equal ones make
  the exponent ``(K - 1)/k``, so a tie shortens the stall. If every output but ``*`` is tied there is none,
  and ``t`` is of order ``1/eps``.

**KL.** With ``lambda KL(pi || pi_0)``, tabular, the policy without ``*`` comes to rest at ``pi_0
exp(r/lambda)`` instead of a vertex. The sum of logits is conserved, so there ``pi_* = eps / Z``, ``Z =
sum_{z != *} pi_0(z) exp((r_z - q)/lambda)``, ``q`` the mean of ``r_z`` over the ``K - 1`` outputs ``z``,
and the advantage of ``*`` is ``r_* - q``, not less than ``b``. From there ``d ln pi_*/dt = K/(K-1) pi_*
(r_* - q - lambda ln(pi_*/its value at rest))``, so

    ``t = (K-1) Z / (K eps (r_* - q - lambda)) (1 + O((lambda/(r_* - q))^2))``,

of order ``1/eps`` for any fixed ``lambda``: regularisation ends the stall. It needs that rest is reached,
``lambda pi(j) t >> 1`` for the rarest ``j`` there; setting both laws equal gives the scale of the
``lambda`` from which on it does, :func:`rescue_threshold`. Too much keeps ``*`` from winning at all,
:func:`largest_kl_coefficient`. In between the times cross over; observed, they are below both laws. That
crossover (some outputs at rest and others not) could not be brought into closed form. Features that are not
orthogonal: :mod:`goodteacher.theory.feature_geometry_law`. Hierarchies of ever rarer better outputs:
:mod:`goodteacher.theory.stall_integral`.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.flow import Control, hitting_times_only
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.draws import Source, without
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import first_output_goals
from goodteacher.theory.statements import Judge, Sides, Statement

_STEP = 0.25
_GRID = np.arange(-30.0, 26.0 + _STEP, _STEP)  # of the logit of y: trapezoids converge exponentially
_NEAR, _DENSER = 2.0, 0.99  # within that distance of the kink nodes are denser, at the kink 100 times
_NEWTON_STEPS = 6
_TIED = 1e-12  # relative: outputs so close are equally likely winners


class _Roles(NamedTuple):
    """The best output, all others, and what these lack of the reward of the best of them."""

    best: Bool[Array, "*batch outputs"]
    others: Bool[Array, "*batch outputs"]
    gap: Float[Array, "*batch"]  # b
    drop: Float[Array, "*batch outputs"]  # a; zero where there is no other


def _roles(log_p: Array, rewards: Array) -> _Roles:
    ranked = jnp.where(jnp.isfinite(log_p), rewards, -jnp.inf)
    best = jnp.arange(rewards.shape[-1]) == ranked.argmax(-1, keepdims=True)
    others = jnp.isfinite(log_p) & ~best
    second = jnp.where(others, rewards, -jnp.inf).max(-1)
    return _Roles(best, others, ranked.max(-1) - second, jnp.where(others, second[..., None] - rewards, 0.0))


def _at(chosen: Array, values: Array) -> Array:
    return jnp.where(chosen, values, 0.0).sum(-1)


@jax.jit
def log_escape_time(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    squared_norms: Float[ArrayLike, "..."] = 1.0,
) -> Float[Array, "*batch"]:
    """Natural logarithm of the time to escape, by the integral: orthogonal features, any rewards.

    Its relative error is of order ``eps ln(1/eps)``; that of the quadrature is 1e-7, and at most about 1e-3
    where stalls at several outputs in turn take about as long.

    Args:
        log_probabilities: of the initial policy, normalised; ``-inf`` for an output that does not exist.
        rewards: that are trained on.
        squared_norms: ``n``, squared norms of the features over the squared temperature; one if tabular.

    Returns:
        ``inf`` if the two best are tied.
    """
    norms = jnp.broadcast_to(jnp.asarray(squared_norms, float), log_probabilities.shape)
    roles = _roles(log_probabilities, rewards)
    gap = jnp.where(roles.gap > 0, roles.gap, 1.0)
    best_norm = _at(roles.best, norms)[..., None]
    log_speed = jnp.log(best_norm) + _at(roles.best, log_probabilities)[..., None]  # ln(n_* eps)

    # From here on [..., y, outputs].
    others, norms, drop, log_p = (
        values[..., None, :]
        for values in (roles.others, norms, roles.drop / gap[..., None], log_probabilities)
    )
    log_weight = jnp.where(others, jnp.log(norms) + log_p, 0.0)
    log_slope = jnp.log1p(drop)

    # 1/E_z = n_z slope_z (floor_z + s), the floor linear in y. Of those that lead, with the least floor,
    # the middling one is the last. The integrand has a kink where it takes over.
    at_zero = jnp.where(others, jnp.exp(-log_weight - log_slope), jnp.inf)
    middling = jnp.where(drop == 0.0, at_zero, jnp.inf).min(-1, keepdims=True)
    late = jnp.where(others & (drop > 0.0), (middling - at_zero) * (1.0 + drop) / drop, 0.0).max(-1)
    taken_over = jnp.clip(late * jnp.exp(log_speed), 1e-30, 1.0 - 1e-15)
    bend = jnp.tanh((_GRID - jnp.log(taken_over / (1.0 - taken_over))) / _NEAR)
    logit, log_spacing = _GRID - _DENSER * _NEAR * bend, jnp.log(1.0 - _DENSER * (1.0 - bend**2))
    log_y, log_rest = -jax.nn.softplus(-logit), -jax.nn.softplus(logit)  # of 1 - y too

    def total(values: Array) -> Array:
        return jnp.where(others, values / norms, 0.0).sum(-1)

    # s exceeds minus the least floor; the logarithm x of that excess, relative to the floor, is sought.
    floor = jnp.logaddexp(-log_weight, jnp.log(drop) + (log_y - log_speed)[..., None]) - log_slope
    floor = jnp.where(others, floor, jnp.inf)
    least = floor.min(-1, keepdims=True)
    above = jnp.where(others, floor - least, 0.0)
    log_above = jnp.where(above > _TIED, above + jnp.log(-jnp.expm1(-above)), -jnp.inf)
    target = -log_rest / best_norm - total(log_weight + log_slope + least)

    def newton(_: ArrayLike, x: Array) -> Array:
        # A sum of increasing convex functions: from any start the steps end, and from the right.
        grown = jnp.logaddexp(log_above, x[..., None])
        return x - (total(grown) - target) / total(jnp.exp(x[..., None] - grown))

    x = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.zeros_like(target))
    log_e = -jnp.log(norms) - log_slope - least - jnp.logaddexp(log_above, x[..., None])
    log_e = jnp.where(others, log_e, -jnp.inf)
    log_rate = 2.0 * logsumexp(log_e, axis=-1) - logsumexp(log_e + log_slope, axis=-1)
    log_time = (
        logsumexp(log_y + log_rest + log_spacing + log_rate, axis=-1) + jnp.log(_STEP) - log_speed[..., 0]
    )
    return jnp.where(roles.gap > 0, log_time - jnp.log(gap), jnp.inf)


class _Rest(NamedTuple):
    """Where a regularised policy without ``*`` rests."""

    log_eps: Array
    log_normalizer: Array  # ln Z
    log_probabilities: Array  # -inf for the best output
    gap: Array  # r_* - q
    outputs: Array


def _rest(log_p: Array, rewards: Array, kl_coefficient: ArrayLike) -> _Rest:
    roles = _roles(log_p, rewards)
    mean = _at(roles.others, rewards) / roles.others.sum(-1)
    strength = jnp.asarray(kl_coefficient)[..., None]
    tilted = jnp.where(roles.others, log_p + (rewards - mean[..., None]) / strength, -jnp.inf)
    normalizer = logsumexp(tilted, axis=-1)
    return _Rest(
        log_eps=_at(roles.best, log_p),
        log_normalizer=normalizer,
        log_probabilities=tilted - normalizer[..., None],
        gap=_at(roles.best, rewards) - mean,
        outputs=1.0 + roles.others.sum(-1),
    )


def log_regularized_time(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    kl_coefficient: Float[ArrayLike, "*batch"],
    *,
    constant: Number = 1.0,
    normalizer: Number = 1.0,
    rarity: Number = -1.0,
) -> Float[Array, "*batch"]:
    """Natural logarithm of the time to escape from where KL regularisation holds the policy without ``*``.

    Args:
        log_probabilities, rewards: as for :func:`log_escape_time`; tabular, the reference is the
            initial policy.
        kl_coefficient: ``lambda``, positive, between :func:`rescue_threshold` (well above it) and
            :func:`largest_kl_coefficient`.
        constant: a factor of the time.
        normalizer, rarity: exponents of ``Z`` and ``eps``.
    """
    rest = _rest(log_probabilities, rewards, kl_coefficient)
    share = jnp.log(constant * (rest.outputs - 1.0) / rest.outputs)
    at_rest = normalizer * rest.log_normalizer + rarity * rest.log_eps
    return share + at_rest - jnp.log(rest.gap - kl_coefficient)


def rescue_threshold(
    log_probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """The KL coefficient at which the law with regularisation falls below the stalling law.

    ``(r_m - q) / ln(t K (r_* - q) eps / ((K-1) pi_0(m)))``, with the stalling law's ``t``: of the order of
    ``1/ln(1/eps)``. At it the stall is already much shorter, well above it only ``1/eps`` is left.
    Args as for :func:`log_escape_time`; tabular, the middling output unique.
    """
    roles, rest = _roles(log_probabilities, rewards), _rest(log_probabilities, rewards, 1.0)
    scale = jnp.log(rest.outputs * rest.gap / (rest.outputs - 1.0)) + rest.log_eps
    log_time = log_escape_time(log_probabilities, rewards)
    return (rest.gap - roles.gap) / (log_time + scale - _log_middling(roles, log_probabilities))


def largest_kl_coefficient(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    level: Float[ArrayLike, "*batch"] = 0.5,
) -> Float[Array, "*batch"]:
    """``b / ln(odds pi_0(m) / eps)``: about where the regularised optimum has ``pi(*)`` at the level.

    An upper bound of that coefficient (low outputs are left out). Args as for :func:`log_escape_time`, and:
        level: of ``pi(*)``, in (0, 1); ``inf`` where the initial odds against ``m`` are already that good.
    """
    roles = _roles(log_probabilities, rewards)
    odds = jnp.log(level) - jnp.log1p(-jnp.asarray(level))
    needed = odds + _log_middling(roles, log_probabilities) - _at(roles.best, log_probabilities)
    return jnp.where(needed > 0, roles.gap / jnp.where(needed > 0, needed, 1.0), jnp.inf)


def _log_middling(roles: _Roles, log_p: Array) -> Array:
    """Log-probability of all outputs of the second best reward."""
    return logsumexp(jnp.where(roles.others & (roles.drop == 0.0), log_p, -jnp.inf), axis=-1)


# Statements -------------------------------------------------------------------

_HORIZON = 1e150
_TOLERANCE = 1e-8  # of the integration
_CITATION = "derived here, theory/stalling_extensions.py; the published rates are arXiv:2604.25872, Theorem 1"
_MOST_OUTPUTS = 6


class Escape(NamedTuple):
    """A problem, and the probability of its first and best output that counts as escape."""

    instance: Instance
    level: Float[Array, ""]


def _simulated(drawn: Escape, tolerance: float = _TOLERANCE) -> Array:
    """Times ``[n]``."""
    goals = first_output_goals(drawn.instance, drawn.level)
    control = Control(tolerance=tolerance, horizon=_HORIZON)
    return hitting_times_only(drawn.instance, goals, control)[0][:, 0]


def with_rare_best(log_eps: Array, log_weights: Array) -> Array:
    """Log-probabilities: the first output's, and the others in proportion to their weights; to draw from."""
    others = jax.nn.log_softmax(log_weights.at[0].set(-jnp.inf)) + jnp.log1p(-jnp.exp(log_eps))
    return others.at[0].set(log_eps)


def rounding(log_eps: Array, floor: float = 1e-4) -> Array:
    """``floor + 20 eps ln(1/eps)``: what is allowed between :func:`log_escape_time` and a simulation."""
    return floor - 20.0 * jnp.exp(log_eps) * log_eps


def _orthogonal(source: Source) -> Escape:
    index = jnp.arange(_MOST_OUTPUTS)
    exists = index < source.integer(4, _MOST_OUTPUTS)
    gap = source.log_uniform(0.03, 0.8)
    second = 1.0 - gap
    rewards = source.uniform(-1.0, second, (_MOST_OUTPUTS,)).at[:2].set(jnp.stack([jnp.ones(()), second]))
    norms = source.log_uniform(0.6, 1.7, (_MOST_OUTPUTS,))
    weights = source.uniform(jnp.log(1e-2), 0.0, (_MOST_OUTPUTS,))
    # The third output: any, tied, nearly tied, or as likely a winner as the second, to within little or none.
    kind = source.integer(0, 3)
    drop = jnp.where(kind == 2, source.log_uniform(1e-9, 1e-2), 0.0)
    rewards = rewards.at[2].set(jnp.where(kind > 0, second - drop, rewards[2]))
    norms = norms.at[2].set(jnp.where(kind == 3, norms[1], norms[2]))
    less = jnp.where(source.bernoulli(), source.log_uniform(1e-9, 1.0), 0.0)
    weights = weights.at[2].set(jnp.where(kind == 3, weights[1] - less, weights[2]))

    log_p = with_rare_best(jnp.log(source.log_uniform(1e-9, 1e-4)), jnp.where(exists, weights, -jnp.inf))
    instance = Instance(
        rewards,
        start=Parameters(jnp.where(exists, log_p, 0.0) / jnp.sqrt(norms)),
        policy=LinearSoftmax(jnp.diag(jnp.sqrt(norms))[None]),
    )
    return Escape(without(instance, exists[None]), source.uniform(0.1, 0.9))


class Laws(NamedTuple):
    """Logarithms of a simulated time, of that by the law, and of what false laws say."""

    log_eps: Float[Array, ""]
    simulated: Float[Array, ""]
    true: Float[Array, ""]
    without_norms: Float[Array, ""]
    norms_not_squared: Float[Array, ""]
    tie_broken: Float[Array, ""]


def _observe_orthogonal(drawn: Escape) -> Laws:
    return _laws(drawn.instance, _simulated(drawn))


@jax.jit
@jax.vmap
def _laws(instance: Instance, time: Array) -> Laws:
    """All at once, for the integral takes longer to compile than to compute."""
    assert isinstance(instance.policy, LinearSoftmax)
    start, rewards = instance.reference_log_probabilities[0], instance.rewards[0]
    norms = (instance.policy.features[0] ** 2).sum(-1)
    taken_for_norms = jnp.stack([norms, jnp.ones_like(norms), jnp.sqrt(norms), norms])
    taken_for_rewards = jnp.stack([*[rewards] * 3, rewards.at[2].add(-1e-3)])
    laws = log_escape_time(jnp.broadcast_to(start, taken_for_norms.shape), taken_for_rewards, taken_for_norms)
    return Laws(start[0], jnp.log(time), *laws)


def _orthogonal_judge(law: Callable[[Laws], Array]) -> Judge:
    def judge(laws: Laws) -> Sides:
        return Sides(jnp.abs(jnp.expm1(laws.simulated - law(laws))), rounding(laws.log_eps))

    return judge


ORTHOGONAL = Statement(
    name="stalling_orthogonal",
    title="The stalling law as one integral: orthogonal features of any norm, ties, near ties",
    assumptions="one prompt, linear policy with orthogonal features, λ = 0; a rare best output",
    citation=_CITATION,
    formula="t = 1/(n* ε) ∫₀¹ Z²/Σ_z (r*−r_z) E_z dy, Z = Σ_{z≠*} E_z, 1/E_z = 1/π₀(z) + "
    "n_z [a_z y/(n* b ε) + (1+a_z/b) s], Σ_z ln(π₀(z)/E_z)/n_z = −ln(1−y)/n*; to 1e-4 + 20 ε ln(1/ε)",
    draw=_orthogonal,
    judge=_orthogonal_judge(lambda laws: laws.true),
    observe=_observe_orthogonal,
    sabotages=MappingProxyType(
        {
            "norms ignored": _orthogonal_judge(lambda laws: laws.without_norms),
            "norms not squared": _orthogonal_judge(lambda laws: laws.norms_not_squared),
            "tie broken": _orthogonal_judge(lambda laws: laws.tie_broken),
            "0.1 % more": _orthogonal_judge(lambda laws: laws.true + 1e-3),
        }
    ),
)


def _rescued(source: Source) -> Escape:
    """A stall that regularisation ends: rest is reached, and the best output wins."""
    outputs = 5
    gap = source.uniform(0.3, 0.9)
    kl = gap * source.log_uniform(0.01, 0.03)
    drop = gap * source.uniform(0.02, 0.4) * source.uniform(1.0, 1.02, (outputs - 2,))
    rewards = jnp.concatenate([jnp.stack([jnp.ones(()), 1.0 - gap]), 1.0 - gap - drop])
    weights = source.uniform(jnp.log(0.5), 0.0, (outputs,))
    # Relaxations of the slowest output in the time to escape, which is of order 1/eps.
    relaxations = source.log_uniform(100.0, 250.0)
    log_eps = jnp.log(1e-9)
    log_eps += jnp.log(_relaxations(with_rare_best(log_eps, weights), rewards, kl) / relaxations)
    start = with_rare_best(log_eps, weights)
    instance = Instance(rewards, start=Parameters(start[None]), regularizer=Regularizer(kl=kl))
    return Escape(instance, source.uniform(0.1, 0.6))


def _relaxations(log_p: Array, rewards: Array, kl: ArrayLike) -> Array:
    """``lambda pi(j) t`` for the rarest output at rest."""
    resting = _rest(log_p, rewards, kl).log_probabilities
    rarest = jnp.where(jnp.isfinite(resting), resting, jnp.inf).min(-1)
    return jnp.asarray(kl * jnp.exp(rarest + log_regularized_time(log_p, rewards, kl)))


class Rescue(NamedTuple):
    """A problem, and when its best output wins."""

    instance: Instance
    time: Float[Array, ""]


def _observe_rescue(drawn: Escape) -> Rescue:
    # At rest a step is bounded by stability, for which few stages are best.
    return Rescue(drawn.instance, _simulated(drawn, 1e-6))


def _regularized_judge(law: Callable[[Array, Array, Array], Array]) -> Judge:
    """With a law for the logarithm of the time, of log-probabilities, rewards and KL coefficient."""

    def judge(rescue: Rescue) -> Sides:
        instance = rescue.instance
        assert instance.regularizer is not None
        start, rewards = instance.reference_log_probabilities[0], instance.rewards[0]
        kl = instance.regularizer.kl
        gap = _rest(start, rewards, kl).gap
        allowed = 2.0 / _relaxations(start, rewards, kl) + 3.0 * (kl / gap) ** 2
        return Sides(jnp.abs(jnp.expm1(jnp.log(rescue.time) - law(start, rewards, kl))), allowed)

    return judge


REGULARIZED = Statement(
    name="stalling_regularized",
    title="KL regularisation ends the stall",
    assumptions="one prompt, tabular policy, small λ > 0; the optimum prefers the best output; a rare "
    "best output",
    citation=_CITATION,
    formula="t ≈ (K−1) Z / (K ε (r*−q−λ)), Z = Σ_{z≠*} π₀(z) exp((r_z−q)/λ), q = mean_{z≠*} r_z",
    draw=_rescued,
    judge=Formula(log_regularized_time, _regularized_judge),
    observe=_observe_rescue,
    sabotages=MappingProxyType(
        {
            "λ dropped beside r*−q": _regularized_judge(
                lambda p, r, kl: log_regularized_time(p, r, kl) + jnp.log1p(-kl / _rest(p, r, kl).gap)
            ),
            "not regularised": _regularized_judge(lambda p, r, kl: log_escape_time(p, r)),
            "gap to the middling reward": _regularized_judge(
                lambda p, r, kl: (
                    log_regularized_time(p, r, kl) + jnp.log((_rest(p, r, kl).gap - kl) / (r[0] - r[1] - kl))
                )
            ),
            "all outputs at their initial probability": _regularized_judge(
                lambda p, r, kl: jnp.log(0.8 / (r[0] - r.mean())) - p[0]
            ),
        }
    ),
)

STATEMENTS = (ORTHOGONAL, REGULARIZED)
