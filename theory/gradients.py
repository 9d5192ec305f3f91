"""The gradient in closed form, and what holds along every gradient flow."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.flow import Control, trajectories
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import expected_reward, gradient, objective
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.draws import Source, random_kl_coefficient, random_logits, random_rewards
from goodteacher.theory.rises import PATH_TIMES
from goodteacher.theory.statements import Judge, Sides, Statement

ROUNDING = 1e-14  # of a sum of a few products, relative to their magnitudes
_TIMES = np.append(0.0, np.geomspace(0.1, 100.0, PATH_TIMES - 1))
_TRAJECTORY_TOLERANCE = 1e-8

_Gradient = Callable[[Instance, Float[Array, "..."]], Float[Array, "..."]]
_Value = Callable[[Instance, Float[Array, "..."]], Float[Array, ""]]


def logit_gradient_magnitude(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, "prompts outputs"]:
    """What the rounding error of the gradient by each logit is relative to: its terms, in absolute value.

    A log-probability is a difference with terms of order one and of its own size; its rounding error
    is a relative one of the probability.
    """
    log_p = instance.log_probabilities(parameters)
    rounded = 1.0 + jnp.abs(log_p)
    size = jnp.abs(instance.rewards)
    if instance.regularizer is not None:
        size += instance.regularizer.kl * (rounded + jnp.abs(instance.reference_log_probabilities))
    probabilities = jnp.exp(log_p) * rounded
    mean = expected_reward(probabilities, size)[:, None]
    return instance.prompt_weights[:, None] * probabilities * (size + mean)


def _unregularized(instance: Instance) -> Instance:
    return eqx.tree_at(lambda i: i.regularizer, instance, None)


def _tabular(source: Source) -> Instance:
    shape = (3, 4)
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, shape)),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


def _linear(source: Source) -> Instance:
    shape, dimension = (3, 4), 5
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, (dimension,), high=5.0)),
        policy=LinearSoftmax(source.normal((*shape, dimension))),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


# The gradient in closed form --------------------------------------------------


def _gradient_judge(closed_form: _Gradient) -> Judge:
    def judge(instance: Instance) -> Sides:
        parameters = instance.initial_parameters
        error = jnp.abs(
            closed_form(instance, parameters) - jax.grad(objective, argnums=1)(instance, parameters)
        )
        jacobian = jnp.abs(jax.jacobian(instance.policy.logits)(parameters))
        magnitude = jnp.tensordot(logit_gradient_magnitude(instance, parameters), jacobian, axes=2)
        return Sides(error, ROUNDING * magnitude).tightest()

    return judge


def _without_baseline(instance: Instance, parameters: Array) -> Array:
    weights = instance.prompt_weights[:, None] * instance.probabilities(parameters)
    return instance.policy.pullback(parameters, weights * instance.rewards)


def _gradient_statement(name: str, policy: str, draw: Callable[[Source], Instance]) -> Statement:
    return Statement(
        name=name,
        title=f"Gradient in closed form, {policy} policy",
        assumptions="any number of prompts with any weights, any reference and λ ≥ 0",
        citation="arXiv:2503.15477, Lemma 7 (tabular), and the chain rule",
        formula="∇φ(θ) = Σ_x w(x) Σ_y π(y|x) (r_KL(x,y) − E r_KL(x,·)) ∇θ logit(y|x)",
        draw=draw,
        judge=_gradient_judge(gradient),
        sabotages=MappingProxyType(
            {
                "KL term dropped": _gradient_judge(lambda i, p: gradient(_unregularized(i), p)),
                "baseline dropped": _gradient_judge(_without_baseline),
            }
        ),
    )


# Along the flow ---------------------------------------------------------------


class Path(NamedTuple):
    """A problem, and its parameters along the flow, the initial ones first."""

    instance: Instance
    parameters: Float[Array, "times ..."]


def _observe(instances: Instance) -> Path:
    times = np.broadcast_to(_TIMES, (len(instances.rewards), PATH_TIMES))
    control = Control(tolerance=_TRAJECTORY_TOLERANCE)
    return Path(instances, trajectories(instances, jnp.asarray(times), control))


def _moderate_tabular(source: Source) -> Instance:
    shape = (2, 4)
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, shape, high=4.0)),
        regularizer=Regularizer(kl=random_kl_coefficient(source, high=1.0)),
    )


def _moderate_linear(source: Source) -> Instance:
    shape, dimension = (2, 4), 3
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, (dimension,), high=2.0)),
        policy=LinearSoftmax(source.normal((*shape, dimension))),
        regularizer=Regularizer(kl=random_kl_coefficient(source, high=1.0)),
    )


def _conservation_judge(counted: Callable[[Array], Array]) -> Judge:
    """With the rewards ``[prompts, outputs]`` to the weight of each logit in the sum."""

    def judge(path: Path) -> Sides:
        change = path.parameters - path.parameters[:1]
        drift = jnp.abs((counted(path.instance.rewards) * change).sum(-1))
        return Sides(drift, ROUNDING * jnp.abs(path.parameters).sum(-1)).tightest()

    return judge


CONSERVATION = Statement(
    name="conservation",
    title="The flow of a tabular policy conserves the sum of the logits of a prompt",
    assumptions="tabular policy, any λ",
    citation="arXiv:2503.15477, Lemma 7, summed over outputs",
    formula="Σ_y θ[y,x](t) = Σ_y θ[y,x](0)",
    draw=_moderate_tabular,
    judge=_conservation_judge(jnp.ones_like),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "best output left out": _conservation_judge(
                lambda r: (r < r.max(-1, keepdims=True)).astype(float)
            ),
            "weighted by reward": _conservation_judge(lambda r: r),
        }
    ),
)


def _ascent_judge(value: _Value, factor: float = 1.0) -> Judge:
    def at(instance: Instance, parameters: Array) -> tuple[Array, Array, Sides]:
        """The value with the magnitude of its terms, and its rate along the flow: error and tolerance."""
        velocity = gradient(instance, parameters)
        phi, rate = jax.jvp(lambda p: value(instance, p), (parameters,), (velocity,))
        moving = jnp.abs(instance.policy.pushforward(parameters, velocity))
        magnitude = logit_gradient_magnitude(instance, parameters)
        # The rate sums products of these with velocities of log-probabilities, and |grad|^2 is as accurate.
        scale = (magnitude * (moving + moving.max(-1, keepdims=True))).sum()
        error = jnp.abs(rate - factor * (velocity**2).sum())
        return phi, magnitude.sum(), Sides(error, ROUNDING * scale)

    def judge(path: Path) -> Sides:
        phi, magnitude, of_rate = jax.vmap(lambda p: at(path.instance, p))(path.parameters)
        of_value = Sides(jnp.maximum(phi[:-1] - phi[1:], 0.0), ROUNDING * magnitude[1:])
        return Sides(
            jnp.concatenate([of_rate.smaller, of_value.smaller]),
            jnp.concatenate([of_rate.larger, of_value.larger]),
        ).tightest()

    return judge


ASCENT = Statement(
    name="ascent",
    title="The objective never decreases along its flow; its rate is the squared gradient norm",
    assumptions="any policy, any λ",
    citation="chain rule",
    formula="dφ/dt = |∇φ|² ≥ 0",
    draw=_moderate_linear,
    judge=_ascent_judge(objective),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "expected reward instead of objective": _ascent_judge(
                lambda i, p: objective(_unregularized(i), p)
            ),
            "rate 1% higher": _ascent_judge(objective, factor=1.01),
        }
    ),
)

STATEMENTS = (
    _gradient_statement("gradient_tabular", "tabular", _tabular),
    _gradient_statement("gradient_linear", "linear softmax", _linear),
    CONSERVATION,
    ASCENT,
)
