"""Autoregressive policies: what a low reward variance does to their gradient and to their hitting times.

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

import itertools
from collections.abc import Callable
from functools import cache, partial
from types import MappingProxyType
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sim.autoregressive import Autoregressive, Sequences, TokenFunction, TokenLinear, TokenTable, token_mlp
from sim.flow import HORIZON, Status, hitting_times, trajectory
from sim.goals import reward_increase
from sim.instance import Instance
from sim.metrics import reward_variance
from sim.objective import advantage, expected_reward, gradient, objective, regularized_advantage
from theory.gradients import ROUNDING, logit_gradient_magnitude
from theory.instances import Source, Task, random_kl_coefficient, random_logits, random_rewards
from theory.statements import Claim, Sides, Statement


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


def gradient_upper_bound(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """``6 M^(1/3) L J_x Var(r_KL)^(1/3)``: no less than :func:`gradient_norms`. Rewards within ``[-1, 1]``.

    arXiv:2503.15477, Proposition 2; without regularisation ``M = 1``, arXiv:2310.20703, Theorem 1.
    """
    variance = regularized_reward_variance(instance, parameters)
    norms = instance.policy.jacobian_norms(parameters).max(-1)
    scale = largest_regularized_reward(instance, parameters)
    return 6.0 * instance.policy.length * norms * jnp.cbrt(scale * variance)


def sharp_gradient_upper_bound(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """``J_x sqrt(L Var(r_KL) / 2)``: the best bound of its kind on :func:`gradient_norms`. Derived above."""
    variance = regularized_reward_variance(instance, parameters)
    norms = instance.policy.jacobian_norms(parameters).max(-1)
    return norms * jnp.sqrt(0.5 * instance.policy.length * variance)


def hitting_time_lower_bound(
    instance: Instance, gamma: ArrayLike, jacobian_norm: ArrayLike
) -> Float[Array, ""]:
    """No prompt's expectation of any reward within ``[-1, 1]`` rises by ``gamma`` in less time.

    ``min{1 - exp(-gamma/9), 1 - exp(-7/(3 lambda))} / (8 L^2 J^2) (mean_x Var r(x, .))^(-1/3)``, with the
    variance of the proxy under the initial policy; the second term is one at ``lambda = 0``.
    arXiv:2503.15477, Theorem 4. Time is that of the flow of the mean over prompts, with equal weights.

    Args:
        instance: the problem, its reference the initial policy.
        gamma: in ``(0, 2)``.
        jacobian_norm: ``J``, the largest of :meth:`sim.policies.Policy.jacobian_norms` over prompts and
            prefixes and up to the hitting time.
    """
    probabilities = instance.probabilities(instance.initial_parameters)
    return _time(instance, gamma, jacobian_norm, reward_variance(probabilities, instance.rewards).mean())


def _time(instance: Instance, gamma: ArrayLike, jacobian_norm: ArrayLike, variance: ArrayLike) -> Array:
    kl = 0.0 if instance.regularizer is None else instance.regularizer.kl
    rise = jnp.minimum(-jnp.expm1(-jnp.asarray(gamma) / 9.0), -jnp.expm1(-7.0 / (3.0 * jnp.asarray(kl))))
    return rise / (8.0 * (instance.policy.length * jnp.asarray(jacobian_norm)) ** 2 * jnp.cbrt(variance))


# Random problems --------------------------------------------------------------

_SEQUENCES = Sequences(prompts=2, vocabulary=2, length=2)
_SHAPE = (_SEQUENCES.prompts, _SEQUENCES.outputs)
_TOKENS = (_SEQUENCES.prompts, _SEQUENCES.prefixes, _SEQUENCES.vocabulary)
_SIZE = int(np.prod(_TOKENS))
_FEW = 3  # features of a policy that is not a table


@cache
def _mlp() -> TokenFunction:
    with jax.ensure_compile_time_eval():
        return token_mlp(_SEQUENCES, width=3, depth=1, key=jax.random.key(0))[0]


def _linear(source: Source) -> TokenLinear:
    """A table in half of the draws; else few features, shared by all prefixes and prompts."""
    few = jnp.pad(source.normal((*_TOKENS, _FEW)), ((0, 0),) * 3 + ((0, _SIZE - _FEW),))
    table = jnp.eye(_SIZE).reshape(*_TOKENS, _SIZE)
    scale = source.log_uniform(0.3, 3.0)
    return TokenLinear(_SEQUENCES, scale * jnp.where(source.bernoulli(), table, few))


def _rewards(source: Source, shape: tuple[int, ...]) -> Array:
    return source.log_uniform(1e-4, 1.0) * random_rewards(source, shape)


def _parameters(source: Source, policy: Autoregressive) -> Array:
    """From nearly uniform to nearly deterministic; no logit beyond 50, lest a variance underflow."""
    parameters = random_logits(source, (policy.size,), low=1e-3)
    return parameters / jnp.maximum(jnp.abs(policy.next_token_logits(parameters)).max() / 50.0, 1.0)


def _instance(source: Source, policy: Autoregressive) -> Instance:
    """With a policy that need not be the reference."""
    return Instance(
        _rewards(source, _SHAPE),
        policy=policy,
        initial_policy_weights=_parameters(source, policy),
        reference_policy_logits=random_logits(source, _SHAPE, low=1e-3),
        kl_coefficient=random_kl_coefficient(source, high=1e3),
    )


def _task(policy: Autoregressive, source: Source, most_kl: float) -> Task:
    """For the time of the proxy itself, of what it praises, or of a reward unrelated to it."""
    weights = _parameters(source, policy)
    rewards, unrelated = _rewards(source, _SHAPE), random_rewards(source, _SHAPE)
    start = jax.nn.softmax(policy.logits(weights))
    praised = jnp.where(advantage(start, rewards) > 0, 1.0, -1.0)
    truth = jnp.stack([rewards, praised, unrelated])[source.integer(0, 2)]
    headroom = (truth.max(-1) - expected_reward(start, truth)).max()
    instance = Instance(
        rewards,
        truth,
        policy=policy,
        initial_policy_weights=weights,
        kl_coefficient=random_kl_coefficient(source, high=most_kl),
    )
    return Task(instance, jnp.maximum(headroom * source.log_uniform(1e-3, 0.99), 1e-6))


# The gradient -----------------------------------------------------------------


class Policies(NamedTuple):
    """The same rewards on policies of each kind; the last one writes a single token per output."""

    instance: Instance
    linear: Instance
    mlp: Instance
    single: Instance


def _policies(source: Source) -> Policies:
    one_token = Sequences(_SEQUENCES.prompts, _SEQUENCES.outputs, 1)
    return Policies(
        _instance(source, TokenTable(_SEQUENCES)),
        _instance(source, _linear(source)),
        _instance(source, _mlp()),
        _instance(source, TokenTable(one_token)),
    )


_Gradient = Callable[[Instance, Array], Array]


def _gradient_claim(enumerated: _Gradient) -> Claim:
    def agree(instance: Instance, found: Array, expected: Array) -> Sides:
        parameters = instance.initial_parameters
        jacobian, log_p = _by_token(instance, parameters)
        size = jnp.abs(jacobian)
        size += jnp.einsum("xpv,xpvd->xpd", jnp.exp(log_p), size)[:, :, None]
        terms = logit_gradient_magnitude(instance, parameters)
        scale = jnp.einsum("xy,xyd->d", terms, _gathered(instance, size))
        return Sides(jnp.abs(found - expected), ROUNDING * scale).tightest()

    def both(instance: Instance) -> list[Sides]:
        parameters = instance.initial_parameters
        autodiff = jax.grad(objective, argnums=1)(instance, parameters)
        ways = enumerated(instance, parameters), gradient(instance, parameters)
        return [agree(instance, found, autodiff) for found in ways]

    def tabular(instance: Instance) -> Sides:
        assert instance.regularizer is not None
        same = Instance(
            instance.rewards,
            initial_policy_weights=instance.initial_parameters.reshape(instance.rewards.shape),
            reference_policy_logits=instance.reference_log_probabilities,
            kl_coefficient=instance.regularizer.kl,
        )
        expected = gradient(same, same.initial_parameters).ravel()
        return agree(instance, enumerated(instance, instance.initial_parameters), expected)

    def claim(policies: Policies) -> Sides:
        every = [*itertools.chain.from_iterable(map(both, policies)), tabular(policies.single)]
        return Sides(*map(jnp.stack, zip(*every, strict=True))).tightest()

    return jax.jit(jax.vmap(claim))


def _false_gradient(scores: Callable[[Array, Array], Array]) -> Claim:
    def enumerated(instance: Instance, parameters: Array) -> Array:
        jacobian, log_p = _by_token(instance, parameters)
        return _enumerated(instance, log_p, scores(jacobian, log_p))

    return _gradient_claim(enumerated)


GRADIENT = Statement(
    name="gradient_autoregressive",
    title="Gradient of autoregressive policies: autodiff, and sequence by sequence",
    citation="arXiv:2310.20703, proof of Theorem 1 (policy gradient theorem)",
    formula="∇φ = Σ_x w(x) Σ_y π(y|x) (r_KL − E r_KL) Σ_l (∂f(x,y_<l)/∂θ)ᵀ (e_{y_l} − softmax f(x,y_<l)); "
    "with one token per output and a table, the tabular gradient",
    draw=_policies,
    claim=_gradient_claim(enumerated_gradient),
    sabotages=MappingProxyType(
        {
            "scores of later tokens dropped": _false_gradient(lambda j, p: _scores(j, p).at[:, 1:].set(0.0)),
            "scores not centred": _false_gradient(lambda j, p: j),
        }
    ),
)

_Bound = Callable[[Instance, Array], Array]


def _bound_claim(bound: _Bound) -> Claim:
    def claim(instance: Instance) -> Sides:
        parameters = instance.initial_parameters
        return Sides(gradient_norms(instance, parameters), bound(instance, parameters)).tightest()

    return jax.jit(jax.vmap(claim))


def _from_variance(of: Callable[[Instance, Array], Array]) -> _Bound:
    """Proposition 2 with something else in place of ``M Var(r_KL)``."""

    def bound(instance: Instance, parameters: Array) -> Array:
        norms = instance.policy.jacobian_norms(parameters).max(-1)
        return 6.0 * instance.policy.length * norms * jnp.cbrt(of(instance, parameters))

    return bound


def _variance_elsewhere(instance: Instance, parameters: Array) -> Array:
    """``M Var(r_KL)`` with the variance of the policy of tenfold parameters."""
    scale = largest_regularized_reward(instance, parameters)
    return scale * regularized_reward_variance(instance, 10.0 * parameters)


def _stretched(instance: Instance, factor: float = 1e3) -> Instance:
    """The same policies of features times ``factor`` and parameters divided by it: ``J`` times ``factor``."""
    policy = instance.policy
    assert isinstance(policy, TokenLinear)
    return eqx.tree_at(
        lambda i: (i.policy.features, i.initial_parameters),
        instance,
        (factor * policy.features, instance.initial_parameters / factor),
    )


def _without_jacobian(instances: Instance) -> Sides:
    def bound(instance: Instance, parameters: Array) -> Array:
        norms = instance.policy.jacobian_norms(parameters).max(-1)
        return gradient_upper_bound(instance, parameters) / norms

    return _bound_claim(bound)(jax.vmap(_stretched)(instances))


def _gradient_bound(name: str, of: str, draw: Callable[[Source], Instance], **more: Claim) -> Statement:
    return Statement(
        name=name,
        title=f"A low reward variance flattens the objective, {of}",
        citation="arXiv:2503.15477, Proposition 2",
        formula="|∇φ(θ; x)| ≤ 6 M^(1/3) L J_x Var(r_KL(x,·))^(1/3) for |r_KL| ≤ M, M ≥ 1",
        draw=draw,
        claim=_bound_claim(gradient_upper_bound),
        sabotages=MappingProxyType(
            {
                "variance of the policy of tenfold parameters": _bound_claim(
                    _from_variance(_variance_elsewhere)
                ),
                "M dropped": _bound_claim(_from_variance(regularized_reward_variance)),
                "variance in place of its cube root": _bound_claim(
                    _from_variance(
                        lambda i, p: largest_regularized_reward(i, p) * regularized_reward_variance(i, p) ** 3
                    )
                ),
                **more,
            }
        ),
        bound=True,
        smooth=True,
    )


GRADIENT_BOUND = _gradient_bound(
    "gradient_bound_autoregressive",
    "tables and linear next-token logits",
    lambda source: _instance(source, _linear(source)),
    **{"Jacobian norm dropped": _without_jacobian},
)
GRADIENT_BOUND_MLP = _gradient_bound(
    "gradient_bound_mlp",
    "next-token logits of a neural network",
    lambda source: _instance(source, _mlp()),
)


def _unregularized(source: Source) -> Instance:
    return eqx.tree_at(lambda i: i.regularizer, _instance(source, _linear(source)), None)


VANISHING = Statement(
    name="vanishing_gradient",
    title="Vanishing gradients: expected reward is flat where the reward varies little",
    citation="arXiv:2310.20703, Theorem 1",
    formula="|∇V(θ; x)| ≤ 6 L J_x Var(r(x,·))^(1/3) for |r| ≤ 1",
    draw=_unregularized,
    claim=_bound_claim(gradient_upper_bound),
    sabotages=MappingProxyType(
        {
            "variance of the policy of tenfold parameters": _bound_claim(_from_variance(_variance_elsewhere)),
            "Jacobian norm dropped": _without_jacobian,
            "variance in place of its cube root": _bound_claim(
                _from_variance(lambda i, p: regularized_reward_variance(i, p) ** 3)
            ),
            "6 replaced by 1/5": _bound_claim(lambda i, p: gradient_upper_bound(i, p) / 30.0),
        }
    ),
    bound=True,
    smooth=True,
)

SHARP = Statement(
    name="gradient_bound_sharp",
    title="The sharp bound on the gradient of autoregressive policies by reward variance",
    citation="theory/autoregressive.py (derived for this project)",
    formula="|∇φ(θ; x)| ≤ J_x √(L Var(r_KL(x,·)) / 2)",
    draw=lambda source: _instance(source, _linear(source)),
    claim=_bound_claim(sharp_gradient_upper_bound),
    sabotages=MappingProxyType(
        {
            "variance of the policy of tenfold parameters": _bound_claim(
                lambda i, p: (
                    i.policy.jacobian_norms(p).max(-1)
                    * jnp.sqrt(0.5 * i.policy.length * regularized_reward_variance(i, 10.0 * p))
                )
            ),
            "L dropped and 1/2 replaced by 1/3": _bound_claim(
                lambda i, p: sharp_gradient_upper_bound(i, p) / jnp.sqrt(1.5 * i.policy.length)
            ),
        }
    ),
    bound=True,
    smooth=True,
)

# The hitting time -------------------------------------------------------------

_SOLVER, _TOLERANCE = diffrax.Bosh3(), 1e-6  # few stages, soon compiled; the bound is far
_DECADES = 3.5  # beyond the bound, up to which a flow is followed
_WAY, _POINTS = 30.0, 4  # multiples of the bound up to which Jacobian norms are taken, at so many points
_NEAR = 1e-4  # tolerance of these points


@jax.jit
def _times(tasks: Task) -> tuple[Array, Array]:
    """Jacobian norms on the way to the first prompt's hitting time, and what that time is at least.

    Some points are enough: by a smaller norm than the largest on the way the bound is more than the theorem
    claims. A flow is followed to so many decades beyond the bound by the norm at its start.
    """

    def norm(instance: Instance, parameters: Array) -> Array:
        return instance.policy.jacobian_norms(parameters).max()

    def on_the_way(instance: Instance, time: Array) -> Array:
        times = time * jnp.linspace(0.0, 1.0, _POINTS)
        path = trajectory(instance, times, solver=_SOLVER, tolerance=_NEAR)
        return jax.vmap(partial(norm, instance))(path).max()

    instances = tasks.instance
    start = jax.vmap(norm)(instances, instances.initial_parameters)
    bounds = jax.vmap(hitting_time_lower_bound)(instances, tasks.gamma, start)
    horizon = jnp.minimum(10.0**_DECADES * bounds, HORIZON)
    goals = jax.vmap(reward_increase)(instances, tasks.gamma)
    result = hitting_times(instances, goals, solver=_SOLVER, tolerance=_TOLERANCE, horizon=horizon)
    # A flow that the integrator took no further has not met its goal by where it ended.
    stopped = result.status == Status.NOT_CONVERGED
    elapsed = jnp.where(stopped, result.end[:, None], jnp.minimum(result.time, horizon[:, None])).min(-1)
    if isinstance(instances.policy, TokenFunction):
        return jax.vmap(on_the_way)(instances, jnp.minimum(elapsed, _WAY * bounds)), elapsed
    return start, elapsed


_TimeBound = Callable[[Task, Array], Array]


def _time_bound(task: Task, jacobian_norm: Array) -> Array:
    return hitting_time_lower_bound(task.instance, task.gamma, jacobian_norm)


def _variance_of_tenfold(task: Task, jacobian_norm: Array) -> Array:
    instance = task.instance
    probabilities = instance.probabilities(10.0 * instance.initial_parameters)
    variance = reward_variance(probabilities, instance.rewards).mean()
    return _time(instance, task.gamma, jacobian_norm, variance)


def _variance_itself(task: Task, jacobian_norm: Array) -> Array:
    instance = task.instance
    probabilities = instance.probabilities(instance.initial_parameters)
    variance = reward_variance(probabilities, instance.rewards).mean()
    return _time(instance, task.gamma, jacobian_norm, variance**3)


def _time_claim(bound: _TimeBound = _time_bound) -> Claim:
    @jax.jit
    def compare(tasks: Task, jacobian_norms: Array, elapsed: Array) -> Sides:
        bounds = jax.vmap(bound)(tasks, jacobian_norms)
        positive = jax.vmap(_time_bound)(tasks, jacobian_norms) < jnp.inf
        return Sides(jnp.where(positive, bounds, 0.0), elapsed)

    return lambda tasks: compare(tasks, *_times(tasks))


def _time_without_jacobian(tasks: Task) -> Sides:
    stretched = tasks._replace(instance=jax.vmap(_stretched)(tasks.instance))
    return _time_claim(lambda task, norm: norm**2 * _time_bound(task, norm))(stretched)


def _time_statement(
    name: str, of: str, policy: Callable[[Source], Autoregressive], most_kl: float, **more: Claim
) -> Statement:
    return Statement(
        name=name,
        title=f"A low reward variance makes any reward wait, {of}",
        citation="arXiv:2503.15477, Theorem 4 (Theorem 1 in detail)",
        formula="t_γ ≥ min{1 − exp(−γ/9), 1 − exp(−7/(3λ))} / (8 L² J²) · (mean_x Var r_RM(x,·))^(−1/3)",
        draw=lambda source: _task(policy(source), source, most_kl),
        claim=_time_claim(),
        sabotages=MappingProxyType(
            {
                "variance of the policy of tenfold parameters": _time_claim(_variance_of_tenfold),
                "variance in place of its cube root": _time_claim(_variance_itself),
                **more,
            }
        ),
        bound=True,
    )


HITTING_TIME = _time_statement(
    "hitting_time_autoregressive",
    "tables and linear next-token logits",
    _linear,
    30.0,
    **{"Jacobian norm dropped": _time_without_jacobian},
)
HITTING_TIME_MLP = _time_statement(
    "hitting_time_mlp", "next-token logits of a neural network", lambda source: _mlp(), 1.0
)

STATEMENTS = (GRADIENT, GRADIENT_BOUND, GRADIENT_BOUND_MLP, VANISHING, SHARP, HITTING_TIME, HITTING_TIME_MLP)
