"""Does the theory carry over to networks? Bounds, times and kinds of errors along real training.

Of policies of networks, whose prompts share all parameters: bounds on the gradient and on the time of a rise
with
the measured Jacobian; the times that flows of each prompt by itself foretell, beside those that are seen; and
errors that are corrected by their kind, with the network trained again.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.experiments.miniature.classrooms import LEARNED, Classroom, classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import Scale, seeds
from goodteacher.experiments.miniature.networks import Networks
from goodteacher.experiments.miniature.training import problem
from goodteacher.experiments.miniature.worlds import TRAIN, Family
from goodteacher.experiments.rollouts.teaching import GradientFlow
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.sim.objective import expected_reward
from goodteacher.theory import token_gradient_bounds, token_hitting_times
from goodteacher.theory.error_kinds import Category, categories

MODELS = (LEARNED[0], LEARNED[-1], "ground truth")
GAMMA = 0.1  # of rewards within [-1, 1]
_SHARE = 0.5  # of the possible increase of a prompt, whose time is foretold
KINDS = tuple(kind.title for kind in Category if kind)


def bounds(scale: Scale, block: str) -> dict[str, Float[np.ndarray, "worlds models *records"]]:
    """Two sides of the bounds along training, of rewards scaled into ``[-1, 1]``.

    Returns:
        ``published`` and ``sharp``, by how much the bounds on the gradient's norm are above it, the least
        over
        prompts, at every record; ``time``, when the first prompt has risen by :data:`GAMMA`, between two
        records by a line (``inf`` if none has), and ``published_time`` and ``sharp_time``, before which none
        does; ``jacobian``, the largest norm.
    """
    family, course = Family(), scale.course()
    room = classrooms(family, course, seeds(block), MODELS)
    parameters = teach(family, course, room, (), ()).parameters
    largest = float(
        jnp.maximum(jnp.abs(room.rewards[:, :, TRAIN]).max(), jnp.abs(room.truth[:, TRAIN]).max())
    )
    times = course.counts * course.learning_rate * largest
    found = jax.device_get(_bounds(family.policy, largest)(*room, parameters))
    values = found.pop("values")  # worlds, models, records, prompts
    rise = increases(np.moveaxis(values, 2, -1)).max(2)  # worlds, models, records
    first = np.full(rise.shape[:-1], np.inf)
    for at in np.argwhere((rise >= GAMMA).any(-1)):
        along = np.maximum.accumulate(rise[tuple(at)])
        first[tuple(at)] = np.interp(
            GAMMA, along[: (along >= GAMMA).argmax() + 1], times[: (along >= GAMMA).argmax() + 1]
        )
    return {**found, "time": first}


@cache
def _bounds(kind: Networks, largest: float) -> Any:
    def look(
        images: Array, start: Array, truth: Array, rewards: Array, parameters: Array
    ) -> dict[str, Array]:
        policy = kind.policy(images, TRAIN)
        instance = problem(policy, start, rewards[TRAIN] / largest, truth[TRAIN] / largest)

        def at(here: Array) -> tuple[Array, ...]:
            norms = token_gradient_bounds.gradient_norms(instance, here)
            of = token_gradient_bounds.gradient_upper_bound, token_gradient_bounds.sharp_gradient_upper_bound
            value = expected_reward(instance.probabilities(here), instance.ground_truth_rewards)
            return (
                *((bound(instance, here) / norms).min() for bound in of),
                value,
                policy.jacobian_norms(here).max(),
            )

        published, sharp, values, jacobian = jax.lax.map(at, parameters)
        most = jacobian.max()
        return {
            "published": published,
            "sharp": sharp,
            "values": values,
            "jacobian": most,
            "published_time": token_hitting_times.hitting_time_lower_bound(instance, GAMMA, most),
            "sharp_time": token_hitting_times.sharp_lower_bound(instance, GAMMA, most),
        }

    return jax.jit(jax.vmap(jax.vmap(look, (None, None, None, 0, 0))))


def stalls(scale: Scale, block: str) -> dict[str, Float[np.ndarray, " worlds"]]:
    """Times of a prompt's rise on the truth: of its own tabular flow, and of the network.

    Returns:
        ``rank_correlation`` over the prompts that the network takes there, the median ``ratio`` of the
        network's
        time, on the prompt's own clock, to the flow's, and the ``reached`` share of prompts.
    """
    family, course = Family(), scale.course()
    room = classrooms(family, course, seeds(block), MODELS[-1:])
    parameters = teach(family, course, room, (), ()).parameters
    log_p, values = jax.device_get(_values(family.policy)(room, parameters[:, 0]))
    truth = np.asarray(room.truth[:, TRAIN])
    found: dict[str, list[float]] = {"rank_correlation": [], "ratio": [], "reached": []}
    for start, along, rewards in zip(log_p, values, truth, strict=True):
        increase = _SHARE * (rewards.max(-1) - along[0])
        own = GradientFlow().times(start, rewards, rewards, increase)
        there = along - along[0] >= increase
        reached = there.any(0) & np.isfinite(own)
        # Every prompt has a weight of one over their number.
        seen = course.counts[there.argmax(0)] * course.learning_rate / scale.prompts
        found["rank_correlation"].append(float(rank_correlation(own[reached], seen[reached])))
        found["ratio"].append(float(np.median(seen[reached] / own[reached])) if reached.any() else np.nan)
        found["reached"].append(float(reached.mean()))
    return {name: np.array(each) for name, each in found.items()}


@cache
def _values(kind: Networks) -> Any:
    def look(room: Classroom, parameters: Array) -> tuple[Array, Array]:
        policy = kind.policy(room.images, TRAIN)
        log_p = jax.nn.log_softmax(jax.vmap(policy.logits)(parameters))
        return log_p[0], expected_reward(jnp.exp(log_p), room.truth[TRAIN])

    return jax.jit(jax.vmap(look))


def corrections(scale: Scale, block: str) -> dict[str, Float[np.ndarray, "worlds models kinds"]]:
    """Trained again with all errors of one kind corrected, of reward models that learned from preferences.

    Kinds are by rule, of each prompt by itself under the initial policy (arXiv:2604.25872, Section 3).

    Returns:
        ``effect``, by how much correcting them raises the final ground truth, and ``share``, what probability
        the initial policy gives the outputs that have them.
    """
    family, course = Family(), scale.course()
    room = classrooms(family, course, seeds(block), MODELS)
    kinds, share = _kinds(family.policy)(*room)
    effects = []
    for model in range(len(MODELS) - 1):
        rewards = [room.rewards[:, model]]
        for kind in Category:
            if kind:
                fixed = jnp.where(kinds[:, model] == kind, room.truth[:, TRAIN], rewards[0][:, TRAIN])
                rewards.append(rewards[0].at[:, TRAIN].set(fixed))
        again = room._replace(rewards=jnp.stack(rewards, 1))
        ends = teach(family, course, again, ("expected_ground_truth_reward",), ()).train
        last = ends["expected_ground_truth_reward"][..., -1]
        effects.append(last[:, 1:] - last[:, :1])
    return {"effect": np.stack(effects, 1), "share": np.asarray(share)[:, :-1]}


@cache
def _kinds(kind: Networks) -> Any:
    def look(images: Array, start: Array, truth: Array, rewards: Array) -> tuple[Array, Array]:
        instance = problem(kind.policy(images, TRAIN), start, rewards[TRAIN], truth[TRAIN])
        kinds = categories(instance)
        policy = instance.probabilities(start)
        shares = [(jnp.where(kinds == kind, policy, 0.0)).sum(-1).mean() for kind in Category if kind]
        return kinds, jnp.stack(shares)

    return jax.jit(jax.vmap(jax.vmap(look, (None, None, None, 0))))
