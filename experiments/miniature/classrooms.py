"""A policy and its teachers: what a family, a course and the seed of a world make of each other.

A classroom has an initial policy, a ground truth and reward models, all on three splits of prompts. Teaching
is
training the policy on each reward model, and recording what becomes of it. All is batched over worlds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from goodteacher.experiments.miniature.networks import Networks, initial_size, supervised
from goodteacher.experiments.miniature.preferences import (
    REWARD_WIDTH,
    biased,
    bradley_terry,
    drawn_pairs,
    flattened,
    normalised,
    scores,
)
from goodteacher.experiments.miniature.training import ACCURACIES, RECORDED, problem, recorded, train
from goodteacher.experiments.miniature.worlds import HELD_OUT, TASTE, TRAIN, Family, worlds
from goodteacher.sim.clocks import Clock, Gradient

MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)
LEARNED = tuple(f"on-policy {share:.0%}".replace("%", " %") for share in MIXES)
FLAT, TRUE = "perfect but flat", "ground truth"
PUBLISHED = (*LEARNED, FLAT, TRUE)
BIASED, NOISY, FEW, SMALL = "biased to doublets", "noisy truth", "few pairs", "half as large"
ALL = (*PUBLISHED, BIASED, NOISY, FEW, SMALL)
DOUBLETS = np.arange(100) % 11 == 0


@dataclass(frozen=True)
class Course:
    """How policies and reward models are made, and how policies are trained.

    Attributes:
        prompts: of each split.
        fit: updates of the supervised fit.
        pairs: of outputs, of each prompt, that a reward model learns from.
        reward_fit: updates of a reward model.
        updates: of the policy, on a reward.
        learning_rate: of these.
        optimiser: from that to an optax optimiser.
        clock: makes the estimator; RLOO is the gradient.
        kl: coefficient of the KL term.
        records: along training, from before the first update to after the last.
        on_policy_scale: rewards have mean 0 and standard deviation 1 over outputs of the initial policy; if
            not, over all outputs alike.
    """

    prompts: int = 100
    fit: int = 60
    pairs: int = 20
    reward_fit: int = 80
    updates: int = 200
    learning_rate: float = 0.5
    optimiser: Callable[[float], optax.GradientTransformation] = optax.sgd
    clock: Callable[[], Clock] = Gradient
    kl: float = 0.0
    records: int = 11
    on_policy_scale: bool = True

    @property
    def counts(self) -> Int[np.ndarray, " records"]:
        """Numbers of updates at which is recorded, denser at the beginning."""
        return np.unique(np.round(np.linspace(0, 1, self.records) ** 2 * self.updates).astype(int))


class Classroom(NamedTuple):
    """Of a world, or of several.

    Attributes:
        images: ``[splits, prompts, pixels]``.
        start: parameters of the initial policy, flat if it is a network.
        truth: ``[splits, prompts, outputs]``, on the scale of the rewards.
        rewards: ``[models, splits, prompts, outputs]``.
    """

    images: Float[Array, "*worlds splits prompts pixels"]
    start: Float[Array, "..."]
    truth: Float[Array, "*worlds splits prompts outputs"]
    rewards: Float[Array, "*worlds models splits prompts outputs"]


def classrooms(
    family: Family, course: Course, seeds: Sequence[int], models: Sequence[str] = PUBLISHED
) -> Classroom:
    """Those of some worlds.

    Args:
        family: of all worlds.
        course: how policies and reward models are made.
        seeds: of the worlds.
        models: of :data:`ALL`.

    Raises:
        ValueError: as :func:`goodteacher.experiments.miniature.worlds.world`.
    """
    of = worlds(seeds, course.prompts)
    truth = np.asarray(family.truth(of.answers), float)
    drawn = jax.tree.map(lambda *each: np.stack(each), *(_draws(seed, family, course) for seed in seeds))
    make = _make(family.policy, _unused_in_training(course), tuple(models))
    return make(of.images, of.answers, truth, drawn, family.noise, family.sharpness)


class _Draws(NamedTuple):
    """All that is random in a classroom but its world; drawn before what is compiled."""

    redrawn: Any
    digits: Any
    weights: Any
    pairs: Any
    reward_weights: Any
    noise: Any


def _draws(seed: int, family: Family, course: Course) -> _Draws:
    draw = np.random.default_rng([seed, 1])
    labels = 2, course.prompts
    return _Draws(
        draw.random(labels),
        draw.integers(10, size=labels),
        draw.standard_normal(initial_size(family.policy)),
        draw.random((4, course.prompts, course.pairs)),
        draw.standard_normal(initial_size(Networks(2, REWARD_WIDTH))),
        draw.standard_normal((3, course.prompts, 100)),
    )


def _unused_in_training(course: Course) -> Course:
    """The same for all courses that differ in training alone, so that one program serves them."""
    return Course(
        course.prompts, course.fit, course.pairs, course.reward_fit, on_policy_scale=course.on_policy_scale
    )


@cache
def _make(kind: Networks, course: Course, models: tuple[str, ...]) -> Any:
    def make(
        images: Array, answers: Array, truth: Array, draws: _Draws, noise: Array, sharpness: Array
    ) -> Classroom:
        tens, units = jnp.where(
            draws.redrawn < noise, draws.digits, jnp.stack([answers[TASTE] // 10, answers[TASTE] % 10])
        )
        net = kind.network(images[TASTE])
        fitted = net.sharpened(supervised(net, 10 * tens + units, draws.weights, course.fit), sharpness)
        start = kind.start(images, fitted)
        log_p = [jax.nn.log_softmax(kind.policy(images, split).logits(start)) for split in (TASTE, TRAIN)]
        by = jnp.exp(log_p[TRAIN]) if course.on_policy_scale else jnp.full_like(log_p[TRAIN], 0.01)
        truth = normalised(truth, by, TRAIN)

        def learned(share: Array, per_prompt: int = course.pairs) -> Array:
            pairs = drawn_pairs(draws.pairs[..., :per_prompt], jnp.exp(log_p[TASTE]), share)
            fitted = bradley_terry(
                images[TASTE], pairs, truth[TASTE], draws.reward_weights, course.reward_fit
            )
            return normalised(jax.vmap(scores, (0, None))(images, fitted), by, TRAIN)

        made = dict(zip(LEARNED, jax.vmap(learned)(jnp.array(MIXES)), strict=True))
        made |= {
            FLAT: flattened(truth),
            TRUE: truth,
            BIASED: normalised(biased(truth, jnp.asarray(DOUBLETS, float), 2.0), by, TRAIN),
            NOISY: normalised(truth + draws.noise, by, TRAIN),
            FEW: learned(jnp.array(0.5), 4),
            SMALL: 0.5 * made[LEARNED[2]],
        }
        # What is not asked for is not computed, once compiled.
        return Classroom(images, start, truth, jnp.stack([made[name] for name in models]))

    return jax.jit(jax.vmap(make, (0, 0, 0, 0, None, None)))


class Lessons(NamedTuple):
    """What became of a policy under each of its teachers, by the names of metrics.

    Attributes:
        train: means over the prompts trained on, ``[worlds, models, records]``.
        held_out: over those held out.
        start: means under the initial policy, ``[worlds, models]``.
        parameters: of the policies, ``[worlds, models, records, parameters]``, or in place of the last axis
            those of tables.
    """

    train: Mapping[str, Float[np.ndarray, "worlds models records"]]
    held_out: Mapping[str, Float[np.ndarray, "worlds models records"]]
    start: Mapping[str, Float[np.ndarray, "worlds models"]]
    parameters: Float[Array, "worlds models records ..."]


def teach(
    family: Family,
    course: Course,
    of: Classroom,
    along: tuple[str, ...] = RECORDED,
    at_first: tuple[str, ...] = ACCURACIES,
) -> Lessons:
    """Trains the policies on all reward models.

    Args:
        family: of the worlds.
        course: how.
        of: the classrooms.
        along: metrics that are recorded along the runs.
        at_first: those that are only wanted of the initial policy.
    """
    parameters = _train(family.policy, course)(*of)
    look = _look(family.policy, along, at_first)
    train, held_out, start = jax.device_get(look(*of, parameters))
    return Lessons(train, held_out, start, parameters)


@cache
def _train(kind: Networks, course: Course) -> Any:
    def run(images: Array, start: Array, truth: Array, rewards: Array) -> Array:
        policy = kind.policy(images, TRAIN)
        instance = problem(policy, start, rewards[TRAIN], truth[TRAIN], course.clock(), course.kl)
        return train(instance, course.optimiser(course.learning_rate), course.counts)

    return jax.jit(jax.vmap(jax.vmap(run, (None, None, None, 0))))


@cache
def _look(kind: Networks, along: tuple[str, ...], at_first: tuple[str, ...]) -> Any:
    def look(images: Array, start: Array, truth: Array, rewards: Array, parameters: Array) -> Any:
        train, held_out = (
            problem(kind.policy(images, split), start, rewards[split], truth[split])
            for split in (TRAIN, HELD_OUT)
        )
        first = {name: of[0] for name, of in recorded(train, parameters[:1], at_first).items()}
        return *(recorded(split, parameters, along) for split in (train, held_out)), first

    return jax.jit(jax.vmap(jax.vmap(look, (None, None, None, 0, 0))))


def increases(of: Float[np.ndarray, "*batch records"]) -> Float[np.ndarray, "*batch records"]:
    """Over the first record."""
    return of - of[..., :1]
