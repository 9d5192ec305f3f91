"""What estimators of groups do on average: the clocks of :mod:`goodteacher.sim.clocks`, and their times.

Two tabular outputs of rewards 1 and 0, the better one with probability ``p``: the gradient flow is ``dp/dt =
2 p^2 (1-p)^2``, and under a clock ``2 m(p) p^2 (1-p)^2``. GRPO in the limit has ``m = (p (1-p))^(-1/2)``, so
that ``t = F(p1) - F(p0)`` with ``F(q) = (2q - 1) / sqrt(q (1-q))``; MaxRL has ``m = 1 / p`` and ``t = [ln(p /
(1-p)) + 1 / (1-p)] / 2`` from ``p0`` to ``p1``.

A verifier that finds what is right right with probability TPR, and what is wrong with FPR, gives rewards of
mean ``FPR + J r_G``, ``J = TPR - FPR``: the gradient flow is slower by ``1 / J``. GRPO sees the deviation
``sqrt(V (1 - V))`` of what the verifier says, ``V = FPR + J p``: with false positives it does not vanish
with ``p``, and rare successes are as slow as under the gradient.

With reverse KL the fixed points of a clock are policies ``ref exp(m r / lambda)``, normalised, with ``m`` at
that very policy: for two values ``gap`` apart, ``odds(p) = odds(p_ref) exp(m(p) gap / lambda)``
(arXiv:2503.06639 for GRPO). As ``m > 0`` that is above the reference.
"""

import itertools
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.clocks import (
    Clock,
    ColdStart,
    DynamicSampling,
    Gradient,
    Grpo,
    MaxRl,
    MeanSubtracted,
    moments,
    see,
)
from goodteacher.sim.flow import hitting_times_only
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import advantage, gradient
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.draws import Source, random_logits
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.integration import runge_kutta
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement, all_of

_CITATION = "theory/clock_laws.py (derived for this project)"

# Means of all groups ---------------------------------------------------------------------

_OUTPUTS, _GROUPS = 4, (2, 3, 5)
_ENUMERATION = 1e-12


class Drawn(NamedTuple):
    """A policy over outputs of two rewards, and an epsilon."""

    logits: Float[Array, " outputs"]
    rewards: Float[Array, " outputs"]
    epsilon: Float[Array, ""]

    @property
    def instance(self) -> Instance:
        """The policy and the rewards."""
        return Instance(self.rewards, start=Parameters(self.logits[None]))


def _draw_two_values(source: Source) -> Drawn:
    low = source.uniform(0.0, 1.0)
    high = low + source.log_uniform(1e-3, 1.0)
    good = jnp.arange(_OUTPUTS) < source.integer(1, _OUTPUTS - 1)
    logits = random_logits(source, (_OUTPUTS,), high=5.0)
    return Drawn(logits, jnp.where(good, high, low), source.log_uniform(1e-6, 1.0))


def enumerated_rate(
    log_p: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    group: int,
    scale: Callable[[Array, Array], Array],
    *,
    again: bool = False,
) -> Float[Array, ""]:
    """What the mean update is over the gradient, by every ordered group: of the logit of the first output.

    Args:
        log_p: of the policy.
        rewards: of the outputs.
        group: how many are drawn.
        scale: what a group's weights are divided by, from the mean and the population standard deviation.
        again: whether groups without a spread are drawn again.
    """
    drawn = np.array(list(itertools.product(range(len(rewards)), repeat=group)))
    chance, seen = jnp.exp(log_p[drawn].sum(-1)), rewards[drawn]
    mean = seen.mean(-1, keepdims=True)
    spread = (seen != seen[:, :1]).any(-1)
    deviation = jnp.sqrt(jnp.where(spread, ((seen - mean) ** 2).mean(-1), 1.0))
    weights = jnp.where(spread[:, None], (seen - mean) / scale(mean[:, 0], deviation)[:, None], 0.0)
    update = (chance * (weights * (drawn == 0)).mean(-1)).sum()
    update /= jnp.where(spread, chance, 0.0).sum() if again else 1.0
    p = jnp.exp(log_p)
    return update / (p[0] * advantage(p, rewards)[0])


_Made = Callable[[int, Array], Clock]


def _rates_judge(
    of_grpo: _Made, of_max_rl: _Made, of_mean: _Made, drawn_again: Callable[[Grpo], Clock] = DynamicSampling
) -> Judge:
    """With what is claimed to be the clocks of groups of a size, and of those with a spread among them."""

    def judge(drawn: Drawn) -> Sides:
        log_p = jax.nn.log_softmax(drawn.logits)
        p = jnp.exp(log_p)
        at = moments(see(drawn.rewards, None, None), p, advantage(p, drawn.rewards), -1)
        sides = []
        for group in _GROUPS:
            bessel = np.sqrt(group / (group - 1.0))
            scales = (
                (of_grpo, lambda mean, deviation, b=bessel: b * deviation + drawn.epsilon),
                (of_max_rl, lambda mean, deviation: mean),
                (of_mean, lambda mean, deviation: jnp.ones_like(mean)),
            )
            for made, scale in scales:
                expected = enumerated_rate(log_p, drawn.rewards, group, scale)
                found = made(group, drawn.epsilon).rate(at)
                sides.append(Sides(jnp.abs(found / expected - 1.0), jnp.asarray(_ENUMERATION)))
            again = enumerated_rate(log_p, drawn.rewards, group, scales[0][1], again=True)
            grpo = of_grpo(group, drawn.epsilon)
            assert isinstance(grpo, Grpo)
            found = drawn_again(grpo).rate(at)
            sides.append(Sides(jnp.abs(found / again - 1.0), jnp.asarray(10.0 * _ENUMERATION)))
        return all_of(sides).tightest()

    return judge


def _grpo(group: int, epsilon: Array) -> Clock:
    return Grpo(group, epsilon)


def _max_rl(group: int, epsilon: Array) -> Clock:
    return MaxRl(group)


def _mean(group: int, epsilon: Array) -> Clock:
    return MeanSubtracted(group)


RATES = Statement(
    name="estimator_clocks",
    title="Mean updates of groups, of rewards with two values, are the gradient times a scalar",
    assumptions="tabular policy, λ = 0; rewards of two values; independent on-policy samples",
    citation=_CITATION,
    formula="E Σ_i c_i s(y_i)/G = m ∇V, m = (1 − 1/G) E 1/scale(1 + S), S ~ Binomial(G − 2, p); GRPO, MaxRL, "
    "Dr. GRPO, G = 2, 3, 5; over 1 − p^G − (1−p)^G with dynamic sampling",
    draw=_draw_two_values,
    judge=_rates_judge(_grpo, _max_rl, _mean),
    sabotages=MappingProxyType(
        {
            "Bessel's correction dropped": _rates_judge(
                lambda group, epsilon: Grpo(group, epsilon, bessel=False), _max_rl, _mean
            ),
            "epsilon larger by a tenth": _rates_judge(
                lambda group, epsilon: Grpo(group, 1.1 * epsilon), _max_rl, _mean
            ),
            "groups of one more": _rates_judge(_grpo, _max_rl, lambda group, _: MeanSubtracted(group + 1)),
            "MaxRL of one more": _rates_judge(_grpo, lambda group, _: MaxRl(group + 1), _mean),
            "share of groups with a spread dropped": _rates_judge(_grpo, _max_rl, _mean, lambda grpo: grpo),
        }
    ),
)

# The same path ---------------------------------------------------------------------------

_PROMPTS, _RESPONSES, _SHARED = 2, 3, 2
_STEPS = 40
_INTEGRATION = 1e-9  # error of a log-probability after these steps


class Path(NamedTuple):
    """A problem under a clock, and a time of its gradient flow."""

    instance: Instance
    of_gradient: Float[Array, ""]


def _draw_path(source: Source) -> Path:
    shape = (_PROMPTS, _RESPONSES)
    instance = Instance(
        source.uniform(0.0, 1.0, shape),
        start=Parameters(random_logits(source, shape, high=3.0)),
        prompt_weights=[0.6, 0.4],
        clock=Grpo(epsilon=source.log_uniform(1e-2, 1.0)),
    )
    return Path(instance, source.uniform(0.5, 5.0))


def _with_shared_parameters(path: Path) -> Path:
    """The same rewards for policies whose prompts have all parameters in common."""
    features = np.random.default_rng(0).normal(size=(_PROMPTS, _RESPONSES, _SHARED))
    instance = path.instance
    start = Parameters(instance.initial_parameters.ravel()[:_SHARED])
    weights, policy = instance.prompt_weights, LinearSoftmax(features)
    shared = Instance(
        instance.rewards, start=start, policy=policy, prompt_weights=weights, clock=instance.clock
    )
    return path._replace(instance=shared)


def pace(rate: Float[Array, " prompts"], *, power: Number = -1.0) -> Float[Array, " prompts"]:
    """How much of a clock's time passes in one of the gradient's: ``1 / m`` of each prompt."""
    return rate**power


def _mapped(law: Callable[..., Array]) -> Judge:
    """With the pace; every prompt is looked at when its own clock says that it is where the gradient led."""

    def judge(path: Path) -> Sides:
        clocked = path.instance
        plain, start = clocked.following(Gradient()), clocked.initial_parameters
        clock, seen = clocked.clock, see(clocked.rewards, None, None)
        assert clock is not None

        def timed(at: Array) -> Array:
            parameters = at[_PROMPTS:].reshape(start.shape)
            p = clocked.probabilities(parameters)
            rate = jnp.asarray(clock.rate(moments(seen, p, advantage(p, clocked.rewards), -1)))
            return jnp.concatenate([law(rate), gradient(plain, parameters).ravel()])

        first = jnp.concatenate([jnp.zeros(_PROMPTS), start.ravel()])
        end = runge_kutta(timed, first, path.of_gradient, _STEPS)
        there = plain.log_probabilities(end[_PROMPTS:].reshape(start.shape))

        def under_clock(time: Array) -> Array:
            later = runge_kutta(lambda parameters: gradient(clocked, parameters), start, time, _STEPS)
            return clocked.log_probabilities(later)

        found = jax.vmap(under_clock)(end[:_PROMPTS])
        own = jnp.arange(_PROMPTS)
        return Sides(jnp.abs(found[own, own] - there).max(), jnp.asarray(_INTEGRATION))

    return judge


_PATH = Formula(pace, _mapped)

SAME_PATH = Statement(
    name="estimators_keep_the_path",
    title="Under a clock tabular policies take the path of the gradient flow",
    assumptions="tabular policy, λ = 0; two prompts, each on a clock of its own; GRPO of large groups",
    citation=_CITATION,
    formula="π_clock(x, ∫₀^s ds/m_x) = π_gradient(x, s), m_x = 1/(sd(r(x, ·)) + ε)",
    draw=_draw_path,
    judge=_PATH,
    sabotages=MappingProxyType(
        {
            **_PATH.off_by_a_tenth(),
            "shared parameters": Dropped(_with_shared_parameters),
        }
    ),
)

# Two outputs -----------------------------------------------------------------------------

_CLOSED = 1e-9


class Way(NamedTuple):
    """From one probability to another, with what else a clock takes."""

    start: Float[Array, ""]
    end: Float[Array, ""]
    number: Float[Array, ""]

    @property
    def instance(self) -> Instance:
        """With rewards 1 and 0."""
        return _two_outputs(self)[0]


class Timed(NamedTuple):
    """A way, and its time by the solved flow."""

    way: Way
    time: Float[Array, ""]


def _draw_way(source: Source) -> Way:
    return Way(source.log_uniform(1e-100, 0.3), source.uniform(0.31, 0.95), source.uniform(0.1, 2.0))


def _two_outputs(way: Way) -> tuple[Instance, Goal]:
    start = jnp.stack([jnp.log(way.start), jnp.log1p(-way.start)])[None]
    instance = Instance([[1.0, 0.0]], start=Parameters(start))
    return instance, Goal(jnp.asarray([[1.0, 0.0]]), way.end[None])


def _observe_under(made: Callable[[Array], Clock]) -> Callable[[Way], Timed]:
    @jax.jit
    def problems(ways: Way) -> tuple[Instance, Goal]:
        instances, goals = jax.vmap(_two_outputs)(ways)
        return instances.following(jax.vmap(made)(ways.number)), goals

    def observe(ways: Way) -> Timed:
        return Timed(ways, hitting_times_only(*problems(ways))[0][:, 0])

    return observe


def _timed(law: Callable[..., Array]) -> Judge:
    def judge(timed: Timed) -> Sides:
        return Sides(jnp.abs(timed.time / law(*timed.way) - 1.0), jnp.asarray(_CLOSED))

    return judge


def grpo_time(
    start: ArrayLike,
    end: ArrayLike,
    number: ArrayLike = 0.0,
    *,
    constant: Number = 1.0,
    root: Number = -1 / 2,
) -> Float[Array, "..."]:
    """Time of two outputs under GRPO in the limit: ``(2q - 1)(q (1 - q))^(-1/2)`` from start to end."""

    def escape(q: Array) -> Array:
        return (2.0 * q - 1.0) * (q * (1.0 - q)) ** root

    return constant * (escape(jnp.asarray(end)) - escape(jnp.asarray(start)))


def likelihood_time(
    start: ArrayLike, end: ArrayLike, number: ArrayLike = 0.0, *, constant: Number = 1 / 2
) -> Float[Array, "..."]:
    """Time of two outputs under MaxRL in the limit: ``[ln(q / (1-q)) + 1 / (1-q)] / 2``, start to end."""

    def spent(q: Array) -> Array:
        return jnp.log(q) - jnp.log1p(-q) + 1.0 / (1.0 - q)

    return constant * (spent(jnp.asarray(end)) - spent(jnp.asarray(start)))


_PIECES, _NODES = 64, 24


def by_log_odds(start: ArrayLike, end: ArrayLike, rate: Callable[[Array, Array], Array]) -> Float[Array, ""]:
    """Time of two outputs whose ``m`` is a function of both probabilities: ``du / (2 m p (1-p))``."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    shares = (np.arange(_PIECES)[:, None] + (points + 1.0) / 2.0).ravel() / _PIECES
    first, last = (jnp.log(q) - jnp.log1p(-jnp.asarray(q)) for q in (start, end))
    u = first + (last - first) * shares
    p, rest = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
    values = 1.0 / (2.0 * rate(p, rest) * p * rest)
    return (last - first) * (np.tile(weights, _PIECES) * values).sum() / (2.0 * _PIECES)


def cold_start_time(
    start: ArrayLike, end: ArrayLike, number: ArrayLike, *, power: Number = 1.0
) -> Float[Array, ""]:
    """Time of two outputs under the weight ``p^-q`` (arXiv:2604.25907)."""
    return by_log_odds(start, end, lambda p, rest: p ** (-power * number))


def noisy_grpo_time(
    start: ArrayLike, end: ArrayLike, number: ArrayLike, *, slope: Number = 1.0, spread: Number = 1 / 2
) -> Float[Array, ""]:
    """Time of two outputs under GRPO in the limit with a verifier: TPR 0.9, FPR a fifth of the number."""
    false = 0.2 * jnp.asarray(number)
    j = slope * (0.9 - false)

    def rate(p: Array, rest: Array) -> Array:
        value = false + (0.9 - false) * p
        return j * (value * (1.0 - value)) ** -spread

    return by_log_odds(start, end, rate)


def noisy_time(
    start: ArrayLike, end: ArrayLike, number: ArrayLike, *, power: Number = -1.0
) -> Float[Array, "..."]:
    """Time of two outputs under the gradient with that verifier, over the time without: ``1 / J``."""
    return (0.9 - 0.2 * jnp.asarray(number)) ** power


def _verified(way: Way) -> tuple[Instance, Goal]:
    instance, goal = _two_outputs(way)
    rewards = jnp.stack([0.9 * jnp.ones(()), 0.2 * way.number])[None]
    noisy = Instance(
        rewards, start=Parameters(instance.initial_parameters), reward_variances=rewards * (1.0 - rewards)
    )
    return noisy, goal


def _observe_noisy(clock: Clock | None) -> Callable[[Way], Timed]:
    @jax.jit
    def problems(ways: Way) -> tuple[Instance, Goal]:
        instances, goals = jax.vmap(_verified)(ways)
        return instances if clock is None else instances.following(clock), goals

    @jax.jit
    def clean(ways: Way) -> tuple[Instance, Goal]:
        return jax.vmap(_two_outputs)(ways)

    def observe(ways: Way) -> Timed:
        time = hitting_times_only(*problems(ways))[0][:, 0]
        return Timed(ways, time if clock is not None else time / hitting_times_only(*clean(ways))[0][:, 0])

    return observe


def _of_two_outputs(
    name: str, title: str, formula: str, law: Callable[..., Array], observe: Callable[[Way], Timed]
) -> Statement:
    judge = Formula(law, _timed)
    return Statement(
        name=name,
        title=title,
        assumptions="one prompt, tabular policy, λ = 0; two outputs of rewards 1 and 0",
        citation=_CITATION,
        formula=formula,
        draw=_draw_way,
        judge=judge,
        observe=observe,
        sabotages=judge.off_by_a_tenth(),
    )


TWO_OUTPUTS = (
    _of_two_outputs(
        "grpo_two_outputs",
        "Two outputs under GRPO: the time grows like p^(-1/2)",
        "t = F(p₁) − F(p₀), F(q) = (2q − 1)/√(q(1−q)); G → ∞, ε = 0",
        grpo_time,
        _observe_under(lambda number: Grpo(epsilon=0.0 * number)),
    ),
    _of_two_outputs(
        "maxrl_two_outputs",
        "Two outputs under MaxRL: the time is logarithmic",
        "t = ½ [ln(p/(1−p)) + 1/(1−p)] from p₀ to p₁; G → ∞",
        likelihood_time,
        _observe_under(lambda number: ColdStart(1.0 + 0.0 * number)),
    ),
    _of_two_outputs(
        "cold_start_two_outputs",
        "Two outputs under the weight p^-q",
        "t = ∫ du p^q / (2 p (1−p)), u = ln(p/(1−p)); 0.1 ≤ q ≤ 2 (arXiv:2604.25907)",
        cold_start_time,
        _observe_under(ColdStart),
    ),
    _of_two_outputs(
        "noise_slows_gradient",
        "A verifier that errs slows the gradient flow by 1/J",
        "t = t_clean / J, J = TPR − FPR (arXiv:2601.04411)",
        noisy_time,
        _observe_noisy(None),
    ),
    _of_two_outputs(
        "noise_under_grpo",
        "Under GRPO a verifier's false positives take the place of rare successes",
        "t = ∫ du √(V(1−V)) / (2 J p (1−p)), V = FPR + J p",
        noisy_grpo_time,
        _observe_noisy(Grpo()),
    ),
)

# Fixed points with KL --------------------------------------------------------------------

_BISECTIONS = 100
_STATIONARY = 1e-10
_FIRM = 1e6  # a KL coefficient that holds a policy to its reference


class Regularized(NamedTuple):
    """Two outputs under GRPO with KL."""

    instance: Instance
    success: Float[Array, ""]  # at the reference
    kl: Float[Array, ""]
    epsilon: Float[Array, ""]


def _draw_regularized(source: Source) -> Regularized:
    success, kl = source.uniform(0.02, 0.9), source.log_uniform(0.5, 20.0)
    epsilon = source.log_uniform(0.1, 1.0)
    start = jnp.stack([jnp.log(success), jnp.log1p(-success)])[None]
    instance = Instance(
        [[1.0, 0.0]], start=Parameters(start), regularizer=Regularizer(kl), clock=Grpo(8, epsilon)
    )
    return Regularized(instance, success, kl, epsilon)


def fixed_point_log_odds(
    success: ArrayLike, kl: ArrayLike, clock: Clock, *, strength: Number = 1.0
) -> Float[Array, ""]:
    """A fixed point of KL-regularised GRPO above the reference: log-odds of success, for a gap of one."""
    reference = jnp.log(success) - jnp.log1p(-jnp.asarray(success))
    seen = see(jnp.asarray([1.0, 0.0]), None, None)

    def beyond(u: Array) -> Array:
        p = jnp.stack([jax.nn.sigmoid(u), jax.nn.sigmoid(-u)])
        rate = clock.rate(moments(seen, p, jnp.stack([p[1], -p[0]]), -1))
        return u - reference - strength * rate / kl

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = beyond(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    far = reference + 1.0 + 100.0 / kl
    return jax.lax.fori_loop(0, _BISECTIONS, halve, (reference, far))[0]


def _from_the_reference(success: ArrayLike, kl: ArrayLike, clock: Clock) -> Float[Array, ""]:
    """The same with ``m`` at the reference."""
    reference = jnp.log(success) - jnp.log1p(-jnp.asarray(success))
    return reference + (fixed_point_log_odds(success, _FIRM, clock) - reference) * _FIRM / kl


def _fixed_point(law: Callable[..., Array]) -> Judge:
    def judge(drawn: Regularized) -> Sides:
        u = law(drawn.success, drawn.kl, Grpo(8, drawn.epsilon))
        logits = jnp.stack([u, jnp.zeros(())])[None]
        pull = jnp.abs(gradient(drawn.instance, logits)).max()
        p = jax.nn.sigmoid(u)
        return Sides(pull, _STATIONARY * drawn.kl * p * (1.0 - p))

    return judge


FIXED_POINT = Statement(
    name="grpo_kl_fixed_point",
    title="The fixed point of KL-regularised GRPO",
    assumptions="tabular policy; rewards 0 and 1; KL to the reference outside of the clock",
    citation="arXiv:2503.06639; the equation: theory/clock_laws.py",
    formula="odds(p*) = odds(p_ref) exp(m(p*) / λ), m that of GRPO at p*",
    draw=_draw_regularized,
    judge=Formula(fixed_point_log_odds, _fixed_point),
    sabotages=MappingProxyType(
        {
            "m at the reference": _fixed_point(_from_the_reference),
        }
    ),
)

STATEMENTS = (RATES, SAME_PATH, *TWO_OUTPUTS, FIXED_POINT)
