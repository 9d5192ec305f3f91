"""What is measured along a trajectory: plain functions on arrays, and a registry of them by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import advantage, entropy, expected_reward, gradient, kl_divergence
from goodteacher.sim.validation import Numbers, as_array, is_concrete, jax_array, namespace

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


def accuracy_where_truth_differs(
    rewards: Float[Array, "*batch outputs"],
    ground_truth_rewards: Float[Array, "*batch outputs"],
    output_weights: Float[Array, "*batch outputs"],
) -> Float[Array, "*batch"]:
    """:func:`product_accuracy` over the pairs that the ground truth tells apart.

    Definition 1 counts every tie of the ground truth as an error unless the reward ties too: on a binary one
    with one right output in ten a reward without errors of rank has 0.2 by it, and 1 by this.

    Args:
        rewards, ground_truth_rewards, output_weights: as for :func:`product_accuracy`.

    Returns:
        Between 0 and 1; ``nan`` if the ground truth tells no pair apart.
    """

    def weights_with(output: Array) -> Array:
        decided = ground_truth_rewards[..., output, None] != ground_truth_rewards
        return jnp.where(decided, output_weights[..., output, None] * output_weights, 0.0)

    return _accuracy(rewards, ground_truth_rewards, weights_with)


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


class Comparisons(eqx.Module):
    """Preferred outputs against dispreferred ones, a row per prompt, and what a reward says of them.

    Attributes:
        preferred_rewards: ``[prompts]``, of the reward that is judged.
        dispreferred_rewards: ``[prompts, dispreferred]``.
        expected_rewards: ``[prompts]``, its mean under the policy: ``V_hat``.
        preferred_log_probabilities: ``[prompts]``, of the policy; per token if lengths were given.
        dispreferred_log_probabilities: ``[prompts, dispreferred]``.
        mask: ``[prompts, dispreferred]``, true where there is a dispreferred output.
    """

    preferred_rewards: Float[Array, " prompts"]
    dispreferred_rewards: Float[Array, "prompts dispreferred"]
    expected_rewards: Float[Array, " prompts"]
    preferred_log_probabilities: Float[Array, " prompts"]
    dispreferred_log_probabilities: Float[Array, "prompts dispreferred"]
    mask: Bool[Array, "prompts dispreferred"]

    def __init__(
        self,
        preferred_rewards: Numbers,
        dispreferred_rewards: Numbers,
        expected_rewards: Numbers,
        preferred_log_probabilities: Numbers,
        dispreferred_log_probabilities: Numbers,
        *,
        preferred_lengths: Numbers = 1.0,
        dispreferred_lengths: Numbers = 1.0,
        mask: Numbers = True,
    ):
        """Validates what is given, of the attributes' shapes; what the mask hides may hold anything.

        Args:
            preferred_rewards, dispreferred_rewards, expected_rewards: see the attributes.
            preferred_log_probabilities: at most zero, ``-inf`` for what the policy never says.
            dispreferred_log_probabilities: likewise.
            preferred_lengths: numbers of tokens by which to divide the log-probabilities.
            dispreferred_lengths: likewise.
            mask: true where there is a dispreferred output.

        Raises:
            ValueError: naming the entry, for shapes that do not fit, rewards that are not finite,
                log-probabilities above zero, lengths that are not positive, or a prompt without a
                dispreferred output.
        """
        shape = as_array("dispreferred_rewards", dispreferred_rewards).shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"dispreferred_rewards has shape {list(shape)}; give [prompts, dispreferred]")
        given_mask = namespace(mask).asarray(mask, bool)
        if given_mask.shape not in ((), shape):
            raise ValueError(f"mask has shape {list(given_mask.shape)}; give {list(shape)}")
        exists = namespace(given_mask).broadcast_to(given_mask, shape)
        self.mask = jnp.asarray(exists)
        empty = ~exists.any(1)
        if is_concrete(empty) and empty.any():
            prompt = int(empty.argmax())
            raise ValueError(f"mask leaves prompt {prompt} without a dispreferred output; leave it out")

        def checked(name: str, value: Numbers, ok: Callable[[Any], Any], fix: str) -> Any:
            paired = name.startswith("dispreferred")
            expected = shape if paired else shape[:1]
            given = as_array(name, value)
            if given.shape not in ((), expected):
                raise ValueError(f"{name} has shape {list(given.shape)}; give {list(expected)}")
            array = namespace(given).broadcast_to(given, expected)
            bad = ~ok(array) & (exists if paired else True)
            if is_concrete(bad) and bad.any():
                at = np.argwhere(bad)[0].tolist()
                raise ValueError(f"{name}{at} is {float(array[tuple(at)])}; {fix}")
            return array

        def rewards(name: str, value: Numbers) -> Array:
            return jax_array(checked(name, value, lambda x: abs(x) < np.inf, "give a finite number"))

        def log_probabilities(kind: str, value: Numbers, lengths: Numbers) -> Array:
            # Not a number is refused too.
            logs = checked(
                f"{kind}_log_probabilities", value, lambda x: x <= 0, "that of a probability is at most 0"
            )
            return jax_array(
                logs / checked(f"{kind}_lengths", lengths, lambda x: x > 0, "give a number of tokens")
            )

        self.preferred_rewards = rewards("preferred_rewards", preferred_rewards)
        self.dispreferred_rewards = rewards("dispreferred_rewards", dispreferred_rewards)
        self.expected_rewards = rewards("expected_rewards", expected_rewards)
        self.preferred_log_probabilities = log_probabilities(
            "preferred", preferred_log_probabilities, preferred_lengths
        )
        self.dispreferred_log_probabilities = log_probabilities(
            "dispreferred", dispreferred_log_probabilities, dispreferred_lengths
        )


class RankingAccuracy(NamedTuple):
    """Accuracies of a reward by which outputs are ranked (arXiv:2604.25872, Section 4), from 0 to 1.

    Attributes:
        acc: ``Acc``, the share of comparisons that the reward decides rightly: the preferred output gets
            strictly more, so a tie is wrong.
        acc_w: ``Acc-W``, the same weighted by the probability that the policy gives to all outputs that are
            compared.
        hacc: ``HAcc``, harm-aware: also right are comparisons in which the dispreferred output does no harm,
            because its reward is below the mean reward of the policy, ``V_hat``.
        hacc_w: ``HAcc-W``, harm-aware and weighted.
    """

    acc: Float[Array, ""]
    acc_w: Float[Array, ""]
    hacc: Float[Array, ""]
    hacc_w: Float[Array, ""]


def pairwise_accuracy(comparisons: Comparisons) -> RankingAccuracy:
    """Every dispreferred output is compared by itself; means are over all pairs of the data set.

    The weight of a pair is ``pi(y+) pi(y-)``, normalised over the data set. The weighted ones are ``nan`` if
    every weight is zero.
    """
    log_weights = (
        comparisons.preferred_log_probabilities[:, None] + comparisons.dispreferred_log_probabilities
    )
    return _ranking_accuracy(*_judged(comparisons), log_weights, comparisons.mask)


def one_vs_many_accuracy(comparisons: Comparisons) -> RankingAccuracy:
    """All dispreferred outputs of a prompt are one comparison: above them all, or all of them harmless.

    The weight of a prompt is ``pi(y+) prod_k pi(y-_k)``, normalised over the data set.
    """
    mask = comparisons.mask
    correct, harmless = _judged(comparisons)
    log_weights = comparisons.preferred_log_probabilities + jnp.where(
        mask, comparisons.dispreferred_log_probabilities, 0.0
    ).sum(1)
    return _ranking_accuracy((correct | ~mask).all(1), (harmless | ~mask).all(1), log_weights, mask.any(1))


def _judged(comparisons: Comparisons) -> tuple[Array, Array]:
    """``[prompts, dispreferred]``: where the preferred output gets more, where the other does no harm."""
    correct = comparisons.preferred_rewards[:, None] > comparisons.dispreferred_rewards
    return correct, comparisons.dispreferred_rewards < comparisons.expected_rewards[:, None]


def _ranking_accuracy(correct: Array, harmless: Array, log_weights: Array, exists: Array) -> RankingAccuracy:
    logs = jnp.where(exists, log_weights, -jnp.inf)
    # Weights of many rare outputs underflow; relative to the largest they do not.
    weights = exists.astype(float), jnp.exp(logs - logs.max())
    judged = correct, correct | harmless
    # Divided last: where all is right, the share is exactly one.
    shares = [jnp.where(right, of, 0.0).sum() / of.sum() for right in judged for of in weights]
    return RankingAccuracy(*shares)


def comparisons(instance: Instance, parameters: Float[Array, "..."]) -> Comparisons:
    """Of every prompt the best output against all others, with the proxy reward and a policy's parameters.

    The best is that of the largest ground truth reward, the first of them if there are several; the others
    that tie with it are left out, as neither is preferred. Log-probabilities are per token.

    Raises:
        ValueError: if all outputs of a prompt tie.
    """
    log_p = instance.log_probabilities(parameters)
    exists = jnp.isfinite(log_p)
    truth = jnp.where(exists, instance.ground_truth_rewards, -jnp.inf)
    best = truth.argmax(1)[:, None]
    worse = exists & (truth < truth.max(1, keepdims=True))
    some = worse.any(1)
    if is_concrete(some) and not some.all():
        raise ValueError(
            f"ground_truth_rewards of prompt {int(some.argmin())} are all equal: no output is preferred; "
            "leave the prompt out"
        )

    def of(output: Array, values: Array) -> Array:
        return jnp.take_along_axis(values, output, axis=1)[:, 0]

    # A reward less its advantage: no rounding puts the mean of equal rewards above them.
    means = instance.rewards - advantage(jnp.exp(log_p), instance.rewards)
    length = float(instance.policy.length)
    return Comparisons(
        of(best, instance.rewards),
        instance.rewards,
        of(log_p.argmax(1)[:, None], means),
        of(best, log_p),
        log_p,
        preferred_lengths=length,
        dispreferred_lengths=length,
        mask=worse,
    )


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


def uniform_accuracy(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over uniform pairs of outputs, whatever the policy."""
    exists = jnp.isfinite(instance.logits(parameters)).astype(float)
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, exists)


def on_policy_accuracy(instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over pairs of outputs drawn from the policy."""
    probabilities = instance.probabilities(parameters)
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, probabilities)


def uniform_accuracy_where_truth_differs(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over uniform pairs of outputs that the ground truth tells apart."""
    exists = jnp.isfinite(instance.logits(parameters)).astype(float)
    return accuracy_where_truth_differs(instance.rewards, instance.ground_truth_rewards, exists)


def on_policy_accuracy_where_truth_differs(
    instance: Instance, parameters: Float[Array, "..."]
) -> Float[Array, " prompts"]:
    """Accuracy of the proxy over pairs drawn from the policy that the ground truth tells apart."""
    probabilities = instance.probabilities(parameters)
    return accuracy_where_truth_differs(instance.rewards, instance.ground_truth_rewards, probabilities)


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
            uniform_accuracy,
            on_policy_accuracy,
            uniform_accuracy_where_truth_differs,
            on_policy_accuracy_where_truth_differs,
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
    for name in metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return {name: METRICS[name](instance, parameters) for name in metrics}
