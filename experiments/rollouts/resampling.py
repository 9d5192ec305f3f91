"""Bootstrap over prompts: what an estimate is worth that is made of means over prompts.

Prompts are resampled with all their draws. That alone has both variations in it, of prompts and of the draws
within: resampling the draws as well would count the second one twice, and bias what is no mean of draws
(Davison and Hinkley, Bootstrap Methods and their Application, 1997, Section 3.8).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri, stdtrit

from goodteacher.sim.estimates import unseen_probability

Columns = Mapping[str, Float[np.ndarray, " prompts"]]
Sums = Mapping[str, Float[np.ndarray, " resamples"]]

_PART = 1 << 23  # weights at a time


class Interval(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


class Resampled(NamedTuple):
    """Sums over the prompts, as they are and resampled.

    Attributes:
        whole: ``[1]`` each.
        again: ``[resamples]`` each.
        without: ``[prompts]`` each, with one prompt left out.
        prompts: how many.
    """

    whole: Sums
    again: Sums
    without: Sums
    prompts: int

    def interval(self, estimate: Callable[[Sums], np.ndarray], level: float = 0.95) -> Interval:
        """Percentile interval of an estimate from the sums; all ``nan`` if it has no value.

        The percentiles are corrected for bias and skewness (BCa: Efron, Better bootstrap confidence
        intervals, 1987), and are so far out as to make it as wide as Student's where the estimate is a mean:
        with as many degrees of freedom as the variance of an estimate has that hangs on few prompts
        (Satterthwaite, An approximate distribution of estimates of variance components, 1946). Where a
        :class:`Share` is 0 or 1 in every prompt, as it then is in every resample, it reaches as far as what
        so many prompts would have shown.
        """
        (value,) = estimate(self.whole)
        again = estimate(self.again)
        known = again[np.isfinite(again)]
        if not np.isfinite(value) or not known.size or self.prompts < 2:
            return Interval(float(value), np.nan, np.nan)
        if isinstance(estimate, Share) and value in (0.0, 1.0):
            seen = np.count_nonzero(self.without[estimate.whole] < self.whole[estimate.whole])
            unseen = float(unseen_probability(seen, 0.5 + 0.5 * level))
            return Interval(value, 1.0 - unseen, 1.0) if value else Interval(value, 0.0, unseen)
        n = self.prompts
        skewness, freedom = _influence(estimate(self.without))
        wider = stdtrit(freedom, 0.5 - 0.5 * level) * np.sqrt(n / (n - 1))
        most = 1.0 - 0.5 / len(known)
        below = np.mean(known < value) + 0.5 * np.mean(known == value)
        bias = ndtri(np.clip(below, 1.0 - most, most))
        reach = bias + np.array([wider, -wider])
        percentiles = ndtr(bias + reach / (1.0 - skewness * reach))
        low, high = np.quantile(known, percentiles)
        return Interval(float(value), float(low), float(high))

    def exceeds(self, first: Callable[[Sums], np.ndarray], second: Callable[[Sums], np.ndarray]) -> float:
        """How often one estimate is above another on the same prompts; ties count half."""
        difference = first(self.again) - second(self.again)
        return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def _influence(without: np.ndarray) -> tuple[float, float]:
    """What estimates with one prompt left out tell: the acceleration of BCa, and the degrees of freedom of
    the estimate's variance, ``n - 1`` where the prompts' parts are normal and fewer for heavier tails."""
    known = without[np.isfinite(without)]
    n = len(known)
    change = known.mean() - known if n else known
    size = np.abs(change).max(initial=0.0)
    if n < 2 or size <= 0:
        return 0.0, max(n - 1.0, 1.0)
    change = change / size  # whose powers are numbers, on whatever scale
    square = (change**2).sum()
    excess = n * (change**4).sum() / square**2 - 3.0
    # What jumps without one prompt has no acceleration to speak of.
    skewness = np.clip((change**3).sum() / (6.0 * square**1.5), -0.2, 0.2)
    return float(skewness), float(2.0 / (2.0 / (n - 1) + max(excess, 0.0) / n))


def resample(columns: Columns, resamples: int, seed: int) -> Resampled:
    """Sums of columns over prompts drawn with replacement, as many as there are; ``nan`` counts as 0.

    Args:
        columns: a value for each prompt.
        resamples: how often.
        seed: of the draws.

    Raises:
        ValueError: if there is no resample.
    """
    return resample_each([columns], resamples, seed)[0]


def resample_each(files: Sequence[Columns], resamples: int, seed: int) -> list[Resampled]:
    """The same of several files of one size and the same columns, by the same draws.

    Args and errors as for :func:`resample`.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1")
    names = list(files[0])
    every = [np.nan_to_num(np.asarray(columns[name], float)) for columns in files for name in names]
    matrix = np.stack(every, axis=1)
    prompts = len(matrix)
    again = np.empty((resamples, matrix.shape[1]))
    part = max(_PART // prompts, 1)
    for first in range(0, resamples, part):
        weights = _weights(seed, first, min(part, resamples - first), prompts)
        again[first : first + len(weights)] = weights @ matrix
    total = matrix.sum(0)

    def named(sums: np.ndarray, number: int) -> Sums:
        own = sums[:, number * len(names) : (number + 1) * len(names)]
        return dict(zip(names, own.T, strict=True))

    return [
        Resampled(named(total[None], number), named(again, number), named(total - matrix, number), prompts)
        for number in range(len(files))
    ]


@lru_cache(maxsize=4)
def _weights(seed: int, first: int, count: int, prompts: int) -> Float[np.ndarray, "count prompts"]:
    """How often each prompt is drawn, in the resamples from a first one on."""
    rng = np.random.default_rng((seed, first))
    weights = np.empty((count, prompts))
    for row in weights:
        drawn = rng.integers(prompts, size=prompts, dtype=np.int32)
        row[:] = np.bincount(drawn, minlength=prompts)
    weights.setflags(write=False)
    return weights


def ratio(numerator: str, denominator: str) -> Callable[[Sums], np.ndarray]:
    """The estimate that is one sum over another."""

    def estimate(sums: Sums) -> np.ndarray:
        return divided(sums[numerator], sums[denominator])

    return estimate


@dataclass(frozen=True)
class Share:
    """The estimate that is one sum over another which in no prompt is smaller.

    Attributes:
        part, whole: names of the sums.
    """

    part: str
    whole: str

    def __call__(self, sums: Sums) -> np.ndarray:
        """From the sums."""
        return divided(sums[self.part], sums[self.whole])


def divided(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A quotient, ``nan`` where there is none."""
    return np.divide(first, second, out=np.full(np.shape(first), np.nan), where=np.asarray(second) > 0)
