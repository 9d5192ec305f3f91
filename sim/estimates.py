"""What draws of a policy tell of it, without a model of it: estimators that are unbiased.

Arrays ``[..., draws]`` of rewards of independent draws from one prompt's policy, with a mask of those that
there are. Estimates have the leading axes; they are ``nan`` where there are too few draws. All is NumPy.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

Values = Float[np.ndarray, "*batch draws"]
Mask = Bool[np.ndarray, "*batch draws"]
Estimate = Float[np.ndarray, "*batch"]

_MOST_PAIRS = 1 << 22  # compared at a time


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return _ratio(np.where(mask, values, 0.0).sum(-1), mask.sum(-1))


def _ratio(of: np.ndarray, by: np.ndarray) -> np.ndarray:
    by = np.asarray(by, float)
    return np.divide(of, by, out=np.full(np.broadcast(of, by).shape, np.nan), where=by > 0)


def mean(values: Values, mask: Mask) -> Estimate:
    """Of the draws: unbiased for the expectation."""
    return _mean(values, mask)


def variance(values: Values, mask: Mask) -> Estimate:
    """``s^2`` with divisor ``n - 1``: unbiased for the reward variance (arXiv:2503.15477, Definition 2)."""
    return covariance(values, values, mask)


def covariance(first: Values, second: Values, mask: Mask) -> Estimate:
    """With divisor ``n - 1``: unbiased for the covariance under the policy.

    That of a reward and the ground truth is the rate at which the expected ground truth reward rises under
    the natural gradient, at time 0.
    """
    a, b = (np.where(mask, values - _mean(values, mask)[..., None], 0.0) for values in (first, second))
    return _ratio((a * b).sum(-1), mask.sum(-1) - 1)


class Pairs(NamedTuple):
    """Shares of the pairs of draws of a prompt.

    Attributes:
        right: ranked as the ground truth ranks them, a tie only where that has one (arXiv:2503.15477,
            Definition 1): unbiased for the accuracy over pairs from the policy.
        decided: told apart by the ground truth.
        right_decided: told apart by it, and ranked rightly.
        harmless: told apart by it, and ranked rightly or with the worse of the two below the mean of the
            reward, where it does no harm (arXiv:2604.25872, Section 4). The mean is that of the draws.
    """

    right: Estimate
    decided: Estimate
    right_decided: Estimate
    harmless: Estimate


def pairs(rewards: Values, truth: Values, mask: Mask) -> Pairs:
    """Over all pairs of two draws: unbiased for two independent outputs of the policy, but ``harmless``."""
    shape, draws = mask.shape[:-1], mask.shape[-1]
    r, g, m = (np.broadcast_to(of, mask.shape).reshape(-1, draws) for of in (rewards, truth, mask))
    below = r < _mean(r, m)[:, None]
    found = np.empty((4, len(m)))
    part = max(_MOST_PAIRS // draws**2, 1)
    for first in range(0, len(m), part):
        rows = slice(first, first + part)
        found[:, rows] = _of_pairs(r[rows], g[rows], m[rows], below[rows])
    count = m.sum(-1) * (m.sum(-1) - 1)
    return Pairs(*(_ratio(of, count).reshape(shape) for of in found))


def _of_pairs(r: np.ndarray, g: np.ndarray, m: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, ...]:
    """Numbers of ordered pairs."""
    draws = m.shape[-1]
    both = m[:, :, None] & m[:, None, :] & ~np.eye(draws, dtype=bool)
    above = r[:, :, None] > r[:, None, :]
    better = g[:, :, None] > g[:, None, :]
    # A pair counts in both orders; in one of them the first is the better one, if any is.
    turned = above.swapaxes(1, 2), better.swapaxes(1, 2)
    right = both & (above == better) & (turned[0] == turned[1])
    decided = both & better
    kept = decided & above
    harmless = decided & (above | below[:, None, :])
    return right.sum((1, 2)), 2 * decided.sum((1, 2)), 2 * kept.sum((1, 2)), 2 * harmless.sum((1, 2))


def share_with_spread(rewards: Values, mask: Mask, group: int) -> Estimate:
    """Probability that ``group`` draws do not all have one reward: unbiased, ``nan`` for less than that many.

    ``1 - sum_v C(c_v, G) / C(n, G)`` with the counts ``c_v`` of the distinct rewards.
    """
    if not (mask.sum(-1) >= group).any():
        return np.full(mask.shape[:-1], np.nan)
    return _spread(np.where(mask, rewards, np.nan), mask.sum(-1), group)


def _spread(rewards: np.ndarray, n: np.ndarray, group: int) -> np.ndarray:
    ordered = np.sort(rewards, axis=-1)  # nan last
    place = np.zeros(ordered.shape, int)  # of a draw among those of the same reward
    for i in range(1, ordered.shape[-1]):
        place[..., i] = np.where(ordered[..., i] == ordered[..., i - 1], place[..., i - 1] + 1, 0)
    # C(c, G) is the sum of C(place, G - 1) over the draws of one value.
    alike = np.where(np.isnan(ordered), 0.0, _choose_share(place, group, n)).sum(-1)
    return np.where(n >= group, 1.0 - alike, np.nan)


def _choose_share(place: np.ndarray, group: int, n: np.ndarray) -> np.ndarray:
    """``C(place, group - 1) / C(n, group)``, as a product that does not overflow."""
    place = np.minimum(place, n[..., None] - 1)  # beyond it there is no draw, and factors are above 1
    value = group / np.maximum(n, 1)[..., None] * np.ones(place.shape)
    for j in range(group - 1):
        value = value * np.maximum(place - j, 0) / np.maximum(n[..., None] - 1 - j, 1)
    return value


def best_of(rewards: Values, values: Values, mask: Mask, number: int) -> Estimate:
    """Expected value of the one of ``number`` draws that has the largest reward; ties share.

    ``sum_i v_(i) C(i - 1, N - 1) / C(n, N)`` over the draws sorted by reward: unbiased, ``nan`` for less than
    ``number`` draws.
    """
    n = mask.sum(-1)
    order = np.argsort(np.where(mask, rewards, np.inf), axis=-1, kind="stable")
    r, v, m = (np.take_along_axis(of, order, -1) for of in (rewards, values, mask))
    shares = np.where(m, _choose_share(np.arange(r.shape[-1]) * np.ones(r.shape, int), number, n), 0.0)
    shares = _over_ties(r, shares, m)
    return np.where(n >= number, np.where(m, shares * np.where(m, v, 0.0), 0.0).sum(-1), np.nan)


def _over_ties(rewards: np.ndarray, shares: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shares of sorted draws, with those of equal rewards averaged."""
    new = np.ones(rewards.shape, bool)
    new[..., 1:] = (rewards[..., 1:] != rewards[..., :-1]) | ~mask[..., 1:]
    run = (np.cumsum(new.reshape(-1)) - 1).reshape(new.shape)  # every row begins a run
    total = np.bincount(run.reshape(-1), shares.reshape(-1))
    count = np.bincount(run.reshape(-1))
    return (total / count)[run]


class Tilt(NamedTuple):
    """Policies ``pi_tau`` proportional to ``pi exp(tau r)``: where the natural gradient flow is at tau, and
    the optimum with KL coefficient ``1 / tau``.

    Attributes:
        log_probabilities: ``[..., outputs]``.
        kl: to the policy at tau 0, in nats.
        effective_size: ``1 / sum w^2`` with the weights of single draws.
    """

    log_probabilities: Float[np.ndarray, "*batch outputs"]
    kl: Estimate
    effective_size: Estimate


def tilt(
    log_probabilities: Float[np.ndarray, "*batch outputs"],
    rewards: Float[np.ndarray, "*batch outputs"],
    tau: Float[np.ndarray, "*batch"],
    counts: Int[np.ndarray, "*batch outputs"] | None = None,
) -> Tilt:
    """Tilts policies; ``-inf`` is the log-probability of an output that does not exist.

    Args:
        log_probabilities, rewards: of the outputs.
        tau: not negative.
        counts: how many draws each output is; one if not given.
    """
    exists = np.isfinite(log_probabilities)
    shift = np.where(exists, rewards, -np.inf).max(-1, keepdims=True)
    logits = log_probabilities + np.where(exists, (rewards - shift) * np.asarray(tau)[..., None], 0.0)
    top = logits.max(-1, keepdims=True)
    tilted = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    p = np.exp(tilted)
    change = np.subtract(tilted, log_probabilities, out=np.zeros(tilted.shape), where=exists)
    kl = (p * change).sum(-1)
    alone = p**2 / np.maximum(1 if counts is None else counts, 1)
    return Tilt(tilted, np.maximum(kl, 0.0), 1.0 / alone.sum(-1))


def unseen_probability(draws: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """What the probability of an output that ``draws`` draws did not show is below, with a confidence.

    ``1 - (1 - confidence)^(1/n)``: at any larger one it would have been missed more rarely than that.
    """
    return np.asarray(-np.expm1(np.log1p(-confidence) / np.asarray(draws, float)))


def first_crossing(
    beyond: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    grid: Float[np.ndarray, " points"],
    steps: int = 50,
) -> Float[np.ndarray, " count"]:
    """Where functions first cease to be negative: on a grid, then by halving; ``inf`` if nowhere on it.

    Args:
        beyond: from the numbers of some functions, and a point for each, to their values there.
        count: how many functions there are.
        grid: ascending.
        steps: of halving.
    """
    low, high = np.full(count, grid[0]), np.full(count, np.inf)
    left = np.arange(count)
    for before, point in itertools.pairwise([grid[0], *grid]):
        met = beyond(left, np.full(len(left), point)) >= 0
        low[left[met]], high[left[met]] = before, point
        left = left[~met]
    found = np.flatnonzero(np.isfinite(high))
    below, above = low[found], high[found]
    for _ in range(steps):
        middle = 0.5 * (below + above)
        met = beyond(found, middle) >= 0
        below, above = np.where(met, below, middle), np.where(met, middle, above)
    high[found] = above
    return high
