"""Rollouts as an instance: the model policy of what was drawn, with one reward and the ground truth."""

import itertools
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.outputs import outputs
from goodteacher.sim.instance import Instance, Parameters


class Posed(NamedTuple):
    """A problem, and what is in it.

    Attributes:
        instance: the problem.
        prompts: the names of its prompts.
        outputs: those of the outputs of each: their answers where they are known, or their first draws.
    """

    instance: Instance
    prompts: list[str]
    outputs: list[list[str]]


def as_problem(rollouts: Rollouts, reward: str | None = None, *, like_truth: bool = False) -> Posed:
    """A tabular problem: outputs are classes of draws, their initial probabilities the shares of the draws.

    A prompt whose draws are all alike has its one output twice, with half the draws each.

    Args:
        rollouts: with a ground truth, unless that is to be the reward itself.
        reward: its name; the first if not given.
        like_truth: put the reward on the scale of the ground truth: same mean and deviation over all draws.

    Raises:
        ValueError: for a name that is not known, or if no prompt has two draws with a ground truth.
    """
    chosen = rollouts.choose([reward or rollouts.names[0]])
    if chosen.truth is not None and like_truth:
        known = np.isfinite(chosen.truth)
        row, truth = chosen.rewards[0], chosen.truth[known]
        spread = row[known].std()
        scaled = (row - row[known].mean()) * (truth.std() / spread if spread > 0 else 1.0) + truth.mean()
        chosen = replace(chosen, rewards=scaled[None])
    parts = list(outputs(chosen))
    if not parts:
        raise ValueError("no prompt has two draws with a ground truth; give more of it, or another column")
    most = max(max(int(np.isfinite(part.log_probabilities).sum(1).max()) for part in parts), 2)
    shape = sum(len(part.prompts) for part in parts), most
    log_p, rewards, truth = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    mask, owner = np.zeros(shape, bool), np.zeros(shape[0], int)
    names: list[list[str]] = []
    ends = np.cumsum([0, *(len(part.prompts) for part in parts)])
    for (first, last), part in zip(itertools.pairwise(ends), parts, strict=True):
        width = min(most, part.log_probabilities.shape[1])
        rows, columns = slice(first, last), slice(width)
        exists = np.isfinite(part.log_probabilities[:, columns])
        mask[rows, columns], owner[rows] = exists, part.prompts
        log_p[rows, columns] = np.where(exists, part.log_probabilities[:, columns], 0.0)
        rewards[rows, columns] = part.rewards[0][:, columns]
        truth[rows, columns] = part.truth[:, columns]
        names += (
            _called(rollouts, rollouts.starts[prompt] + first[first >= 0])
            for prompt, first in zip(part.prompts, part.first, strict=True)
        )
    alone = np.flatnonzero(mask.sum(1) == 1)
    for array in (rewards, truth):
        array[alone, 1] = array[alone, 0]
    log_p[alone, :2], mask[alone, 1] = np.log(0.5), True
    for row in alone:
        names[row].append(f"{names[row][0]}, again")
    order = np.argsort(owner)
    instance = Instance(
        rewards[order],
        truth[order] if chosen.truth is not None else None,
        Parameters(log_p[order]),
        mask=None if mask.all() else mask[order],
    )
    return Posed(instance, [rollouts.prompts[owner[i]] for i in order], [names[i] for i in order])


def _called(rollouts: Rollouts, draws: Int[np.ndarray, " outputs"]) -> list[str]:
    """The names of outputs of a prompt, given the first draw of each."""
    numbers = [f"draw {number}" for number in rollouts.draw_numbers[draws]]
    if rollouts.answer_texts is None:
        return numbers
    answers = [str(text) for text in rollouts.answer_texts[draws]]
    often = Counter(answers)

    def called(answer: str, draw: str) -> str:
        if not answer:
            return draw
        # Different answers may be alike as far as they are shown.
        return answer if often[answer] == 1 else f"{answer} ({draw})"

    return list(map(called, answers, numbers))
