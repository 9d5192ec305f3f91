"""Policies by reward models: what each reward model teaches each initial policy of a world.

Initial policies differ in how noisy their labels were and how sharp they are. Reward models differ in whose
outputs their preferences were about: half of the pairs are of one of these policies, or none is.
"""

from functools import cache, partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from goodteacher.experiments.miniature.classrooms import LEARNED, classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import MEASURES, Scale, seeds
from goodteacher.experiments.miniature.networks import Networks
from goodteacher.experiments.miniature.preferences import normalised
from goodteacher.experiments.miniature.worlds import TRAIN, Family
from goodteacher.sim.clocks import Gradient, Grpo

POLICIES = MappingProxyType(
    {
        "rough": Family(noise=0.6),
        "plain": Family(noise=0.3),
        "sharp": Family(noise=0.3, sharpness=3.0),
    }
)
REWARD_MODELS = (*(f"of {name}" for name in POLICIES), "off-policy")
METHODS = MappingProxyType({"RLOO": Gradient, "GRPO": partial(Grpo, epsilon=1e-4)})


def entries(scale: Scale, block: str) -> dict[str, np.ndarray]:
    """Every policy under every reward model by every method.

    Returns:
        Increases ``proxy``, ``truth`` and ``held_out``, ``[worlds, policies, models, methods]``, and the
        measures of :data:`goodteacher.experiments.miniature.lessons.MEASURES`, without the methods.
    """
    rooms = {
        name: classrooms(family, scale.course(), seeds(block), (LEARNED[0], LEARNED[-1]))
        for name, family in POLICIES.items()
    }
    models = jnp.stack([*(room.rewards[:, 0] for room in rooms.values()), rooms["plain"].rewards[:, 1]], 1)
    found: dict[str, list[Any]] = {name: [] for name in ("proxy", "truth", "held_out", *MEASURES)}
    for name, family in POLICIES.items():
        room = rooms[name]
        room = room._replace(rewards=_rescaled(family.policy)(room.images, room.start, models))
        taught = {method: teach(family, scale.course(clock=clock), room) for method, clock in METHODS.items()}
        first = taught["RLOO"]
        variance, *accuracies = MEASURES.items()
        found[variance[0]].append(first.train[variance[1]][..., 0])
        for measure, metric in accuracies:
            found[measure].append(first.start[metric])
        for kind, metric, rise in (
            ("train", "expected_proxy_reward", "proxy"),
            ("train", "expected_ground_truth_reward", "truth"),
            ("held_out", "expected_ground_truth_reward", "held_out"),
        ):
            of = [increases(getattr(each, kind)[metric])[..., -1] for each in taught.values()]
            found[rise].append(np.stack(of, -1))
    return {name: np.stack(values, 1) for name, values in found.items()}


@cache
def _rescaled(kind: Networks) -> Any:
    """Rewards on the scale of another policy."""

    def rescaled(images: Array, start: Array, rewards: Array) -> Array:
        by = jax.nn.softmax(kind.policy(images, TRAIN).logits(start))
        return jax.vmap(lambda of: normalised(of, by, TRAIN))(rewards)

    return jax.jit(jax.vmap(rescaled))
