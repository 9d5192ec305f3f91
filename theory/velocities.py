"""How fast the probabilities of a tabular policy move (arXiv:2503.15477, Lemmas 9 and 10)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import advantage, expected_reward, gradient, regularized_advantage
from goodteacher.theory.draws import (
    Source,
    Task,
    random_kl_coefficient,
    random_logits,
    random_outputs,
    random_prompt_weights,
    random_rewards,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.gradients import ROUNDING, logit_gradient_magnitude
from goodteacher.theory.rises import SHAPE, rise_times
from goodteacher.theory.statements import Judge, Sides, Statement


def probability_velocity(
    probabilities: Float[Array, "*batch outputs"], advantages: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch outputs"]:
    """``pi(y) [pi(y) A(y) - sum_z pi(z)^2 A(z)]``: ``d pi(y) / dt`` of a single prompt.

    With more prompts, times the prompt's weight in their mean. arXiv:2503.15477, Lemma 9.

    Args:
        probabilities: of the policy.
        advantages: of the reward, or of ``r_KL`` if there is regularisation.
    """
    logit_velocity = probabilities * advantages
    return probabilities * (logit_velocity - (probabilities * logit_velocity).sum(-1, keepdims=True))


def log_growth_bound(
    instance: Instance,
    time: ArrayLike,
    *,
    constant: Number = 4.0,
    kl: Number = 2.0,
    prompts: Number = -1.0,
) -> Float[Array, " prompts"]:
    """``(T / |S|) (4 + 2 lambda ln(1 / min pi_0))``: the most by which ``ln pi_T`` of any outputs exceeds
    ``ln pi_0``.

    For the flow of a tabular policy from its reference. ``1 / |S|`` stands for the prompt's weight.
    arXiv:2503.15477, Lemma 10.

    Args:
        instance: the problem.
        time: ``T``, one number or one per prompt.
        constant, kl: 4 and 2.
        prompts: exponent of ``|S|``.
    """
    log_p = instance.log_probabilities(instance.initial_parameters)
    rarest = jnp.where(jnp.isfinite(log_p), log_p, 0.0).min(-1)
    strength = 0.0 if instance.regularizer is None else instance.regularizer.kl
    return instance.prompt_weights**-prompts * time * (constant - kl * strength * rarest)


def sharp_log_growth_bound(
    instance: Instance,
    time: ArrayLike,
    *,
    constant: Number = 8 / 27,
    spread: Number = 1.0,
    prompts: Number = -1.0,
) -> Float[Array, " prompts"]:
    """``(8/27) D T / |S|`` with the range ``D`` of the rewards, at most 2, for every ``lambda >= 0``: the
    same.

    Derived here. With ``a = pi(A)`` and weight ``w``, ``d ln a/dt = w Cov(r_KL, g)``, where ``g`` is
    ``pi (1 - a)/a`` on ``A`` and ``-pi`` off it. That is linear in ``r_KL``, so at most ``w D q (1-q) (E[g|B]
    - E[g|B'])`` for a set ``B`` of outputs, ``q = pi(B)``, and its complement. On ``B'``, ``g >= -(1-q)``.
    With ``b = pi(A and B)``, ``E[g|B] <= (1-a) b^2 / (a q) <= b (1-b) / q``: at most ``1 - q`` for ``q <=
    1/2``, where the product is at most ``2 q (1-q)^2 <= 8/27``; at most ``1/(4q)`` beyond, where it is at
    most 1/4. This is for the range of ``r_KL``. From the reference on it is at most that of the rewards:
    between an output ``y`` where ``r_KL`` is largest and one ``z`` where it is smallest,
    ``d (r_KL(y) - r_KL(z))/dt = -lambda w (pi(y) c(y) - pi(z) c(z)) <= 0``, for ``c = r_KL - E r_KL`` is not
    negative at the one and not positive at the other. As ``T -> 0`` it is attained by two outputs, the better
    of probability one third.

    Args:
        instance: the problem.
        time: ``T``, one number or one per prompt.
        constant: 8/27.
        spread, prompts: exponents of ``D`` and of ``|S|``.
    """
    exists = jnp.isfinite(instance.log_probabilities(instance.initial_parameters))
    highest = instance.rewards.max(-1, where=exists, initial=-jnp.inf)
    lowest = instance.rewards.min(-1, where=exists, initial=jnp.inf)
    return instance.prompt_weights**-prompts * time * constant * (highest - lowest) ** spread


# Statements -------------------------------------------------------------------


def _policies(source: Source) -> Instance:
    shape = (3, 4)
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, shape)),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


def _velocity(instance: Instance, logits: Array) -> Array:
    advantages = regularized_advantage(instance, logits)
    return instance.prompt_weights[:, None] * probability_velocity(jax.nn.softmax(logits), advantages)


def _flipped(instance: Instance, logits: Array) -> Array:
    first = 2.0 * instance.probabilities(logits) * gradient(instance, logits)
    return first - _velocity(instance, logits)


def _of_reward_alone(instance: Instance, logits: Array) -> Array:
    probabilities = jax.nn.softmax(logits)
    velocity = probability_velocity(probabilities, advantage(probabilities, instance.rewards))
    return instance.prompt_weights[:, None] * velocity


def _velocity_judge(velocity: Callable[[Instance, Array], Array]) -> Judge:
    def judge(instance: Instance) -> Sides:
        logits = instance.initial_parameters
        along = gradient(instance, logits)
        probabilities, observed = jax.jvp(instance.probabilities, (logits,), (along,))
        magnitude = logit_gradient_magnitude(instance, logits)
        mean = (probabilities * magnitude).sum(-1, keepdims=True)
        tolerance = ROUNDING * probabilities * (magnitude + mean)
        return Sides(jnp.abs(velocity(instance, logits) - observed), tolerance).tightest()

    return judge


VELOCITY = Statement(
    name="probability_velocity",
    title="The velocity of a probability under a tabular policy",
    assumptions="tabular policy, any λ ≥ 0",
    citation="arXiv:2503.15477, Lemma 9",
    formula="dπ(y)/dt = (1/|S|) π(y) [π(y) A(y) − Σ_z π(z)² A(z)], A of r_KL",
    draw=_policies,
    judge=_velocity_judge(_velocity),
    sabotages=MappingProxyType(
        {
            "sign of the second term flipped": _velocity_judge(_flipped),
            "KL term dropped": _velocity_judge(_of_reward_alone),
            "number of prompts dropped": _velocity_judge(
                lambda i, z: _velocity(i, z) / i.prompt_weights[:, None]
            ),
        }
    ),
)


class Growth(NamedTuple):
    """A problem, a rise of the ground truth whose hitting time is ``T``, and outputs of every prompt."""

    instance: Instance
    gamma: Float[Array, ""]
    outputs: Bool[Array, "prompts outputs"]


def _growth(source: Source) -> Growth:
    """For a short time from few outputs, in a quarter of the draws, where the bound is tightest."""
    exists, regularized = random_outputs(source, SHAPE)
    few = source.bernoulli(0.25)
    exists &= ~few | (jnp.arange(SHAPE[1]) < 2)
    rewards = random_rewards(source, SHAPE)
    rewards = jnp.where(source.bernoulli(), jnp.sign(rewards), rewards)
    rewards *= source.log_uniform(1e-3, 1.0)
    logits = random_logits(source, SHAPE, high=5.0)
    instance = Instance(
        rewards,
        start=Parameters(jnp.where(few, source.normal(SHAPE), logits)),
        regularizer=Regularizer(kl=jnp.where(regularized, source.log_uniform(1e-3, 1.0), 0.0)),
        prompt_weights=random_prompt_weights(source, SHAPE[0]),
    )
    one = jnp.arange(SHAPE[1]) == source.integer(0, SHAPE[1] - 1, (SHAPE[0], 1))
    one |= few & (rewards == rewards.max(-1, keepdims=True))
    some = (one | source.bernoulli(0.25, SHAPE)) & exists
    some = some.at[:, 0].set(some[:, 0] | ~some.any(-1))
    instance = without(instance, exists)
    start = instance.probabilities(instance.initial_parameters)
    best = jnp.where(exists, rewards, -jnp.inf).max(-1)
    within = (best - expected_reward(start, rewards)).min()
    return Growth(instance, jnp.maximum(within, 1e-9) * source.log_uniform(1e-4, 0.99), some)


class Grown(NamedTuple):
    """When the ground truth of each prompt has risen, and the policies then."""

    growth: Growth
    time: Float[Array, " prompts"]
    log_probabilities: Float[Array, "prompts outputs"]


def _observe(growth: Growth) -> Grown:
    flow = rise_times(Task(growth.instance, growth.gamma), horizon=1e3)
    return Grown(growth, flow.time, flow.log_probabilities)


def _growth_judge(bound: Callable[[Instance, Array], Array]) -> Judge:
    """The logarithms of both sides are compared: at small times both sides are trivially close."""

    def judge(observed: Grown) -> Sides:
        growth, time, later = observed
        instance = growth.instance
        initial = instance.log_probabilities(instance.initial_parameters)

        def log_probability(log_p: Array) -> Array:
            return jax.nn.logsumexp(jnp.where(growth.outputs, log_p, -jnp.inf), axis=-1)

        grown = log_probability(later) - log_probability(initial)
        reached = time < jnp.inf  # true for nan
        largest = jnp.where(reached, bound(instance, jnp.where(reached, time, 1.0)), jnp.inf)
        return Sides(grown, largest, reached).tightest()

    return judge


_SABOTAGES = MappingProxyType(
    {"without the time": _growth_judge(lambda i, t: log_growth_bound(i, jnp.ones_like(t)))}
)

GROWTH = Statement(
    name="probability_growth",
    title="No probability grows faster than exponentially at a known rate",
    assumptions="tabular policy, rewards in [−1, 1], any λ ≥ 0; any set A of outputs; the reference "
    "is the initial policy",
    citation="arXiv:2503.15477, Lemma 10",
    formula="π_T(A) ≤ π₀(A) exp((T/|S|) (4 + 2λ ln(1 / min π₀))); the margin is that of the logarithms",
    draw=_growth,
    judge=Formula(
        log_growth_bound,
        _growth_judge,
        unrefuted={"kl": "probability_growth_sharp: 16/27 is enough for every lambda"},
    ),
    observe=_observe,
    sabotages=_SABOTAGES,
    bound=True,
)

SHARP_GROWTH = Statement(
    name="probability_growth_sharp",
    title="No probability grows faster than at the best rate, whatever the regularisation",
    assumptions="tabular policy, rewards of range D, any λ ≥ 0; any set A of outputs; the reference "
    "is the initial policy",
    citation="theory/velocities.py (derived here)",
    formula="π_T(A) ≤ π₀(A) exp((8/27) D T/|S|), D the range of the rewards, every λ ≥ 0",
    draw=_growth,
    judge=Formula(sharp_log_growth_bound, _growth_judge),
    observe=_observe,
    sabotages=_SABOTAGES,
    bound=True,
)

STATEMENTS = (VELOCITY, GROWTH, SHARP_GROWTH)
