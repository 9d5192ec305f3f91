"""Worlds: prompts are pairs of handwritten digits, outputs the answers 00 to 99, and a truth grades them.

A world is numbered by its seed, which decides its images, its prompts and all that is drawn later. Images are
split in three, so that no two splits share one: prompts to learn from supervision and preferences, prompts to
train on with rewards, and prompts that are held out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from goodteacher.experiments.miniature.digits import digits
from goodteacher.experiments.miniature.networks import Networks

ANSWERS = 100
TASTE, TRAIN, HELD_OUT = range(3)  # splits

NETWORK = Networks()

Truth = Callable[[Int[np.ndarray, "*batch"]], Float[np.ndarray, "*batch outputs"]]


def _digits_of(numbers: np.ndarray) -> np.ndarray:
    return np.stack([numbers // 10, numbers % 10], -1)


def _misses(answers: np.ndarray) -> Float[np.ndarray, "*batch outputs digits"]:
    """By how much each digit of every output is off."""
    return np.abs(_digits_of(np.arange(ANSWERS)) - _digits_of(answers)[..., None, :])


def close(answers: Int[np.ndarray, "*batch"], reach: float = 20.0) -> Float[np.ndarray, "*batch outputs"]:
    """Graded by the distance between the numbers: 1 if right, falling by 1/e with ``reach``, towards -1."""
    off = np.abs(np.arange(ANSWERS) - answers[..., None])
    return 2.0 * np.exp(-off / reach) - 1.0


def close_by_digit(answers: Int[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch outputs"]:
    """Graded by how far each digit is off: the mean over both, from 1 (none) to -1 (by nine)."""
    return 1.0 - 2.0 * _misses(answers).mean(-1) / 9.0


def steps(answers: Int[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch outputs"]:
    """In four steps of the distance between the numbers: right, off by up to 2, by up to 10, by more."""
    off = np.abs(np.arange(ANSWERS) - answers[..., None])
    return np.select([off == 0, off <= 2, off <= 10], [1.0, 0.5, 0.0], -1.0)


def constraints(
    answers: Int[np.ndarray, "*batch"], count: int = 2
) -> Float[np.ndarray, "*batch outputs rules"]:
    """Which verifiable constraints an answer meets.

    The tens are right; the units are right; their sum is right; the larger of the two is right.
    """
    met = _misses(answers) == 0
    given, right = _digits_of(np.arange(ANSWERS)), _digits_of(answers)[..., None, :]
    further = [given.sum(-1) == right.sum(-1), given.max(-1) == right.max(-1)]
    return np.concatenate([met, np.stack(further, -1)], -1)[..., :count].astype(float)


def all_met(answers: Int[np.ndarray, "*batch"], count: int = 2) -> Float[np.ndarray, "*batch outputs"]:
    """Binary: 1 if all constraints are met, else 0."""
    return constraints(answers, count).min(-1)


def partly_met(answers: Int[np.ndarray, "*batch"], count: int = 2) -> Float[np.ndarray, "*batch outputs"]:
    """Partial credit: the share of the constraints that are met."""
    return constraints(answers, count).mean(-1)


@dataclass(frozen=True)
class Family:
    """A kind of world, and of the policy that learns in it.

    Attributes:
        truth: what is wanted.
        policy: of what kind.
        noise: probability that a digit of a label of the supervised fit is drawn anew.
        sharpness: factor of the logits after that fit.
    """

    truth: Truth = close
    policy: Networks = NETWORK
    noise: float = 0.3
    sharpness: float = 1.0


# The first group chooses the best forecast and its times; the second has no say in that.
TUNED = MappingProxyType(
    {
        "close": Family(),
        "tokens": Family(policy=Networks(tokens=2)),
        "noisy": Family(noise=0.6),
    }
)
HELD_OUT_FAMILIES = MappingProxyType(
    {
        "by digit": Family(truth=close_by_digit),
        "steps, sharp": Family(truth=steps, sharpness=2.0),
        "binary, tokens": Family(truth=all_met, policy=Networks(tokens=2), noise=0.5),
        "wide, near": Family(truth=partial(close, reach=5.0), policy=Networks(width=32), noise=0.45),
        "steps, tokens": Family(truth=steps, policy=Networks(tokens=2, width=24), noise=0.5),
        "near, sharp": Family(truth=partial(close, reach=5.0), policy=Networks(width=8), sharpness=2.0),
    }
)


class World(NamedTuple):
    """Prompts of the three splits.

    Attributes:
        images: ``[splits, prompts, 2 * pixels]``.
        answers: ``[splits, prompts]``, the right one of each.
    """

    images: Float[np.ndarray, "*worlds splits prompts pixels"]
    answers: Int[np.ndarray, "*worlds splits prompts"]


def world(seed: int, prompts: int) -> World:
    """The world of a seed.

    Args:
        seed: its number.
        prompts: of each split, at least 2.

    Raises:
        ValueError: for a seed that is negative or no whole number, or too few prompts.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed}; give a whole number from 0 on")
    if not isinstance(prompts, int | np.integer) or prompts < 2:
        raise ValueError(f"prompts is {prompts}; give a whole number of at least 2")
    images, shown = digits()
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(images))
    third = len(order) // 3
    pairs = np.stack(
        [order[s * third : (s + 1) * third][draw.integers(third, size=(prompts, 2))] for s in range(3)]
    )
    return World(images[pairs].reshape(3, prompts, -1), shown[pairs] @ np.array([10, 1]))


def worlds(seeds: Sequence[int], prompts: int) -> World:
    """Several, with a first axis of worlds. Raises as :func:`world`."""
    return World(*map(np.stack, zip(*(world(seed, prompts) for seed in seeds), strict=True)))
