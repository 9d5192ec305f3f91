"""Does the theory carry over to networks? Bounds, times and kinds of errors along real training.

Of policies whose prompts share a network, and of tables that start at the same policy and share nothing:
bounds on the gradient and on the time of a rise, with the measured Jacobian; the times that flows foretell,
of each prompt by itself and of the linearised network, beside those that are seen; errors corrected by their
kind, with the policy trained again.
"""

from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.experiments.miniature.classrooms import (
    BIASED,
    LEARNED,
    TRUE,
    Classroom,
    Course,
    classrooms,
    increases,
    teach,
)
from goodteacher.experiments.miniature.lessons import Scale, seeds
from goodteacher.experiments.miniature.networks import Networks, Tables, Tangent
from goodteacher.experiments.miniature.training import problem, train
from goodteacher.experiments.miniature.worlds import TRAIN, Family
from goodteacher.experiments.rollouts.teaching import GradientFlow
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.policies import Policy
from goodteacher.theory import token_gradient_bounds, token_hitting_times
from goodteacher.theory.error_kinds import Category, categories

POLICIES = MappingProxyType(
    {
        "network": Family(),
        "network of two tokens": Family(policy=Networks(tokens=2)),
        "table": Family(policy=Tables()),
    }
)
MODELS = (LEARNED[0], LEARNED[-1], BIASED)  # and the truth, where it is trained on
GAMMA = 0.1  # of rewards within [-1, 1]
SHARE = 0.5  # of the possible increase of a prompt, whose time is foretold
KINDS = tuple(kind.title for kind in Category if kind)
FORECASTS = ("tabular flow", "flow on its own features", "linearised flow")
_TRUTH = "expected_ground_truth_reward"
BOUNDS = ("gradient, Proposition 2", "gradient, sharp", "time, Theorem 4", "time, sharp")


def course(scale: Scale, family: Family, **changes: Any) -> Course:
    """Of tables the mean over prompts is a sum, so that each has the time that the network has for all."""
    alone = isinstance(family.policy, Tables)
    return scale.course(rate=scale.prompts if alone else 1, **changes)


@dataclass(frozen=True)
class Looks:
    """What is looked at.

    Attributes:
        policies: of :data:`POLICIES`.
        scale: worlds, and their size.
    """

    policies: tuple[str, ...] = tuple(POLICIES)
    scale: Scale = Scale(worlds=20, prompts=100, records=20)  # noqa: RUF009


def look(looks: Looks, block: str) -> dict[str, np.ndarray]:
    """All that is looked at, in the worlds of a block.

    Returns:
        Arrays whose first axes are worlds and policies: ``gradient`` ``[.., 2, models, records]``
        and ``time`` ``[.., 2, models]`` of :func:`bounds`; ``foretold`` ``[.., forecasts, prompts]`` and
        ``seen`` ``[.., prompts]`` of :func:`stalls`; ``corrected``, ``alone`` and ``share`` ``[.., models,
        kinds]`` of :func:`corrections`.
    """
    scale, found = looks.scale, []
    for name in looks.policies:
        family = POLICIES[name]
        room = classrooms(family, scale.course(), seeds(block), (*MODELS, TRUE))
        taught = teach(family, course(scale, family), room, (_TRUTH,), ())
        found.append(
            bounds(scale, family, room, taught.parameters)
            | stalls(scale, family, room, taught.parameters[:, -1])
            | corrections(scale, family, room, taught.train[_TRUTH][..., -1])
        )
    return {name: np.stack([np.asarray(each[name]) for each in found], 1) for name in found[0]}


def bounds(
    scale: Scale, family: Family, room: Classroom, parameters: Float[Array, "worlds models records ..."]
) -> dict[str, Float[np.ndarray, "worlds 2 models *records"]]:
    """By how much bounds are off along training, of rewards scaled into ``[-1, 1]``; below one they fail.

    Returns:
        ``gradient``, of Proposition 2 and the sharp bound, over the norm, the least over prompts, at every
        record; ``time``, when the first prompt has risen by :data:`GAMMA`, over the bound of Theorem 4 and
        the sharp one (``inf`` if none has).
    """
    how = course(scale, family)
    largest = float(max(jnp.abs(of[..., TRAIN, :, :]).max() for of in (room.rewards, room.truth)))
    found = jax.device_get(_bounds(family.policy, largest)(*room, parameters))
    rise = increases(np.moveaxis(found["values"], 2, -1)).max(2)  # worlds, models, records
    first = first_times(how.counts * how.learning_rate * largest, rise, np.full(rise.shape[:-1], GAMMA))
    return {
        "gradient": np.moveaxis(found["gradient"], 2, 1),
        "time": np.moveaxis(first[..., None] / found["time"], -1, 1),
    }


def first_times(
    times: Float[np.ndarray, " records"],
    along: Float[np.ndarray, "*batch records"],
    levels: Float[np.ndarray, "*batch"],
) -> Float[np.ndarray, "*batch"]:
    """When levels are reached first, between two records by a line; ``inf`` where they are not."""
    there = along >= levels[..., None]
    at = np.maximum(there.argmax(-1), 1)[..., None]
    (low, high), (before, after) = (
        [np.take_along_axis(of, at - back, -1)[..., 0] for back in (1, 0)]
        for of in (along, np.broadcast_to(times, along.shape))
    )
    share = np.divide(levels - low, high - low, out=np.ones(low.shape), where=high > low)
    return np.where(there.any(-1), before + share * (after - before), np.inf)


@cache
def _bounds(kind: Networks, largest: float) -> Any:
    def of_run(
        images: Array, start: Array, truth: Array, rewards: Array, parameters: Array
    ) -> dict[str, Array]:
        policy = kind.policy(images, TRAIN)
        instance = problem(policy, start, rewards[TRAIN] / largest, truth[TRAIN] / largest)

        def at(here: Array) -> tuple[Array, Array, Array]:
            norms = token_gradient_bounds.gradient_norms(instance, here)
            of = token_gradient_bounds.gradient_upper_bound, token_gradient_bounds.sharp_gradient_upper_bound
            value = expected_reward(instance.probabilities(here), instance.ground_truth_rewards)
            ratios = jnp.stack([(bound(instance, here) / norms).min() for bound in of])
            return ratios, value, policy.jacobian_norms(here).max()

        ratios, values, jacobian = jax.lax.map(at, parameters)
        most = jacobian.max()
        of = token_hitting_times.hitting_time_lower_bound, token_hitting_times.sharp_lower_bound
        return {
            "gradient": ratios.T,
            "values": values,
            "time": jnp.stack([bound(instance, GAMMA, most) for bound in of]),
        }

    def of_world(world: tuple[Array, ...]) -> dict[str, Array]:
        return jax.vmap(of_run, (None, None, None, 0, 0))(*world)

    # World by world, for a gradient of every prompt by every parameter is large.
    return jax.jit(lambda *worlds: jax.lax.map(of_world, worlds))


def stalls(
    scale: Scale, family: Family, room: Classroom, parameters: Float[Array, "worlds records ..."]
) -> dict[str, Float[np.ndarray, "worlds *forecasts prompts"]]:
    """Times of prompts' rises by :data:`SHARE` of what is possible, on the truth, on the prompt's own clock.

    Returns:
        ``foretold``, by the exact flow of the prompt by itself (tabular), by that of the policy linearised
        about its start, without and with what prompts do to each other; ``seen`` in training; ``inf`` where
        there is none.
    """
    how = course(scale, family)
    log_p, values, *linear = jax.device_get(_values(family.policy, how)(room, parameters))
    truth = np.asarray(room.truth[:, TRAIN])
    levels = SHARE * (truth.max(-1) - values[:, 0])
    # Every prompt has a weight of one over their number.
    times = how.counts * how.learning_rate / scale.prompts
    seen, alone, linearised = (
        first_times(times, increases(np.moveaxis(of, 1, -1)), levels) for of in (values, *linear)
    )
    own = np.stack([GradientFlow().times(*each) for each in zip(log_p, truth, truth, levels, strict=True)])
    return {"foretold": np.stack([own, alone, linearised], 1), "seen": seen}


@cache
def _values(kind: Networks, how: Course) -> Any:
    """The initial policy, and the truth of every prompt along the training and along its linearisations."""

    def of_world(room: Classroom, parameters: Array) -> tuple[Array, ...]:
        policy, truth = kind.policy(room.images, TRAIN), room.truth[TRAIN]
        log_p = jax.nn.log_softmax(policy.logits(room.start))
        tangent = Tangent(policy, room.start, log_p)

        def along(policy: Policy, of: Array) -> Array:
            return jax.lax.map(lambda at: expected_reward(jax.nn.softmax(policy.logits(at)), truth), of)

        def linear(policy: Policy, start: Array) -> Array:
            instance = problem(policy, jnp.zeros_like(start), truth, truth)
            return along(policy, train(instance, how.optimiser(how.learning_rate), how.counts))

        alone = kind.alone(room.images, TRAIN, room.start)
        return log_p, along(policy, parameters), linear(alone, log_p), linear(tangent, room.start)

    return jax.jit(jax.vmap(of_world))


def corrections(
    scale: Scale, family: Family, room: Classroom, ends: Float[np.ndarray, "worlds models"]
) -> dict[str, Float[np.ndarray, "worlds models kinds"]]:
    """Trained again with all errors of one kind corrected, and with no other errors than these.

    Kinds are by rule, of each prompt by itself under the initial policy (arXiv:2604.25872, Section 3).

    Args:
        scale, family, room: of the runs.
        ends: final ground truth, trained on each reward model, at last on the truth.

    Returns:
        ``corrected``, by how much correcting errors raises the final ground truth; ``alone``, by how much it
        is lower with no other errors than with none; both are positive where errors harm.
        ``share``, what probability the initial policy gives the outputs that have them.
    """
    kinds, share = _kinds(family.policy)(*room)
    truth = room.truth[:, None, TRAIN]
    again = []
    for kind in Category:
        if kind:
            of_kind = kinds[:, :-1] == kind
            rewards = room.rewards[:, :-1, TRAIN]
            again += [jnp.where(of_kind, truth, rewards), jnp.where(of_kind, rewards, truth)]
    rewards = jnp.zeros((len(truth), len(again) * len(MODELS), *room.rewards.shape[2:]))
    room = room._replace(rewards=rewards.at[:, :, TRAIN].set(jnp.concatenate(again, 1)))
    how = replace(course(scale, family), records=2)
    last = teach(family, how, room, (_TRUTH,), ()).train[_TRUTH][..., -1]
    corrected, alone = np.moveaxis(last.reshape(len(last), -1, 2, len(MODELS)), (2, 3), (0, 2))
    return {
        "corrected": corrected - ends[:, :-1, None],
        "alone": ends[:, -1:, None] - alone,
        "share": np.asarray(share)[:, :-1],
    }


@cache
def _kinds(kind: Networks) -> Any:
    def of_model(images: Array, start: Array, truth: Array, rewards: Array) -> tuple[Array, Array]:
        instance = problem(kind.policy(images, TRAIN), start, rewards[TRAIN], truth[TRAIN])
        kinds = categories(instance)
        policy = instance.probabilities(start)
        shares = [(jnp.where(kinds == kind, policy, 0.0)).sum(-1).mean() for kind in Category if kind]
        return kinds, jnp.stack(shares)

    return jax.jit(jax.vmap(jax.vmap(of_model, (None, None, None, 0))))


def agreement(
    foretold: Float[np.ndarray, "*batch prompts"], seen: Float[np.ndarray, "*batch prompts"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Of forecast times where both are finite: rank correlation, and the median of what is seen over them."""
    shape = np.broadcast_shapes(foretold.shape, seen.shape)
    ranks, ratios = np.full(shape[:-1], np.nan), np.full(shape[:-1], np.nan)
    first, second = np.broadcast_to(foretold, shape), np.broadcast_to(seen, shape)
    for at in np.ndindex(shape[:-1]):
        both = np.isfinite(first[at]) & np.isfinite(second[at]) & (first[at] > 0)
        if both.sum() > 1:
            ranks[at] = rank_correlation(first[at][both], second[at][both])
            ratios[at] = np.median(second[at][both] / first[at][both])
    return ranks, ratios
