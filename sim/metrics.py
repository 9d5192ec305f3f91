"""What is measured along a trajectory: plain functions on arrays, and a registry of them by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sim.instance import Instance
from sim.objective import advantage, entropy, expected_reward, gradient, kl_divergence

Metric = Callable[[Instance, Float[Array, "..."]], Float[Array, "..."]]


def reward_variance(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """``E (r - V)^2`` (arXiv:2503.15477, Definition 2), precise near a vertex of the simplex."""
    return (probabilities * advantage(probabilities, rewards) ** 2).sum(-1)


def pairwise_reward_variance(
    probabilities: Float[Array, "*batch outputs"], rewards: Float[Array, "*batch outputs"]
) -> Float[Array, "*batch"]:
    """The same by ``E (r(y) - r(y'))^2 / 2`` over independent pairs: no mean, but outputs squared work."""
    difference = rewards[..., :, None] - rewards[..., None, :]
    weight = probabilities[..., :, None] * probabilities[..., None, :]
    return 0.5 * (weight * difference**2).sum((-2, -1))


def accuracy(
    rewards: Float[Array, "*batch outputs"],
    ground_truth_rewards: Float[Array, "*batch outputs"],
    pair_weights: Float[Array, "*batch outputs outputs"],
) -> Float[Array, "*batch"]:
    """Probability that a random pair of outputs is ranked as the ground truth ranks it.

    ``P[sign(r(y) - r(y')) = sign(r_G(y) - r_G(y'))]`` with the sign in {-1, 0, 1}: a tie is right only where
    the ground truth has one (arXiv:2503.15477, Definition 1).

    Args:
        rewards: of the model that is judged.
        ground_truth_rewards: what it is judged by.
        pair_weights: of a pair ``{y, y'}`` the entry at ``(y, y')`` plus that at ``(y', y)``; not negative,
            on any scale. The diagonal is ignored.

    Returns:
        Between 0 and 1; ``nan`` if no pair has a weight.
    """
    return _accuracy(rewards, ground_truth_rewards, lambda output: pair_weights[..., output, :])


def product_accuracy(
    rewards: Float[Array, "*batch outputs"],
    ground_truth_rewards: Float[Array, "*batch outputs"],
    output_weights: Float[Array, "*batch outputs"],
) -> Float[Array, "*batch"]:
    """:func:`accuracy` over pairs drawn output by output, given that the two differ; no array of pairs.

    Args:
        rewards, ground_truth_rewards: as for :func:`accuracy`.
        output_weights: equal ones for uniform pairs, whose accuracy then is the correctly rounded fraction;
            the probabilities of a policy for on-policy pairs; zero for an output that does not exist.
    """
    return _accuracy(
        rewards, ground_truth_rewards, lambda output: output_weights[..., output, None] * output_weights
    )


def _accuracy(rewards: Array, truth: Array, weights_with: Callable[[Array], Array]) -> Array:
    def with_output(output: Array) -> tuple[Array, Array]:
        """Weights of the pairs with one output: of those ranked rightly, and of all."""
        r, g = rewards[..., output, None], truth[..., output, None]
        right = ((r > rewards) == (g > truth)) & ((r < rewards) == (g < truth))
        weights = jnp.where(jnp.arange(rewards.shape[-1]) == output, 0.0, weights_with(output))
        return jnp.where(right, weights, 0.0).sum(-1), weights.sum(-1)

    right, total = jax.lax.map(with_output, jnp.arange(rewards.shape[-1]))
    return right.sum(0) / total.sum(0)


def probabilities(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
    """Probability of every output of every prompt."""
    return instance.probabilities(parameters)


def expected_proxy_reward(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """``V_RM``, the expectation of what is trained on."""
    return expected_reward(instance.probabilities(parameters), instance.rewards)


def expected_ground_truth_reward(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """``V_G``, the expectation of what is wanted."""
    return expected_reward(instance.probabilities(parameters), instance.ground_truth_rewards)


def proxy_reward_variance(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Variance of the proxy reward under the policy."""
    return reward_variance(instance.probabilities(parameters), instance.rewards)


def uniform_proxy_accuracy(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over uniform pairs of outputs, whatever the policy."""
    exists = jnp.isfinite(instance.logits(parameters)).astype(float)
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, exists)


def on_policy_proxy_accuracy(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over pairs of outputs drawn from the policy."""
    probabilities = instance.probabilities(parameters)
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, probabilities)


def kl_to_reference(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """``KL(pi || reference)`` in nats."""
    return kl_divergence(instance.log_probabilities(parameters), instance.reference_log_probabilities)


def policy_entropy(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Entropy of the policy in nats."""
    return entropy(instance.log_probabilities(parameters))


def gradient_norm(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, ""]:
    """Euclidean norm of the gradient of the objective."""
    return jnp.linalg.norm(gradient(instance, parameters).ravel())


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (
            probabilities,
            expected_proxy_reward,
            expected_ground_truth_reward,
            proxy_reward_variance,
            uniform_proxy_accuracy,
            on_policy_proxy_accuracy,
            kl_to_reference,
            policy_entropy,
            gradient_norm,
        )
    }
)


def measure(
    instance: Instance, parameters: Float[Array, "..."], metrics: tuple[str, ...]
) -> dict[str, Array]:
    """Evaluates metrics by name.

    Raises:
        ValueError: for a name that is not in :data:`METRICS`.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"metric {unknown[0]!r} is unknown; known are {', '.join(METRICS)}")
    return {name: METRICS[name](instance, parameters) for name in metrics}
