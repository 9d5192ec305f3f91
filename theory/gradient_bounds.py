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
from goodteacher.theory.draws import (
    Source,
    random_kl_coefficient,
    random_logits,
    random_mask,
    random_prompt_weights,
    random_rewards,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Judge, Sides, Statement, all_of


def gradient_upper_bound(
    instance: Instance,
    logits: Float[Array, "prompts outputs"],
    *,
    constant: Number = 1.0,
    variance: Number = 1 / 2,
) -> Float[Array, " prompts"]:
    """``sqrt(Var r_KL)``, ``r_KL = r - lambda ln(pi / ref)``: no less than the 1-norm of ``grad phi(x)``.

    Cauchy-Schwarz; equality for two values of ``r_KL`` of probability one half each (arXiv:2503.15477,
    Lemma 8). The numbers are the constant and the exponent of the variance.
    """
    return constant * _variance(instance, logits) ** variance


def modal_gradient_upper_bound(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1.0,
    modal: Number = 1 / 2,
    variance: Number = 1 / 2,
) -> Float[Array, "*batch"]:
    """``sqrt(max pi Var r)``: no less than the Euclidean norm of ``grad V(x)``.

    Derived here: ``sum_y (pi(y) A(y))^2 <= max pi sum_y pi(y) A(y)^2``. Attained by the uniform policy. The
    numbers are the constant and the exponents of ``max pi`` and of the variance.
    """
    return constant * probabilities.max(-1) ** modal * reward_variance(probabilities, rewards) ** variance


def gradient_lower_bound(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1.0,
    probability: Number = 1.0,
    gap: Number = 1.0,
) -> Float[Array, "*batch"]:
    """``pi(y*) (r(y*) - V)``, ``y*`` a best output: no more than the Euclidean norm of ``grad V(x)``.

    It is one component of the gradient: a non-uniform Lojasiewicz inequality (Mei et al., arXiv:2005.06392,
    Lemma 3). The numbers are a constant and the exponents of both factors.
    """
    ranked = jnp.where(probabilities > 0, rewards, -jnp.inf)
    best = ranked == ranked.max(-1, keepdims=True)
    lead = jnp.where(best, advantage(probabilities, rewards), 0.0)
    return constant * (jnp.where(best, probabilities, 0.0) ** probability * lead**gap).max(-1)


def sharp_gradient_lower_bound(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    *,
    constant: Number = 1.0,
    share: Number = -1 / 2,
    probability: Number = 1.0,
    gap: Number = 1.0,
) -> Float[Array, "*batch"]:
    """``sqrt(K / (K-1)) pi(y*) (r(y*) - V)``: no more than the Euclidean norm of ``grad V(x)`` either.

    Derived here: the components of the gradient add up to zero. So the ``K - 1`` others add up to minus that
    of ``y*``, and their squares to at least a ``(K - 1)``-th of its square. Attained where they are equal.
    The numbers are a constant, the exponent of ``1 - 1/K``, and those of both factors.
    """
    outputs = (probabilities > 0).sum(-1)
    least = gradient_lower_bound(probabilities, rewards, probability=probability, gap=gap)
    return constant * (1.0 - 1.0 / outputs) ** share * least


def _variance(instance: Instance, logits: Array) -> Array:
    # That of the advantage is that of the reward.
    return reward_variance(jax.nn.softmax(logits), regularized_advantage(instance, logits))


# Statements -------------------------------------------------------------------


_SHAPE = (2, 16)


def _regularized(source: Source) -> Instance:
    exists = random_mask(source, _SHAPE)
    instance = Instance(
        random_rewards(source, _SHAPE),
        start=Parameters(random_logits(source, _SHAPE)),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
        prompt_weights=0.1 + random_prompt_weights(source, _SHAPE[0]),
    )
    return without(instance, exists, random_logits(source, _SHAPE))


def _unregularized(source: Source) -> Instance:
    """Rewards of any scale; all outputs but one alike, in a quarter of the draws."""
    exists, scale = random_mask(source, _SHAPE), source.log_uniform(1e-4, 1.0)
    logits, rewards = random_logits(source, _SHAPE), scale * random_rewards(source, _SHAPE)
    alike = source.bernoulli(0.25) & (jnp.arange(_SHAPE[1]) > 0)
    logits, rewards = (jnp.where(alike, v[:, 1:2], v) for v in (logits, rewards))
    return without(Instance(rewards, start=Parameters(logits)), exists)


def _upper_judge(bound: Callable[[Instance, Array], Array]) -> Judge:
    def judge(instance: Instance) -> Sides:
        logits = instance.logits(instance.initial_parameters)
        gradient = logit_gradient(instance, logits) / instance.prompt_weights[:, None]
        one_norm, two_norm = jnp.abs(gradient).sum(-1), jnp.linalg.norm(gradient, axis=-1)
        largest = bound(instance, logits)
        return all_of([Sides(two_norm, one_norm), Sides(one_norm, largest)]).tightest()

    return judge


def _of_reward_alone(instance: Instance, logits: Array) -> Array:
    return gradient_upper_bound(eqx.tree_at(lambda i: i.regularizer, instance, None), logits)


UPPER = Statement(
    name="gradient_bound_tabular",
    title="Low reward variance makes the gradient of a tabular policy small",
    assumptions="tabular policy, any reference and λ ≥ 0; the gradient of one prompt without its weight",
    citation="arXiv:2503.15477, Lemma 8",
    formula="|∇φ(x)|₂ ≤ |∇φ(x)|₁ ≤ √Var r_KL(x,·), every λ ≥ 0",
    draw=_regularized,
    judge=Formula(gradient_upper_bound, _upper_judge),
    sabotages=MappingProxyType(
        {"variance of the reward without its KL term": _upper_judge(_of_reward_alone)}
    ),
    bound=True,
    smooth=True,
)

_Values = Callable[[Array, Array], Array]


def _norm(instance: Instance) -> tuple[Array, Array, Array]:
    """The norm of the gradient, and what it is of."""
    policy = instance.probabilities(instance.initial_parameters)
    rewards = instance.rewards
    return jnp.linalg.norm(policy * advantage(policy, rewards), axis=-1), policy, rewards


def _above_norm(bound: _Values) -> Judge:
    def judge(instance: Instance) -> Sides:
        norm, policy, rewards = _norm(instance)
        return Sides(norm, bound(policy, rewards)).tightest()

    return judge


def _below_norm(bound: _Values) -> Judge:
    def judge(instance: Instance) -> Sides:
        norm, policy, rewards = _norm(instance)
        return Sides(bound(policy, rewards), norm).tightest()

    return judge


MODAL = Statement(
    name="gradient_bound_modal",
    title="The gradient is smaller still where no output is likely",
    assumptions="tabular policy, λ = 0; rewards of any scale",
    citation="theory/gradient_bounds.py (derived here)",
    formula="|∇V(x)|₂² ≤ max_y π(y|x) Var r(x,·)",
    draw=_unregularized,
    judge=Formula(modal_gradient_upper_bound, _above_norm),
    sabotages=MappingProxyType(
        {
            "least for largest probability": _above_norm(
                lambda p, r: jnp.sqrt(jnp.where(p > 0, p, 1.0).min(-1) * reward_variance(p, r))
            ),
        }
    ),
    bound=True,
    smooth=True,
)

_WITHOUT_PROBABILITY = _below_norm(lambda p, r: jnp.where(p > 0, advantage(p, r), 0.0).max(-1))

LOJASIEWICZ = Statement(
    name="lojasiewicz",
    title="The gradient vanishes only where the best output does, or where all is won",
    assumptions="tabular policy, λ = 0; y* has the best reward",
    citation="arXiv:2005.06392, Lemma 3",
    formula="|∇V(x)|₂ ≥ π(y*|x) (r(x,y*) − V(x))",
    draw=_unregularized,
    judge=Formula(gradient_lower_bound, _below_norm),
    sabotages=MappingProxyType({"without the probability": _WITHOUT_PROBABILITY}),
    bound=True,
    smooth=True,
)

SHARP_LOJASIEWICZ = Statement(
    name="lojasiewicz_sharp",
    title="The same by the number of outputs",
    assumptions="tabular policy of K outputs, λ = 0; y* has the best reward",
    citation="theory/gradient_bounds.py (derived here)",
    formula="|∇V(x)|₂ ≥ √(K/(K−1)) π(y*|x) (r(x,y*) − V(x))",
    draw=_unregularized,
    judge=Formula(sharp_gradient_lower_bound, _below_norm),
    sabotages=MappingProxyType({"without the probability": _WITHOUT_PROBABILITY}),
    bound=True,
    smooth=True,
)

STATEMENTS = (UPPER, MODAL, LOJASIEWICZ, SHARP_LOJASIEWICZ)
