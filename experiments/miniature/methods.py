"""How a policy is trained, and whether the reward models keep their order: estimators, optimisers, policies.

MaxRL divides by the mean, so that rewards may not be negative: there each prompt's least is taken from them,
which no other mean update feels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from goodteacher.experiments.miniature.carried_over import course
from goodteacher.experiments.miniature.classrooms import Classroom, Course, classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import Scale, early_record, seeds
from goodteacher.experiments.miniature.networks import Tables
from goodteacher.experiments.miniature.worlds import Family
from goodteacher.sim.clocks import Clock, Gradient, Grpo, MaxRl

ADAM_TIME = 2.0  # learning rate times updates: each parameter moves by about as much at most
_TRUTH = "expected_ground_truth_reward"


@dataclass(frozen=True)
class Method:
    """An estimator and an optimiser.

    Attributes:
        clock: makes the estimator.
        adam: in place of plain steps.
    """

    clock: Callable[[], Clock] = Gradient
    adam: bool = False

    def course(self, scale: Scale, family: Family) -> Course:
        """That of the runs: in the common time of plain steps, or in :data:`ADAM_TIME`."""
        plain = course(scale, family, clock=self.clock)
        if not self.adam:
            return plain
        return replace(plain, optimiser=optax.adam, learning_rate=ADAM_TIME / scale.updates)


CLOCKS = MappingProxyType({"RLOO": Gradient, "GRPO": partial(Grpo, epsilon=1e-4), "MaxRL": MaxRl})
METHODS = MappingProxyType(
    {**{name: Method(clock) for name, clock in CLOCKS.items()}, "RLOO, Adam": Method(adam=True)}
)
POLICIES = MappingProxyType({"network": Family(), "table": Family(policy=Tables())})


def not_negative(room: Classroom) -> Classroom:
    """Rewards less the least of each prompt."""
    return room._replace(rewards=room.rewards - jnp.min(room.rewards, -1, keepdims=True))


def taught(scale: Scale, block: str) -> dict[str, Float[np.ndarray, "worlds policies methods models 2"]]:
    """Increases of the ground truth on the prompts trained on, early and at the end, of every method."""
    found = []
    for family in POLICIES.values():
        room = not_negative(classrooms(family, scale.course(), seeds(block)))
        for method in METHODS.values():
            how = method.course(scale, family)
            rise = increases(teach(family, how, room, (_TRUTH,), ()).train[_TRUTH])
            found.append(rise[..., [early_record(how.counts), -1]])
    shape = len(found[0]), len(POLICIES), len(METHODS), *found[0].shape[1:]
    return {"truth": np.stack(found, 1).reshape(shape)}
