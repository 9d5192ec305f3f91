"""What draws tell of a policy is right on average, and exact when the draws are the whole population.

One prompt, a policy ``pi`` over finitely many outputs with reward ``r`` and ground truth ``g``, and ``n``
independent draws. The estimators of :mod:`goodteacher.sim.estimates` are means over all subsets of ``k`` of
the draws (U-statistics, Hoeffding 1948) of::

    the reward                                              k = 1: E r
    (r - r') (g - g') / 2                                   k = 2: the covariance; with g = r the variance
    [r and g rank both alike], [g tells them apart], both   k = 2: accuracies (arXiv:2503.15477, Definition 1)
    [not all have one reward]                               k = G: 1 - sum_v pi(r = v)^G
    g of the one of largest reward, ties share              k = N: the ground truth of the best of N

Any ``k`` of the draws are ``k`` independent outputs of the policy. So every subset has the same expectation,
that over ``k`` outputs of the policy, and so has the mean: no ``n >= k`` is too small. The accuracy where the
ground truth tells apart is a ratio of two such means.

Draws that are the whole population hold every output as often as its probability says, ``c(y) = n pi(y)``.
Shares are then probabilities, and whatever is computed from them is exact: the tilted policy ``pi_tau``
proportional to ``pi exp(tau r)``, its expectations, and ``KL(pi_tau | pi) = tau V_tau - ln E exp(tau r)``. A
single draw of ``y`` weighs ``pi_tau(y) / c(y)``, so the effective size is ``1 / sum_y pi_tau(y)^2 / c(y)``,
whether draws are put together or not. Two outputs of the policy are two different draws with probability
``1 - 1/n``, and one draw twice else::

    E h(y, y') = (1 - 1/n) mean over pairs of draws of h + 1/n mean over draws of h(y, y).
"""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from goodteacher.sim import estimates, natural
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, expected_reward, kl_divergence
from goodteacher.sim.sampling import best_of_n
from goodteacher.theory.closed_forms import kl_optimum, natural_gradient_flow
from goodteacher.theory.draws import Source, random_logits, random_mask, random_rewards, without
from goodteacher.theory.exact_flows import Elapsed
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.gradients import ROUNDING
from goodteacher.theory.statements import Judge, Sides, Statement, all_of

_CITATION = "theory/draw_estimates.py (derived for this project)"
_ROUNDING = 1e-13  # of a sum over all samples of numbers of order one
_SHAPE = (1, 4)
_GROUPS = (2, 3, 4)  # sizes of groups, and of how many the best is taken
_DRAWS = 2, 4  # fewest and most


def spread_probability(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"], group: int
) -> Float[Array, "*batch"]:
    """Probability that a group of outputs of a policy does not have one reward: ``1 - sum_v pi(r = v)^G``.

    Args:
        probabilities: of the policy.
        rewards: of the outputs.
        group: how many ``G``, at least 1.
    """
    alike = rewards[..., :, None] == rewards[..., None, :]
    mass = jnp.where(alike, probabilities[..., None, :], 0.0).sum(-1)
    return 1.0 - (probabilities * mass ** (group - 1)).sum(-1)


# Populations ------------------------------------------------------------------


def _levels(source: Source) -> Array:
    """In half of the draws one of five levels, of which several outputs may have the same."""
    return jnp.where(source.bernoulli(), source.integer(-2, 2, _SHAPE) / 2.0, random_rewards(source, _SHAPE))


def _tells(instance: Instance) -> Array:
    """Whether rewards and truths both differ: else most of what is estimated is zero whatever is drawn."""
    exists = instance.probabilities(instance.initial_parameters) > 0

    def differ(values: Array) -> Array:
        return jnp.where(exists, values, -jnp.inf).max() > jnp.where(exists, values, jnp.inf).min()

    return differ(instance.rewards) & differ(instance.ground_truth_rewards)


@jax.jit
@jax.vmap
def _log_policies(instance: Instance) -> Float[Array, "prompts outputs"]:
    return instance.log_probabilities(instance.initial_parameters)


_Exact = dict[str, Float[Array, "*groups"]]


def _of_policy(instance: Instance) -> _Exact:
    """What the estimators are to tell, of the only prompt; of groups and of the best for every size."""
    p = instance.probabilities(instance.initial_parameters)[0]
    r, g = instance.rewards[0], instance.ground_truth_rewards[0]
    weight = p[:, None] * p
    signs = [jnp.sign(of[:, None] - of) for of in (r, g)]
    right, decided = signs[0] == signs[1], signs[1] != 0
    return {
        "mean": expected_reward(p, r),
        "variance": reward_variance(p, r),
        "covariance": expected_reward(p, advantage(p, r) * advantage(p, g)),
        "right": (weight * right).sum(),
        "decided": (weight * decided).sum(),
        "right and decided": (weight * (right & decided)).sum(),
        "spread": jnp.stack([spread_probability(p, r, group) for group in _GROUPS]),
        "best": jnp.stack([expected_reward(best_of_n(p, r, number), g) for number in _GROUPS]),
    }


class Draws(NamedTuple):
    """Rewards and truths of draws, ``[*batch, places]``, and at which places there is one."""

    rewards: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


_Estimates = dict[str, np.ndarray]


def _estimates(draws: Draws) -> _Estimates:
    """By the names of :func:`_of_policy`."""
    r, g, mask = draws
    pairs = estimates.pairs(r, g, mask)
    return {
        "mean": estimates.mean(r, mask),
        "variance": estimates.variance(r, mask),
        "covariance": estimates.covariance(r, g, mask),
        "right": pairs.right,
        "decided": pairs.decided,
        "right and decided": pairs.right_decided,
        "spread": np.stack([estimates.share_with_spread(r, mask, group) for group in _GROUPS], -1),
        "best": np.stack([estimates.best_of(r, g, mask, number) for number in _GROUPS], -1),
    }


# Unbiased ---------------------------------------------------------------------


class Population(NamedTuple):
    """One prompt, and how many draws there are of its outputs."""

    instance: Instance
    draws: Int[Array, ""]


class Expected(NamedTuple):
    """A population, and the expectations of estimates by name: those that are claimed, and biased ones."""

    population: Population
    estimates: dict[str, Float[Array, "*groups"]]


def _population(source: Source) -> Population:
    instance = Instance(
        _levels(source), _levels(source), start=Parameters(random_logits(source, _SHAPE, high=5.0))
    )
    return Population(without(instance, random_mask(source, _SHAPE)), source.integer(*_DRAWS))


def _every_sample(outputs: int, n: int, p: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, Draws]:
    """Chances ``[policies, samples]`` of all samples of the first outputs, in any order, and their draws.

    The last place of each is without a draw, and holds what may be the reward of one.
    """
    samples = np.array(list(itertools.product(range(outputs), repeat=n)))
    rewards, truth = (np.insert(of[:, samples], n, 0.5, axis=-1) for of in values)
    return p[:, samples].prod(-1), Draws(rewards, truth, np.broadcast_to(np.arange(n + 1) < n, rewards.shape))


def _observe(drawn: Population) -> Expected:
    instance = drawn.instance
    log_p, r, g = (
        np.asarray(of)[:, 0]
        for of in (_log_policies(instance), instance.rewards, instance.ground_truth_rewards)
    )
    sizes = np.stack([np.isfinite(log_p).sum(-1), np.asarray(drawn.draws)], 1)
    expected: _Estimates = {}
    for outputs, n in np.unique(sizes, axis=0).tolist():
        at = (sizes == (outputs, n)).all(1)
        chances, draws = _every_sample(outputs, n, np.exp(log_p[at]), r[at], g[at])
        found = _estimates(draws)
        found |= {name: biased(draws, found) for name, (_, biased) in _BIASED.items()}
        for name, values in found.items():
            mean = np.einsum("xs,xs...->x...", chances, values)
            expected.setdefault(name, np.empty((len(sizes), *mean.shape[1:])))[at] = mean
    return Expected(drawn, jax.tree.map(jnp.asarray, expected))


def _unbiased(estimate: Mapping[str, str] | None = None) -> Judge:
    """With the names of the estimates of some quantities; of all by their own names if not given."""

    def judge(expected: Expected) -> Sides:
        instance, draws = expected.population
        exact = _of_policy(instance)
        possible = jnp.asarray(_GROUPS) <= draws  # pairs always are
        errors = []
        for quantity, name in (estimate or {each: each for each in exact}).items():
            error = jnp.abs(expected.estimates[name] - exact[quantity])
            errors.append(jnp.where(possible | (error.ndim == 0), error, 0.0))
        return Sides(jnp.stack(errors), jnp.asarray(_ROUNDING), _tells(instance)).tightest()

    return judge


def _with_itself(of_two: Any, of_one: Any, n: Any) -> Any:
    """From a mean over pairs of different draws, and one over draws, to that over pairs with replacement."""
    return (1.0 - 1.0 / n) * of_two + of_one / n


def _count(draws: Draws) -> np.ndarray:
    return draws.mask.sum(-1)


def _shares(draws: Draws, compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """For each draw the share of the draws whose reward its own compares with."""
    alike = compare(draws.rewards[..., :, None], draws.rewards[..., None, :]) & draws.mask[..., None, :]
    return alike.sum(-1) / _count(draws)[..., None]


def _pooled_spread(draws: Draws, found: _Estimates) -> np.ndarray:
    equal = _shares(draws, np.equal)
    return np.stack([1.0 - estimates.mean(equal ** (group - 1), draws.mask) for group in _GROUPS], -1)


def _best_with_replacement(draws: Draws, found: _Estimates) -> np.ndarray:
    up_to, equal = _shares(draws, np.greater_equal), np.where(draws.mask, _shares(draws, np.equal), 1.0)
    return np.stack(
        [
            estimates.mean((up_to**number - (up_to - equal) ** number) / equal * draws.truth, draws.mask)
            for number in _GROUPS
        ],
        -1,
    )


def _best_by_truth(draws: Draws, found: _Estimates) -> np.ndarray:
    r, g, mask = draws
    return np.stack([estimates.best_of(r + 1e-6 * g, g, mask, number) for number in _GROUPS], -1)


_Biased = Callable[[Draws, _Estimates], np.ndarray]


def _replaced(quantity: str, of_one: float = 0.0) -> _Biased:
    """Over pairs with replacement, of which those of a draw with itself have one value."""
    return lambda draws, found: _with_itself(found[quantity], of_one, _count(draws))


# By description: of what each is the estimate, if a biased one.
_BIASED: Mapping[str, tuple[str, _Biased]] = MappingProxyType(
    {
        "mean over all places": ("mean", lambda draws, found: (draws.rewards * draws.mask).mean(-1)),
        "variance with divisor n": ("variance", _replaced("variance")),
        "covariance with divisor n": ("covariance", _replaced("covariance")),
        "accuracy with pairs of a draw with itself": ("right", _replaced("right", 1.0)),
        "accuracy with ties of the ground truth right": (
            "right",
            lambda draws, found: 1.0 - found["decided"] + found["right and decided"],
        ),
        "pairs told apart among n² pairs": ("decided", _replaced("decided")),
        "pairs told apart and right among n² pairs": ("right and decided", _replaced("right and decided")),
        "groups of shares p of the draws: of two values 1 − p^G − (1−p)^G": ("spread", _pooled_spread),
        "best of N drawn with replacement": ("best", _best_with_replacement),
        "of equal rewards the better output": ("best", _best_by_truth),
    }
)

UNBIASED = Statement(
    name="draws_unbiased",
    title="Estimates from independent draws of a policy are unbiased",
    assumptions="any policy on finitely many outputs, any rewards and ground truth, ties included; "
    "independent draws, at least as many as a pair, a group or N takes",
    citation=f"{_CITATION}; Hoeffding 1948; arXiv:2503.15477, Definitions 1 and 2",
    formula="E[mean over k-subsets of n draws of h] = E h(y₁, …, y_k), every n ≥ k: mean, (n−1)-variance and "
    "covariance, pairs ranked rightly, told apart, and both; 1 − Σ_v C(c_v, G)/C(n, G) = 1 − Σ_v π(r = v)^G, "
    "Σ_i g_(i) C(i−1, N−1)/C(n, N) = E g(best of N); n, G, N ≤ 4; all samples enumerated",
    draw=_population,
    judge=_unbiased(),
    observe=_observe,
    sabotages=MappingProxyType(
        {name: _unbiased({quantity: name}) for name, (quantity, _) in _BIASED.items()}
    ),
)

# The whole population ---------------------------------------------------------

_MOST = 3  # draws of an output


class Counted(NamedTuple):
    """A policy whose probabilities are shares of draws: how many of each output, and a tilt."""

    instance: Instance
    counts: Int[Array, " outputs"]
    tau: Float[Array, ""]


class Whole(NamedTuple):
    """A policy, and what draws tell that are all of it.

    Attributes:
        counted: the policy.
        estimates: by name; of groups and of the best for every size.
        tilts: expectations, divergence and effective size of the tilt, by draws and by outputs.
    """

    counted: Counted
    estimates: dict[str, Float[Array, "*groups"]]
    tilts: dict[str, Float[Array, " two"]]


def _counted(source: Source) -> Counted:
    exists = random_mask(source, _SHAPE)
    counts = jnp.where(exists, source.integer(1, _MOST, _SHAPE), 0)
    start = Parameters(jnp.log(jnp.maximum(counts, 1).astype(float)))
    instance = without(Instance(_levels(source), _levels(source), start=start), exists)
    return Counted(instance, counts[0], source.log_uniform(1e-2, 1e2))


def _told(tilt: estimates.Tilt, rewards: np.ndarray, truth: np.ndarray) -> _Estimates:
    p = np.exp(tilt.log_probabilities)
    return {
        "reward": (p * rewards).sum(-1),
        "truth": (p * truth).sum(-1),
        "divergence": tilt.kl,
        "effective size": tilt.effective_size,
    }


def _observe_whole(counted: Counted) -> Whole:
    instance, counts, tau = jax.tree.map(np.asarray, counted)
    r, g = instance.rewards[:, 0], instance.ground_truth_rewards[:, 0]
    mask = (np.arange(_MOST) < counts[..., None]).reshape(len(counts), -1)
    draws = Draws(np.repeat(r, _MOST, -1), np.repeat(g, _MOST, -1), mask)
    alone = np.where(mask, -np.log(_count(draws))[:, None], -np.inf)
    tilts = [
        _told(estimates.tilt(alone, draws.rewards, tau), draws.rewards, draws.truth),
        _told(estimates.tilt(np.asarray(_log_policies(counted.instance))[:, 0], r, tau, counts), r, g),
    ]
    both = {name: jnp.stack([of[name] for of in tilts], -1) for name in tilts[0]}
    return Whole(counted, jax.tree.map(jnp.asarray, _estimates(draws)), both)


def tilted(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    truth: Float[Array, "*batch outputs"],
    counts: Int[Array, "*batch outputs"],
    tau: Float[Array, "*batch"],
    *,
    rate: Number = 1.0,
    size: Number = 1.0,
) -> dict[str, Float[Array, "*batch"]]:
    """Of ``pi_tau`` the expectations of both rewards, the divergence from ``pi``, and the effective size of
    draws.

    Args:
        log_probabilities: of the policy; ``-inf`` for an output that does not exist.
        rewards: that are followed.
        truth: ground truth.
        counts: how many draws each output is.
        tau: the tilt.
        rate: what ``tau`` is multiplied by.
        size: what the number of draws is multiplied by.
    """
    log_q = natural_gradient_flow(log_probabilities, rewards, rate * tau)
    q = jnp.exp(log_q)
    growth = jax.nn.logsumexp(log_probabilities + rate * tau[..., None] * rewards, -1)
    return {
        "reward": expected_reward(q, rewards),
        "truth": expected_reward(q, truth),
        "divergence": rate * tau * expected_reward(q, rewards) - growth,
        "effective size": size / (q**2 / jnp.maximum(counts, 1)).sum(-1),
    }


_Tilted = Callable[..., dict[str, Array]]


def _tilts(law: _Tilted) -> Judge:
    def judge(whole: Whole) -> Sides:
        instance, counts, tau = whole.counted
        start = instance.log_probabilities(instance.initial_parameters)[0]
        exact = law(start, instance.rewards[0], instance.ground_truth_rewards[0], counts, tau)
        errors = jnp.stack([jnp.abs(whole.tilts[name] - value) for name, value in exact.items()])
        return Sides(errors, _ROUNDING * (1.0 + tau), _tells(instance)).tightest()

    return judge


def _pairs(join: Callable[..., Array], *names: str) -> Judge:
    """With what makes expectations over independent pairs of those over different draws and single ones."""

    def judge(whole: Whole) -> Sides:
        instance, counts, _ = whole.counted
        exact = _of_policy(instance)
        p = instance.probabilities(instance.initial_parameters)
        alone = {"right": 1.0, "best": expected_reward(p, instance.ground_truth_rewards)[0]}
        errors = []
        for name in names:
            # Of all sizes of groups pairs are the first.
            two, value = (jnp.ravel(of[name])[0] for of in (whole.estimates, exact))
            errors.append(jnp.abs(join(two, alone.get(name, 0.0), counts.sum()) - value))
        return Sides(jnp.stack(errors), jnp.asarray(_ROUNDING), _tells(instance)).tightest()

    return judge


def _mean(whole: Whole) -> Sides:
    instance = whole.counted.instance
    error = jnp.abs(whole.estimates["mean"] - _of_policy(instance)["mean"])
    return Sides(error, jnp.asarray(_ROUNDING), _tells(instance))


_OF_PAIRS = "variance", "covariance", "right", "decided", "right and decided", "spread", "best"


def _whole(law: _Tilted) -> Judge:
    parts = _mean, _pairs(_with_itself, *_OF_PAIRS), _tilts(law)
    return lambda whole: all_of(part(whole) for part in parts).tightest()


def _different(of_two: Any, of_one: Any, n: Any) -> Any:
    return of_two


def _by_outputs(start: Array, rewards: Array, truth: Array, counts: Array, tau: Array) -> dict[str, Array]:
    return tilted(start, rewards, truth, jnp.ones_like(counts), tau)


def _other_way(start: Array, rewards: Array, truth: Array, counts: Array, tau: Array) -> dict[str, Array]:
    return {"divergence": kl_divergence(start, natural_gradient_flow(start, rewards, tau))}


def _of_start(start: Array, rewards: Array, truth: Array, counts: Array, tau: Array) -> dict[str, Array]:
    growth = jax.nn.logsumexp(start + tau * rewards)
    return {"divergence": tau * expected_reward(jnp.exp(start), rewards) - growth}


WHOLE = Statement(
    name="draws_whole_population",
    title="Draws that are the whole population give its exact values",
    assumptions="every output is among the draws as often as its probability says; any rewards and ground "
    "truth, ties included; any τ ≥ 0",
    citation=_CITATION,
    formula="n π(y) draws of y: E h(y, y') = (1 − 1/n) mean over pairs of draws of h + 1/n mean of h(y, y); "
    "with weights ∝ exp(τ r): π_τ ∝ π exp(τ r), E_τ r, E_τ g, KL(π_τ ‖ π) = τ E_τ r − ln E exp(τ r), "
    "1/Σ w² = 1/Σ_y π_τ(y)²/(n π(y)), by draws and by outputs; n ≤ 12",
    draw=_counted,
    judge=Formula(tilted, _whole),
    observe=_observe_whole,
    sabotages=MappingProxyType(
        {
            "variance with divisor n − 1": _pairs(_different, "variance"),
            "covariance with divisor n − 1": _pairs(_different, "covariance"),
            "accuracy over different draws": _pairs(_different, "right"),
            "pairs with a spread among different draws": _pairs(_different, "spread"),
            "best of two different draws": _pairs(_different, "best"),
            "effective size of outputs": _tilts(_by_outputs),
            "divergence of the policy from the tilted one": _tilts(_other_way),
            "divergence by the mean reward before the tilt": _tilts(_of_start),
        }
    ),
)

# The tilt ---------------------------------------------------------------------


class Moved(NamedTuple):
    """A problem with a time, log-probabilities there, and the divergence from the start."""

    problem: Elapsed
    log_probabilities: Float[Array, "two prompts outputs"]
    divergence: Float[Array, " prompts"]


def _elapsed(source: Source) -> Elapsed:
    shape = (2, 5)
    instance = Instance(random_rewards(source, shape), start=Parameters(random_logits(source, shape)))
    return Elapsed(without(instance, random_mask(source, shape)), source.log_uniform(1e-2, 1e3))


def _observe_tilt(problems: Elapsed) -> Moved:
    instances, time = problems
    start, rewards = np.asarray(_log_policies(instances)), np.asarray(instances.rewards)
    times = np.asarray(time)[:, None]
    tilt = estimates.tilt(start, rewards, np.broadcast_to(times, rewards.shape[:-1]))
    by_flow = natural.policies_at(instances, times)[:, 0]
    both = jnp.stack([jnp.asarray(of) for of in (tilt.log_probabilities, by_flow)], 1)
    return Moved(problems, both, jnp.asarray(tilt.kl))


def flow_and_optimum(
    log_probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    tau: Float[Array, ""],
    *,
    rate: Number = 1.0,
    coefficient: Number = 1.0,
) -> Float[Array, "two *batch outputs"]:
    """Where the natural gradient flow is at a time, and the optimum with the inverse as its KL coefficient.

    Args:
        log_probabilities: of the initial policy and the reference.
        rewards: that are followed.
        tau: the time.
        rate: what the time is multiplied by.
        coefficient: what the coefficient ``1 / tau`` is multiplied by.
    """
    return jnp.stack(
        [
            natural_gradient_flow(log_probabilities, rewards, rate * tau),
            kl_optimum(log_probabilities, rewards, coefficient / tau),
        ]
    )


def _tilt_judge(law: Callable[[Array, Array, Array], Array]) -> Judge:
    def judge(moved: Moved) -> Sides:
        instance, time = moved.problem
        start = instance.log_probabilities(instance.initial_parameters)
        exact = law(start, instance.rewards, time)
        exists = jnp.isfinite(start)
        found = jnp.where(exists, moved.log_probabilities, 0.0)[:, None]
        apart = jnp.abs(found - jnp.where(exists, exact, 0.0))
        out = (jnp.isneginf(moved.log_probabilities) == ~exists).all()
        divergence = jnp.abs(moved.divergence - kl_divergence(exact, jnp.broadcast_to(start, exact.shape)))
        size = 1.0 + time + jnp.abs(jnp.where(exists, start, 0.0)).max()
        error = jnp.where(out, jnp.maximum(apart.max(), divergence.max()), jnp.inf)
        return Sides(error, ROUNDING * size)

    return judge


TILT = Statement(
    name="tilt_of_draws",
    title="The tilt of draws is the natural gradient flow, and the optimum with KL",
    assumptions="tabular policy; any rewards, τ > 0; outputs that do not exist included",
    citation=f"Kakade (2001); {_CITATION}",
    formula="π_τ ∝ π exp(τ r): the natural gradient flow from π at τ, and argmax V − KL(· ‖ π)/τ",
    draw=_elapsed,
    judge=Formula(flow_and_optimum, _tilt_judge),
    observe=_observe_tilt,
    sabotages=MappingProxyType(
        {
            "start forgotten": _tilt_judge(
                lambda start, rewards, tau: flow_and_optimum(
                    jnp.where(jnp.isfinite(start), 0.0, start), rewards, tau
                )
            ),
            "time divided by the number of prompts": _tilt_judge(
                lambda start, rewards, tau: flow_and_optimum(start, rewards, tau / len(rewards))
            ),
        }
    ),
)

STATEMENTS = (UNBIASED, WHOLE, TILT)
