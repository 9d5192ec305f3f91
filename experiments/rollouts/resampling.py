"""Bootstrap over prompts: what an estimate is worth that is made of means over prompts.

Prompts are resampled with all their draws. That alone has both variations in it, of prompts and of the draws
within: resampling the draws as well would count the second one twice, and bias what is no mean of draws
(Davison and Hinkley, Bootstrap Methods and their Application, 1997, Section 3.8).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm
from scipy.stats import t as student

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
        prompts: how many.
    """

    whole: Sums
    again: Sums
    prompts: int

    def interval(self, estimate: Callable[[Sums], np.ndarray], level: float = 0.95) -> Interval:
        """Percentile interval of an estimate from the sums; all ``nan`` if it has no value.

        The percentiles are those that make it as wide as Student's where the estimate is a mean.
        """
        (value,) = estimate(self.whole)
        again = estimate(self.again)
        known = again[np.isfinite(again)]
        if not np.isfinite(value) or not known.size or self.prompts < 2:
            return Interval(float(value), np.nan, np.nan)
        n = self.prompts
        wider = student.ppf(0.5 - 0.5 * level, n - 1) * np.sqrt(n / (n - 1))
        low, high = np.quantile(known, norm.cdf([wider, -wider]))
        return Interval(float(value), float(low), float(high))

    def exceeds(self, first: Callable[[Sums], np.ndarray], second: Callable[[Sums], np.ndarray]) -> float:
        """How often one estimate is above another on the same prompts; ties count half."""
        difference = first(self.again) - second(self.again)
        return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def resample(columns: Columns, resamples: int, seed: int) -> Resampled:
    """Sums of columns over prompts drawn with replacement, as many as there are; ``nan`` counts as 0.

    Args:
        columns: a value for each prompt.
        resamples: how often.
        seed: of the draws.

    Raises:
        ValueError: if there is no resample.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1")
    names = list(columns)
    matrix = np.stack([np.nan_to_num(np.asarray(columns[name], float)) for name in names], axis=1)
    prompts = len(matrix)
    rng = np.random.default_rng(seed)
    again = np.empty((resamples, len(names)))
    part = max(_PART // prompts, 1)
    for first in range(0, resamples, part):
        weights = _weights(rng, min(part, resamples - first), prompts)
        again[first : first + len(weights)] = weights @ matrix
    return Resampled(
        dict(zip(names, matrix.sum(0)[:, None], strict=True)), dict(zip(names, again.T, strict=True)), prompts
    )


def _weights(rng: np.random.Generator, count: int, prompts: int) -> Float[np.ndarray, "count prompts"]:
    """How often each prompt is drawn."""
    weights = np.empty((count, prompts))
    drawn: Int[np.ndarray, " prompts"]
    for row in weights:
        drawn = rng.integers(prompts, size=prompts, dtype=np.int32)
        row[:] = np.bincount(drawn, minlength=prompts)
    return weights


def ratio(numerator: str, denominator: str) -> Callable[[Sums], np.ndarray]:
    """The estimate that is one sum over another."""

    def estimate(sums: Sums) -> np.ndarray:
        return divided(sums[numerator], sums[denominator])

    return estimate


def divided(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A quotient, ``nan`` where there is none."""
    return np.divide(first, second, out=np.full(np.shape(first), np.nan), where=np.asarray(second) > 0)
