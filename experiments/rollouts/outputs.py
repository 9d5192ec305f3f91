"""The model policy of rollouts: its outputs are classes of draws, and their probabilities their shares.

Draws with equal answers are one output where answers are known. Elsewhere those are that no reward and not
the ground truth tells apart, so that every reward is followed on the same policy.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from goodteacher.experiments.rollouts.collection import Rollouts

SIZES = (4, 16, 64, 256, 1024)  # outputs; few, because each size is compiled for itself


class Outputs(NamedTuple):
    """Prompts with about as many outputs each, as arrays that are filled up.

    Attributes:
        prompts: their numbers.
        log_probabilities: ``-inf`` where there is no output.
        rewards: means over the draws of an output.
        truth: likewise.
        counts: draws of each output.
        first: the first draw of each output, counted within its prompt.
    """

    prompts: Int[np.ndarray, " p"]
    log_probabilities: Float[np.ndarray, "p outputs"]
    rewards: Float[np.ndarray, "rewards p outputs"]
    truth: Float[np.ndarray, "p outputs"]
    counts: Int[np.ndarray, "p outputs"]
    first: Int[np.ndarray, "p outputs"]


def outputs(rollouts: Rollouts, upto: Sequence[int] = SIZES) -> Iterator[Outputs]:
    """The outputs of all prompts that have at least two draws with a ground truth (of all, if there is none).

    Draws without a ground truth are left out.

    Args:
        rollouts: the draws.
        upto: numbers of outputs that arrays are filled up to.
    """
    prompt, place = rollouts.prompt_of, np.arange(rollouts.rewards.shape[1])
    truth = np.zeros(len(prompt)) if rollouts.truth is None else rollouts.truth
    known = np.isfinite(truth)
    known &= np.bincount(prompt[known], minlength=len(rollouts.prompts))[prompt] >= 2
    prompt, place, truth = prompt[known], place[known], truth[known]
    rewards = rollouts.rewards[:, known]
    keys = [*rewards, truth] if rollouts.answers is None else [rollouts.answers[known]]
    output, first = _numbered(prompt, keys)
    counts = np.bincount(output)

    def mean(of: np.ndarray) -> np.ndarray:
        # Counted from one draw of each output: the mean of equal values is that value.
        one = of[first]
        return one + np.bincount(output, of - one[output]) / counts

    owner = prompt[first]
    r, g = np.stack([mean(row) for row in rewards]), mean(truth)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    sizes = np.diff(np.append(starts, len(owner)))
    first_draw = place[first] - rollouts.starts[owner]
    limits = np.array([*upto, max(int(sizes.max(initial=0)), upto[-1] + 1)])
    of_size = np.searchsorted(limits, sizes)
    for each in np.unique(of_size):
        chosen = np.flatnonzero(of_size == each)
        slots = np.arange(int(limits[each]))
        at = starts[chosen][:, None] + slots
        exists = slots < sizes[chosen][:, None]
        at = np.where(exists, at, 0)
        count = np.where(exists, counts[at], 0)
        share = count / count.sum(1, keepdims=True)
        yield Outputs(
            owner[starts[chosen]],
            np.log(share, out=np.full(share.shape, -np.inf), where=exists),
            np.where(exists, r[:, at], 0.0),
            np.where(exists, g[at], 0.0),
            count,
            np.where(exists, first_draw[at], -1),
        )


def _numbered(prompt: np.ndarray, keys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A number for each draw, the same for those of a prompt that agree in all keys; ascending by prompt.

    Returns:
        The numbers, and the first draw of each.
    """
    code = np.zeros(len(prompt), np.int64)
    for key in keys:
        _, inverse = np.unique(key, return_inverse=True)
        _, code = np.unique(code * (int(inverse.max(initial=0)) + 1) + inverse, return_inverse=True)
    code = code + prompt * (int(code.max(initial=0)) + 1)
    _, first, output = np.unique(code, return_index=True, return_inverse=True)
    return output, first
