"""Binary rewards against partial credit, on policies of networks (arXiv:2604.25872, Section 5)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from goodteacher.experiments.miniature.classrooms import classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import Scale, seeds
from goodteacher.experiments.miniature.methods import CLOCKS
from goodteacher.experiments.miniature.networks import Networks
from goodteacher.experiments.miniature.worlds import Family, all_met, partly_met, worlds

COUNTS = (2, 3, 4)
REWARDS = ("binary", "partial credit")


def gains(scale: Scale, block: str) -> Float[np.ndarray, "worlds counts rewards methods"]:
    """How much more probable it becomes on held-out prompts that all constraints are met.

    Rewards are 1 if all are met, else 0; or the share that is met. RLOO follows them as they stand.
    """
    found = []
    answers = worlds(seeds(block), scale.prompts).answers
    for count in COUNTS:
        family = Family(
            truth=lambda of, count=count: all_met(of, count), policy=Networks(tokens=2), noise=0.5
        )
        room = classrooms(family, scale.course(), seeds(block), ("ground truth",))
        binary, partial = all_met(answers, count), partly_met(answers, count)
        room = room._replace(truth=jnp.asarray(binary), rewards=jnp.stack([binary, partial], 1))
        taught = [teach(family, scale.course(clock=clock), room, _TRUTH, ()) for clock in CLOCKS.values()]
        found.append(np.stack([increases(of.held_out[_TRUTH[0]])[..., -1] for of in taught], -1))
    return np.stack(found, 1)


_TRUTH = ("expected_ground_truth_reward",)
