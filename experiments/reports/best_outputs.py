"""Which outputs of a prompt are best by ground truth, and what is said where that are several."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from goodteacher.sim.instance import Instance


def existing(instance: Instance) -> Bool[np.ndarray, "prompts outputs"]:
    """Where there is an output."""
    return np.ones(instance.rewards.shape, bool) if instance.mask is None else np.asarray(instance.mask)


def best_outputs(instance: Instance) -> Bool[np.ndarray, "prompts outputs"]:
    """Where an output has the largest ground truth reward of its prompt.

    Raises:
        ValueError: if all outputs of a prompt tie.
    """
    exists = existing(instance)
    truth = np.where(exists, instance.ground_truth_rewards, -np.inf)
    best = truth == truth.max(1, keepdims=True)
    flat = (best == exists).all(1)
    if flat.any():
        raise ValueError(
            f"ground_truth_rewards of prompt {int(flat.argmax())} are all equal: no output is preferred; "
            "leave the prompt out"
        )
    return best


def several_best(outputs: Sequence[Sequence[int]]) -> str:
    """A sentence on prompts with several best outputs, given those of each; empty if there are none."""
    several = ", ".join(str(prompt) for prompt, best in enumerate(outputs) if len(best) > 1)
    return f"Prompts with several best outputs ({several}): y* is the first of them." if several else ""
