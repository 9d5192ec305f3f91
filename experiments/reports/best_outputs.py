"""Which outputs of a prompt are best by ground truth, and what is said where that are several."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from goodteacher.experiments.aims import constant
from goodteacher.experiments.reports.called import prompts_named
from goodteacher.sim.instance import Instance


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


def no_preference(result: Mapping[str, Any]) -> str:
    """A sentence on the prompts of a report without a best output; empty if there are none."""
    flat = [prompt for prompt, best in enumerate(result["best_outputs"]) if not best]
    if not flat:
        return ""
    return (
        f"{prompts_named(result, flat)}: the ground truth is the same for all outputs, and none is preferred."
    )


def several_best(result: Mapping[str, Any]) -> str:
    """A sentence on the prompts of a report with several best outputs; empty if there are none."""
    several = [prompt for prompt, best in enumerate(result["best_outputs"]) if len(best) > 1]
    said = prompts_named(result, several).partition(" ")[2]
    return f"Prompts with several best outputs ({said}): y* is the first of them." if several else ""
