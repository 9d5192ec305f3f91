"""The gradient of a tabular policy between its bounds: what a low reward variance does to it, and what not.

Per prompt: ``phi(x)`` and ``V(x)`` are a prompt's own objective and expected reward, without its weight in
the mean over prompts; gradients are by its own logits, ``grad phi(x) = pi A`` (arXiv:2503.15477, Lemma 7).
"""

from collections.abc import Callable
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, logit_gradient, regularized_advantage
from goodteacher.theory.draws import Source, random_kl_coefficient, random_logits, random_rewards
from goodteacher.theory.statements import Judge, Sides, Statement


def gradient_upper_bound(
    instance: Instance, logits: Float[Array, "prompts outputs"]
) -> Float[Array, " prompts"]:
    """``sqrt(Var r_KL)``, ``r_KL = r - lambda ln(pi / ref)``: no less than the 1-norm of ``grad phi(x)``.

    Cauchy-Schwarz; equality for two values of ``r_KL`` of probability one half each (arXiv:2503.15477,
    Lemma 8).
    """
    return jnp.sqrt(_variance(instance, logits))


def modal_gradient_upper_bound(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """``sqrt(max pi Var r)``: no less than the Euclidean norm of ``grad V(x)``.

    Derived here: ``sum_y (pi(y) A(y))^2 <= max pi sum_y pi(y) A(y)^2``. Attained by the uniform policy.
    """
    return jnp.sqrt(probabilities.max(-1) * reward_variance(probabilities, rewards))


def gradient_lower_bound(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """``pi(y*) (r(y*) - V)``, ``y*`` a best output: no more than the Euclidean norm of ``grad V(x)``.

    It is one component of the gradient: a non-uniform Lojasiewicz inequality (Mei et al., arXiv:2005.06392,
    Lemma 3).
    """
    best = rewards == rewards.max(-1, keepdims=True)
    gain = jnp.where(best, probabilities * advantage(probabilities, rewards), 0.0)
    return gain.max(-1)


def _variance(instance: Instance, logits: Array) -> Array:
    # That of the advantage is that of the reward.
    return reward_variance(jax.nn.softmax(logits), regularized_advantage(instance, logits))


# Statements -------------------------------------------------------------------


def _regularized(source: Source) -> Instance:
    shape = (2, 4)
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, shape)),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


def _unregularized(source: Source) -> Instance:
    shape = (2, 8)
    return Instance(random_rewards(source, shape), start=Parameters(random_logits(source, shape)))


def _upper_judge(bound: Callable[[Instance, Array], Array]) -> Judge:
    def judge(instance: Instance) -> Sides:
        logits = instance.initial_parameters
        gradient = logit_gradient(instance, logits) / instance.prompt_weights[:, None]
        one_norm, two_norm = jnp.abs(gradient).sum(-1), jnp.linalg.norm(gradient, axis=-1)
        largest = bound(instance, logits)
        return Sides(jnp.stack([two_norm, one_norm]), jnp.stack([one_norm, largest])).tightest()

    return judge


def _of_reward_alone(instance: Instance, logits: Array) -> Array:
    return gradient_upper_bound(eqx.tree_at(lambda i: i.regularizer, instance, None), logits)


UPPER = Statement(
    name="gradient_bound_tabular",
    title="Low reward variance makes the gradient of a tabular policy small",
    citation="arXiv:2503.15477, Lemma 8",
    formula="|∇φ(x)|₂ ≤ |∇φ(x)|₁ ≤ √Var r_KL(x,·), every λ ≥ 0",
    draw=_regularized,
    judge=_upper_judge(gradient_upper_bound),
    sabotages=MappingProxyType(
        {
            "variance for its root": _upper_judge(_variance),
            "constant 1% smaller": _upper_judge(lambda i, z: 0.99 * gradient_upper_bound(i, z)),
            "variance of the reward without its KL term": _upper_judge(_of_reward_alone),
        }
    ),
    bound=True,
    smooth=True,
)

_Values = Callable[[Array, Array], Array]


def _norm_judge(smaller: _Values, larger: _Values) -> Judge:
    def judge(instance: Instance) -> Sides:
        policy = instance.probabilities(instance.initial_parameters)
        return Sides(smaller(policy, instance.rewards), larger(policy, instance.rewards)).tightest()

    return judge


def _norm(probabilities: Array, rewards: Array) -> Array:
    return jnp.linalg.norm(probabilities * advantage(probabilities, rewards), axis=-1)


MODAL = Statement(
    name="gradient_bound_modal",
    title="The gradient is smaller still where no output is likely",
    citation="theory/gradient_bounds.py (derived here)",
    formula="|∇V(x)|₂² ≤ max_y π(y|x) Var r(x,·)",
    draw=_unregularized,
    judge=_norm_judge(_norm, modal_gradient_upper_bound),
    sabotages=MappingProxyType(
        {
            "5% smaller": _norm_judge(_norm, lambda p, r: 0.95 * modal_gradient_upper_bound(p, r)),
            "least for largest probability": _norm_judge(
                _norm, lambda p, r: jnp.sqrt(p.min(-1) * reward_variance(p, r))
            ),
            "squared probability": _norm_judge(
                _norm, lambda p, r: p.max(-1) * jnp.sqrt(reward_variance(p, r))
            ),
        }
    ),
    bound=True,
    smooth=True,
)

LOJASIEWICZ = Statement(
    name="lojasiewicz",
    title="The gradient vanishes only where the best output does, or where all is won",
    citation="theory/gradient_bounds.py (derived here); arXiv:2005.06392, Lemma 3",
    formula="|∇V(x)|₂ ≥ π(y*|x) (r(x,y*) − V(x))",
    draw=_unregularized,
    judge=_norm_judge(gradient_lower_bound, _norm),
    sabotages=MappingProxyType(
        {
            "√2 times as large": _norm_judge(lambda p, r: 2.0**0.5 * gradient_lower_bound(p, r), _norm),
            "without the probability": _norm_judge(lambda p, r: advantage(p, r).max(-1), _norm),
        }
    ),
    bound=True,
    smooth=True,
)

STATEMENTS = (UPPER, MODAL, LOJASIEWICZ)
