"""What becomes of a prompt: the verdicts, and the rule by which each is given."""

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int

SLIGHT = 0.05  # of the possible increase: a rise or a fall that counts


class Verdict(IntEnum):
    """What a reward does to a prompt."""

    NO_SIGNAL = 0  # the reward has one value on all draws
    SATURATED = 1  # the ground truth is at its maximum on every draw
    UNSEEN = 2  # the ground truth is constant below its maximum: no better output was drawn
    LEARNS = 3  # the goal is reached within the budget
    STALLS = 4  # reached later
    MISLED = 5  # never reached: the reward prefers a worse output
    OVER_OPTIMISED = 6  # the ground truth rises, peaks within the budget and falls
    NO_TRUTH = 7  # nothing can be said without a ground truth
    NOT_KNOWN = 8  # the estimator has no mean for these rewards, or the flow did not converge

    @property
    def title(self) -> str:
        """As it is printed."""
        return _TITLES[self]


_TITLES = {
    Verdict.NO_SIGNAL: "no signal",
    Verdict.SATURATED: "saturated",
    Verdict.UNSEEN: "unseen",
    Verdict.LEARNS: "learns",
    Verdict.STALLS: "stalls",
    Verdict.MISLED: "misled",
    Verdict.OVER_OPTIMISED: "over-optimised",
    Verdict.NO_TRUTH: "no truth",
    Verdict.NOT_KNOWN: "not known",
}

RARE = Verdict.NO_TRUTH, Verdict.NOT_KNOWN  # told of only where there are any


def moving(
    time: Float[np.ndarray, " n"],
    budget: float,
    *,
    increase: Float[np.ndarray, " n"],
    at_budget: Float[np.ndarray, " n"],
    peak: Float[np.ndarray, " n"],
    at_last: Float[np.ndarray, " n"],
    share: float,
) -> Int[np.ndarray, " n"]:
    """Verdicts of prompts with a signal and something to gain.

    Args:
        time: when the goal is reached; ``inf`` if never, ``nan`` if not known.
        budget: the time that there is.
        increase: of the ground truth that the goal asks for.
        at_budget: increase at the budget; ``nan`` where that is not known.
        peak: largest increase up to the budget.
        at_last: increase at last; only where the time is not known does it count.
        share: which share of the possible increase the goal is.
    """
    slight = SLIGHT * increase / share
    reached = time <= budget
    fallen = (peak > slight) & (at_budget < peak - slight) & (at_budget < increase - slight)
    never = np.where(np.isnan(time), at_last < increase, np.isinf(time))
    verdicts = np.where(never, Verdict.MISLED, Verdict.STALLS)
    verdicts = np.where(reached, Verdict.LEARNS, verdicts)
    verdicts = np.where(fallen, Verdict.OVER_OPTIMISED, verdicts)
    unknown = np.isnan(at_budget) | (np.isnan(time) & np.isnan(at_last))
    return np.where(unknown, Verdict.NOT_KNOWN, verdicts).astype(int)


def still(
    signal: Bool[np.ndarray, " n"], saturated: Bool[np.ndarray, " n"], unseen: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Verdicts of prompts on which nothing moves, -1 for the others."""
    verdicts = np.where(unseen, Verdict.UNSEEN, -1)
    verdicts = np.where(saturated, Verdict.SATURATED, verdicts)
    return np.where(signal, verdicts, Verdict.NO_SIGNAL).astype(int)
