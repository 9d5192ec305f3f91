"""Reward models for one policy: its three teachers, and random ones of given accuracy and variance."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.experiments.instances import BEST
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import product_accuracy, reward_variance
from goodteacher.theory.rankings import insertion_ranking
from goodteacher.theory.teachers import fast_rewards, fast_teacher, low_variance_teacher

TEACHERS = ("ground truth", "low variance", "fast")


@dataclass(frozen=True)
class Classroom:
    """What is to be taught, to whom, and by which three teachers.

    Attributes:
        outputs: how many there are; the first is the best.
        initial_probability: of the best output; the others share the rest equally.
        next_reward: ground truth reward of the second best output; those of the others are evenly spaced from
            -1 up to it, and the best has 1.
        gamma: increase of the expected ground truth reward that is waited for.
        T: time scale of the low-variance teacher.
    """

    outputs: int = 10
    initial_probability: float = 0.05
    next_reward: float = 0.5
    gamma: float = 0.4
    T: float = 1e5

    @property
    def truth(self) -> Float[np.ndarray, " outputs"]:
        """The ground truth rewards."""
        return np.array([1.0, *np.linspace(self.next_reward, -1.0, self.outputs - 1)])

    @property
    def policy(self) -> Float[np.ndarray, " outputs"]:
        """The initial probabilities."""
        share = (1.0 - self.initial_probability) / (self.outputs - 1)
        return np.array([self.initial_probability, *[share] * (self.outputs - 1)])

    def problem(self) -> Instance:
        """The ground truth and the initial policy, trained on the ground truth."""
        return Instance(self.truth, start=self.policy)

    def teachers(self) -> Float[np.ndarray, "teachers outputs"]:
        """The rewards of :data:`TEACHERS`: accurate and slow is the second, inaccurate and fast the third."""
        # All pairs wrong but those of the best output: K - 1 of K (K - 1) / 2.
        accuracy = 2.0 / self.outputs
        return np.stack(
            [
                self.truth,
                low_variance_teacher(1.0, self.truth, self.T),
                fast_teacher(accuracy, self.truth, self.policy, BEST, self.gamma),
            ]
        )


def random_models(
    classroom: Classroom, right: Sequence[int], ahead: Sequence[bool], each: int, rng: np.random.Generator
) -> Float[np.ndarray, "kinds each outputs"]:
    """Random reward models of given accuracies, of variance one under the initial policy.

    Args:
        classroom: the policy and the ground truth.
        right: for each kind of model, how many pairs it ranks rightly.
        ahead: whether its best output is far ahead of all others, which hardly differ, as the fast teacher
            has it; otherwise its rewards are evenly spaced in the order of a ranking.
        each: models of each kind.
        rng: where random numbers come from.
    """
    levels = np.stack(
        [random_rankings(classroom.truth, r, each, rng, first) for r, first in zip(right, ahead, strict=True)]
    )
    far = jax.jit(fast_rewards)(levels, BEST, np.full(levels.shape[:-1], classroom.policy[BEST]))
    return standardized(np.where(np.reshape(ahead, (-1, 1, 1)), far, levels), classroom.policy)


def random_rankings(
    truth: np.ndarray, right: int, count: int, rng: np.random.Generator, first: bool = False
) -> np.ndarray:
    """Random rankings without ties that get so many pairs right, ``[count, outputs]``.

    As many pairs are drawn from all of them, and each output is put above as many worse ones as it has worse
    partners among these. ``first`` puts the best output first, with all its pairs right.
    """
    worse = (truth[:, None] > truth).sum(-1)
    free = np.where(np.arange(truth.size) == BEST, 0, worse) if first else worse
    shares = rng.multivariate_hypergeometric(free, int(right - (worse - free).sum()), size=count)
    return np.stack([insertion_ranking(truth, share + worse - free) for share in shares])


def standardized(rewards: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Reward models ``[..., outputs]`` shifted and scaled to mean 0 and variance 1 under a policy."""
    centred = rewards - (policy * rewards).sum(-1, keepdims=True)
    return centred / np.sqrt((policy * centred**2).sum(-1, keepdims=True))


def accuracy_and_variance(
    rewards: Float[np.ndarray, "models outputs"],
    truth: Float[np.ndarray, " outputs"],
    policy: Float[np.ndarray, " outputs"],
) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, " models"]]:
    """Of reward models: their accuracy over uniform pairs, and their variance under a policy."""
    return jax.device_get(_accuracy_and_variance(rewards, truth, policy))


@jax.jit
def _accuracy_and_variance(rewards: Array, truth: Array, policy: Array) -> tuple[Array, Array]:
    def one(proxy: Array) -> tuple[Array, Array]:
        return product_accuracy(proxy, truth, jnp.ones_like(truth)), reward_variance(policy, proxy)

    return jax.vmap(one)(rewards)
