"""Reward models: networks that learn from preferences (Bradley-Terry), and what is made of the truth.

Preferences are over pairs of answers to the prompts of the first split, that the truth tells apart; a share
of
the pairs is drawn from the initial policy, the others from all answers alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.experiments.miniature.networks import minimised, network
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.sampling import inverse_cdf

REWARD_WIDTH = 16
_ANSWERS = np.arange(100)
_DIGITS = np.concatenate([np.eye(10)[_ANSWERS // 10], np.eye(10)[_ANSWERS % 10]], axis=1)
_GOLDEN = 0.5 * (5.0**0.5 - 1.0)
FLAT = 0.001  # factor of the rewards of half of the prompts


def drawn_pairs(
    uniforms: Float[Array, "4 prompts pairs"],
    probabilities: Float[Array, "prompts outputs"],
    share: Float[ArrayLike, ""],
) -> Int[Array, "2 prompts pairs"]:
    """Pairs of outputs, a share of which is drawn from a policy, the others from all outputs alike.

    Args:
        uniforms: numbers in [0, 1), from which both are drawn: pairs of two shares are the same as far as
        they
            can be.
        probabilities: of the policy.
        share: from 0 to 1.
    """
    of_prompts = uniforms[:2].swapaxes(0, 1).reshape(len(probabilities), -1)
    on = inverse_cdf(probabilities, of_prompts).reshape(len(probabilities), 2, -1).swapaxes(0, 1)
    off = (uniforms[2:] * probabilities.shape[-1]).astype(int)
    # Prompts are mixed evenly.
    place = jnp.arange(uniforms[0].size).reshape(uniforms.shape[1:]) * _GOLDEN % 1.0
    return jnp.where(place < share, on, off)


def bradley_terry(
    images: Float[Array, "prompts pixels"],
    pairs: Int[Array, "2 prompts pairs"],
    truth: Float[Array, "prompts outputs"],
    weights: Float[Array, " numbers"],
    updates: int,
    learning_rate: float = 0.01,
) -> Float[Array, " parameters"]:
    """A network of scores fitted to which of two outputs the truth prefers; ties count nothing.

    Args:
        images: of the prompts.
        pairs: of outputs.
        truth: by which one of a pair is preferred.
        weights: normal numbers that become the initial ones.
        updates: of Adam.
        learning_rate: of Adam.
    """
    first, second = (jnp.take_along_axis(truth, each, axis=1) for each in pairs)
    preferred = jnp.sign(first - second)
    places = jnp.asarray(_DIGITS)
    # A matrix product, where indices would have to be gathered and, in the gradient, scattered.
    digits = preferred[..., None] * (places[pairs[0]] - places[pairs[1]])

    def loss(parameters: Array) -> Array:
        margins = jnp.einsum("xpd,xd->xp", digits, _of_digits(images, parameters))
        return (jnp.abs(preferred) * jax.nn.softplus(-margins)).mean()

    start = network(images, 2, REWARD_WIDTH).initial(weights)
    return minimised(loss, start, updates, optax.adam(learning_rate))


def scores(
    images: Float[Array, "prompts pixels"], parameters: Float[Array, " parameters"]
) -> Float[Array, "prompts outputs"]:
    """What a fitted reward model gives every output: so much for its tens, and so much for its units."""
    return _of_digits(images, parameters) @ _DIGITS.T


def _of_digits(images: Array, parameters: Array) -> Float[Array, "prompts digits"]:
    return network(images, 2, REWARD_WIDTH).next_token_logits(parameters)[:, :2].reshape(len(images), -1)


def normalised(
    rewards: Float[Array, "splits prompts outputs"],
    by: Float[Array, "prompts outputs"],
    of: Int[ArrayLike, ""],
) -> Float[Array, "splits prompts outputs"]:
    """Rewards of mean 0 and standard deviation 1 over all outputs of the prompts of one split.

    As in arXiv:2503.15477, Section 4, if outputs are drawn from the initial policy.

    Args:
        rewards: of all splits.
        by: probabilities by which outputs are drawn.
        of: the split.
    """
    mean = expected_reward(by, rewards[of]).mean()
    variance = expected_reward(by, (rewards[of] - mean) ** 2).mean()
    return (rewards - mean) / jnp.sqrt(variance)


def flattened(rewards: Float[Array, "splits prompts outputs"]) -> Float[Array, "splits prompts outputs"]:
    """The same ranking, told with a thousandth of the spread on every second prompt."""
    return rewards * jnp.where(jnp.arange(rewards.shape[-2]) % 2 == 0, 1.0, FLAT)[:, None]


def biased(
    rewards: Float[Array, "splits prompts outputs"], liked: Float[Array, " outputs"], by: Float[ArrayLike, ""]
) -> Float[Array, "splits prompts outputs"]:
    """With a systematic error: some outputs get more at every prompt, in standard deviations."""
    return rewards + jnp.asarray(by) * liked
