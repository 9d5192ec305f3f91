"""Where flows that are integrated come to rest, and whether that is short of a goal."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import expected_reward, gradient, kl_divergence, natural_gradient
from goodteacher.sim.policies import Tabular

_WEAKEST = 1e-3  # regularisation strength assumed in the test of convergence when there is less
_UNSURE = 1e-14  # of expectations at a computed optimum, relative to values and logits
_CONVERGED = 1e-6  # total variation to where the natural gradient points, at convergence
_TILTS = np.geomspace(1e-6, 1e9, 91)  # at which the least divergence of a goal is bounded
_DIVERGENCE_ROUNDING = 1e-12
DENSE = 128
"""Parameters up to which linear systems are solved for them."""
_DEPARTS = 1e-9  # of the fastest rate at a stationary point: one at which what is close departs


class Limit(NamedTuple):
    """The policy to which a flow converges, and how far from it every policy is that meets the goal."""

    log_probabilities: Float[Array, "prompts outputs"]
    divergence: Float[Array, " prompts"]  # a lower bound of KL(policy || limit) where the goal is met


def limit_of(instance: Instance, goal: Goal) -> Limit | None:
    """The optimum of a tabular policy with reverse KL or an entropy bonus.

    A policy's shortfall of the objective is its divergence from that optimum times the strength of the
    regularisation, so the divergence never grows along the flow. A policy whose expectation of values ``f``
    is a given level has a divergence of at least ``s level - ln E exp(s f)``, expectation at the optimum, for
    every ``s >= 0`` (Donsker and Varadhan; the largest is Sanov's rate).
    """
    regularizer = instance.regularizer
    if regularizer is None or instance.clock is not None or not isinstance(instance.policy, Tabular):
        return None
    strength = regularizer.kl + regularizer.entropy
    known = (strength > 0) & (regularizer.forward_kl == 0)
    log_reference = instance.reference_log_probabilities
    exists = jnp.isfinite(log_reference)
    pull = instance.rewards + regularizer.kl * jnp.where(exists, log_reference, 0.0)
    logits = (pull - pull.max(-1, keepdims=True, where=exists, initial=-jnp.inf)) / jnp.where(
        known, strength, 1.0
    )
    optimum = jax.nn.log_softmax(jnp.where(exists, logits, -jnp.inf))
    values = jnp.where(exists, goal.values - goal.level[:, None], 0.0)
    tilts = _TILTS / jnp.maximum(jnp.abs(values).max(-1, keepdims=True), jnp.finfo(float).tiny)
    rates = -jax.nn.logsumexp(optimum[:, None] + tilts[..., None] * values[:, None], axis=-1)
    return Limit(optimum, jnp.where(known, rates.max(-1), 0.0))


def beyond(optimum: Limit, log_probabilities: Float[Array, "prompts outputs"]) -> Bool[Array, " prompts"]:
    """Whether a policy is closer to the optimum than any that meets the goal: it never will."""
    divergence = kl_divergence(log_probabilities, optimum.log_probabilities)
    return divergence + _DIVERGENCE_ROUNDING < optimum.divergence


def converged(instance: Instance, goal: Goal, parameters: Array) -> Bool[Array, " prompts"]:
    """Whether the policy that the natural gradient still points to is the present one, short of the goal.

    For a tabular policy with reverse KL that policy is the optimum itself, in closed form; an output
    that has a tiny probability now and a large one at the optimum is seen, which no gradient norm shows.
    Where parameters are shared a flow may also come close to a saddle, which it leaves again.
    """
    strength = 0.0
    if instance.regularizer is not None:
        strength = sum(jax.tree.leaves(instance.regularizer))
    direction = natural_gradient(instance, parameters) / jnp.maximum(strength, _WEAKEST)
    logits = instance.logits(parameters)
    ahead = jax.nn.softmax(logits + instance.policy.pushforward(parameters, direction))
    distance = jnp.abs(ahead - jax.nn.softmax(logits)).sum(-1).max()
    # A level this close to what the optimum has may be reached, or not.
    gap = expected_reward(ahead, goal.values - goal.level[:, None])
    unsure = (
        _UNSURE * (1.0 + jnp.abs(jnp.where(ahead > 0, logits, 0.0)).max(-1)) * jnp.abs(goal.values).max(-1)
    )
    return (distance < _CONVERGED) & (gap < -unsure) & ~_is_saddle(instance, parameters)


def _is_saddle(instance: Instance, parameters: Array) -> Bool[Array, ""]:
    """Whether what is next to a stationary point departs from it in some direction; of few parameters."""
    if isinstance(instance.policy, Tabular) or parameters.size > DENSE:
        return jnp.zeros((), bool)
    jacobian = jax.jacfwd(partial(gradient, instance))(parameters).reshape(parameters.size, -1)
    rates = jnp.linalg.eigvalsh(jacobian)
    return rates[-1] > _DEPARTS * jnp.abs(rates).max()
