"""Rewards on one scale: what rewards of different reward models are divided by before they are compared."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.sim.names import unknown

Draws = Float[np.ndarray, " draws"]


def _divided(values: np.ndarray, size: npt.ArrayLike) -> np.ndarray:
    """What has no size has no spread, and stays as it is."""
    return values / np.where(np.asarray(size) > 0, size, 1.0)


@dataclass(frozen=True)
class Unscaled:
    """Rewards as they stand."""

    title = "as they stand"

    def apply(self, values: Draws, rollouts: Rollouts) -> Draws:
        """The rewards of all draws on this scale."""
        return values

    def variance(self, first: np.ndarray, second: np.ndarray, within: np.ndarray) -> np.ndarray | float:
        """What variances are divided by when the data are resampled.

        Args:
            first: mean over the draws of the rewards on this scale.
            second: of their squares.
            within: the mean variance within prompts.
        """
        return 1.0


@dataclass(frozen=True)
class OverPolicy(Unscaled):
    """Mean 0 and standard deviation 1 over all draws (arXiv:2503.15477, App. F.1)."""

    title = "mean 0, standard deviation 1 over all draws"

    def apply(self, values: Draws, rollouts: Rollouts) -> Draws:
        """The rewards of all draws on this scale; ``nan`` stays ``nan``."""
        return _divided(values - np.nanmean(values), np.nanstd(values))

    def variance(self, first: np.ndarray, second: np.ndarray, within: np.ndarray) -> np.ndarray | float:
        """The variance over all draws."""
        return second - first**2


@dataclass(frozen=True)
class WithinPrompts(Unscaled):
    """The mean variance within prompts is 1 (arXiv:2503.15477, Table 9)."""

    title = "mean variance 1 within prompts"

    def apply(self, values: Draws, rollouts: Rollouts) -> Draws:
        """The rewards of all draws on this scale."""
        return _divided(values, np.sqrt(_within(values, rollouts)))

    def variance(self, first: np.ndarray, second: np.ndarray, within: np.ndarray) -> np.ndarray | float:
        """The mean variance within prompts."""
        return within


@dataclass(frozen=True)
class PerPrompt(Unscaled):
    """Mean 0 and standard deviation 1 over the draws of each prompt, as GRPO has it."""

    title = "mean 0, standard deviation 1 over the draws of each prompt"

    def apply(self, values: Draws, rollouts: Rollouts) -> Draws:
        """The rewards of all draws on this scale."""
        prompt = rollouts.prompt_of
        known = np.isfinite(values)
        count = np.maximum(np.bincount(prompt[known], minlength=len(rollouts.prompts)), 1)

        def mean(of: np.ndarray) -> np.ndarray:
            return (np.bincount(prompt[known], of[known], len(rollouts.prompts)) / count)[prompt]

        centred = values - mean(values)
        spread = np.sqrt(mean(centred**2))
        # Equal rewards have no spread but rounding.
        size = mean(np.abs(values))
        return np.where(spread > 1e-12 * size, _divided(centred, spread), 0.0 * centred)


def _within(values: np.ndarray, rollouts: Rollouts) -> float:
    known = np.isfinite(values)
    prompt = rollouts.prompt_of[known]
    count = np.bincount(prompt, minlength=len(rollouts.prompts))
    mean = np.bincount(prompt, values[known], len(rollouts.prompts)) / np.maximum(count, 1)
    squares = np.bincount(prompt, (values[known] - mean[prompt]) ** 2, len(rollouts.prompts))
    several = count > 1
    return float((squares[several] / (count[several] - 1)).mean()) if several.any() else 0.0


SCALES = MappingProxyType(
    {"none": Unscaled(), "policy": OverPolicy(), "within": WithinPrompts(), "group": PerPrompt()}
)


def find_scale(scale: Any) -> Unscaled:
    """A scale by its name, or itself.

    Raises:
        ValueError: for a name that is not known.
    """
    if isinstance(scale, Unscaled):
        return scale
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return SCALES[scale]
