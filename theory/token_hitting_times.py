"""Hitting times of autoregressive policies: a low reward variance makes every reward slow to rise.

Notation of :mod:`goodteacher.theory.token_gradient_bounds`.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.autoregressive import Autoregressive, TokenFunction, TokenLinear
from goodteacher.sim.flow import HORIZON, Control, HittingTime, hitting_times, trajectories
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, expected_reward
from goodteacher.sim.status import Status
from goodteacher.theory.draws import (
    Source,
    Task,
    random_prompt_weights,
    random_rewards,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Judge, Sides, Statement
from goodteacher.theory.token_draws import (
    OF_MORE_PROMPTS,
    mlp_policy,
    random_linear_policy,
    random_parameters,
    random_scaled_rewards,
)


def hitting_time_lower_bound(
    instance: Instance,
    gamma: ArrayLike,
    jacobian_norm: ArrayLike,
    tokens: ArrayLike | None = None,
    *,
    constant: Number = 1 / 8,
    rate: Number = 1 / 9,
    kl: Number = 7 / 3,
    length: Number = -2.0,
    jacobian: Number = -2.0,
    variance: Number = -1 / 3,
) -> Float[Array, ""]:
    """No prompt's expectation of any reward within ``[-1, 1]`` rises by ``gamma`` in less time.

    ``min{1 - exp(-gamma/9), 1 - exp(-7/(3 lambda))} / (8 L^2 J^2) (mean_x Var r(x, .))^(-1/3)``, with the
    variance of the proxy under the initial policy; the second term is one at ``lambda = 0``.
    arXiv:2503.15477, Theorem 4. The mean is that of the objective, by the prompts' weights; the bound holds
    for prompts of weight zero, which are not trained on, too.

    Args:
        instance: the problem, its reference the initial policy.
        gamma: in ``(0, 2)``.
        jacobian_norm: ``J``, the largest of :meth:`goodteacher.sim.policies.Policy.jacobian_norms` over
            prompts and prefixes and up to the hitting time.
        tokens: ``L``, by whose choice outputs differ; the policy's if not given.
        constant: 1/8.
        rate, kl: 1/9 and 7/3, in the two exponentials.
        length, jacobian, variance: exponents of ``L``, ``J`` and the mean variance.
    """
    strength = 0.0 if instance.regularizer is None else instance.regularizer.kl
    rise = jnp.minimum(-jnp.expm1(-rate * jnp.asarray(gamma)), -jnp.expm1(-kl / jnp.asarray(strength)))
    written = _tokens(instance, tokens) ** length
    return constant * rise * written * _scale(instance, jacobian_norm, jacobian, variance)


def sharp_lower_bound(
    instance: Instance,
    gamma: ArrayLike,
    jacobian_norm: ArrayLike,
    tokens: ArrayLike | None = None,
    *,
    constant: Number = 2.0,
    rate: Number = 1 / 2,
    length: Number = -3 / 2,
    jacobian: Number = -2.0,
    variance: Number = -1 / 2,
) -> Float[Array, ""]:
    """``2 (1 - exp(-gamma sqrt L)) / (L^(3/2) J^2) (mean_x Var r(x, .))^(-1/2)``: later than Theorem 4 says.

    The exponent is 1/2 where that has 1/3, no ``lambda`` enters, and the constant is larger a hundredfold; it
    implies that theorem, up to sixteen tokens even without its ``L``. Derived here. Write ``c = r_KL - E
    r_KL``, ``sigma^2 = mean_x E c^2``, ``s`` for the score of an output, and let ``theta' = mean_x grad
    phi(x)`` be the flow.

    1. By :func:`goodteacher.theory.token_gradient_bounds.sharp_gradient_upper_bound` and Jensen's inequality
       ``|theta'| <= J sqrt(L/2) sigma``; by the same bound, of a reward in ``[-1, 1]`` whose variance is at
       most one, ``d E r/dt <= J sqrt(L/2) |theta'| <= J^2 (L/2) sigma``, at any prompt, trained on or not.
    2. ``grad E c^2 = E[c^2 s] - 2 lambda grad phi(x)``. As ``|e_y - pi| <= sqrt 2``, ``|s . u| <= sqrt 2 J
       L`` for a unit vector ``u``; and ``mean_x grad phi(x) . theta' = |theta'|^2``, so that regularisation
       only lowers ``sigma``: ``d sigma^2/dt <= sqrt 2 J L sigma^2 |theta'| <= J^2 L^(3/2) sigma^3``.
    3. With ``a = J^2 L^(3/2) / 2`` that is ``sigma(t) <= sigma_0 / (1 - a sigma_0 t)``, and the rise is at
       most ``-ln(1 - a sigma_0 t) / sqrt L``. Solve for ``t``.

    Args:
        instance, gamma, jacobian_norm, tokens: as for :func:`hitting_time_lower_bound`.
        constant: 2.
        rate: 1/2, the exponent of ``L`` in the exponential.
        length, jacobian, variance: exponents of ``L``, ``J`` and the mean variance.
    """
    written = _tokens(instance, tokens)
    rise = -jnp.expm1(-jnp.asarray(gamma) * written**rate)
    return constant * rise * written**length * _scale(instance, jacobian_norm, jacobian, variance)


def _tokens(instance: Instance, tokens: ArrayLike | None) -> Array:
    return jnp.asarray(instance.policy.length if tokens is None else tokens, float)


def _scale(instance: Instance, norm: ArrayLike, jacobian: ArrayLike, variance: ArrayLike) -> Array:
    probabilities = instance.probabilities(instance.initial_parameters)
    mean = (instance.prompt_weights * reward_variance(probabilities, instance.rewards)).sum()
    return jnp.asarray(norm) ** jacobian * mean**variance


# Statements -------------------------------------------------------------------


_SEQUENCES = OF_MORE_PROMPTS
_SHAPE = (_SEQUENCES.prompts, _SEQUENCES.outputs)


class Written(NamedTuple):
    """A task, and by how many of their first tokens its outputs differ."""

    task: Task
    tokens: Int[Array, ""]

    @property
    def instance(self) -> Instance:
        """The problem."""
        return self.task.instance


def _of_any_length(source: Source, regularized: bool) -> Written:
    """Of a linear policy whose outputs differ by one, two or three tokens: later ones have no features."""
    tokens = source.integer(1, _SEQUENCES.length)
    lengths = _SEQUENCES.prefix_tokens()[1]
    features = random_linear_policy(source, _SEQUENCES).features
    policy = TokenLinear(_SEQUENCES, jnp.where((lengths < tokens)[:, None, None], features, 0.0))
    return Written(_task(policy, tokens, source, regularized), tokens)


def _of_a_network(source: Source) -> Written:
    tokens = jnp.asarray(_SEQUENCES.length)
    return Written(_task(mlp_policy(_SEQUENCES), tokens, source, regularized=False), tokens)


def _task(policy: Autoregressive, tokens: Array, source: Source, regularized: bool) -> Task:
    """For the time of the proxy itself, of what it praises, or of a reward unrelated to it; outputs that
    differ by later tokens alone have the same rewards."""
    later = _SEQUENCES.vocabulary ** (_SEQUENCES.length - tokens)
    first = jnp.arange(_SEQUENCES.outputs) // later * later
    weights = random_parameters(source, policy, largest=8.0)
    rewards, unrelated = random_scaled_rewards(source, _SEQUENCES), random_rewards(source, _SHAPE)
    rewards, unrelated = rewards[:, first], unrelated[:, first]
    start = jax.nn.softmax(policy.logits(weights))
    advantages = advantage(start, rewards)
    praised = jnp.where(advantages > 0, 1.0, -1.0)
    truth = jnp.stack([rewards, praised, unrelated])[jnp.minimum(source.integer(0, 4) // 2, 2)]
    trained = jnp.arange(_SHAPE[0]) < source.integer(1, _SHAPE[0])
    prompt_weights = jnp.where(trained, random_prompt_weights(source, _SHAPE[0]), 0.0)
    prompt_weights /= prompt_weights.sum()
    headroom = (truth.max(-1) - expected_reward(start, truth)).max()
    # A KL coefficient far above the deviation of the reward holds the policy where it is.
    deviation = jnp.sqrt((prompt_weights * (start * advantages**2).sum(-1)).sum())
    strength = jnp.where(source.bernoulli(), 0.0, deviation * source.log_uniform(1e-3, 1.0))
    instance = Instance(
        rewards,
        truth,
        policy=policy,
        start=Parameters(weights),
        regularizer=Regularizer(kl=strength) if regularized else None,
        prompt_weights=prompt_weights,
    )
    return Task(instance, jnp.maximum(headroom * source.log_uniform(1e-3, 0.9), 1e-6))


_TOLERANCE = 1e-6
_FAR = 30.0  # multiples of the sharp bound by the norm at the start, up to which a flow is followed
_POINTS = 6  # of the way up to the time, where Jacobian norms are taken
_NEAR = 1e-4  # tolerance of these points


class Elapsed(NamedTuple):
    """A task with its tokens, what the first prompt's hitting time is at least, and the Jacobian norm then.

    Some points are enough: by a smaller norm than the largest on the way the bound is more than the theorem
    claims.
    """

    task: Task
    tokens: Int[Array, ""]
    time: Float[Array, ""]
    reached: Bool[Array, ""]
    jacobian_norm: Float[Array, ""]


def _observe(written: Written) -> Elapsed:
    tasks = written.task
    goals, horizon = _prepare(written)
    flow = hitting_times(tasks.instance, goals, Control(tolerance=_TOLERANCE, horizon=horizon))
    time, reached, on_the_way = _times(flow, horizon)
    way = tasks.instance.initial_parameters[:, None]
    if isinstance(tasks.instance.policy, TokenFunction):  # of the others the Jacobian is constant
        way = trajectories(tasks.instance, on_the_way, Control(tolerance=_NEAR))
    return _elapsed(written, time, reached, way)


@jax.jit
@jax.vmap
def _prepare(written: Written) -> tuple[Goal, Array]:
    task, tokens = written
    norm = _norm(task.instance, task.instance.initial_parameters)
    horizon = jnp.minimum(_FAR * sharp_lower_bound(task.instance, task.gamma, norm, tokens), HORIZON)
    return reward_increase(task.instance, task.gamma), horizon


def _norm(instance: Instance, parameters: Array) -> Array:
    return instance.policy.jacobian_norms(parameters).max()


@jax.jit
@jax.vmap
def _times(flow: HittingTime, horizon: Array) -> tuple[Array, Array, Array]:
    """What the first prompt's hitting time is at least, whether it is that, and some times up to it."""
    # A flow that the integrator took no further has not met its goal by where it ended.
    stopped = flow.status == Status.NOT_CONVERGED
    time = jnp.where(stopped, flow.end, jnp.minimum(flow.time, horizon)).min()
    reached = flow.time.min() <= time
    # Where it is not reached, the norm at the start will do: it is what the horizon is a multiple of.
    return time, reached, jnp.where(reached, time, 0.0) * jnp.linspace(0.0, 1.0, _POINTS)


@jax.jit
@jax.vmap
def _elapsed(written: Written, time: Array, reached: Array, way: Array) -> Elapsed:
    norms = jax.vmap(partial(_norm, written.task.instance))(way)
    return Elapsed(*written, time, reached, norms.max())


_TimeBound = Callable[[Instance, Array, Array, Array], Array]


def _of_tenfold(bound: _TimeBound) -> _TimeBound:
    """With the variance of the policy of tenfold parameters."""

    def of(instance: Instance, gamma: Array, jacobian_norm: Array, tokens: Array) -> Array:
        elsewhere = eqx.tree_at(lambda i: i.initial_parameters, instance, 10.0 * instance.initial_parameters)
        return bound(elsewhere, gamma, jacobian_norm, tokens)

    return of


def _judge(bound: _TimeBound) -> Judge:
    def judge(elapsed: Elapsed) -> Sides:
        task, tokens, time, reached, jacobian_norm = elapsed
        claimed = bound(task.instance, task.gamma, jacobian_norm, tokens)
        return Sides(jnp.where(claimed < jnp.inf, claimed, 0.0), time, reached)

    return judge


_UNREFUTED = {
    "kl": "hitting_time_autoregressive_sharp is later for any value: no lambda enters it",
    "length": "hitting_time_autoregressive_sharp is later for up to 16 tokens without L, as "
    "2 (1 - exp(-gamma sqrt L)) / L^(3/2) is then at least (1 - exp(-gamma/9)) / 8",
}
_SHARP = (
    "theory/token_hitting_times.py (derived here)",
    "t_γ ≥ 2 (1 − exp(−γ √L)) / (L^(3/2) J²) · (mean_x Var r_RM(x,·))^(−1/2), every λ ≥ 0",
)


def _time_statement(
    name: str,
    of: str,
    source: tuple[str, str],
    draw: Callable[[Source], Written],
    judge: Judge,
    sabotages: dict[str, _TimeBound],
    searched: bool = True,
) -> Statement:
    return Statement(
        name=name,
        title=f"A low reward variance makes any reward wait, {of}",
        assumptions="outputs are all sequences of a length; any differentiable next-token logits; rewards "
        "in [−1, 1]; any prompt, trained on or not; the reference is the initial policy",
        citation=source[0],
        formula=source[1],
        draw=draw,
        judge=judge,
        observe=_observe,
        sabotages=MappingProxyType({false: _judge(bound) for false, bound in sabotages.items()}),
        bound=searched,
    )


HITTING_TIME = _time_statement(
    "hitting_time_autoregressive",
    "tables and linear next-token logits",
    (
        "arXiv:2503.15477, Theorem 4 (Theorem 1 in detail)",
        "t_γ ≥ min{1 − exp(−γ/9), 1 − exp(−7/(3λ))} / (8 L² J²) · (mean_x Var r_RM(x,·))^(−1/3)",
    ),
    partial(_of_any_length, regularized=True),
    Formula(hitting_time_lower_bound, _judge, unrefuted=_UNREFUTED),
    {"variance of the policy of tenfold parameters": _of_tenfold(hitting_time_lower_bound)},
)
SHARP = _time_statement(
    "hitting_time_autoregressive_sharp",
    "tables and linear next-token logits, by the sharp bound",
    _SHARP,
    partial(_of_any_length, regularized=True),
    Formula(sharp_lower_bound, _judge),
    {"variance of the policy of tenfold parameters": _of_tenfold(sharp_lower_bound)},
)
# Its flows are long, so nothing regularises them; numbers are altered, and the tightest instance is searched
# for, in the statement before.
SHARP_MLP = _time_statement(
    "hitting_time_mlp_sharp",
    "next-token logits of a neural network, by the sharp bound",
    _SHARP,
    _of_a_network,
    _judge(sharp_lower_bound),
    {
        "variance of the policy of tenfold parameters": _of_tenfold(sharp_lower_bound),
        "constant 2.5 for 2": partial(sharp_lower_bound, constant=2.5),
    },
    searched=False,
)

STATEMENTS = (HITTING_TIME, SHARP, SHARP_MLP)
