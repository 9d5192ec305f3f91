"""Which outputs of a prompt are best by ground truth, and what is said where that are several."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from goodteacher.experiments.aims import constant
from goodteacher.sim.instance import Instance

_NAMED = 10


def existing(instance: Instance) -> Bool[np.ndarray, "prompts outputs"]:
    """Where there is an output."""
    return np.ones(instance.rewards.shape, bool) if instance.mask is None else np.asarray(instance.mask)


def best_outputs(instance: Instance) -> Bool[np.ndarray, "prompts outputs"]:
    """Where an output has the largest ground truth reward of its prompt; nowhere if all of it tie.

    Raises:
        ValueError: if all outputs of every prompt tie.
    """
    exists = existing(instance)
    truth = np.where(exists, instance.ground_truth_rewards, -np.inf)
    best = truth == truth.max(1, keepdims=True)
    flat = constant(instance, instance.ground_truth_rewards)
    if flat.all():
        raise ValueError(
            f"ground_truth_rewards of prompt {int(flat.argmax())} are all equal: no output is preferred; "
            "leave the prompt out" + (", and the others, which are like it" if len(flat) > 1 else "")
        )
    return best & ~flat[:, None]


def no_preference(outputs: Sequence[Sequence[int]]) -> str:
    """A sentence on prompts without a best output, given those of each; empty if there are none."""
    flat = [prompt for prompt, best in enumerate(outputs) if not best]
    if not flat:
        return ""
    return f"{named(flat)}: the ground truth is the same for all outputs, and none is preferred."


def named(prompts: Sequence[int]) -> str:
    """Prompts by their numbers, the first few of many."""
    listed = ", ".join(map(str, prompts[:_NAMED]))
    more = f" and {len(prompts) - _NAMED} more" if len(prompts) > _NAMED else ""
    return f"Prompt{'s' * (len(prompts) > 1)} {listed}{more}"


def several_best(outputs: Sequence[Sequence[int]]) -> str:
    """A sentence on prompts with several best outputs, given those of each; empty if there are none."""
    several = [prompt for prompt, best in enumerate(outputs) if len(best) > 1]
    said = named(several).partition(" ")[2]
    return f"Prompts with several best outputs ({said}): y* is the first of them." if several else ""
