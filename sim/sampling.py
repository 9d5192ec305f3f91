"""What sampling from a policy gives: the law of best-of-N, and policy gradients estimated from samples.

An estimate weighs the scores of a group of sampled outputs, ``sum_i c_i (e_{y_i} - pi) / G`` by the logits
of a prompt. Estimators differ in the weights ``c_i`` that they make of the rewards alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from goodteacher.sim.clocks import ROUNDING, BatchScaled, Group, batch_deviation
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import regularized_advantage

MOST_DRAWS = 10_000  # of a group, with dynamic sampling

Weigh = Callable[[Float[Array, "*batch group"], Float[Array, "*batch group"]], Float[Array, "*batch group"]]


class Estimator(NamedTuple):
    """How a group of samples becomes an estimate of the gradient.

    Attributes:
        weigh: from the rewards and the exact advantages of the sampled outputs, both ``[*batch, group]``,
            to the weights of their scores, same shape.
        least_group: the smallest group that it is made for.
    """

    weigh: Weigh
    least_group: int


def _centered(rewards: Array) -> Array:
    # Of equal rewards exactly zero, which their mean need not be.
    relative = rewards - rewards[..., :1]
    return relative - relative.mean(-1, keepdims=True)


def _leave_one_out(rewards: Array, advantages: Array) -> Array:
    group = rewards.shape[-1]
    return _centered(rewards) * (group / (group - 1))


def _normalized(rewards: Array, advantages: Array) -> Array:
    centered = _centered(rewards)
    variance = (centered**2).mean(-1, keepdims=True)
    return centered * jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        # c_i = r_i
        "reinforce": Estimator(lambda rewards, advantages: rewards, 1),
        # c_i = r_i - V, with the exact expected reward as the baseline
        "baseline": Estimator(lambda rewards, advantages: advantages, 1),
        # c_i = r_i - mean of the others
        "rloo": Estimator(_leave_one_out, 2),
        # c_i = (r_i - mean) / standard deviation, both of the group; zero where all rewards are equal
        "grpo": Estimator(_normalized, 2),
        # c_i = r_i - mean
        "grpo_unscaled": Estimator(lambda rewards, advantages: _centered(rewards), 2),
    }
)


def weighing(clock: Group) -> Estimator:
    """How samples are weighed whose mean is a clock: ``(r_i - mean) / scale``, with the scale of the clock.

    Zero where all rewards of a group are equal, and where the scale is not positive: so is MaxRL implemented
    where the mean is negative or zero.
    """

    def weigh(rewards: Array, advantages: Array) -> Array:
        centered = _centered(rewards)
        spread = (rewards != rewards[..., :1]).any(-1, keepdims=True)
        variance = jnp.where(spread, (centered**2).mean(-1, keepdims=True), 1.0)
        scale = jnp.asarray(clock.scale(rewards.mean(-1, keepdims=True), jnp.sqrt(variance)))
        follows = spread & (scale > 0)
        return jnp.where(follows, centered / jnp.where(follows, scale, 1.0), 0.0)

    return Estimator(weigh, 2)


def weighing_batch(clock: BatchScaled, weights: Float[Array, " prompts"]) -> Estimator:
    """How samples of all prompts are weighed: over the standard deviation of all (with Bessel's correction).

    Args:
        clock: with what is added to it.
        weights: of the prompts.
    """

    def weigh(rewards: Array, advantages: Array) -> Array:
        centered = _centered(rewards)
        variance = batch_deviation(weights, rewards.mean(-1), (centered**2).mean(-1)) ** 2
        variance *= rewards.size / (rewards.size - 1.0)
        follows = variance > 0
        return centered / (jnp.sqrt(jnp.where(follows, variance, 1.0)) + clock.epsilon)

    return Estimator(weigh, 2)


def estimator(name: str, group: int) -> Estimator:
    """An estimator by name, for groups of a given size.

    ``reinforce`` (Williams 1992), ``baseline`` (the same with the exact expected reward as its baseline),
    ``rloo`` (leave-one-out baseline, arXiv:2402.14740), ``grpo`` (arXiv:2402.03300; the standard deviation
    divides by the size of the group) and ``grpo_unscaled`` (the same without that division,
    arXiv:2503.20783). Those with the settings of frameworks are made of clocks, see :func:`weighing`.

    Raises:
        ValueError: for a name that is not in :data:`ESTIMATORS`, or a group that is too small for it.
    """
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS)
    least = ESTIMATORS[name].least_group
    if group < least:
        raise ValueError(f"group is {group}; {name} needs at least {least} samples per prompt and update")
    return ESTIMATORS[name]


def inverse_cdf(
    probabilities: Float[Array, "*batch outputs"], uniforms: Float[Array, "*batch group"]
) -> Int[Array, "*batch group"]:
    """Sampled outputs: for each uniform number in [0, 1) the output in whose share of [0, 1) it falls.

    An output of probability zero is never sampled, whatever the rounding of the sums.
    """
    cumulative = jnp.cumsum(probabilities, -1)[..., None, :]
    passed = uniforms[..., None] * cumulative[..., -1:] >= cumulative[..., :-1]
    return passed.sum(-1)


def seen_rewards(
    instance: Instance, samples: Int[Array, "prompts group"], noise: Float[Array, "prompts group"]
) -> Float[Array, "prompts group"]:
    """Rewards of samples that are random, with the means and the variances of the instance.

    A reward whose variance is that of 0 and 1 is one of these, as a verifier's; any other is normal.

    Args:
        instance: the problem.
        samples: indices of outputs.
        noise: independent uniform numbers in [0, 1), one per sample.
    """
    mean = jnp.take_along_axis(instance.rewards, samples, -1)
    if instance.reward_variances is None:
        return mean
    variance = jnp.take_along_axis(instance.reward_variances, samples, -1)
    flips = jnp.abs(variance - mean * (1.0 - mean)) <= ROUNDING
    half = jnp.finfo(noise.dtype).eps / 4.0  # of no number is the quantile infinite
    normal = mean + jnp.sqrt(variance) * jax.scipy.special.ndtri(jnp.maximum(noise, half))
    return jnp.where(flips, 1.0 * (noise < mean), normal)


def logit_estimate(
    instance: Instance,
    logits: Float[Array, "prompts outputs"],
    samples: Int[Array, "prompts group"],
    estimator: Estimator,
    seen: Float[Array, "prompts group"] | None = None,
) -> Float[Array, "prompts outputs"]:
    """Estimate of :func:`goodteacher.sim.objective.logit_gradient` from a group of sampled outputs per
    prompt.

    KL to the reference and entropy are part of the sampled reward, ``r_KL(y) = r(y) - lambda ln(pi(y) /
    ref(y)) - beta ln pi(y)``: its expectation with the scores is the exact gradient of the objective. Forward
    KL is no expectation under the policy; its gradient ``lambda' (ref - pi)`` is added exactly.

    Args:
        instance: the problem.
        logits: of the policy that was sampled from.
        samples: indices of outputs.
        estimator: see :func:`estimator`.
        seen: rewards of the samples where they are random; their means if not given.
    """
    regularizer, probabilities = instance.regularizer, jax.nn.softmax(logits)
    sampled = samples[..., None] == jnp.arange(logits.shape[-1])

    def at(values: Array) -> Array:
        return jnp.where(sampled, values[:, None], 0.0).sum(-1)

    means = at(instance.rewards)
    rewards = means if seen is None else seen
    if regularizer is not None:
        log_p, log_reference = at(jax.nn.log_softmax(logits)), at(instance.reference_log_probabilities)
        rewards -= regularizer.kl * (log_p - log_reference) + regularizer.entropy * log_p
    # Random rewards are off their means, and so are advantages.
    surprise = 0.0 if seen is None else seen - means
    weights = estimator.weigh(rewards, at(regularized_advantage(instance, logits)) + surprise)

    estimate = jnp.where(sampled, weights[..., None], 0.0).mean(1)
    estimate -= weights.mean(-1, keepdims=True) * probabilities
    if regularizer is not None:
        reference = jnp.exp(instance.reference_log_probabilities)
        estimate += regularizer.forward_kl * (reference - probabilities)
    return instance.prompt_weights[:, None] * estimate


def sampled_gradient(
    instance: Instance,
    parameters: Float[Array, "..."],
    uniforms: Float[Array, "prompts group"],
    estimator: Estimator,
    noise: Float[Array, "prompts group"] | None = None,
) -> Float[Array, "..."]:
    """Estimate of :func:`goodteacher.sim.objective.gradient` from outputs sampled from the policy itself.

    Args:
        instance: the problem.
        parameters: of the policy.
        uniforms: independent uniform numbers in [0, 1), one per sample: they choose the outputs.
        estimator: see :func:`estimator`.
        noise: further ones, which choose the rewards where these are random; their means if not given.
    """
    logits = instance.logits(parameters)
    samples = inverse_cdf(jax.nn.softmax(logits), uniforms)
    seen = None if noise is None else seen_rewards(instance, samples, noise)
    return instance.policy.pullback(parameters, logit_estimate(instance, logits, samples, estimator, seen))


def redrawn(
    instance: Instance,
    parameters: Float[Array, "..."],
    key: Key[Array, ""],
    draws: Float[Array, "two prompts group"],
) -> Float[Array, "two prompts group"]:
    """Uniform numbers, of outputs and of rewards, with those of groups without a spread drawn again.

    After :data:`MOST_DRAWS` draws a group is left as it is.

    Args:
        instance: the problem.
        parameters: of the policy.
        key: of what is drawn again.
        draws: what was drawn first.
    """
    probabilities = jax.nn.softmax(instance.logits(parameters))

    def flat(draws: Array) -> Array:
        rewards = seen_rewards(instance, inverse_cdf(probabilities, draws[0]), draws[1])
        return (rewards == rewards[:, :1]).all(-1)

    def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        draws, lost, count = carry
        more = jax.random.uniform(jax.random.fold_in(key, count), draws.shape)
        draws = jnp.where(lost[:, None], more, draws)
        return draws, flat(draws), count + 1

    first = draws, flat(draws), jnp.ones((), int)
    return jax.lax.while_loop(lambda carry: carry[1].any() & (carry[2] < MOST_DRAWS), again, first)[0]


def best_of_n(
    probabilities: Float[Array, "*batch outputs"],
    rewards: Float[Array, "*batch outputs"],
    samples: ArrayLike,
) -> Float[Array, "*batch outputs"]:
    """The law of the best, by reward, of ``N`` independent samples; of equally good ones, the first drawn.

    ``P(y) = pi(y)/m (F^N - (F - m)^N)`` with ``m`` the mass of the outputs of the same reward, and ``F`` that
    of the outputs of no higher reward (arXiv:2503.15477, Proposition 1). Its relative precision is kept for
    any ``N`` and any masses: it is written ``F^N (1 - (1 - m/F)^N)``, with ``ln F`` taken from the mass above
    where that is the smaller one.

    Args:
        probabilities: of the policy; zero for an output that does not exist.
        rewards: by which the best is chosen.
        samples: ``N``, at least 1, of a shape that broadcasts against the batch.

    Returns:
        Probabilities of the outputs.
    """
    return _best_of_n(probabilities, rewards, jnp.asarray(samples, float))


@jax.jit
@partial(jnp.vectorize, signature="(k),(k),()->(k)")
def _best_of_n(probabilities: Array, rewards: Array, samples: Array) -> Array:
    # By group of equal rewards, the lowest first; trailing groups may be empty.
    _, group = jnp.unique(rewards, return_inverse=True, size=rewards.size)
    mass = jnp.zeros_like(probabilities).at[group].add(probabilities)
    up_to = jnp.cumsum(mass)
    below = jnp.concatenate([jnp.zeros(1), up_to[:-1]])
    above = jnp.concatenate([jnp.cumsum(mass[::-1])[-2::-1], jnp.zeros(1)])

    present = mass > 0.0
    share = jnp.where(present, mass / jnp.where(present, up_to, 1.0), 0.5)
    log_up_to = _log(up_to, above)
    log_missed = _log(below / jnp.where(present, up_to, 1.0), share)
    chosen = -jnp.exp(samples * log_up_to) * jnp.expm1(samples * log_missed)
    return jnp.where(
        probabilities > 0.0, probabilities / jnp.where(present, mass, 1.0)[group] * chosen[group], 0.0
    )


def _log(value: Array, complement: Array) -> Array:
    """The logarithm of a number that is given together with what it lacks to one."""
    # Kahan's log1p: that of XLA is off by up to 3e-14, which the power would multiply.
    rounded = 1.0 - complement
    correction = complement / jnp.where(rounded == 1.0, 1.0, 1.0 - rounded)
    near_one = jnp.where(rounded == 1.0, -complement, jnp.log(rounded) * correction)
    return jnp.where(complement < 0.5, near_one, jnp.log(value))
