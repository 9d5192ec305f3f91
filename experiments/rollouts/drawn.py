"""What draws tell of rewards, prompt by prompt, with no model of the policy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.sim import estimates


class Drawn(NamedTuple):
    """Unbiased estimates; ``nan`` where there are too few draws, or without a ground truth.

    Attributes:
        signal: whether a reward has two values.
        mean, square: of the rewards, and of their squares.
        variance: of the rewards.
        covariance: of the rewards and the ground truth.
        right, decided, right_decided, harmless: shares, as :class:`goodteacher.sim.estimates.Pairs`.
        spread: share of groups of each size that have two values.
        best_of: ground truth of the best of so many by reward.
        truth: mean ground truth.
        draws: how many.
    """

    signal: Bool[np.ndarray, "rewards prompts"]
    mean: Float[np.ndarray, "rewards prompts"]
    square: Float[np.ndarray, "rewards prompts"]
    variance: Float[np.ndarray, "rewards prompts"]
    covariance: Float[np.ndarray, "rewards prompts"]
    right: Float[np.ndarray, "rewards prompts"]
    decided: Float[np.ndarray, "rewards prompts"]
    right_decided: Float[np.ndarray, "rewards prompts"]
    harmless: Float[np.ndarray, "rewards prompts"]
    spread: Float[np.ndarray, "rewards prompts groups"]
    best_of: Float[np.ndarray, "rewards prompts numbers"]
    truth: Float[np.ndarray, " prompts"]
    draws: Int[np.ndarray, " prompts"]


def best_of_numbers(rollouts: Rollouts) -> list[int]:
    """Of how many draws the best is taken: powers of two, up to as many as a prompt has."""
    return [1 << i for i in range(int(rollouts.counts.max()).bit_length())]


def drawn(rollouts: Rollouts, scaled: Rollouts, groups: Sequence[int], numbers: Sequence[int]) -> Drawn:
    """Estimates of the rewards of ``scaled``, which are those of ``rollouts`` on another scale.

    Args:
        rollouts: as they were drawn: whether rewards are equal is decided before they are scaled.
        scaled: the same draws.
        groups: sizes of groups.
        numbers: of how many draws the best is taken.
    """
    shape = (len(rollouts.names), len(rollouts.prompts))
    found = Drawn(
        np.zeros(shape, bool),
        *(np.full(shape, np.nan) for _ in range(8)),
        spread=np.full((*shape, len(groups)), np.nan),
        best_of=np.full((*shape, len(numbers)), np.nan),
        truth=np.full(shape[1], np.nan),
        draws=rollouts.counts,
    )
    for batch, on_scale in zip(rollouts.batches(), scaled.batches(), strict=True):
        at, mask, known = batch.prompts, batch.mask, np.isfinite(batch.truth)
        found.truth[at] = estimates.mean(batch.truth, known)
        for i, (raw, reward) in enumerate(zip(batch.rewards, on_scale.rewards, strict=True)):
            signal = np.where(mask, raw, -np.inf).max(1) > np.where(mask, raw, np.inf).min(1)
            found.signal[i, at] = signal
            found.mean[i, at] = estimates.mean(reward, mask)
            found.square[i, at] = estimates.mean(reward**2, mask)
            found.variance[i, at] = np.where(signal, estimates.variance(reward, mask), 0.0)
            for j, group in enumerate(groups):
                found.spread[i, at, j] = estimates.share_with_spread(raw, mask, group)
            if not known.any():
                continue
            found.covariance[i, at] = estimates.covariance(reward, batch.truth, known)
            for name, share in estimates.pairs(raw, batch.truth, known)._asdict().items():
                getattr(found, name)[i, at] = share
            for j, number in enumerate(numbers):
                found.best_of[i, at, j] = estimates.best_of(raw, batch.truth, known, number)
    return found
