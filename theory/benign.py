"""A reward error at an output that is rare at first is benign: a bound on what it can do in a given time.

Two tabular flows from one initial policy, under rewards that differ at one output ``y`` of a prompt only,
by ``e``; ``D`` is the larger of the ranges of both; no regularisation. After time ``T``, the prompt's
logits have parted, in Euclidean norm, by at most

    ``sqrt(2) |e| (w T) pi_0(y) exp((8/27) D w T)``,

where ``w`` is the weight of the prompt, ``1/|S|``. The total variation between the two policies is at most
``1 / (2 sqrt 2)`` times that. So what a proxy says about ``y`` matters only once ``pi_0(y) exp((8/27) D w
T)`` is not negligible. This is what arXiv:2604.25872, Section 3, concludes from arXiv:2503.15477, Lemma 10,
with constants; they are derived here.

1. Growth. ``d ln pi(y)/dt = w Cov(r, h)`` with ``h = 1_y - pi`` (arXiv:2503.15477, Lemma 9), which is
   linear in ``r``, so at most ``w D q (1-q) (E[h|B] - E[h|B'])`` for a set ``B`` of outputs, ``q = pi(B)``,
   and the others ``B'``. On ``B'``, ``h >= -(1-q)``. If ``B`` does not have ``y``, ``h <= 0`` on it, and
   the product is at most ``q (1-q)^2 <= 4/27``. If it has, ``E[h|B] <= pi(y) (1 - pi(y)) / q`` with ``pi(y)
   <= q``: for ``q <= 1/2`` at most ``1 - q``, and the product at most ``2 q (1-q)^2 <= 8/27``; beyond, at
   most ``1/(4q)``, and the product at most 1/4. Hence ``pi_t(y) <= pi_0(y) exp((8/27) D w t)``. (Lemma 10
   has 4 for ``(8/27) D``, which is at most 16/27; 8/27 is attained by two outputs.)
2. Forcing. At the same policy the two velocities differ by ``w e
   pi(y) (1 - pi(y))`` at ``y`` and ``-w e pi(y) pi(z)`` at ``z``, in norm at most ``sqrt(2) w |e| pi(y)``.
3. Lipschitz constant. The Hessian of ``V`` is the third joint cumulant: ``E[A (v - E v)^2]`` along a unit
   vector ``v``. Linear in ``r`` again: at most ``D q (1-q) [Var(v|B) + (1 - 2q) d^2]``, ``d = E[v|B] -
   E[v|B']``, when one drops ``-Var(v|B')``. A variance of a unit vector is at most 1/2, and ``Var(v|B) +
   d^2 = E[(v - E[v|B'])^2|B] <= 2``. So the bracket is at most ``2 - 3q`` for ``q <= 1/2`` (at most 1/2
   beyond), and ``q (1-q) (2 - 3q) < 1/4``: the field is Lipschitz with ``w D / 4``. (Numerically the best
   constant is ``w D / (3 sqrt 3)``, which two outputs attain.)
4. Gronwall: the distance is at most ``int_0^T exp(w D (T-s)/4) sqrt(2) w |e| pi_0(y) exp((8/27) w D s)
   ds``, and 1/4 < 8/27. (The first ``D`` is the range of the one flow's rewards, the second that of the
   other's.)
5. ``|d pi|_1 = E|v - E v| <= sqrt(Var v) <= |v|/sqrt(2)`` when the logits move by ``v``; total variation is
   half of it.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.flow import Control, trajectories
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draws import (
    Source,
    random_logits,
    random_mask,
    random_prompt_weights,
    random_rewards,
    without,
)
from goodteacher.theory.error_kinds import trained_on
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

GROWTH = 8.0 / 27.0  # most of d ln pi(y) / dt, per weight of the prompt and range of the rewards


def largest_probability(
    initial_probability: Float[ArrayLike, "*batch"],
    time: Float[ArrayLike, "*batch"],
    weight: Float[ArrayLike, "*batch"] = 1.0,
    reward_range: Float[ArrayLike, "*batch"] = 2.0,
) -> Float[Array, "*batch"]:
    """``pi_0(y) exp((8/27) D w T)``: what no output's probability exceeds by time ``T``.

    Args:
        initial_probability: ``pi_0(y)``.
        time: ``T``, of the gradient flow.
        weight: ``w``, of the prompt; ``1/|S|`` for the mean over prompts.
        reward_range: ``D``, largest minus smallest reward at the prompt.
    """
    return jnp.asarray(initial_probability * jnp.exp(GROWTH * reward_range * weight * time))


def logits_apart(
    initial_probability: Float[ArrayLike, "*batch"],
    error: Float[ArrayLike, "*batch"],
    time: Float[ArrayLike, "*batch"],
    weight: Float[ArrayLike, "*batch"] = 1.0,
    reward_range: Float[ArrayLike, "*batch"] = 2.0,
    *,
    constant: Number = 2**0.5,
    growth: Number = GROWTH,
    size: Number = 1.0,
    clock: Number = 1.0,
    rarity: Number = 1.0,
) -> Float[Array, "*batch"]:
    """How far, in Euclidean norm, a reward error at one output can move the logits of its prompt by ``T``.

    Args:
        initial_probability, time, weight: as for :func:`largest_probability`.
        error: ``e``, of the reward.
        reward_range: ``D``, of the rewards with the error or without it, whichever is larger.
        constant: the root of 2.
        growth: 8/27.
        size, clock, rarity: exponents of ``|e|``, ``w T`` and ``pi_0(y)``.
    """
    elapsed = jnp.asarray(weight) * time
    reached = jnp.asarray(initial_probability) ** rarity * jnp.exp(growth * reward_range * elapsed)
    return constant * jnp.abs(jnp.asarray(error)) ** size * elapsed**clock * reached


def policies_apart(
    initial_probability: Float[ArrayLike, "*batch"],
    error: Float[ArrayLike, "*batch"],
    time: Float[ArrayLike, "*batch"],
    weight: Float[ArrayLike, "*batch"] = 1.0,
    reward_range: Float[ArrayLike, "*batch"] = 2.0,
) -> Float[Array, "*batch"]:
    """The total variation to which a reward error at one output can lead by ``T``.

    The expected value of any reward then differs by at most its range times this. Args as for
    :func:`logits_apart`.
    """
    return logits_apart(initial_probability, error, time, weight, reward_range) / (2.0 * jnp.sqrt(2.0))


# Statements -------------------------------------------------------------------

_SHAPE = (2, 8)
_TRAJECTORY_TOLERANCE = 1e-12


class Error(NamedTuple):
    """A problem with an error at the first output of its first prompt, the rewards without it, and how long
    it is trained on."""

    instance: Instance
    correct_rewards: Float[Array, "prompts outputs"]
    time: Float[Array, ""]


def _error(source: Source) -> Error:
    """The output's initial probability is between 1e-5 and 1/2, so that differences are seen.

    In a third of the draws the error is all that tells the outputs apart.
    """
    exists = random_mask(source, _SHAPE)
    rare = source.log_uniform(1e-5, 0.5)
    logits = jnp.where(exists, random_logits(source, _SHAPE, high=4.0), -jnp.inf)
    rest = jax.nn.log_softmax(logits[0].at[0].set(-jnp.inf)) + jnp.log1p(-rare)
    start = logits.at[0].set(rest.at[0].set(jnp.log(rare)))

    alike = source.bernoulli(1 / 3)
    rewards = random_rewards(source, _SHAPE)[:, ::-1]
    rewards = jnp.where(alike, rewards[:, 1:2] + source.log_uniform(1e-9, 1e-1) * rewards, rewards)
    wrong = source.log_uniform(0.01, 1.0)
    correct = jnp.where(rewards[0, 0] > 0, rewards[0, 0] - wrong, rewards[0, 0] + wrong)
    instance = Instance(
        rewards,
        start=Parameters(jnp.where(exists, start, 0.0)),
        prompt_weights=random_prompt_weights(source, 2),
    )
    corrected = instance.rewards.at[0, 0].set(correct)
    swapped = source.bernoulli()  # whether the error is the other way round
    instance = trained_on(instance, jnp.where(swapped, corrected, rewards))
    return Error(
        without(instance, exists),
        jnp.where(swapped, rewards, corrected),
        source.log_uniform(0.1, 30.0) / instance.prompt_weights[0],
    )


class Ends(NamedTuple):
    """Where training leads with the error and without it: logits of the first prompt."""

    drawn: Error
    wrong: Float[Array, " outputs"]
    right: Float[Array, " outputs"]


def _observe(drawn: Error) -> Ends:
    def ends(instances: Instance) -> Array:
        return trajectories(instances, drawn.time[:, None], Control(tolerance=_TRAJECTORY_TOLERANCE))[:, 0, 0]

    return Ends(drawn, ends(drawn.instance), ends(trained_on(drawn.instance, drawn.correct_rewards)))


_Bound = Callable[[Array, Array, Array, Array, Array], Array]  # of pi_0(y), error, time, weight and range


def _spread(rewards: Array, exists: Array) -> Array:
    highest = rewards.max(where=exists, initial=-jnp.inf)
    return highest - rewards.min(where=exists, initial=jnp.inf)


def _widest(rewards: Array, correct: Array, exists: Array) -> Array:
    return jnp.maximum(_spread(rewards, exists), _spread(correct, exists))


def _judge(bound: _Bound) -> Judge:
    """With a bound on the distance of the logits."""

    def judge(ends: Ends) -> Sides:
        drawn, wrong_end, right_end = ends
        instance = drawn.instance
        exists = jnp.isfinite(instance.reference_log_probabilities[0])
        rewards, correct = instance.rewards[0], drawn.correct_rewards[0]
        initial = jnp.exp(instance.reference_log_probabilities[0, 0])
        widest = _widest(rewards, correct, exists)
        weight = instance.prompt_weights[0]
        distance = bound(initial, rewards[0] - correct[0], drawn.time, weight, widest)
        logits = jnp.sqrt(jnp.where(exists, (wrong_end - right_end) ** 2, 0.0).sum())
        wrong, right = (jax.nn.softmax(jnp.where(exists, end, -jnp.inf)) for end in (wrong_end, right_end))
        apart = jnp.stack([logits, 0.5 * jnp.abs(wrong - right).sum()])
        # Paths are good to 1e-9.
        return Sides(apart * (1.0 - 1e-9), distance / jnp.array([1.0, 2.0 * jnp.sqrt(2.0)])).tightest()

    return judge


def _with_other_errors(drawn: Error) -> Error:
    """Without the error, but with the rewards of the others in the opposite order."""
    correct = drawn.correct_rewards
    return drawn._replace(correct_rewards=correct.at[0, 1:].set(correct[0, :0:-1]))


def _narrow(ends: Ends) -> Sides:
    """With the range of the rewards that are trained on alone."""
    instance = ends.drawn.instance
    exists = jnp.isfinite(instance.reference_log_probabilities[0])
    spread = _spread(instance.rewards[0], exists)
    return _judge(lambda p, e, t, w, _: logits_apart(p, e, t, w, spread))(ends)


BENIGN_RARE_OUTPUT = Statement(
    name="benign_rare_output",
    title="What an error at a rare output can do in a given time",
    assumptions="tabular policy, λ = 0; two rewards that differ by e at the one output y; D the "
    "larger of their ranges",
    citation="derived here, theory/benign.py; after arXiv:2604.25872, Section 3; arXiv:2503.15477, Lemma 10",
    formula="|θ_T − θ'_T| ≤ √2 |e| (T/|S|) π₀(y) exp((8/27) D T/|S|), and TV(π_T, π'_T) ≤ this / (2√2)",
    draw=_error,
    judge=Formula(logits_apart, _judge),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "range of the rewards with the error alone": _narrow,
            "other rewards changed too": Dropped(_with_other_errors),
        }
    ),
    bound=True,
)

STATEMENTS = (BENIGN_RARE_OUTPUT,)
