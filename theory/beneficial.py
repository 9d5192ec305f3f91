"""Beneficial reward errors: a proxy under which no middling output holds the flow up (arXiv:2604.25872).

The ground truth has a best output ``*``, rare at first, ``eps = pi_0(*)``, and a middling one on which the
flow stalls. The proxy errs at the middling output: it gives it a low reward. Theorems 1 and 2 of the paper
say that the time to maximise the ground truth is ``Omega(eps^-14/13)`` when one trains on it, and
``O(1/eps)`` when one trains on the proxy. Here are the rates with their constants: an explicit upper bound
for the proxy that is ``+1`` on ``*`` and ``-1`` elsewhere, and, as ``eps -> 0``, the gain itself.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.flow import Control
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import expected_reward
from goodteacher.theory.closed_forms import one_good_output_time
from goodteacher.theory.draws import (
    REGULARIZED_OUTPUTS,
    Source,
    Task,
    random_logits,
    random_outputs,
    random_prompt_weights,
    without,
)
from goodteacher.theory.error_kinds import trained_on
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import escape_times, first_output_goals, rise_times
from goodteacher.theory.stalling import PUBLISHED_GROUND_TRUTH_EXPONENT, PUBLISHED_PROXY_EXPONENT
from goodteacher.theory.stalling_extensions import log_escape_time, with_rare_best
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement


def ideal_proxy(
    ground_truth_rewards: Float[Array, "*batch outputs"],
) -> Float[Array, "*batch outputs"]:
    """``+1`` on the best output and ``-1`` on every other."""
    best = ground_truth_rewards.argmax(-1, keepdims=True)
    return jnp.where(jnp.arange(ground_truth_rewards.shape[-1]) == best, 1.0, -1.0)


def ideal_proxy_time_bound(
    initial_probability: Float[ArrayLike, "*batch"],
    best_reward: Float[ArrayLike, "*batch"],
    target: Float[ArrayLike, "*batch"],
    prompts: ArrayLike = 1,
    *,
    constant: Number = 2.0,
    count: Number = 1.0,
    rest: Number = -2.0,
    others: Number = -1.0,
    rarity: Number = -1.0,
    late: Number = 1.0,
) -> Float[Array, "*batch"]:
    """Time by which training on :func:`ideal_proxy` brings the expected ground truth reward to a target.

    arXiv:2503.15477, Proposition 4, with ``Y+ = {*}`` and ``Y_bad`` empty, since every other reward is
    below ``V_RM(0) = 2 eps - 1``. Then ``delta = 2 (1 - rho) (1 - eps)``, and

        ``t <= 2 |S| / ((1 - rho)^2 (1 - eps)) (1/eps - 1/rho)``, ``rho = (target + 1) / (r_* + 1)``.

    Tabular. It holds for KL coefficients up to :func:`ideal_proxy_kl_limit`.

    Args:
        initial_probability: ``eps`` of the best output.
        best_reward: ``r_*``, its ground truth reward.
        target: ``V_G(0) + gamma``, below ``r_*``; not below ``V_G(0)``.
        prompts: ``|S|``, over which the objective is the mean; or one over the prompt's weight.
        constant: 2.
        count, rest, others, rarity: exponents of ``|S|``, ``1 - rho``, ``1 - eps`` and ``eps``.
        late: of ``1/rho``.
    """
    eps, rho = jnp.asarray(initial_probability), (jnp.asarray(target) + 1.0) / (best_reward + 1.0)
    pace = (1.0 - rho) ** rest * (1.0 - eps) ** others
    return constant * jnp.asarray(prompts, float) ** count * pace * (eps**rarity - late / rho)


def sharp_ideal_proxy_time_bound(
    initial_probability: Float[ArrayLike, "*batch"],
    best_reward: Float[ArrayLike, "*batch"],
    target: Float[ArrayLike, "*batch"],
    outputs: Int[ArrayLike, "*batch"],
    prompts: ArrayLike = 1,
    *,
    constant: Number = 1 / 2,
    count: Number = 1.0,
    share: Number = 1.0,
) -> Float[Array, "*batch"]:
    """``|S| (K-1)/K [F(rho) - F(eps)] / 2``: the same without regularisation, and attained.

    Derived here. Under the ideal proxy ``dp/dt = 2 p^2 [(1-p)^2 + sum_{z != *} pi(z)^2] / |S|`` for the
    probability ``p`` of ``*``, and the sum is at least ``(1-p)^2 / (K-1)``, with equality where all others
    are equally likely; so the solution for these,
    :func:`goodteacher.theory.closed_forms.one_good_output_time`, bounds the time from any initial policy.
    When ``p = rho`` the target is met, and not sooner if all others have a ground truth reward of -1. As
    ``F(rho) - F(eps) <= (1/eps - 1/rho) / (1 - rho)^2``, term by term, :func:`ideal_proxy_time_bound` then
    holds with 1/2 for 2 and without ``1 - eps``. It is the sharp form of arXiv:2503.15477, Theorem 6, too,
    with ``c`` for ``eps``.

    Args:
        initial_probability, best_reward, target, prompts: as for :func:`ideal_proxy_time_bound`.
        outputs: ``K``.
        constant: 1/2.
        count, share: exponents of ``|S|`` and of ``(K-1)/K``.
    """
    eps, rho = jnp.asarray(initial_probability), (jnp.asarray(target) + 1.0) / (best_reward + 1.0)
    wait = 2.0 * one_good_output_time(eps, rho, 1.0)  # F(rho) - F(eps)
    of_outputs = (1.0 - 1.0 / jnp.asarray(outputs, float)) ** share
    return constant * jnp.asarray(prompts, float) ** count * of_outputs * wait


def ideal_proxy_kl_limit(
    initial_probability: Float[ArrayLike, "*batch"],
    smallest_probability: Float[ArrayLike, "*batch"],
    best_reward: Float[ArrayLike, "*batch"],
    target: Float[ArrayLike, "*batch"],
) -> Float[Array, "*batch"]:
    """Largest KL coefficient for :func:`ideal_proxy_time_bound`: that of Proposition 4.

    ``eps (1 - rho)^2 (1 - eps) / (4 (2 ln(1/min pi_0) + 1/(2e)))``. Args as there, and:
        smallest_probability: of any output, initially.
    """
    eps, rho = jnp.asarray(initial_probability), (jnp.asarray(target) + 1.0) / (best_reward + 1.0)
    spread = 2.0 * jnp.log(1.0 / jnp.asarray(smallest_probability)) + 0.5 / jnp.e
    return eps * (1.0 - rho) ** 2 * (1.0 - eps) / (4.0 * spread)


def log_gain(
    log_probabilities: Float[Array, "*batch outputs"],
    ground_truth_rewards: Float[Array, "*batch outputs"],
    proxy_rewards: Float[Array, "*batch outputs"],
    squared_norms: Float[ArrayLike, "..."] = 1.0,
) -> Float[Array, "*batch"]:
    """Natural logarithm of the predicted gain ``t*(ground truth) / t*(proxy)`` as ``eps -> 0``.

    How many times sooner the best output wins when one trains on the proxy. Both times are those of
    :func:`goodteacher.theory.stalling_extensions.log_escape_time`: with a stall, of order ``eps^-(K-1)``,
    unless all
    outputs but the best share one reward. So an error at the middling output changes the exponent only if it
    leaves nothing in its place: otherwise the best of the low outputs is the middling one of the proxy, and
    the gain is a finite factor, which may be below one.

    Args:
        log_probabilities: of the initial policy, normalised; ``-inf`` for an output that does not exist.
        ground_truth_rewards, proxy_rewards: with one and the same best output.
        squared_norms: of orthogonal features over the squared temperature; one if tabular.
    """
    truth, proxy = (
        log_escape_time(log_probabilities, rewards, squared_norms)
        for rewards in (ground_truth_rewards, proxy_rewards)
    )
    return truth - proxy


# Statements -------------------------------------------------------------------

_HORIZON = 1e150

# The upper bound ---------------------------------------------------------------


_SHAPE = (2, REGULARIZED_OUTPUTS)


def _task(source: Source) -> Task:
    """In a quarter of the draws all outputs but the best are as bad as can be, and alike."""
    exists, regularized = random_outputs(source, _SHAPE)
    alike = source.bernoulli(0.25)
    index = jnp.arange(_SHAPE[1])
    top, part = source.uniform(-0.9, 1.0, (_SHAPE[0], 1)), source.uniform(shape=_SHAPE)
    truth = jnp.where(index == 0, top, jnp.where(alike, -1.0, -1.0 + 0.999 * part * (top + 1.0)))
    early = source.bernoulli() & ~regularized  # a small rise, where the best output is not rare
    rarity = source.log_uniform(jnp.where(early, 1e-3, 1e-8), 0.5, (_SHAPE[0], 1))
    spread = jnp.where(alike, 0.0, random_logits(source, _SHAPE, high=3.0))
    others = jax.nn.log_softmax(jnp.where(exists & (index > 0), spread, -jnp.inf))
    start = jnp.where(index == 0, jnp.log(rarity), others + jnp.log1p(-rarity))
    initial = expected_reward(jnp.exp(start), truth)
    # One increase for all prompts, below the smallest that is possible.
    within = (top[:, 0] - initial).min()
    gamma = within * jnp.where(early, source.log_uniform(1e-4, 0.99), source.uniform(0.01, 0.99))
    least = jnp.where(exists, jnp.exp(start), 1.0).min(-1)
    limit = ideal_proxy_kl_limit(rarity[:, 0], least, top[:, 0], initial + gamma).min()
    kl = jnp.where(regularized, limit * jnp.minimum(source.uniform(0.0, 1.3), 1.0), 0.0)
    instance = Instance(
        jnp.where(index == 0, 1.0, -1.0) * jnp.ones(_SHAPE),
        truth,
        start=Parameters(jnp.where(exists, start, 0.0)),
        regularizer=Regularizer(kl=kl),
        prompt_weights=random_prompt_weights(source, _SHAPE[0]),
    )
    return Task(without(instance, exists), gamma)


def _free_task(source: Source) -> Task:
    task = _task(source)
    return eqx.tree_at(lambda t: t.instance.regularizer.kl, task, jnp.zeros(()))


class Learned(NamedTuple):
    """A task, and when each prompt has learned it; ``inf`` if regularised and later than thrice the bound."""

    task: Task
    time: Float[Array, " prompts"]


def _observe(tasks: Task) -> Learned:
    return Learned(tasks, rise_times(tasks, _horizon(tasks)).time)


@jax.jit
@jax.vmap
def _horizon(task: Task) -> Array:
    bounds = ideal_proxy_time_bound(*_quantities(task), 1.0 / task.instance.prompt_weights)
    return 3.0 * jnp.maximum(jnp.where(jnp.isfinite(bounds), bounds, 0.0).max(), 1.0)


def _quantities(task: Task) -> tuple[Array, Array, Array]:
    """Of each prompt the probability of the best output, its reward, and the target."""
    start = jnp.exp(task.instance.reference_log_probabilities)
    truth = task.instance.ground_truth_rewards
    return start[:, 0], truth[:, 0], expected_reward(start, truth) + task.gamma


def _bound_judge(bound: Callable[..., Array]) -> Judge:
    def judge(learned: Learned) -> Sides:
        task, time = learned
        weights = task.instance.prompt_weights
        claimed = bound(*_quantities(task), 1.0 / weights)
        return Sides(jnp.where(weights > 0, time, 0.0), claimed).tightest()

    return judge


def _sharp_judge(bound: Callable[..., Array]) -> Judge:
    def judge(learned: Learned) -> Sides:
        task, time = learned
        weights = task.instance.prompt_weights
        outputs = jnp.isfinite(task.instance.reference_log_probabilities).sum(-1)
        claimed = bound(*_quantities(task), outputs, 1.0 / weights)
        # Hitting times are good to 1e-9.
        return Sides(jnp.where(weights > 0, time * (1.0 - 1e-9), 0.0), claimed).tightest()

    return judge


def _on_ground_truth(task: Task) -> Task:
    return task._replace(instance=trained_on(task.instance, task.instance.ground_truth_rewards))


_ON_TRUTH = MappingProxyType({"trained on the ground truth": Dropped(_on_ground_truth)})

PROXY_BOUND = Statement(
    name="beneficial_proxy_bound",
    title="Upper bound of the time on the ideal proxy",
    assumptions="tabular policy; one best output; the proxy is 1 on it and −1 elsewhere; r*, the "
    "ground truth of the best output, exceeds V_G(0) + γ; λ up to its limit",
    citation="arXiv:2503.15477, Proposition 4 (the case of arXiv:2604.25872, Theorem 2)",
    formula="t_γ ≤ 2|S| / ((1−ρ)² (1−ε)) (1/ε − 1/ρ), ρ = (V_G(0)+γ+1)/(r*+1), "
    "for λ ≤ ε (1−ρ)² (1−ε) / (4 (2 ln(1/min π₀) + 1/(2e)))",
    draw=_task,
    judge=Formula(
        ideal_proxy_time_bound,
        _bound_judge,
        unrefuted={"others": "true without 1 - eps at lambda = 0, see sharp_ideal_proxy_time_bound"},
    ),
    observe=_observe,
    sabotages=_ON_TRUTH,
    bound=True,
)

SHARP_PROXY_BOUND = Statement(
    name="beneficial_proxy_bound_sharp",
    title="The time on the ideal proxy is longest where all other outputs are alike",
    assumptions="tabular policy, λ = 0; one best output; the proxy is 1 on it and −1 elsewhere; r*, "
    "the ground truth of the best output, exceeds V_G(0) + γ",
    citation="theory/beneficial.py (derived here)",
    formula="t_γ ≤ |S| (K−1)/K [F(ρ) − F(ε)] / 2, F(p) = −1/p + 1/(1−p) + 2 ln(p/(1−p)), λ = 0",
    draw=_free_task,
    judge=Formula(sharp_ideal_proxy_time_bound, _sharp_judge),
    observe=_observe,
    sabotages=_ON_TRUTH,
    bound=True,
)

# Rates -------------------------------------------------------------------------

_RATE_OUTPUTS = 8
_DECADES = 4.0


class Rarer(NamedTuple):
    """A problem with a middling output, and the same with the best output four decades rarer."""

    instance: Instance
    rarer: Instance
    proxy_rewards: Float[Array, "prompts outputs"]


def _rarer(source: Source) -> Rarer:
    index = jnp.arange(_RATE_OUTPUTS)
    exists = index < source.integer(3, _RATE_OUTPUTS)
    middling, low = source.uniform(-0.5, 0.9), -1.0
    truth = jnp.full(_RATE_OUTPUTS, low, float).at[:2].set(jnp.stack([jnp.ones(()), middling]))
    proxy = truth.at[1].set(low)
    weights = jnp.where(exists, source.uniform(jnp.log(0.05), 0.0, (_RATE_OUTPUTS,)), -jnp.inf)
    # So rare a best output that pi_0(*) is negligible against pi_0(y_med), as the theorems ask.
    log_eps = jnp.log(source.log_uniform(1e-8, 1e-4))

    def build(log_eps: Array) -> Instance:
        start = jnp.where(exists, with_rare_best(log_eps, weights), 0.0)
        return without(Instance(truth, start=Parameters(start[None])), exists[None])

    return Rarer(build(log_eps), build(log_eps - _DECADES * jnp.log(10.0)), proxy[None])


class Decades(NamedTuple):
    """The logarithm of ``eps``, and times to ``pi(*) = 1/2`` there and four decades below."""

    log_eps: Float[Array, ""]
    time: Float[Array, ""]
    later: Float[Array, ""]

    @property
    def exponent(self) -> Float[Array, ""]:
        """The power of ``1/eps`` with which the time grows."""
        return jnp.log(self.later / self.time) / (_DECADES * jnp.log(10.0))


def _observe_on(rewards: Callable[[Rarer], Array], drawn: Rarer) -> Decades:
    def time(instances: Instance) -> Array:
        level = np.full(len(instances.rewards), 0.5)
        goals = first_output_goals(instances, jnp.asarray(level))
        return escape_times(trained_on(instances, rewards(drawn)), goals, Control(horizon=1e120))

    log_eps = drawn.instance.reference_log_probabilities[:, 0, 0]
    return Decades(log_eps, time(drawn.instance), time(drawn.rarer))


def _truth(drawn: Rarer) -> Array:
    return drawn.instance.rewards


def _proxy(drawn: Rarer) -> Array:
    return drawn.proxy_rewards


def _proxy_for_truth(drawn: Rarer) -> Rarer:
    return drawn._replace(instance=trained_on(drawn.instance, drawn.proxy_rewards))


def _truth_for_proxy(drawn: Rarer) -> Rarer:
    return drawn._replace(proxy_rewards=drawn.instance.rewards)


def ground_truth_exponent(*, exponent: Number = float(PUBLISHED_GROUND_TRUTH_EXPONENT)) -> Number:
    """14/13, with which the time on the ground truth grows at the least (arXiv:2604.25872, Theorem 1)."""
    return exponent


def proxy_exponent(*, exponent: Number = float(PUBLISHED_PROXY_EXPONENT)) -> Number:
    """1, with which the time on the proxy grows (arXiv:2604.25872, Theorem 2)."""
    return exponent


def _lower_judge(law: Callable[[], Number]) -> Judge:
    return lambda decades: Sides(jnp.asarray(law()), decades.exponent)


def _rate_judge(law: Callable[[], Number]) -> Judge:
    """That the exponent is as given, up to what ``eps ln(1/eps)`` still is at the start of the decades."""

    def judge(decades: Decades) -> Sides:
        deviation = jnp.abs(decades.exponent - law())
        return Sides(deviation, -_RATE_OUTPUTS * jnp.exp(decades.log_eps) * decades.log_eps)

    return judge


GROUND_TRUTH_RATE = Statement(
    name="beneficial_rate_on_truth",
    title="Rate of the time on the ground truth, over four decades of the best output's probability",
    assumptions="one prompt, tabular policy, λ = 0; one best output, one middling one, the others "
    "low; ε, the probability of the best, is small",
    citation="arXiv:2604.25872, Theorem 1",
    formula="t = Ω(ε^(−14/13))",
    draw=_rarer,
    judge=Formula(ground_truth_exponent, _lower_judge),
    observe=partial(_observe_on, _truth),
    sabotages=MappingProxyType(
        {
            "on the proxy": Dropped(_proxy_for_truth),
        }
    ),
    bound=True,
)

PROXY_RATE = Statement(
    name="beneficial_rate_on_proxy",
    title="Rate of the time on the proxy, over four decades of the best output's probability",
    assumptions="one prompt, tabular policy, λ = 0; one best output, all others low; ε, the "
    "probability of the best, is small",
    citation="arXiv:2604.25872, Theorem 2",
    formula="t = O(1/ε); the exponent is 1 up to 8 ε ln(1/ε)",
    draw=_rarer,
    judge=Formula(proxy_exponent, _rate_judge),
    observe=partial(_observe_on, _proxy),
    sabotages=MappingProxyType(
        {
            "on the ground truth": Dropped(_truth_for_proxy),
        }
    ),
)

# The gain ----------------------------------------------------------------------

_LARGEST_GAIN_ERROR = 0.01


class Gain(NamedTuple):
    """A problem trained on its ground truth, the proxy, and the level that counts as escape."""

    instance: Instance
    proxy_rewards: Float[Array, "prompts outputs"]
    level: Float[Array, ""]


def _gain(source: Source) -> Gain:
    """In half of the draws the low outputs differ, so that one of them is the middling one of the proxy."""
    index = jnp.arange(_RATE_OUTPUTS)
    exists = index < source.integer(3, _RATE_OUTPUTS)
    gap, first, more = source.uniform(0.1, 0.6), source.uniform(0.1, 0.5), source.uniform(0.1, 0.6)
    differ = source.bernoulli()
    steps = jnp.where(differ & (index > 2), more * source.uniform(0.5, 1.0, index.shape), 0.0)
    low = 1.0 - gap - first
    truth = (low - steps).at[:2].set(jnp.stack([jnp.ones(()), 1.0 - gap]))
    proxy = truth.at[1].set(jnp.where(exists, truth, jnp.inf).min())
    weights = jnp.where(exists, source.uniform(jnp.log(0.05), 0.0, index.shape), -jnp.inf)
    start = with_rare_best(jnp.log(source.log_uniform(1e-8, 1e-5)), weights)
    start = jnp.where(exists, start, 0.0)
    instance = without(Instance(truth, start=Parameters(start[None])), exists[None])
    return Gain(instance, proxy[None], source.uniform(0.1, 0.9))


class Gained(NamedTuple):
    """A gain, and the logarithms of the times on ground truth and proxy: simulated, and by the law."""

    drawn: Gain
    simulated: tuple[Float[Array, ""], Float[Array, ""]]
    predicted: Float[Array, " truth_and_proxy"]


def _observe_gain(drawn: Gain) -> Gained:
    goals = first_output_goals(drawn.instance, drawn.level)

    def time(instances: Instance) -> Array:
        return escape_times(instances, goals, Control(horizon=_HORIZON))

    on_proxy = trained_on(drawn.instance, drawn.proxy_rewards)
    return _gained(drawn, time(drawn.instance), time(on_proxy))


@jax.jit
@jax.vmap
def _gained(drawn: Gain, time: Array, on_proxy: Array) -> Gained:
    rewards = jnp.concatenate([drawn.instance.rewards, drawn.proxy_rewards])
    start = jnp.broadcast_to(drawn.instance.reference_log_probabilities, rewards.shape)
    return Gained(drawn, (jnp.log(time), jnp.log(on_proxy)), log_escape_time(start, rewards))


def _gain_judge(predicted: Callable[[Gained], Array]) -> Judge:
    """With the logarithm of the gain."""

    def judge(gained: Gained) -> Sides:
        truth, proxy = gained.simulated
        return Sides(
            jnp.abs(jnp.expm1(predicted(gained) - (truth - proxy))), jnp.asarray(_LARGEST_GAIN_ERROR)
        )

    return judge


def _by_the_law(gained: Gained) -> Array:
    truth, proxy = gained.predicted
    return truth - proxy


def _by_rates_alone(gained: Gained) -> Array:
    start = gained.drawn.instance.reference_log_probabilities[0]
    return -(jnp.isfinite(start).sum() - 2.0) * start[0]


def _as_if_equally_likely(gained: Gained) -> Array:
    """The proxy's law, if its outputs but the best were equally likely and of one reward."""
    drawn = gained.drawn
    start, rewards = drawn.instance.reference_log_probabilities[0], drawn.instance.rewards[0]
    gap = rewards[0] - drawn.proxy_rewards[0, 1]
    proxy = jnp.log1p(-1.0 / jnp.isfinite(start).sum()) - jnp.log(gap) - start[0]
    return gained.predicted[0] - proxy


GAIN = Statement(
    name="beneficial_gain",
    title="The predicted gain of a beneficial error",
    assumptions="one prompt, tabular policy, λ = 0; a rare best output; the proxy gives the middling "
    "output a low reward",
    citation="derived here, theory/beneficial.py; after arXiv:2604.25872, Theorems 1 and 2",
    formula="t*(ground truth) / t*(proxy), both by the law, to below 1 %",
    draw=_gain,
    judge=_gain_judge(_by_the_law),
    observe=_observe_gain,
    sabotages=MappingProxyType(
        {
            "rates alone": _gain_judge(_by_rates_alone),
            "proxy as if its outputs were equally likely": _gain_judge(_as_if_equally_likely),
            "2 % off": _gain_judge(lambda gained: _by_the_law(gained) + 0.02),
        }
    ),
)


def _harm(source: Source) -> Gain:
    """The same with proxy and ground truth exchanged: the proxy overrates a low output into the middle."""
    drawn = _gain(source)
    truth, proxy = drawn.proxy_rewards, drawn.instance.rewards
    instance = eqx.tree_at(lambda i: (i.rewards, i.ground_truth_rewards), drawn.instance, (truth, truth))
    return drawn._replace(instance=instance, proxy_rewards=proxy)


HARM = Statement(
    name="harmful_error_stalling",
    title="Harmful errors II: the predicted loss of an output that is overrated into the middle",
    assumptions="one prompt, tabular policy, λ = 0; a rare best output; the proxy gives a low output "
    "a middling reward",
    citation="derived here, theory/beneficial.py; after arXiv:2604.25872, Section 3",
    formula="t*(proxy) / t*(ground truth), both by the law, to below 1 %",
    draw=_harm,
    judge=_gain_judge(_by_the_law),
    observe=_observe_gain,
    sabotages=MappingProxyType(
        {
            "no loss": _gain_judge(lambda gained: jnp.zeros(())),
            "2 % off": _gain_judge(lambda gained: _by_the_law(gained) + 0.02),
        }
    ),
)

STATEMENTS = (PROXY_BOUND, SHARP_PROXY_BOUND, GROUND_TRUTH_RATE, PROXY_RATE, GAIN, HARM)
