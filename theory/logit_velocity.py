"""How logits move under a linear softmax policy, and why low proxy rewards are benign (arXiv:2604.25872)."""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.sim.flow import Control, trajectories
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import advantage, objective, regularized_advantage
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.draws import Source, random_kl_coefficient, random_logits, random_rewards
from goodteacher.theory.gradients import ROUNDING, logit_gradient_magnitude
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

_PROMPTS, _OUTPUTS = 2, 5
_TIMES = np.geomspace(0.1, 1e4, 9)
_TRAJECTORY_TOLERANCE = 1e-9
_GAIN_ROUNDING = 1e-7  # of logits that a trajectory gives


def gram(policy: LinearSoftmax) -> Float[Array, "prompts outputs prompts outputs"]:
    """Inner products of the features of all outputs of all prompts, over the squared temperature."""
    scaled = policy.features / policy.temperature
    return jnp.einsum("xyd,wzd->xywz", scaled, scaled)


def logit_velocity(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
    """Velocity of every logit along the gradient flow of a linear softmax policy.

    ``sum_{w,z} weight(w) pi(z|w) A(w, z) <feature(w, z), feature(x, y)> / temperature^2``: for one prompt
    that of arXiv:2604.25872, Section 3. With regularisation ``A`` is the advantage of ``r_KL``.

    Raises:
        ValueError: if the policy is not linear softmax.
    """
    return jnp.einsum("xywz,wz->xy", gram(_linear_policy(instance)), _pushes(instance, parameters))


def _linear_policy(instance: Instance) -> LinearSoftmax:
    if not isinstance(instance.policy, LinearSoftmax):
        raise ValueError(f"the policy is {type(instance.policy).__name__}; give an instance output_features")
    return instance.policy


def _pushes(instance: Instance, parameters: Array) -> Array:
    """``weight(x) pi(y|x) A(x, y)``."""
    advantages = regularized_advantage(instance, instance.logits(parameters))
    return instance.prompt_weights[:, None] * instance.probabilities(parameters) * advantages


def below_value(instance: Instance) -> Bool[Array, "prompts outputs"]:
    """Outputs whose proxy reward is below the initial expected one: errors there are benign.

    The expected proxy reward never decreases along its flow, so ``r_P(y) < V_P(0)`` makes the advantage of
    ``y`` negative for ever; with orthogonal features its logit then never gains, whatever ``r_P(y)`` is
    below that line (arXiv:2604.25872, Section 3). One prompt, no regularisation.
    """
    # Not a comparison with the mean: no rounding puts equal rewards below it.
    return advantage(instance.probabilities(instance.initial_parameters), instance.rewards) < 0


# Statements -------------------------------------------------------------------


def _linear(source: Source) -> Instance:
    shape, dimension = (_PROMPTS, _OUTPUTS), 4
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, (dimension,), high=5.0)),
        policy=LinearSoftmax(source.normal((*shape, dimension)), source.log_uniform(0.2, 5.0)),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


_Velocity = Callable[[Instance, Array], Array]


def _velocity_judge(closed_form: _Velocity) -> Judge:
    def judge(instance: Instance) -> Sides:
        parameters, policy = instance.initial_parameters, _linear_policy(instance)
        direct = policy.pushforward(parameters, jax.grad(objective, argnums=1)(instance, parameters))
        error = jnp.abs(closed_form(instance, parameters) - direct)
        lengths = jnp.sqrt((policy.features**2).sum(-1)) / policy.temperature
        pushes = (lengths * logit_gradient_magnitude(instance, parameters)).sum()
        return Sides(error, ROUNDING * lengths * pushes).tightest()

    return judge


def _own_term_only(instance: Instance, parameters: Array) -> Array:
    own = jnp.einsum("xyxy->xy", gram(_linear_policy(instance)))
    return own * _pushes(instance, parameters)


def _own_prompt_only(instance: Instance, parameters: Array) -> Array:
    return jnp.einsum("xyxz,xz->xy", gram(_linear_policy(instance)), _pushes(instance, parameters))


LOGIT_VELOCITY = Statement(
    name="logit_velocity",
    title="Logit velocity of the linear softmax policy",
    assumptions="linear softmax policy, any features, λ = 0",
    citation="arXiv:2604.25872, Section 3",
    formula="d⟨f(y),θ⟩/dt = π(y) A(y) |f(y)|² + Σ_{z≠y} π(z) A(z) ⟨f(z),f(y)⟩, summed over prompts",
    draw=_linear,
    judge=_velocity_judge(logit_velocity),
    sabotages=MappingProxyType(
        {
            "other outputs dropped": _velocity_judge(_own_term_only),
            "other prompts dropped": _velocity_judge(_own_prompt_only),
            "temperature not squared": _velocity_judge(
                lambda i, p: logit_velocity(i, p) * _linear_policy(i).temperature
            ),
        }
    ),
)


def _orthogonal(source: Source) -> Instance:
    """One prompt; features orthogonal and of any length."""
    lengths = source.log_uniform(0.3, 3.0, (_OUTPUTS,))
    rotation = jnp.linalg.qr(source.normal((_OUTPUTS, _OUTPUTS)) + 1e-3 * jnp.eye(_OUTPUTS))[0]
    return Instance(
        random_rewards(source, (1, _OUTPUTS)),
        start=Parameters(rotation.T @ random_logits(source, (_OUTPUTS,), high=5.0)),
        policy=LinearSoftmax((lengths[:, None] * rotation)[None]),
    )


def _sheared(instance: Instance) -> Instance:
    """Every feature with the next one added to it."""
    features = _linear_policy(instance).features
    return eqx.tree_at(lambda i: i.policy.features, instance, features + jnp.roll(features, 1, axis=1))


class Path(NamedTuple):
    """A problem, and its parameters at times along the flow."""

    instance: Instance
    parameters: Float[Array, "times features"]


def _observe(instances: Instance) -> Path:
    times = np.broadcast_to(_TIMES, (len(instances.rewards), _TIMES.size))
    control = Control(tolerance=_TRAJECTORY_TOLERANCE)
    return Path(instances, trajectories(instances, jnp.asarray(times), control))


_Chosen = Callable[[Instance], Bool[Array, "prompts outputs"]]


def _benign_judge(chosen: _Chosen) -> Judge:
    """That no chosen output's logit rises between recorded times, beyond the integration's error."""

    def judge(path: Path) -> Sides:
        instance = path.instance
        flow = jnp.concatenate([instance.initial_parameters[None], path.parameters])
        logits = jax.vmap(lambda parameters: instance.policy.logits(parameters)[0])(flow)
        gains = jnp.where(chosen(instance), logits[1:] - logits[:-1], 0.0)
        largest = jnp.where(jnp.isnan(logits).any(), jnp.nan, gains.max())
        return Sides(largest, jnp.asarray(_GAIN_ROUNDING))

    return judge


BENIGN_LOW_REWARD = Statement(
    name="benign_low_reward",
    title="No output whose proxy reward is below the initial expected one ever gains logit",
    assumptions="one prompt, linear policy with orthogonal features of any length, λ = 0",
    citation="arXiv:2604.25872, Section 3",
    formula="r_P(y) < V_P(0), features orthogonal ⇒ ⟨f(y),θ(t)⟩ never increases",
    draw=_orthogonal,
    judge=_benign_judge(below_value),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "features not orthogonal": Dropped(_sheared),
            "any reward below the best": _benign_judge(
                lambda i: i.rewards < i.rewards.max(-1, keepdims=True)
            ),
        }
    ),
)

STATEMENTS = (LOGIT_VELOCITY, BENIGN_LOW_REWARD)
