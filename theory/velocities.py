"""How fast the probabilities of a tabular policy move (arXiv:2503.15477, Lemmas 9 and 10)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import advantage, gradient, regularized_advantage
from goodteacher.theory.draws import Source, Task, random_kl_coefficient, random_logits, random_rewards
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


def log_growth_bound(instance: Instance, time: ArrayLike) -> Float[Array, " prompts"]:
    """``(T / |S|) (4 + 2 lambda ln(1 / min pi_0))``: the most by which ``ln pi_T`` of any outputs exceeds
    ``ln pi_0``.

    For the flow of a tabular policy from its reference. ``1 / |S|`` stands for the prompt's weight.
    arXiv:2503.15477, Lemma 10.

    Args:
        instance: the problem.
        time: ``T``, one number or one per prompt.
    """
    log_p = instance.log_probabilities(instance.initial_parameters)
    rarest = jnp.where(jnp.isfinite(log_p), log_p, 0.0).min(-1)
    strength = 0.0 if instance.regularizer is None else instance.regularizer.kl
    return instance.prompt_weights * time * (4.0 - 2.0 * strength * rarest)


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
    rewards = random_rewards(source, SHAPE)
    rewards = jnp.where(source.bernoulli(), jnp.sign(rewards), rewards)
    instance = Instance(
        rewards,
        start=Parameters(random_logits(source, SHAPE, high=5.0)),
        regularizer=Regularizer(kl=random_kl_coefficient(source, high=1.0)),
    )
    one = jnp.arange(SHAPE[1]) == source.integer(0, SHAPE[1] - 1, (SHAPE[0], 1))
    return Growth(instance, source.log_uniform(1e-3, 2.0), one | source.bernoulli(0.25, SHAPE))


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
        return Sides(grown, largest).tightest()

    return judge


GROWTH = Statement(
    name="probability_growth",
    title="No probability grows faster than exponentially at a known rate",
    citation="arXiv:2503.15477, Lemma 10",
    formula="π_T(A) ≤ π₀(A) exp((T/|S|) (4 + 2λ ln(1 / min π₀))); the margin is that of the logarithms",
    draw=_growth,
    judge=_growth_judge(log_growth_bound),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "without the time": _growth_judge(lambda i, t: log_growth_bound(i, jnp.ones_like(t))),
            "1/2 for 4": _growth_judge(lambda i, t: log_growth_bound(i, t) - 3.5 * i.prompt_weights * t),
        }
    ),
    bound=True,
)

STATEMENTS = (VELOCITY, GROWTH)
