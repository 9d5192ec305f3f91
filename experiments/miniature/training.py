"""Training on a reward: exact expected updates, or sampled ones, with any optax optimiser, recorded.

What is trained is an :class:`goodteacher.sim.instance.Instance` whose policy is a network: its clock is the
estimator (that of RLOO is the gradient itself), its regulariser the KL coefficient. ``jax.vmap`` over
instances makes many runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from goodteacher.sim.ascent import update_counts
from goodteacher.sim.clocks import Clock
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import measure
from goodteacher.sim.objective import gradient
from goodteacher.sim.policies import Policy
from goodteacher.sim.sampling import Estimator, sampled_gradient

Estimate = Callable[[Instance, Float[Array, "..."], Any], Float[Array, "..."]]

RECORDED = (
    "expected_proxy_reward",
    "expected_ground_truth_reward",
    "kl_to_reference",
    "policy_entropy",
    "proxy_reward_variance",
)
ACCURACIES = ("uniform_accuracy_where_truth_differs", "on_policy_accuracy_where_truth_differs")


def exact(instance: Instance, parameters: Float[Array, "..."], update: Any) -> Float[Array, "..."]:
    """The exact expected update under the instance's clock."""
    return gradient(instance, parameters)


def sampled(estimator: Estimator, group: int, key: Key[Array, ""]) -> Estimate:
    """Updates estimated from groups of samples of every prompt.

    Args:
        estimator: one of :data:`goodteacher.sim.sampling.ESTIMATORS`.
        group: samples of a prompt.
        key: decides them, with the number of the update.
    """

    def estimate(instance: Instance, parameters: Array, update: Array) -> Array:
        shape = (len(instance.rewards), group)
        uniforms = jax.random.uniform(jax.random.fold_in(key, update), shape)
        return sampled_gradient(instance, parameters, uniforms, estimator)

    return estimate


def problem(
    policy: Policy,
    start: Float[Array, "..."],
    rewards: Float[Array, "prompts outputs"],
    truth: Float[Array, "prompts outputs"],
    clock: Clock | None = None,
    kl: Any = 0.0,
) -> Instance:
    """What is trained: a policy on the rewards of a split's prompts.

    Args:
        policy: over these prompts.
        start: its parameters, and the reference of the KL term.
        rewards: what is trained on.
        truth: what is wanted.
        clock: the estimator; RLOO if not given.
        kl: its coefficient.
    """
    regularizer = Regularizer(kl=kl)
    instance = Instance(rewards, truth, Parameters(start), policy=policy, regularizer=regularizer)
    return instance if clock is None else instance.following(clock)


def train(
    instance: Instance,
    transformation: optax.GradientTransformation,
    updates: Sequence[int] | np.ndarray,
    estimate: Estimate = exact,
) -> Float[Array, "records ..."]:
    """The parameters after given numbers of updates.

    Args:
        instance: the problem.
        transformation: the optimiser.
        updates: ascending, not negative.
        estimate: of the gradient.

    Raises:
        ValueError: for numbers of updates that are none.
    """
    counts = update_counts(updates)

    def update(count: Array, carry: Any) -> Any:
        parameters, state = carry
        step, state = transformation.update(-estimate(instance, parameters, count), state, parameters)
        return jnp.asarray(optax.apply_updates(parameters, step)), state

    def segment(carry: Any, bounds: tuple[Array, Array]) -> Any:
        carry = jax.lax.fori_loop(*bounds, update, carry)
        return carry, carry[0]

    start = instance.initial_parameters
    before = jnp.concatenate([jnp.zeros(1, counts.dtype), counts[:-1]])
    return jax.lax.scan(segment, (start, transformation.init(start)), (before, counts))[1]


def recorded(
    instance: Instance, parameters: Float[Array, "records ..."], metrics: tuple[str, ...] = RECORDED
) -> dict[str, Float[Array, " records"]]:
    """Means over prompts of :data:`goodteacher.sim.metrics.METRICS` along a run."""

    def look(at: Array) -> dict[str, Array]:
        return {name: values.mean() for name, values in measure(instance, at, metrics).items()}

    return jax.lax.map(look, parameters)
