"""What is measured along a trajectory: plain functions on arrays, and a registry of them by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

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
