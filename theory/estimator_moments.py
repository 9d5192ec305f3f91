"""Policy gradients from samples: what their estimators are on average, and how far they scatter.

One prompt of weight one, rewards ``r`` (with KL: ``r_KL``), policy ``pi``, expected reward ``V``, advantage
``A = r - V``. The score of an output by the logits is ``s(y) = e_y - pi``; the exact gradient is
``g = E A s``, the covariance of reward and score. ``G`` outputs are drawn independently. All derived here.

Of a fixed baseline ``b``, the mean of ``G`` independent terms ``(r - b) s``, whose mean is ``g`` because
``E s = 0``, has the total variance ``(E (r - b)^2 |s|^2 - |g|^2) / G``.

RLOO. Collecting terms by pairs, ``sum_i (r_i - mean_{j != i} r_j) s_i / G`` is the mean over all pairs of
``h = (r_i - r_j)(s_i - s_j) / 2``: the unbiased sample covariance of reward and score, a U-statistic. Its
variance is (Hoeffding 1948) ``[2 (G-2) zeta_1 + zeta_2] 2 / (G (G-1))``, where ``zeta_2`` is the variance of
``h`` and ``zeta_1`` that of its expectation over one of the pair, here ``(A s + g) / 2``. So ``zeta_1 =
(E A^2 |s|^2 - |g|^2) / 4``. As ``|s - s'|^2 = 2`` for different outputs, and equal ones have equal rewards,
``E |h|^2 = E (r - r')^2 / 2``, so ``zeta_2 = Var r - |g|^2``. Beyond the variance with the exact baseline,
estimating it costs ``E A^2 (1 + pi - sum_z pi(z)^2) / (G (G-1))``, which is never negative.

GRPO divides the same sample covariance, times ``(G-1)/G``, by the standard deviation of the sampled rewards.
With rewards of two values, ``gap`` apart, and ``k`` of ``G`` samples good, a good sample weighs
``sqrt((G-k)/k)``; given ``k``, the expected estimate for a good output is ``pi(y)/p sqrt(k (G-k)) / G`` with
``p`` the probability of the good ones. As ``g(y) = pi(y) (1-p) gap``, its expectation is ``g`` times
``E sqrt(k (G-k)) / (G p (1-p) gap)``. So it has the right direction, and for large ``G`` the size that a
reward of standard deviation one would give. But the factor never exceeds ``sqrt(G-1) / gap``, because
``sqrt(k (G-k)) <= k (G-k) / sqrt(G-1)`` and ``E k (G-k) = G (G-1) p (1-p)``: it makes up for rewards that
differ little, not for good outputs that are rare. With three values the direction is off too.
For any rewards, Cauchy-Schwarz bounds each entry of the estimate by the standard deviation over the group of
the indicator of its output, so that ``|estimate|^2 <= 1 - sum_y f_y^2`` with the frequencies ``f`` in the
group, whose expectation is ``(1 - 1/G)(1 - sum_y pi(y)^2)``.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.objective import advantage, expected_reward, gradient, logit_gradient
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.sampling import estimator as find_estimator
from goodteacher.sim.sampling import logit_estimate
from goodteacher.theory.draws import Source, random_kl_coefficient, random_logits, random_rewards
from goodteacher.theory.error_kinds import trained_on
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.gradients import logit_gradient_magnitude
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement


def squared_scores(probabilities: Float[Array, "*batch outputs"]) -> Float[Array, "*batch outputs"]:
    """``|e_y - pi|^2`` for every output."""
    return 1.0 - 2.0 * probabilities + (probabilities**2).sum(-1, keepdims=True)


def reinforce_variance(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    group: ArrayLike,
    baseline: ArrayLike = 0.0,
) -> Float[Array, "*batch"]:
    """Total variance (trace of the covariance) of REINFORCE's estimate by the logits of a prompt.

    ``(E (r - b)^2 |s|^2 - |g|^2) / G``.

    Args:
        probabilities: of the policy.
        rewards: that are sampled.
        group: how many samples ``G``.
        baseline: ``b``, of a shape that broadcasts against the batch.
    """
    slope = probabilities * advantage(probabilities, rewards)
    relative = rewards - jnp.asarray(baseline)[..., None]
    second_moment = (probabilities * relative**2 * squared_scores(probabilities)).sum(-1)
    return (second_moment - (slope**2).sum(-1)) / jnp.asarray(group)


def baseline_variance(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"], group: ArrayLike
) -> Float[Array, "*batch"]:
    """The same with the exact expected reward ``V`` as the baseline, precise near a vertex of the simplex."""
    return reinforce_variance(probabilities, advantage(probabilities, rewards), group)


def rloo_variance(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"], group: ArrayLike
) -> Float[Array, "*batch"]:
    """Total variance of RLOO's estimate by the logits of a prompt.

    ``[(G-2)(E A^2 |s|^2 - |g|^2) + 2 (Var r - |g|^2)] / (G (G-1))``. Args as for :func:`reinforce_variance`.
    """
    single = baseline_variance(probabilities, rewards, 1)
    slope = probabilities * advantage(probabilities, rewards)
    pair = reward_variance(probabilities, rewards) - (slope**2).sum(-1)
    size = jnp.asarray(group)
    return ((size - 2) * single + 2 * pair) / (size * (size - 1))


def grpo_factor(success: Float[Array, "*batch"], gap: ArrayLike, group: int) -> Float[Array, "*batch"]:
    """What GRPO multiplies the gradient by, on average, when rewards have two values.

    ``E sqrt(k (G-k)) / (G p (1-p) gap)`` with ``k`` binomial; ``sqrt(G-1) / gap`` in the limits of ``p = 0``
    and ``p = 1``, ``1 / sqrt(p (1-p)) / gap`` for large groups.

    Args:
        success: probability ``p`` of the larger reward.
        gap: between the two rewards, positive.
        group: how many samples ``G``, from 2 to 1000.
    """
    k = np.arange(1, group)
    counts = np.array([math.comb(group, int(good)) for good in k], float)
    ways = jnp.asarray(counts * np.sqrt(k * (group - k)) / group)
    p = success[..., None]
    return (ways * p ** (k - 1.0) * (1.0 - p) ** (group - k - 1.0)).sum(-1) / gap


def grpo_norm_bound(
    probabilities: Float[Array, "*batch outputs"],
    group: ArrayLike,
    *,
    constant: Number = 1.0,
    share: Number = 1 / 2,
    spread: Number = 1 / 2,
) -> Float[Array, "*batch"]:
    """The largest norm of the expectation of GRPO's estimate by the logits of a prompt, for any rewards.

    ``sqrt((1 - 1/G)(1 - sum_y pi(y)^2))``. Args as for :func:`reinforce_variance`; the numbers are a constant
    and the exponents of both factors.
    """
    of_policy = (probabilities * (1.0 - probabilities)).sum(-1)
    return constant * (1.0 - 1.0 / jnp.asarray(group)) ** share * of_policy**spread


def enumerate_estimates(
    instance: Instance, parameters: Float[Array, "..."], estimator: str, group: int
) -> tuple[Float[Array, "groups prompts"], Float[Array, "groups prompts outputs"]]:
    """The exact law of an estimate at every prompt: every group that can be sampled there, in any order.

    Prompts are sampled independently, and an estimate at a prompt depends on its own samples alone.

    Args:
        instance: the problem.
        parameters: of the policy.
        estimator: a name of :data:`goodteacher.sim.sampling.ESTIMATORS`.
        group: samples per prompt. There are ``(outputs + group - 1)`` choose ``group`` groups.

    Returns:
        The probability of each, and its estimate of the gradient by the logits.
    """
    logits = instance.logits(parameters)
    prompts, outputs = logits.shape
    drawn = np.array(list(itertools.combinations_with_replacement(range(outputs), group)))
    counts = (drawn[..., None] == np.arange(outputs)).sum(1)
    orders = np.array([math.factorial(group) // math.prod(map(math.factorial, n)) for n in counts.tolist()])
    samples = jnp.broadcast_to(drawn[:, None], (len(drawn), prompts, group))
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits)[None], samples, axis=-1)
    weighing = find_estimator(estimator, group)
    estimates = jax.vmap(lambda one: logit_estimate(instance, logits, one, weighing))
    return jnp.asarray(orders[:, None]) * jnp.exp(log_p.sum(-1)), estimates(samples)


# Statements -------------------------------------------------------------------

_ROUNDING = 1e-13  # of a sum over all groups, relative to the magnitudes of its terms
_GROUPS = (2, 3, 8, 16)


class Sampled(NamedTuple):
    """A problem, and the size of the groups that are sampled: which one of some."""

    instance: Instance
    size: Int[Array, ""]


def _sampled(draw: Callable[[Source], Instance], source: Source) -> Sampled:
    return Sampled(draw(source), source.integer(0, len(_GROUPS) - 1))


class Moments(NamedTuple):
    """A problem, and mean and total variance of estimates of its gradient by name, by enumeration.

    Attributes:
        instance: the problem.
        size: of its groups, which one of some.
        group: that size.
        mean: ``[prompts, outputs]`` each.
        variance: ``[prompts]`` each.
    """

    instance: Instance
    size: Int[Array, ""]
    group: Int[Array, ""]
    mean: dict[str, Float[Array, "prompts outputs"]]
    variance: dict[str, Float[Array, " prompts"]]


def _observe(*estimators: str) -> Callable[[Sampled], Moments]:
    def of_size(group: int, instance: Instance) -> dict[str, tuple[Array, Array]]:
        return {name: _moments(instance, name, group) for name in estimators}

    def observe(drawn: Sampled) -> Moments:
        instance, size = drawn
        moments = jax.lax.switch(size, [partial(of_size, group) for group in _GROUPS], instance)
        means, variances = ({name: pair[i] for name, pair in moments.items()} for i in (0, 1))
        return Moments(instance, size, jnp.asarray(_GROUPS)[size], means, variances)

    return jax.jit(partial(jax.lax.map, observe))  # not vmapped: only one size is computed for each


def _moments(instance: Instance, estimator: str, group: int) -> tuple[Array, Array]:
    weights, estimates = enumerate_estimates(instance, instance.initial_parameters, estimator, group)
    mean = jnp.einsum("gx,gxy->xy", weights, estimates)
    return mean, jnp.einsum("gx,gxy->x", weights, (estimates - mean) ** 2)


def _two_prompts(source: Source) -> Instance:
    shape, features = (2, 3), 4
    return Instance(
        random_rewards(source, shape),
        start=Parameters(random_logits(source, (features,), high=5.0)),
        policy=LinearSoftmax(source.normal((*shape, features))),
        reference_policy_logits=random_logits(source, shape),
        regularizer=Regularizer(kl=random_kl_coefficient(source)),
    )


def _unbiased_judge(*estimators: str) -> Judge:
    def judge(moments: Moments) -> Sides:
        instance, parameters = moments.instance, moments.instance.initial_parameters
        means = [instance.policy.pullback(parameters, moments.mean[name]) for name in estimators]
        error = jnp.abs(jnp.stack(means) - gradient(instance, parameters))
        jacobian = jnp.abs(jax.jacobian(instance.policy.logits)(parameters))
        magnitude = logit_gradient_magnitude(instance, parameters)
        return Sides(error, _ROUNDING * jnp.tensordot(magnitude, jacobian, axes=2)).tightest()

    return judge


UNBIASED = Statement(
    name="estimators_unbiased",
    title="REINFORCE, with and without baseline, and RLOO are unbiased",
    assumptions="tabular policy; independent on-policy samples; at least two per group for RLOO",
    citation="Williams 1992; Kool, van Hoof and Welling 2019; KL in the reward: theory/estimator_moments.py",
    formula="E[Σ_i c_i (e_{y_i} − π)/G] = ∇φ; c_i = r_i, r_i − V or r_i − mean_{j≠i} r_j; r_i = r_KL(y_i)",
    draw=partial(_sampled, _two_prompts),
    judge=_unbiased_judge("reinforce", "baseline", "rloo"),
    observe=_observe("reinforce", "baseline", "rloo", "grpo", "grpo_unscaled"),
    sabotages=MappingProxyType(
        {
            "GRPO": _unbiased_judge("grpo"),
            "GRPO without division by the standard deviation": _unbiased_judge("grpo_unscaled"),
        }
    ),
)


def _one_prompt(source: Source) -> Instance:
    shape = (1, 4)
    scale = source.log_uniform(1e-3, 1.0)
    offset = (1.0 - scale) * source.uniform(-1.0, 1.0)
    return Instance(
        offset + scale * random_rewards(source, shape), start=Parameters(random_logits(source, shape))
    )


_Variance = Callable[[Array, Array, Array], Array]


def _variance_judge(variances: Mapping[str, _Variance]) -> Judge:
    """With a closed form for each estimator."""

    def judge(moments: Moments) -> Sides:
        probabilities = jax.nn.softmax(moments.instance.initial_parameters[0])
        rewards = moments.instance.rewards[0]
        errors = [
            jnp.abs(closed_form(probabilities, rewards, moments.group) - moments.variance[name][0])
            for name, closed_form in variances.items()
        ]
        return Sides(jnp.stack(errors), _ROUNDING * expected_reward(probabilities, rewards**2)).tightest()

    return judge


def _without_pairs(probabilities: Array, rewards: Array, group: Array) -> Array:
    """As if pairs did not share samples: the variance of half a group of independent pairs."""
    slope = probabilities * advantage(probabilities, rewards)
    return 2 * (reward_variance(probabilities, rewards) - (slope**2).sum(-1)) / group


VARIANCE = Statement(
    name="estimators_variance",
    title="Total variance of REINFORCE, with and without baseline, and of RLOO",
    assumptions="tabular policy; independent on-policy samples; at least two per group for RLOO",
    citation="theory/estimator_moments.py (derived for this project)",
    formula="REINFORCE: (E (r−b)²|s|² − |g|²)/G; "
    "RLOO: [(G−2)(E A²|s|² − |g|²) + 2(Var r − |g|²)]/(G(G−1)); s = e_y − π, g = E A s",
    draw=partial(_sampled, _one_prompt),
    judge=_variance_judge(
        {"reinforce": reinforce_variance, "baseline": baseline_variance, "rloo": rloo_variance}
    ),
    observe=_observe("reinforce", "baseline", "rloo", "grpo_unscaled"),
    sabotages=MappingProxyType(
        {
            "RLOO with the variance of the exact baseline": _variance_judge({"rloo": baseline_variance}),
            "RLOO with independent pairs": _variance_judge({"rloo": _without_pairs}),
            "RLOO's for GRPO without division": _variance_judge({"grpo_unscaled": rloo_variance}),
            "no baseline with the variance of the exact one": _variance_judge(
                {"reinforce": baseline_variance}
            ),
        }
    ),
)


def _two_values(source: Source) -> Instance:
    shape = (1, 4)
    gap = source.log_uniform(1e-6, 2.0)
    low = source.uniform(-1.0, 1.0 - gap)
    good = source.bernoulli(shape=shape).at[0, :2].set(jnp.array([True, False]))
    return Instance(jnp.where(good, low + gap, low), start=Parameters(random_logits(source, shape, high=8.0)))


def _two_values_judge(factor: Callable[[Array, Array, int], ArrayLike]) -> Judge:
    """With what GRPO multiplies the gradient by."""

    def judge(moments: Moments) -> Sides:
        instance, mean = moments.instance, moments.mean["grpo"]
        probabilities, rewards = instance.probabilities(instance.initial_parameters), instance.rewards
        good = rewards == rewards.max()
        success = jnp.where(good, probabilities, 0.0).sum()
        exact = logit_gradient(instance, instance.initial_parameters)
        gap = rewards.max() - rewards.min()
        factors = jnp.stack([jnp.asarray(factor(success, gap, group)) for group in _GROUPS])
        error = jnp.abs(mean - factors[moments.size] * exact)
        return Sides(error, _ROUNDING * probabilities).tightest()

    return judge


def _with_a_third_value(drawn: Sampled) -> Sampled:
    """Halfway between the two."""
    rewards = drawn.instance.rewards
    halfway = rewards.at[:, 2].set(0.5 * (rewards[:, 0] + rewards[:, 1]))
    return drawn._replace(instance=trained_on(drawn.instance, halfway))


GRPO_TWO_VALUES = Statement(
    name="grpo_two_values",
    title="GRPO on rewards of two values: the gradient times a factor",
    assumptions="tabular policy; independent on-policy samples; rewards of two values; no ε in the "
    "denominator",
    citation="theory/estimator_moments.py (derived for this project)",
    formula="E[GRPO] = ∇V · E √(k(G−k)) / (G p(1−p) gap), k ~ Bin(G, p)",
    draw=partial(_sampled, _two_values),
    judge=_two_values_judge(grpo_factor),
    observe=_observe("grpo"),
    sabotages=MappingProxyType(
        {
            "unbiased": _two_values_judge(lambda p, gap, group: jnp.ones(())),
            "the factor of large groups": _two_values_judge(
                lambda p, gap, group: 1.0 / (gap * jnp.sqrt(p * (1.0 - p)))
            ),
            "a third value": Dropped(_with_a_third_value),
        }
    ),
)


def _norm_judge(bound: Callable[[Array, Array], Array]) -> Judge:
    """With the probabilities ``[outputs]`` and the size of the group to a bound."""

    def judge(moments: Moments) -> Sides:
        probabilities = jax.nn.softmax(moments.instance.initial_parameters[0])
        return Sides(jnp.linalg.norm(moments.mean["grpo"][0]), bound(probabilities, moments.group))

    return judge


def _below_deviation(moments: Moments) -> Sides:
    probabilities = jax.nn.softmax(moments.instance.initial_parameters[0])
    deviation = jnp.sqrt(reward_variance(probabilities, moments.instance.rewards[0]))
    return Sides(jnp.linalg.norm(moments.mean["grpo"][0]), deviation)


GRPO_NORM = Statement(
    name="grpo_norm",
    title="GRPO's expected estimate is bounded, whatever the scale of the rewards",
    assumptions="tabular policy; independent on-policy samples; any rewards",
    citation="theory/estimator_moments.py (derived for this project)",
    formula="|E[GRPO]| ≤ √((1 − 1/G)(1 − Σ_y π(y)²))",
    draw=partial(_sampled, _one_prompt),
    judge=Formula(grpo_norm_bound, _norm_judge),
    observe=_observe("grpo"),
    sabotages=MappingProxyType(
        {
            "bounded like the gradient by the standard deviation of the reward": _below_deviation,
        }
    ),
    bound=True,
    smooth=True,
)

STATEMENTS = (UNBIASED, VARIANCE, GRPO_TWO_VALUES, GRPO_NORM)
