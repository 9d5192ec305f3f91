"""Autoregressive policies: what a low reward variance does to their gradient.

``pi(y|x) = prod_l softmax(f(x, y_<l))[y_l]`` with any differentiable ``f``. ``J_x`` is the largest spectral
norm of ``d f(x, y_<l) / d theta`` over the prefixes of a prompt, ``L`` the length of an output. ``phi(x)`` is
a prompt's own objective, without its weight in the mean over prompts; ``r_KL = r - lambda ln(pi / ref)``.

The sharp bound, derived here. The score of a token is
``s_l = (d f(x, y_<l) / d theta)^T (e_{y_l} - pi(.|x, y_<l))``. For a unit vector ``u``,
``u . grad phi(x) = E A sum_l u . s_l`` is at most ``sqrt(Var r_KL)`` times the root of
``E (sum_l u . s_l)^2`` (Cauchy-Schwarz). As ``s_l`` has mean zero given ``y_<l``, that is
``sum_l E (u . s_l)^2``. Given ``y_<l``, the mean of ``(u . s_l)^2`` is the variance over tokens of
``w = (d f / d theta) u``: at most a quarter of the square of its range, and so at most half of
``|w|^2 <= J_x^2``. Hence ``|grad phi(x)| <= J_x sqrt(L Var r_KL / 2)``.
Equality: two equally likely tokens at every position, of features ``+a`` and ``-a``, and rewards that are
linear in the number of tokens of the first kind.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.autoregressive import Autoregressive, Sequences, TokenTable
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import gradient, objective, regularized_advantage
from goodteacher.theory.draws import Source, random_kl_coefficient, random_logits, random_prompt_weights
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.gradients import ROUNDING, logit_gradient_magnitude
from goodteacher.theory.statements import Judge, Sides, Statement, all_of
from goodteacher.theory.token_draws import (
    OF_MORE_PROMPTS,
    SEQUENCES,
    mlp_policy,
    random_linear_policy,
    random_parameters,
    random_scaled_rewards,
)


def enumerated_gradient(
    instance: Instance, parameters: Float[Array, " parameters"]
) -> Float[Array, " parameters"]:
    """The gradient of the objective, sequence by sequence and token by token (policy gradient theorem).

    ``sum_x w(x) sum_y pi(y|x) (r_KL - E r_KL) sum_l (d f(x, y_<l) / d theta)^T (e_{y_l} - pi(.|x, y_<l))``,
    as in the proof of arXiv:2310.20703, Theorem 1. For checks: it takes memory for all scores.

    Args:
        instance: with an autoregressive policy.
        parameters: of the policy.
    """
    jacobian, log_p = _by_token(instance, parameters)
    return _enumerated(instance, log_p, _scores(jacobian, log_p))


def _scores(jacobian: Array, log_p: Array) -> Array:
    return jacobian - jnp.einsum("xpv,xpvd->xpd", jnp.exp(log_p), jacobian)[:, :, None]


def _enumerated(instance: Instance, log_p: Array, scores: Array) -> Array:
    log_probabilities = _gathered(instance, log_p)
    weights = instance.prompt_weights[:, None] * jnp.exp(log_probabilities)
    coefficients = weights * regularized_advantage(instance, log_probabilities)
    return jnp.einsum("xy,xyd->d", coefficients, _gathered(instance, scores))


def _by_token(instance: Instance, parameters: Array) -> tuple[Array, Array]:
    """Jacobian and logarithm of the distribution of every next token."""
    policy = instance.policy
    assert isinstance(policy, Autoregressive)
    jacobian = jax.jacobian(policy.next_token_logits)(parameters)
    return jacobian, jax.nn.log_softmax(policy.next_token_logits(parameters))


def _gathered(instance: Instance, values: Array) -> Array:
    """What belongs to prompts, prefixes and next tokens, summed over the tokens of each sequence."""
    policy = instance.policy
    assert isinstance(policy, Autoregressive)
    tokens, size = policy.sequences.tokens(), policy.sequences.vocabulary
    prefix, total = np.zeros(len(tokens), int), jnp.zeros(())
    for token in tokens.T:
        total += values[:, prefix, token]
        prefix = prefix * size + token + 1  # of a prefix the children follow those of the prefixes before it
    return total


def gradient_norms(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """``|grad phi(x)|`` for every prompt, by all parameters."""

    def alone(weights: Array) -> Array:
        of_prompt = eqx.tree_at(lambda i: i.prompt_weights, instance, weights)
        return jnp.linalg.norm(gradient(of_prompt, parameters).ravel())

    return jax.vmap(alone)(jnp.eye(len(instance.prompt_weights)))


def regularized_reward_variance(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """``Var r_KL(x, .)`` under the policy."""
    logits = instance.logits(parameters)
    return reward_variance(jax.nn.softmax(logits), regularized_advantage(instance, logits))


def largest_regularized_reward(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """``M``: the largest ``|r_KL(x, y)|`` over outputs, and at least one."""
    rewards = instance.rewards
    if instance.regularizer is not None:
        ratio = instance.log_probabilities(parameters) - instance.reference_log_probabilities
        rewards = rewards - instance.regularizer.kl * ratio
    return jnp.maximum(jnp.abs(rewards).max(-1), 1.0)


def gradient_upper_bound(
    instance: Instance,
    parameters: Float[Array, "..."],
    *,
    constant: Number = 6.0,
    largest: Number = 1 / 3,
    length: Number = 1.0,
    jacobian: Number = 1.0,
    variance: Number = 1 / 3,
) -> Float[Array, " prompts"]:
    """``6 M^(1/3) L J_x Var(r_KL)^(1/3)``: no less than :func:`gradient_norms`. Rewards within ``[-1, 1]``.

    arXiv:2503.15477, Proposition 2; without regularisation ``M = 1``, arXiv:2310.20703, Theorem 1.

    Args:
        instance: the problem.
        parameters: of the policy.
        constant: 6.
        largest, length, jacobian, variance: exponents of ``M``, ``L``, ``J_x`` and the variance.
    """
    scale = largest_regularized_reward(instance, parameters) ** largest
    of_policy = constant * scale * jnp.asarray(instance.policy.length, float) ** length
    norms = instance.policy.jacobian_norms(parameters).max(-1)
    return of_policy * norms**jacobian * regularized_reward_variance(instance, parameters) ** variance


def sharp_gradient_upper_bound(
    instance: Instance,
    parameters: Float[Array, "..."],
    *,
    constant: Number = 2**-0.5,
    length: Number = 1 / 2,
    jacobian: Number = 1.0,
    variance: Number = 1 / 2,
) -> Float[Array, " prompts"]:
    """``J_x sqrt(L Var(r_KL) / 2)``: the best bound of its kind on :func:`gradient_norms`. Derived above.

    Args:
        instance: the problem.
        parameters: of the policy.
        constant: the root of one half.
        length, jacobian, variance: exponents of ``L``, ``J_x`` and the variance.
    """
    norms = instance.policy.jacobian_norms(parameters).max(-1)
    of_policy = constant * jnp.asarray(instance.policy.length, float) ** length * norms**jacobian
    return of_policy * regularized_reward_variance(instance, parameters) ** variance


# Statements -------------------------------------------------------------------


_ONE_TOKEN = Sequences(SEQUENCES.prompts, SEQUENCES.outputs, 1)
_TWO_TOKENS, _FOUR_TOKENS = (Sequences(SEQUENCES.prompts, SEQUENCES.vocabulary, length) for length in (2, 4))


def _instance(source: Source, policy: Autoregressive) -> Instance:
    """With a policy that need not be the reference."""
    of = policy.sequences
    return Instance(
        random_scaled_rewards(source, of),
        policy=policy,
        start=Parameters(random_parameters(source, policy)),
        reference_policy_logits=random_logits(source, (of.prompts, of.outputs), low=1e-3),
        regularizer=Regularizer(kl=random_kl_coefficient(source, high=1e3)),
    )


class Policies(NamedTuple):
    """Policies of each kind; the last one writes a single token per output, of eight prompts."""

    instance: Instance
    linear: Instance
    mlp: Instance
    single: Instance


def _weighted(source: Source, policy: Autoregressive) -> Instance:
    weights = random_prompt_weights(source, policy.sequences.prompts)
    return eqx.tree_at(lambda i: i.prompt_weights, _instance(source, policy), weights)


def _policies(source: Source) -> Policies:
    return Policies(
        _weighted(source, TokenTable(SEQUENCES)),
        _weighted(source, random_linear_policy(source, OF_MORE_PROMPTS)),
        _weighted(source, mlp_policy(OF_MORE_PROMPTS)),
        _weighted(source, TokenTable(Sequences(prompts=8, vocabulary=4, length=1))),
    )


class Gradients(NamedTuple):
    """What gradients are compared of.

    Attributes:
        instance: the problem, with its policy.
        jacobian: of every next token's logits, ``[prompts, prefixes, tokens, parameters]``.
        log_p: of every next token.
        autodiff: the gradient of the objective.
        others: further ways to the same gradient, ``[ways, parameters]``.
    """

    instance: Instance
    jacobian: Float[Array, "prompts prefixes tokens parameters"]
    log_p: Float[Array, "prompts prefixes tokens"]
    autodiff: Float[Array, " parameters"]
    others: Float[Array, "ways parameters"]


@jax.jit
@jax.vmap
def _observe(policies: Policies) -> list[Gradients]:
    """Of each policy."""
    return [_gradients(instance) for instance in policies[:-1]] + [
        _gradients(policies.single, _tabular_gradient(policies.single))
    ]


def _gradients(instance: Instance, *more: Array) -> Gradients:
    parameters = instance.initial_parameters
    others = jnp.stack([gradient(instance, parameters), *more])
    autodiff = jax.grad(objective, argnums=1)(instance, parameters)
    return Gradients(instance, *_by_token(instance, parameters), autodiff, others)


def _tabular_gradient(instance: Instance) -> Array:
    """Of a policy of one token per output: that of the tabular policy of the same logits."""
    assert instance.regularizer is not None
    same = Instance(
        instance.rewards,
        start=Parameters(instance.initial_parameters.reshape(instance.rewards.shape)),
        reference_policy_logits=instance.reference_log_probabilities,
        regularizer=Regularizer(kl=instance.regularizer.kl),
        prompt_weights=instance.prompt_weights,
    )
    return gradient(same, same.initial_parameters).ravel()


def _gradient_judge(scores: Callable[[Array, Array], Array]) -> Judge:
    """With the scores of tokens, of Jacobians and logarithms of their distributions."""

    def agree(found: Gradients) -> Sides:
        instance, jacobian, log_p, autodiff, others = found
        size = jnp.abs(jacobian)
        size += jnp.einsum("xpv,xpvd->xpd", jnp.exp(log_p), size)[:, :, None]
        terms = logit_gradient_magnitude(instance, instance.initial_parameters)
        scale = jnp.einsum("xy,xyd->d", terms, _gathered(instance, size))
        enumerated = _enumerated(instance, log_p, scores(jacobian, log_p))
        error = jnp.abs(jnp.concatenate([enumerated[None], others]) - autodiff)
        return Sides(error, ROUNDING * scale).tightest()

    def judge(every: list[Gradients]) -> Sides:
        return all_of(map(agree, every)).tightest()

    return judge


GRADIENT = Statement(
    name="gradient_autoregressive",
    title="Gradient of autoregressive policies: autodiff, and sequence by sequence",
    assumptions="outputs are all sequences of a length; any differentiable next-token logits, any λ ≥ 0",
    citation="arXiv:2310.20703, proof of Theorem 1 (policy gradient theorem)",
    formula="∇φ = Σ_x w(x) Σ_y π(y|x) (r_KL − E r_KL) Σ_l (∂f(x,y_<l)/∂θ)ᵀ (e_{y_l} − softmax f(x,y_<l)); "
    "with one token per output and a table, the tabular gradient",
    draw=_policies,
    judge=_gradient_judge(_scores),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "scores of later tokens dropped": _gradient_judge(lambda j, p: _scores(j, p).at[:, 1:].set(0.0)),
            "scores not centred": _gradient_judge(lambda j, p: j),
        }
    ),
)

_Bound = Callable[[Instance, Array], Array]


def _bound_judge(bound: _Bound) -> Judge:
    """Of one policy, or of several."""

    def judge(policies: Any) -> Sides:
        instances = jax.tree.leaves(policies, is_leaf=lambda leaf: isinstance(leaf, Instance))
        return all_of(of_one(instance) for instance in instances).tightest()

    def of_one(instance: Instance) -> Sides:
        parameters = instance.initial_parameters
        return Sides(gradient_norms(instance, parameters), bound(instance, parameters)).tightest()

    return judge


class Lengths(NamedTuple):
    """Policies that write three tokens per output, one, two and four."""

    instance: Instance
    single: Instance
    two: Instance
    four: Instance


def _lengths(source: Source) -> Lengths:
    return Lengths(
        _instance(source, random_linear_policy(source)),
        _instance(source, TokenTable(_ONE_TOKEN)),
        _instance(source, random_linear_policy(source, _TWO_TOKENS)),
        _instance(source, random_linear_policy(source, _FOUR_TOKENS)),
    )


def _variance_elsewhere(instance: Instance, parameters: Array) -> Array:
    """Proposition 2 with the variance of the policy of tenfold parameters."""
    here, elsewhere = (regularized_reward_variance(instance, at) for at in (parameters, 10.0 * parameters))
    bound = gradient_upper_bound(instance, parameters)
    return bound * jnp.cbrt(elsewhere / jnp.where(here > 0, here, 1.0))


_SHARPER = (
    "true for outputs of up to 72 tokens without L, as sqrt(L Var / 2) is at most 6 (M Var)^(1/3) there: "
    "gradient_bound_sharp"
)


def _gradient_bound(
    name: str, of: str, draw: Callable[[Source], Any], unrefuted: Mapping[str, str] = MappingProxyType({})
) -> Statement:
    return Statement(
        name=name,
        title=f"A low reward variance flattens the objective, {of}",
        assumptions="outputs are all sequences of a length; any differentiable next-token logits, any "
        "reference and λ ≥ 0",
        citation="arXiv:2503.15477, Proposition 2",
        formula="|∇φ(θ; x)| ≤ 6 M^(1/3) L J_x Var(r_KL(x,·))^(1/3) for |r_KL| ≤ M, M ≥ 1",
        draw=draw,
        judge=Formula(gradient_upper_bound, _bound_judge, unrefuted={"length": _SHARPER, **unrefuted}),
        sabotages=MappingProxyType(
            {"variance of the policy of tenfold parameters": _bound_judge(_variance_elsewhere)}
        ),
        bound=True,
        smooth=True,
    )


GRADIENT_BOUND = _gradient_bound(
    "gradient_bound_autoregressive", "tables and linear next-token logits", _lengths
)
GRADIENT_BOUND_MLP = _gradient_bound(
    "gradient_bound_mlp",
    "next-token logits of a neural network",
    lambda source: _instance(source, mlp_policy()),
    {
        "jacobian": "the network's J is near one; altered in gradient_bound_autoregressive",
        "largest": "altered in gradient_bound_autoregressive",
    },
)


def _unregularized(source: Source) -> Lengths:
    lengths = _lengths(source)
    return Lengths(*(eqx.tree_at(lambda i: i.regularizer, instance, None) for instance in lengths))


VANISHING = Statement(
    name="vanishing_gradient",
    title="Vanishing gradients: expected reward is flat where the reward varies little",
    assumptions="outputs are all sequences of a length; any differentiable next-token logits; λ = 0, |r| ≤ 1",
    citation="arXiv:2310.20703, Theorem 1",
    formula="|∇V(θ; x)| ≤ 6 L J_x Var(r(x,·))^(1/3) for |r| ≤ 1",
    draw=_unregularized,
    judge=Formula(
        gradient_upper_bound,
        _bound_judge,
        unrefuted={"length": _SHARPER, "largest": "M is one without regularisation"},
    ),
    sabotages=MappingProxyType(
        {"variance of the policy of tenfold parameters": _bound_judge(_variance_elsewhere)}
    ),
    bound=True,
    smooth=True,
)

SHARP = Statement(
    name="gradient_bound_sharp",
    title="The sharp bound on the gradient of autoregressive policies by reward variance",
    assumptions="outputs are all sequences of a length; any differentiable next-token logits, any "
    "reference and λ ≥ 0",
    citation="theory/token_gradient_bounds.py (derived for this project)",
    formula="|∇φ(θ; x)| ≤ J_x √(L Var(r_KL(x,·)) / 2)",
    draw=_lengths,
    judge=Formula(sharp_gradient_upper_bound, _bound_judge),
    sabotages=MappingProxyType(
        {
            "variance of the policy of tenfold parameters": _bound_judge(
                lambda i, p: (
                    i.policy.jacobian_norms(p).max(-1)
                    * jnp.sqrt(0.5 * i.policy.length * regularized_reward_variance(i, 10.0 * p))
                )
            )
        }
    ),
    bound=True,
    smooth=True,
)

STATEMENTS = (GRADIENT, GRADIENT_BOUND, GRADIENT_BOUND_MLP, VANISHING, SHARP)
