"""What estimators of groups of samples do on average: they change the clock of the gradient flow.

``G`` outputs of a prompt are drawn, and the score of each is weighted by its reward less the group's mean,
over a scale that the group's rewards have. If rewards take two values, or for large groups, the mean of such
an update is the exact gradient of that prompt times a scalar ``m`` of the policy: tabular policies take the
path of the gradient flow, in the time ``t = integral of dt / m`` (derived for this project). With shared
parameters every prompt's gradient has its own ``m``, and the path is another one.

Two values, of which the larger one has probability ``p``: the update is ``E f (1 - f) / scale`` times the
scores' direction, with ``f = S / G`` and ``S`` binomial. As ``C(G, k) k (G - k)`` is ``G (G - 1) C(G - 2, k
- 1)``, that is the gradient times::

    m = (1 - 1/G) E 1 / scale(1 + S'),    S' ~ Binomial(G - 2, p),

the scale of a group of which two samples are known to differ. Nothing is divided by ``p (1 - p)``, so that it
is exact for any ``p``. An output's reward may itself be random; of a verifier that errs, outputs being right
with probability ``rbar(y)``, the larger value has probability ``p = E rbar``, and the rest holds as it
stands. With more values the mean of a finite group is no multiple of the gradient; where groups are few
enough it is found by :class:`Enumerated`.
"""

import abc
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.sim.validation import (
    AnyArray,
    Numbers,
    is_concrete,
    jax_array,
    namespace,
    scalar,
)

Size = int | float  # of a group: a whole number, or inf

MOST_GROUPS = 50_000  # that are enumerated, times the number of outputs
_TINY = 1e-300
ROUNDING = 1e-12  # of the variance of a reward that is 0 or 1


# What is seen of rewards -----------------------------------------------------------------


class Seen(NamedTuple):
    """The rewards of a prompt's outputs as a clock sees them.

    Arrays have a last axis of outputs, or, in batches of problems, a first one; ``least`` and ``gap`` none.

    Attributes:
        rewards: their means.
        variances: of each output's reward; ``None`` if none is random.
        upper: of rewards that take two values, the probability of the larger; ``nan`` if they take more.
        lower: that of the smaller.
        least: the smaller of two values.
        gap: between them.
    """

    rewards: AnyArray
    variances: AnyArray | None
    upper: AnyArray
    lower: AnyArray
    least: AnyArray
    gap: AnyArray


class Moments(NamedTuple):
    """Of a reward under a policy; ``upper`` and ``lower`` are the probabilities of its two values."""

    mean: AnyArray
    variance: AnyArray
    upper: AnyArray
    lower: AnyArray
    least: AnyArray
    gap: AnyArray


def see(
    rewards: Float[AnyArray, "*batch outputs"],
    variances: Float[AnyArray, "*batch outputs"] | None,
    exists: Bool[AnyArray, "*batch outputs"] | None,
) -> Seen:
    """What clocks see of rewards, given their variances if they are random."""
    xp = namespace(*jax.tree.leaves((rewards, variances, exists)))
    # Also within what is compiled for something else, where all that JAX's arrays do is traced.
    rewards, variances, exists = jax.tree.map(xp.asarray, (rewards, variances, exists))
    there = xp.ones(rewards.shape, bool) if exists is None else exists
    top = xp.where(there, rewards, -xp.inf).max(-1)
    least = xp.where(there, rewards, xp.inf).min(-1)
    high = rewards == top[..., None]
    two = (high | (rewards == least[..., None]) | ~there).all(-1)
    gap = xp.where(top > least, top - least, 1.0)
    upper, lower = high * 1.0, ~high * 1.0
    if variances is not None:
        two = two & (variances == 0).all(-1)
        flips = (~there | (xp.abs(variances - rewards * (1.0 - rewards)) <= ROUNDING)).all(-1) & ~two
        upper = xp.where(flips[..., None], rewards, upper)
        lower = xp.where(flips[..., None], 1.0 - rewards, lower)
        least, gap = xp.where(flips, 0.0, least), xp.where(flips, 1.0, gap)
        two = two | flips
    upper, lower = (xp.where(two[..., None], of, xp.nan) for of in (upper, lower))
    return Seen(rewards, variances, upper, lower, least, gap)


def moments(
    seen: Seen, probabilities: Float[AnyArray, "..."], advantages: Float[AnyArray, "..."], axis: int
) -> Moments:
    """Moments under a policy.

    Args:
        seen: the rewards.
        probabilities: of the policy; zero where there is no output.
        advantages: rewards over their mean, with their full relative precision.
        axis: of the outputs.
    """
    variance = (probabilities * advantages**2).sum(axis)
    if seen.variances is not None:
        variance = variance + (probabilities * seen.variances).sum(axis)
    return Moments(
        (probabilities * seen.rewards).sum(axis),
        variance,
        (probabilities * seen.upper).sum(axis),
        (probabilities * seen.lower).sum(axis),
        seen.least,
        seen.gap,
    )


# Clocks ----------------------------------------------------------------------------------


Objections = Mapping[int, str]  # by prompt; sentences that begin after "the rewards of the prompt"


class Clock(eqx.Module):
    """What an estimator multiplies a prompt's gradient by, on average."""

    @abc.abstractmethod
    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """``m``, not negative; of rewards with more than two values ``nan`` where it depends on them."""

    @property
    def steepness(self) -> AnyArray | float:
        """By about which power of a probability ``m`` changes at most."""
        return 0.5

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """In words."""

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Why it is no clock with the rewards of some prompts: what they are, and what would help."""
        return {}

    def fitted(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> "Clock":
        """The clock of rewards that are known.

        Raises:
            ValueError: if it is none with these rewards, naming the field, the value and the fix.
        """
        for prompt, why in self.objections(seen, exists).items():
            raise ValueError(f"rewards[{prompt}] {why}")
        return self

    def pull(
        self,
        seen: Seen,
        log_p: Float[Array, "prompts outputs"],
        advantages: Float[Array, "prompts outputs"],
        weights: Float[Array, " prompts"],
    ) -> Float[Array, "prompts outputs"]:
        """Advantages whose plain gradient is the estimator's mean: here those of the rewards times ``m``.

        Args:
            seen: the rewards of all prompts.
            log_p: of the policy.
            advantages: of the rewards.
            weights: of the prompts.
        """
        rate = self.rate(moments(seen, jnp.exp(log_p), advantages, -1))
        return jnp.asarray(rate[..., None] * advantages)


class Gradient(Clock):
    """The exact gradient, and REINFORCE with any baseline that does not depend on the sample; RLOO."""

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """One."""
        return namespace(at.mean).ones(at.mean.shape)

    @property
    def title(self) -> str:
        """In words."""
        return "gradient"


class Natural(Clock):
    """The natural gradient, which is followed in closed form (:mod:`goodteacher.sim.natural`); no clock."""

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """There is none."""
        return at.mean * math.nan

    @property
    def title(self) -> str:
        """In words."""
        return "natural gradient"


class BatchScaled(Clock):
    """GRPO over the standard deviation of the whole batch plus epsilon.

    TRL's ``scale_rewards = "batch"``: all prompts are on one clock, which depends on all of them, and is none
    of a prompt. How it is followed: :mod:`goodteacher.sim.batch_scaling`, of large groups; smaller ones are
    sampled.

    Attributes:
        epsilon: that is added to the standard deviation.
        group: samples of a group, or ``inf`` for the limit.
    """

    epsilon: Float[Array, "..."]
    group: Size = eqx.field(static=True)

    def __init__(self, epsilon: Numbers = 0.0, group: Size = math.inf):
        """Validates the numbers.

        Raises:
            ValueError: if epsilon is negative or not finite, or for a group of less than two.
        """
        self.epsilon = jax_array(scalar("epsilon", epsilon, "not negative"))
        self.group = _size(group)

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Of a batch of small groups nobody knows the mean."""
        why = (
            f"are divided by the deviation of a batch of {_of(self.group)}, whose mean is known for large "
            "groups alone; give group inf, or preset trl, which divides by that of each group"
        )
        return {} if self.group == math.inf else dict.fromkeys(range(len(exists)), why)

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """There is none of a prompt."""
        return at.mean * math.nan

    def pull(
        self,
        seen: Seen,
        log_p: Float[Array, "prompts outputs"],
        advantages: Float[Array, "prompts outputs"],
        weights: Float[Array, " prompts"],
    ) -> Float[Array, "prompts outputs"]:
        """Advantages over what the batch is divided by; none where no reward of the batch differs."""
        at = moments(seen, jnp.exp(log_p), advantages, -1)
        deviation = batch_deviation(weights, jnp.asarray(at.mean), jnp.asarray(at.variance))
        return advantages / (jnp.where(deviation > 0, deviation, 1.0) + self.epsilon)

    @property
    def title(self) -> str:
        """In words."""
        return f"GRPO, {_of(self.group)}, scaled by the batch"


def batch_deviation(
    weights: Float[AnyArray, "*batch prompts"],
    means: Float[AnyArray, "*batch prompts"],
    variances: Float[AnyArray, "*batch prompts"],
) -> Float[AnyArray, "*batch"]:
    """Standard deviation of the rewards of all samples of a batch, of what they are at each prompt."""
    between = (means - (weights * means).sum(-1, keepdims=True)) ** 2
    return (weights * (variances + between)).sum(-1) ** 0.5


class _Two(Clock):
    """A clock of the probabilities of two values."""

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Where rewards take more than two values."""
        why = (
            f"take more than two values, of which {self.title} has no probability of success; give 0 and 1, "
            "or another estimator"
        )
        return dict.fromkeys(_more_than_two(seen), why)


class Group(Clock):
    """Scores weighted by ``(r_i - mean) / scale``, by groups of ``G`` samples.

    Attributes:
        group: ``G``, or ``inf`` for the limit.
    """

    group: eqx.AbstractVar[Size]

    @abc.abstractmethod
    def scale(self, mean: AnyArray, deviation: AnyArray) -> AnyArray:
        """What a group is divided by, from the mean and the standard deviation (by ``G``) of its rewards."""

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """The mean of one over the scale, of groups with two different rewards."""
        xp = namespace(*jax.tree.leaves(at))
        if self.group == math.inf:
            return 1.0 / xp.maximum(self.scale(at.mean, xp.sqrt(xp.maximum(at.variance, _TINY))), _TINY)
        size = int(self.group)
        rate = xp.zeros(at.mean.shape)
        upper, lower = (xp.log(xp.maximum(of, _TINY)) for of in (at.upper, at.lower))
        for good, ways in enumerate(_log_binomial(size - 2), 1):
            share = good / size
            scale = self.scale(at.least + at.gap * share, at.gap * math.sqrt(share * (1.0 - share)))
            rate = rate + xp.exp(ways + (good - 1) * upper + (size - 1 - good) * lower) / scale
        return (1.0 - 1.0 / size) * rate

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Where rewards take more than two values, and groups of them cannot be enumerated."""
        more = [] if self.group == math.inf else _more_than_two(seen)
        why = _not_enumerable(self, seen, exists.shape[-1]) if more else None
        return {} if why is None else dict.fromkeys(more, why)

    def fitted(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Clock:
        """By enumeration of all groups, if rewards take more than two values.

        Raises:
            ValueError: as any clock.
        """
        clock = super().fitted(seen, exists)
        if self.group == math.inf or not _more_than_two(seen):
            return clock
        return Enumerated(self, outputs=exists.shape[-1])


def _size(group: Any) -> Size:
    if (
        isinstance(group, bool)
        or not isinstance(group, int | float)
        or not (group == math.inf or (group == int(group) and group >= 2))
    ):
        raise ValueError(f"group is {group}; give a whole number of at least 2 samples, or inf for the limit")
    return math.inf if group == math.inf else int(group)


def _of(group: Size) -> str:
    return "large groups" if group == math.inf else f"groups of {group}"


class MeanSubtracted(Group):
    """Less the mean of the group, and no more: Dr. GRPO (arXiv:2503.20783)."""

    group: Size = eqx.field(static=True)

    def __init__(self, group: Size = math.inf):
        """Validates the group.

        Raises:
            ValueError: if it is neither a whole number of at least 2 nor ``inf``.
        """
        self.group = _size(group)

    def scale(self, mean: AnyArray, deviation: AnyArray) -> AnyArray:
        """One."""
        return mean * 0.0 + 1.0

    @property
    def title(self) -> str:
        """In words."""
        return f"mean subtracted, {_of(self.group)}"


class Grpo(Group):
    """Less the mean, over the standard deviation plus epsilon (arXiv:2402.03300).

    Attributes:
        epsilon: of which rewards that hardly differ are not blown up beyond its inverse.
        bessel: whether the standard deviation divides by ``G - 1``, as ``torch.std`` does.
    """

    group: Size = eqx.field(static=True)
    epsilon: Float[Array, "..."]
    bessel: bool = eqx.field(static=True)

    def __init__(self, group: Size = math.inf, epsilon: Numbers = 0.0, bessel: bool = True):
        """Validates the numbers.

        Raises:
            ValueError: as :class:`MeanSubtracted`, or if epsilon is negative or not finite.
        """
        self.group = _size(group)
        self.epsilon = jax_array(scalar("epsilon", epsilon, "not negative"))
        self.bessel = bessel

    def scale(self, mean: AnyArray, deviation: AnyArray) -> AnyArray:
        """Standard deviation plus epsilon."""
        unbiased = self.bessel and self.group < math.inf
        return deviation * (math.sqrt(self.group / (self.group - 1.0)) if unbiased else 1.0) + self.epsilon

    @property
    def title(self) -> str:
        """In words."""
        return f"GRPO, {_of(self.group)}"


class MaxRl(Group):
    """Less the mean, over the mean; zero if that is zero (arXiv:2602.02710)."""

    group: Size = eqx.field(static=True)

    def __init__(self, group: Size = math.inf):
        """Validates the group; raises as :class:`MeanSubtracted`."""
        self.group = _size(group)

    def scale(self, mean: AnyArray, deviation: AnyArray) -> AnyArray:
        """The mean."""
        return mean

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """As any group; ``nan`` where a reward is negative."""
        return _unless_negative(at, super().rate(at))

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Besides, where a reward is negative."""
        return {**super().objections(seen, exists), **_negative(self, seen, exists)}

    @property
    def title(self) -> str:
        """In words."""
        return f"MaxRL, {_of(self.group)}"


class PassAtK(_Two):
    """The objective ``1 - (1 - p)^k``, that one of ``k`` samples succeeds.

    Attributes:
        k: how many; at least 1.
    """

    k: Float[Array, "..."]

    def __init__(self, k: Numbers):
        """Validates the number.

        Raises:
            ValueError: if it is below 1 or not finite.
        """
        number = scalar("k", k, "positive")
        if is_concrete(number) and number < 1:
            raise ValueError(f"k is {float(number):g}; give at least 1")
        self.k = jax_array(number)

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """``k (1 - p)^(k - 1)``."""
        xp = namespace(*jax.tree.leaves(at))
        return self.k * xp.exp((self.k - 1.0) * xp.log(xp.maximum(at.lower, _TINY)))

    @property
    def steepness(self) -> AnyArray | float:
        """That of the probability of failure."""
        return self.k

    @property
    def title(self) -> str:
        """In words."""
        return f"pass at {float(np.asarray(self.k)):g}"


class ColdStart(Clock):
    """The weight ``p^-q`` (arXiv:2604.25907): the gradient at ``q = 0``, maximum likelihood at ``q = 1``.

    Attributes:
        power: ``q``, from 0 on.
    """

    power: Float[Array, "..."]

    def __init__(self, power: Numbers):
        """Validates the power.

        Raises:
            ValueError: if it is negative or not finite.
        """
        self.power = jax_array(scalar("power", power, "not negative"))

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """``V^-q``, of rewards 0 and 1 ``p^-q``; ``nan`` where a reward is negative."""
        xp = namespace(*jax.tree.leaves(at))
        return _unless_negative(at, xp.exp(-self.power * xp.log(xp.maximum(at.mean, _TINY))))

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Where a reward is negative."""
        return _negative(self, seen, exists)

    @property
    def steepness(self) -> AnyArray | float:
        """The power."""
        return self.power

    @property
    def title(self) -> str:
        """In words."""
        return f"cold start, power {float(np.asarray(self.power)):g}"


class DynamicSampling(Clock):
    """Groups whose rewards are all the same are drawn again (DAPO, arXiv:2503.14476).

    Attributes:
        of: what is then done with a group.
    """

    of: Group

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """That of all groups over the share of those with a spread."""
        rate = self.of.rate(at)
        if self.of.group == math.inf:
            return rate
        xp, size = namespace(*jax.tree.leaves(at)), int(self.of.group)
        rarer = xp.maximum(xp.minimum(at.upper, at.lower), _TINY)
        return rate / (-xp.expm1(size * xp.log1p(-rarer)) - rarer**size)

    def objections(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Objections:
        """Those of all groups."""
        return self.of.objections(seen, exists)

    def fitted(self, seen: Seen, exists: Bool[np.ndarray, "prompts outputs"]) -> Clock:
        """As that of all groups."""
        fitted = self.of.fitted(seen, exists)
        if isinstance(fitted, Enumerated):
            return Enumerated(self.of, again=True, outputs=fitted.outputs)
        return DynamicSampling(fitted)  # pyright: ignore[reportArgumentType]

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.of.title}, dynamic sampling"


def _more_than_two(seen: Seen) -> list[int]:
    """The prompts whose rewards take more than two values."""
    return np.flatnonzero(np.isnan(np.asarray(seen.upper)).any(-1)).tolist()


def _unless_negative(at: Moments, rate: AnyArray) -> AnyArray:
    """Of rewards that are traced it is not known before that they divide by no mean."""
    xp = namespace(*jax.tree.leaves((at, rate)))
    return xp.where(at.least < 0, xp.nan, rate)


def _negative(clock: Clock, seen: Seen, exists: np.ndarray) -> Objections:
    least = np.where(exists, seen.rewards, 0.0).min(-1)
    return {
        int(
            prompt
        ): f"hold {float(least[prompt]):g}, and {clock.title} divides by their mean; give rewards that "
        "are not negative"
        for prompt in np.flatnonzero(least < 0)
    }


@cache
def _log_binomial(size: int) -> tuple[float, ...]:
    return tuple(math.log(math.comb(size, k)) for k in range(size + 1))


# More than two values --------------------------------------------------------------------


class Enumerated(Clock):
    """The mean over all groups there can be, of rewards that take more than two values; no clock.

    Attributes:
        of: what is done with a group.
        again: whether groups without a spread are drawn again.
        outputs: how many the largest prompt has.
    """

    of: Group
    again: bool = eqx.field(static=True, default=False)
    outputs: int = eqx.field(static=True, default=0)

    def rate(self, at: Moments) -> Float[AnyArray, "*batch"]:
        """There is none."""
        return at.mean * math.nan

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.of.title}{', dynamic sampling' if self.again else ''}"

    def pull(
        self,
        seen: Seen,
        log_p: Float[Array, "prompts outputs"],
        advantages: Float[Array, "prompts outputs"],
        weights: Float[Array, " prompts"],
    ) -> Float[Array, "prompts outputs"]:
        """Advantages whose plain gradient is the estimator's mean.

        ``E [n_y c_y] / (G pi(y))`` with the number ``n_y`` of samples of an output and their weight ``c_y``.
        """
        return jnp.vectorize(self._pull, signature="(k),(k)->(k)")(seen.rewards, log_p)

    def _pull(self, rewards: Array, log_p: Array) -> Array:
        counts, ways = compositions(int(self.of.group), rewards.size)
        exists = jnp.isfinite(log_p)
        log_p = jnp.where(exists, log_p, -_ABSENT)
        drawn = counts > 0
        # Relative to a reward that the group has: of equal rewards all is exactly zero.
        lowest = jnp.where(drawn, rewards, jnp.inf).min(-1, keepdims=True)
        relative = jnp.where(drawn, rewards - lowest, 0.0)
        shares = counts / self.of.group
        mean = (shares * relative).sum(-1, keepdims=True)
        variance = (shares * (relative - mean) ** 2).sum(-1, keepdims=True)
        spread = (relative > 0).any(-1, keepdims=True)
        deviation = jnp.sqrt(jnp.where(spread, variance, 1.0))
        scale = self.of.scale(lowest + mean, deviation)
        weights = jnp.where(drawn & spread, (relative - mean) / scale, 0.0)
        log_chance = ways[:, None] + (counts * log_p).sum(-1, keepdims=True)
        of_others = jnp.exp(jnp.where(drawn, log_chance - log_p, -jnp.inf))
        pull = (shares * weights * of_others).sum(0)
        if self.again:
            pull /= jnp.where(spread, jnp.exp(log_chance), 0.0).sum()
        return jnp.where(exists, pull, 0.0)


_ABSENT = 1e4


@cache
def compositions(group: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """How often a group can have each output, ``[groups, outputs]``, and the logarithms of the numbers of
    orders in which it then can be drawn."""
    rows = np.zeros((1, 0), int)
    for _ in range(outputs - 1):
        rest = group - rows.sum(1)
        parts = [np.column_stack([rows[rest >= n], np.full((rest >= n).sum(), n)]) for n in range(group + 1)]
        rows = np.concatenate(parts)
    rows = np.column_stack([rows, group - rows.sum(1)])
    log_factorial = np.array([math.lgamma(n + 1.0) for n in range(group + 1)])
    return rows, log_factorial[group] - log_factorial[rows].sum(1)


def _not_enumerable(clock: Group, seen: Seen, outputs: int) -> str | None:
    if seen.variances is not None:
        return (
            "have variances that are not those of 0 and 1, so that the mean of groups of "
            f"{clock.group} is not known; give group inf"
        )
    groups = math.comb(int(clock.group) + outputs - 1, outputs - 1)
    if groups * outputs <= MOST_GROUPS:
        return None
    return (
        f"take more than two values, and {clock.group} draws of {outputs} outputs make {groups} different "
        f"groups, of which at most {MOST_GROUPS // outputs} are enumerated; give a smaller group, or inf for "
        "the limit, from which a group differs by a share of the order of 1/group once its rarest relevant "
        "output is drawn"
    )


# Along flows that are solved -------------------------------------------------------------


class Clocked(NamedTuple):
    """A clock, and what it sees: of many problems, arrays having the outputs first and the problems last."""

    clock: Clock
    seen: Seen

    def slowness(self, weights: Float[AnyArray, "outputs n"], rise: Float[AnyArray, "outputs n"]) -> AnyArray:
        """``1 / m`` of policies.

        Args:
            weights: probabilities, but for a factor.
            rise: rewards over that of the output with the largest weight.
        """
        p = weights / weights.sum(0)
        return 1.0 / self.clock.rate(moments(self.seen, p, rise - (p * rise).sum(0), 0))
