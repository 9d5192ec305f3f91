"""Simulated dynamics against their solutions in :mod:`goodteacher.theory.closed_forms`."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.flow import Control, trajectories
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import gradient, kl_divergence, natural_gradient, objective
from goodteacher.theory.closed_forms import kl_optimum, natural_gradient_flow, one_good_output_time
from goodteacher.theory.draws import Source, random_logits, random_rewards, without
from goodteacher.theory.gradients import ROUNDING, logit_gradient_magnitude
from goodteacher.theory.rises import PATH_TIMES, escape_times
from goodteacher.theory.statements import Judge, Sides, Statement

HITTING_TIME_TOLERANCE = 1e-9  # relative, at the default tolerance of the integrator
_MOST_OUTPUTS = 16
_CONVERGED = 1e-6  # of a log-probability, after a flow of _RELAXATIONS of its slowest times
_RELAXATIONS = 25.0


# Gradient flow with one good output -------------------------------------------


class Hitting(NamedTuple):
    """A problem and what is to be reached."""

    instance: Instance
    goal: Goal


class Timed(NamedTuple):
    """A problem, and when it is reached."""

    problem: Hitting
    time: Float[Array, ""]


def _observe(problems: Hitting) -> Timed:
    return Timed(problems, escape_times(problems.instance, problems.goal))


def _one_good_output(fewest: int, most: int, source: Source) -> Hitting:
    outputs = source.integer(fewest, most)
    start = source.log_uniform(1e-12, 0.3)
    odds = start / (1.0 - start) + source.log_uniform(1e-3 * start, 1e6)
    gap = source.log_uniform(1e-4, 2.0)
    best = source.uniform(gap - 1.0, 1.0)
    index = jnp.arange(most)
    instance = Instance(
        jnp.where(index == 0, best, best - gap),
        start=Parameters(jnp.where(index == 0, jnp.log(start), jnp.log1p(-start) - jnp.log(outputs - 1))),
    )
    if fewest < most:
        instance = without(instance, (index < outputs)[None])
    return Hitting(instance, probability_level(instance, 0, odds / (1.0 + odds)))


def _one_good_output_judge(predicted: Callable[..., Array]) -> Judge:
    """With probabilities, reward gap and number of outputs to the time."""

    def judge(timed: Timed) -> Sides:
        instance, goal = timed.problem
        start = instance.probabilities(instance.initial_parameters)[0]
        gap = instance.rewards[0, 0] - instance.rewards[0, 1]
        expected = predicted(start[0], goal.level[0], gap, (start > 0).sum())
        return Sides(jnp.abs(timed.time / expected - 1.0), jnp.asarray(HITTING_TIME_TOLERANCE))

    return judge


TWO_OUTPUTS = Statement(
    name="two_output_flow",
    title="Hitting times of two outputs",
    assumptions="one prompt, tabular policy, λ = 0; two outputs, r₁ > r₂",
    citation="theory/closed_forms.py",
    formula="t(p₀→p₁) = [F(p₁) − F(p₀)] / (2 (r₁−r₂)),  F(p) = −1/p + 1/(1−p) + 2 ln(p/(1−p))",
    draw=partial(_one_good_output, 2, 2),
    judge=_one_good_output_judge(one_good_output_time),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "rate of a bandit with fixed baseline (constant doubled)": _one_good_output_judge(
                lambda *arguments: 2.0 * one_good_output_time(*arguments)
            ),
            "leading term 1/p alone": _one_good_output_judge(
                lambda start, level, gap, outputs: (1.0 / start - 1.0 / level) / (2.0 * gap)
            ),
        }
    ),
)

ONE_GOOD_OUTPUT = Statement(
    name="one_good_output_flow",
    title="Hitting times with one good output among K",
    assumptions="one prompt, tabular policy, λ = 0; K − 1 outputs of one reward and equal "
    "probabilities, one better",
    citation="theory/closed_forms.py",
    formula="t(p₀→p₁) = (K−1)/K [F(p₁) − F(p₀)] / (r₁−r₂)",
    draw=partial(_one_good_output, 3, _MOST_OUTPUTS),
    judge=_one_good_output_judge(one_good_output_time),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "factor (K-1)/K left out": _one_good_output_judge(
                lambda start, level, gap, outputs: 2.0 * one_good_output_time(start, level, gap)
            ),
            "factor of two outputs": _one_good_output_judge(
                lambda start, level, gap, outputs: one_good_output_time(start, level, gap)
            ),
        }
    ),
)


# Natural gradient flow --------------------------------------------------------


class Elapsed(NamedTuple):
    """A problem and a time."""

    instance: Instance
    time: Float[Array, ""]


def _elapsed(source: Source) -> Elapsed:
    shape = (2, 5)
    instance = Instance(random_rewards(source, shape), start=Parameters(random_logits(source, shape)))
    return Elapsed(instance, source.log_uniform(1e-2, 1e3))


_Solution = Callable[[Array, Array, Array], Array]


def _natural_gradient_judge(solution: _Solution) -> Judge:
    """The velocity of the log-probabilities of a supposed solution against the natural gradient there."""

    def judge(problem: Elapsed) -> Sides:
        instance, time = problem
        start = instance.log_probabilities(instance.initial_parameters)
        now, velocity = jax.jvp(
            lambda t: solution(start, instance.rewards, t), (time,), (jnp.ones_like(time),)
        )
        direction = natural_gradient(instance, now)
        followed = jax.jvp(instance.log_probabilities, (now,), (direction,))[1]
        # One solution starts at the initial policy and moves so.
        error = (
            jnp.abs(velocity - followed).max()
            + jnp.abs(solution(start, instance.rewards, jnp.zeros_like(time)) - start).max()
        )
        return Sides(error, ROUNDING * (jnp.abs(instance.rewards).max() + jnp.abs(start).max()))

    return judge


NATURAL_GRADIENT = Statement(
    name="natural_gradient_flow",
    title="Natural policy gradient flow is an exponential tilt",
    assumptions="tabular policy, λ = 0; one prompt",
    citation="Kakade (2001); theory/closed_forms.py",
    formula="π_t ∝ π₀ exp(r t)",
    draw=_elapsed,
    judge=_natural_gradient_judge(natural_gradient_flow),
    sabotages=MappingProxyType(
        {
            "time divided by the number of prompts": _natural_gradient_judge(
                lambda start, rewards, t: natural_gradient_flow(start, rewards, t / len(rewards))
            ),
            "start forgotten": _natural_gradient_judge(
                lambda start, rewards, t: natural_gradient_flow(jnp.zeros_like(start), rewards, t)
            ),
        }
    ),
)


# The optimum with KL ----------------------------------------------------------

_Optimum = Callable[[Instance], Array]


def _optimum(instance: Instance, factor: float = 1.0) -> Array:
    assert instance.regularizer is not None
    coefficient = factor * instance.regularizer.kl
    return kl_optimum(instance.reference_log_probabilities, instance.rewards, coefficient[None])


def _regularized(low: float, high: float, spread: float, source: Source) -> Instance:
    shape = (2, 4)
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, shape, high=spread)),
        reference_policy_logits=random_logits(source, shape, high=spread),
        regularizer=Regularizer(kl=source.log_uniform(low, high)),
    )


def _stationary_judge(optimum: _Optimum) -> Judge:
    def judge(instance: Instance) -> Sides:
        best = optimum(instance)
        error = jnp.abs(gradient(instance, best))
        return Sides(error, ROUNDING * logit_gradient_magnitude(instance, best)).tightest()

    return judge


def _gap_judge(optimum: _Optimum) -> Judge:
    def judge(instance: Instance) -> Sides:
        assert instance.regularizer is not None
        here = instance.log_probabilities(instance.initial_parameters)
        best = optimum(instance)
        distance = (instance.prompt_weights * kl_divergence(here, best)).sum()
        shortfall = objective(instance, best) - objective(instance, here)
        # The terms of both objectives, and of the divergence.
        magnitude = sum(logit_gradient_magnitude(instance, at).sum() for at in (best, here))
        magnitude += instance.regularizer.kl * (jnp.exp(here) * jnp.abs(best)).sum()
        return Sides(jnp.abs(shortfall - instance.regularizer.kl * distance), ROUNDING * magnitude)

    return judge


class Relaxed(NamedTuple):
    """A problem, and its parameters after the flow has had time to converge."""

    instance: Instance
    parameters: Float[Array, "prompts outputs"]


def _observe_relaxed(instances: Instance) -> Relaxed:
    path = trajectories(instances, _relaxation_times(instances), Control(tolerance=1e-8))
    return Relaxed(instances, path[:, -1])


@jax.jit
@jax.vmap
def _relaxation_times(instance: Instance) -> Float[Array, " times"]:
    """Times at the last of which the flow has converged.

    Linearised at the optimum the flow has rates of ``w lambda min pi*`` and more; on the way there the
    probabilities stay above about the smallest of both ends.
    """
    assert instance.regularizer is not None
    ends = jnp.stack([instance.log_probabilities(instance.initial_parameters), _optimum(instance)])
    slowest = instance.regularizer.kl * jnp.exp(ends.min()) * instance.prompt_weights.min()
    return _RELAXATIONS / slowest * jnp.linspace(0.0, 1.0, PATH_TIMES)


def _attraction_judge(optimum: _Optimum) -> Judge:
    def judge(relaxed: Relaxed) -> Sides:
        end = relaxed.instance.log_probabilities(relaxed.parameters)
        return Sides(jnp.abs(end - optimum(relaxed.instance)).max(), jnp.asarray(_CONVERGED))

    return judge


def _kl_statement(
    name: str,
    title: str,
    formula: str,
    draw: Callable[[Source], Instance],
    check: Callable[[_Optimum], Judge],
    observe: Callable[[Instance], Any] = lambda instances: instances,
) -> Statement:
    return Statement(
        name=name,
        title=title,
        assumptions="tabular policy, λ > 0",
        citation="theory/closed_forms.py",
        formula=formula,
        draw=draw,
        judge=check(_optimum),
        observe=observe,
        sabotages=MappingProxyType(
            {
                "coefficient 1% larger": check(partial(_optimum, factor=1.01)),
                "reference replaced by the initial policy": check(_optimum_from_start),
            }
        ),
    )


def _optimum_from_start(instance: Instance) -> Array:
    start = instance.log_probabilities(instance.initial_parameters)
    return _optimum(eqx.tree_at(lambda i: i.reference_log_probabilities, instance, start))


STATEMENTS = (
    TWO_OUTPUTS,
    ONE_GOOD_OUTPUT,
    NATURAL_GRADIENT,
    _kl_statement(
        "kl_optimum_stationary",
        "The gradient vanishes at the KL-regularised optimum",
        "∇φ(θ*) = 0 at π* ∝ π_ref exp(r/λ)",
        partial(_regularized, 1e-2, 10.0, 20.0),
        _stationary_judge,
    ),
    _kl_statement(
        "kl_optimum_gap",
        "Every policy falls short of the KL-regularised optimum by its divergence from it",
        "φ(π*) − φ(π) = λ KL(π ‖ π*) ≥ 0",
        partial(_regularized, 1e-2, 10.0, 20.0),
        _gap_judge,
    ),
    _kl_statement(
        "kl_optimum_attracts",
        "Gradient flow converges to the KL-regularised optimum",
        "π_t → π* ∝ π_ref exp(r/λ)",
        partial(_regularized, 1.0, 10.0, 0.6),
        _attraction_judge,
        _observe_relaxed,
    ),
)
