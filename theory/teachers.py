"""Slow and fast teachers of any attainable accuracy (arXiv:2503.15477, Theorems 2 and 5).

Accuracy looks at the order of rewards alone, the time that learning takes at their variance. So a ranking of
outputs of whatever accuracy makes a slow teacher when its rewards are close together, and a fast one when it
puts one good enough output ``y_gamma`` far above all others.

``y_gamma`` must be first *alone*. The fast teacher's reward is 1 for it and near 0 for the rest, and where an
accuracy can only be had with another output tied with ``y_gamma``, no fast teacher need exist. Take two
outputs with ground truth rewards 1 and -1: accuracy 0 with the better one in the argmax means equal rewards,
and then the flow stands still. (Such a tie is what ``strictly`` of :mod:`goodteacher.theory.rankings`
excludes.)
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import product_accuracy
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.validation import Numbers
from goodteacher.theory.draws import Source, Task, random_kl_coefficient, random_logits
from goodteacher.theory.rankings import levels, ranking
from goodteacher.theory.rises import SHAPE, rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

# Constructions ----------------------------------------------------------------


def low_variance_teacher(
    accuracy: float, ground_truth_rewards: Numbers, T: float, *, pair_weights: Numbers | None = None
) -> Float[Array, " outputs"]:
    """A reward model of a given accuracy under which every reward is slow to rise.

    See :func:`slow_teacher_time`, which holds for any policy to start from.

    Args:
        accuracy: of the reward model, to 1e-12; 1 for a perfectly accurate one.
        ground_truth_rewards: ``[outputs]``.
        T: the time scale, at least 1.
        pair_weights: the distribution of pairs, see :func:`goodteacher.theory.rankings.ranking`; uniform if
            not given.

    Raises:
        ValueError: if the accuracy is not attainable (with the nearest that are), or ``T`` is out of range.
    """
    if not 1 <= T < np.inf:
        raise ValueError(f"T is {T}; give a finite number of at least 1")
    return low_variance_rewards(jnp.asarray(ranking(accuracy, ground_truth_rewards, pair_weights)), T)


def fast_teacher(
    accuracy: float,
    ground_truth_rewards: Numbers,
    initial_policy_probabilities: Numbers,
    output: int,
    gamma: float,
    *,
    pair_weights: Numbers | None = None,
) -> Float[Array, " outputs"]:
    """A reward model of a given accuracy under which the ground truth reward rises by ``gamma`` fast.

    See :func:`fast_teacher_time`.

    Args:
        accuracy: of the reward model, to 1e-12.
        ground_truth_rewards: ``[outputs]``, in ``[-1, 1]``.
        initial_policy_probabilities: ``[outputs]``.
        output: ``y_gamma``, to be ranked first alone; its ground truth reward must exceed ``V_G + gamma``.
        gamma: the increase of the expected ground truth reward.
        pair_weights: the distribution of pairs, see :func:`goodteacher.theory.rankings.ranking`; uniform if
            not given.

    Raises:
        ValueError: if the accuracy is not attainable so (with the nearest that are), if gamma is out of range
            or the output not good enough, if rewards or probabilities are malformed.
    """
    if not 0 < gamma < 2:
        raise ValueError(f"gamma is {gamma}; an increase of a reward in [-1, 1] is above 0 and below 2")
    order = ranking(accuracy, ground_truth_rewards, pair_weights, ranked_first=output, strictly=True)
    problem = Instance(ground_truth_rewards, start=initial_policy_probabilities)
    rewards, policy = problem.rewards[0], problem.probabilities(problem.initial_parameters)[0]
    if jnp.abs(rewards).max() > 1:
        raise ValueError(f"ground_truth_rewards reach {jnp.abs(rewards).max()}; scale them to [-1, 1]")
    level = float(expected_reward(policy, rewards)) + gamma
    if not rewards[output] > level:
        raise ValueError(
            f"output {output} has ground truth reward {rewards[output]:.6g}, which must exceed that of the "
            f"policy plus gamma, {level:.6g}; take a better output or a smaller gamma"
        )
    return fast_rewards(jnp.asarray(order), output, policy[output])


def low_variance_rewards(
    levels: Int[Array, "*batch outputs"], T: ArrayLike
) -> Float[Array, "*batch outputs"]:
    """Rewards in ``(0, 1 / T)``, evenly spaced by their levels, which start from 0."""
    return (levels + 1.0) / (levels.max(-1, keepdims=True) + 2.0) / T


def fast_rewards(
    levels: Int[Array, "*batch outputs"], output: ArrayLike, probability: Float[Array, "*batch"]
) -> Float[Array, "*batch outputs"]:
    """Reward 1 for one output, and between 0 and its probability for the others, by their levels."""
    others = probability[..., None] * low_variance_rewards(levels, 1.0)
    return jnp.where(jnp.arange(levels.shape[-1]) == output, 1.0, others)


# Bounds -----------------------------------------------------------------------


def slow_teacher_time(instance: Instance, gamma: ArrayLike, T: ArrayLike) -> Float[Array, " prompts"]:
    """``2 |S| (1 - exp(-gamma / 2)) T``, at the least, under rewards in ``(0, 1 / T)``.

    For a tabular policy, any initial one, any reward to rise by ``gamma``, any ``lambda >= 0``; ``|S|``
    stands for one over the prompt's weight. arXiv:2503.15477, Theorem 5.
    """
    return -2.0 * jnp.expm1(-jnp.asarray(gamma) / 2.0) * T / instance.prompt_weights


def fast_teacher_time(instance: Instance, gamma: ArrayLike, output: ArrayLike) -> Float[Array, " prompts"]:
    """``4 |S| / (1 - rho)^4 (1 / pi_0(y_gamma) - 1 / rho)``, at the most, under :func:`fast_rewards`.

    ``rho = (V_G(0) + gamma + 1) / (r_G(y_gamma) + 1)``. For a tabular policy, the expected ground truth
    reward to rise by ``gamma``, and ``lambda`` up to :func:`fast_teacher_kl_coefficient`; ``|S|`` stands for
    one over the prompt's weight. arXiv:2503.15477, Theorem 5.

    Args:
        instance: its ground truth and its initial policy count; its proxy does not.
        gamma: the increase.
        output: ``y_gamma``, the same for every prompt.
    """
    probability, rho = _probability_and_rho(instance, gamma, output)
    return 4.0 / (1.0 - rho) ** 4 * (1.0 / probability - 1.0 / rho) / instance.prompt_weights


def fast_teacher_kl_coefficient(
    instance: Instance, gamma: ArrayLike, output: ArrayLike
) -> Float[Array, " prompts"]:
    """The largest ``lambda`` of Theorem 5: ``pi_0(y_gamma) (1-rho)^4 / (8 (1/(2e) - 2 ln min pi_0))``.

    Args as for :func:`fast_teacher_time`.
    """
    probability, rho = _probability_and_rho(instance, gamma, output)
    rarest = -instance.log_probabilities(instance.initial_parameters).min(-1)
    return probability * (1.0 - rho) ** 4 / (8.0 * (0.5 / jnp.e + 2.0 * rarest))


def _probability_and_rho(instance: Instance, gamma: ArrayLike, output: ArrayLike) -> tuple[Array, Array]:
    policy, truth = instance.probabilities(instance.initial_parameters), instance.ground_truth_rewards
    rho = (expected_reward(policy, truth) + gamma + 1.0) / (truth[:, output] + 1.0)
    return policy[:, output], rho


# Statements -------------------------------------------------------------------

_OUTPUT = 0  # y_gamma
_FAR = 100.0  # a slow teacher's flow is followed to so many times the bound


class Lesson(NamedTuple):
    """A problem whose rewards are those of a teacher, made of a ranking.

    Attributes:
        instance: the problem.
        gamma: the increase of the expected ground truth reward.
        levels: the ranking, ``[prompts, outputs]``.
        T: the time scale of the slow teacher.
    """

    instance: Instance
    gamma: Float[Array, ""]
    levels: Int[Array, "prompts outputs"]
    T: Float[Array, ""]


def _untaught(source: Source, levels: Array, T: Array) -> Lesson:
    """Ground truth with ties or without, and a policy to which the first output is good, if not the best."""
    rest = (SHAPE[0], SHAPE[1] - 1)
    truth = source.uniform(-1.0, 0.9, rest)
    truth = jnp.where(source.bernoulli(), truth, 0.45 * jnp.round(2.0 * truth))
    policy = jax.nn.softmax(random_logits(source, rest))
    good = source.uniform(expected_reward(policy, truth) + 0.02, 1.0, SHAPE[:1])[:, None]
    share = source.log_uniform(1e-6, 0.9, good.shape)
    logits = jnp.concatenate([jnp.log(share), jnp.log1p(-share) + jnp.log(policy)], axis=1)
    truth = jnp.concatenate([good, truth], axis=1)
    instance = Instance(truth, start=Parameters(logits), regularizer=Regularizer(kl=1.0))  # replaced later
    within = (good[:, 0] - expected_reward(jax.nn.softmax(logits), truth)).min()
    return Lesson(instance, source.uniform(0.01, 0.99) * within, levels, T)


def _random_levels(source: Source) -> Array:
    return source.integer(0, SHAPE[1] - 1, SHAPE)


def _first_alone(levels: Array) -> Array:
    return levels.at[:, _OUTPUT].set(levels.max(-1) + 1)


def _teach(lesson: Lesson, rewards: Array) -> Lesson:
    return eqx.tree_at(lambda x: x.instance.rewards, lesson, rewards)


def _teach_slowly(lesson: Lesson) -> Lesson:
    return _teach(lesson, low_variance_rewards(lesson.levels, lesson.T))


def _with_large_rewards(lesson: Lesson) -> Lesson:
    """In the same order, between 0 and 1."""
    return _teach(lesson, low_variance_rewards(lesson.levels, 1.0))


def _teach_fast(lesson: Lesson) -> Lesson:
    policy = lesson.instance.probabilities(lesson.instance.initial_parameters)
    return _teach(lesson, fast_rewards(lesson.levels, _OUTPUT, policy[:, _OUTPUT]))


def _with_kl(lesson: Lesson, kl: ArrayLike) -> Lesson:
    return eqx.tree_at(lambda x: x.instance.regularizer.kl, lesson, jnp.asarray(kl))


def _with_little_kl(source: Source, lesson: Lesson) -> Lesson:
    """As much regularisation as the fast bound allows, or less; none in a quarter of the draws."""
    most = fast_teacher_kl_coefficient(lesson.instance, lesson.gamma, _OUTPUT).min()
    return _with_kl(lesson, source.uniform(-1 / 3, 1.0).clip(0.0) * most)


def _slow_lesson(source: Source) -> Lesson:
    T = source.log_uniform(1.0, 1e6)
    lesson = _untaught(source, _random_levels(source), T)
    return _teach_slowly(_with_kl(lesson, random_kl_coefficient(source, high=3.0) / T))


def _fast_lesson(source: Source) -> Lesson:
    T = source.log_uniform(1.0, 1e6)
    lesson = _untaught(source, _first_alone(_random_levels(source)), T)
    return _teach_fast(_with_little_kl(source, lesson))


def _both_lessons(source: Source) -> Lesson:
    """Taught slowly by the perfectly accurate model, with ``T`` so large that this must be the slower one."""
    lesson = _untaught(source, jnp.zeros(SHAPE, int), jnp.ones(()))
    lesson = _with_little_kl(source, lesson)
    ratio = (_fast_bound(lesson) / _slow_bound(lesson)).max()
    T = source.log_uniform(1.0, 100.0) * jnp.maximum(ratio, 1.0)
    return _teach_slowly(lesson._replace(levels=levels(lesson.instance.ground_truth_rewards), T=T))


def _reverse(lesson: Lesson) -> Lesson:
    """The fast teacher that is wrong about every pair but those of ``y_gamma`` with a worse output."""
    # Ties of the ground truth are broken: no tie is right.
    order = jnp.argsort(jnp.argsort(-lesson.instance.ground_truth_rewards))
    return _teach_fast(lesson._replace(levels=_first_alone(order)))


def _slow_bound(lesson: Lesson) -> Array:
    return slow_teacher_time(lesson.instance, lesson.gamma, lesson.T)


def _fast_bound(lesson: Lesson) -> Array:
    return fast_teacher_time(lesson.instance, lesson.gamma, _OUTPUT)


def _accuracies(lesson: Lesson) -> tuple[Array, Array]:
    """Of the rewards and of the ranking: over uniform and over on-policy pairs, ``[2, prompts]``."""
    instance, truth = lesson.instance, lesson.instance.ground_truth_rewards
    policy = instance.probabilities(instance.initial_parameters)

    def of(rewards: Array) -> Array:
        return jnp.stack([product_accuracy(rewards, truth, w) for w in (jnp.ones_like(policy), policy)])

    return of(instance.rewards), of(lesson.levels.astype(float))


class Taught(NamedTuple):
    """A lesson, and when the policies have learned, no later than is looked."""

    lesson: Lesson
    time: Float[Array, " prompts"]


def _observe(lessons: Lesson, horizon: Array) -> Taught:
    times = rise_times(Task(lessons.instance, lessons.gamma), horizon).time
    return Taught(lessons, jnp.minimum(times, horizon[:, None]))


def _observe_slow(lessons: Lesson) -> Taught:
    return _observe(lessons, _slow_horizon(lessons))


def _observe_fast(lessons: Lesson) -> Taught:
    return _observe(lessons, _fast_horizon(lessons))


@jax.jit
@jax.vmap
def _slow_horizon(lesson: Lesson) -> Array:
    return _FAR * _slow_bound(lesson).max()


@jax.jit
@jax.vmap
def _fast_horizon(lesson: Lesson) -> Array:
    return 2.0 * _fast_bound(lesson).max()


_Bound = Callable[[Lesson], Array]


def _slow_judge(bound: _Bound) -> Judge:
    return lambda taught: _if_accurate(taught, Sides(bound(taught.lesson), taught.time).tightest())


def _fast_judge(bound: _Bound) -> Judge:
    return lambda taught: _if_accurate(taught, Sides(taught.time, bound(taught.lesson)).tightest())


def _if_accurate(taught: Taught, sides: Sides) -> Sides:
    """Violated unless the accuracies are as asked."""
    found, asked = _accuracies(taught.lesson)
    return Sides(jnp.where((found == asked).all(), sides.smaller, jnp.inf), sides.larger)


SLOW = Statement(
    name="slow_teacher",
    title="A reward model of any accuracy may teach slowly",
    citation="arXiv:2503.15477, Theorem 5",
    formula="0 < r < 1/T in an order of accuracy α: t_γ ≥ 2 |S| (1 − exp(−γ/2)) T, every λ ≥ 0",
    draw=_slow_lesson,
    judge=_slow_judge(_slow_bound),
    observe=_observe_slow,
    sabotages=MappingProxyType(
        {
            "the same order with rewards in (0, 1)": Dropped(_with_large_rewards),
            "constant 100 for 2": _slow_judge(lambda lesson: 50.0 * _slow_bound(lesson)),
            "the two lowest levels tied": Dropped(
                lambda x: _teach(x, low_variance_rewards(jnp.maximum(x.levels, 1), x.T))
            ),
        }
    ),
    bound=True,
)

FAST = Statement(
    name="fast_teacher",
    title="A reward model of any accuracy may teach fast, if it puts a good output far above the others",
    citation="arXiv:2503.15477, Theorem 5",
    formula="r(y_γ) = 1, 0 < r < π₀(y_γ) for the rest in an order of accuracy α', r_G(y_γ) > V_G(0) + γ, "
    "ρ = (V_G(0)+γ+1)/(r_G(y_γ)+1), λ ≤ π₀(y_γ) (1−ρ)⁴ / (8 (1/(2e) + 2 ln(1/min π₀))): "
    "t_γ ≤ 4 |S| / (1−ρ)⁴ (1/π₀(y_γ) − 1/ρ)",
    draw=_fast_lesson,
    judge=_fast_judge(_fast_bound),
    observe=_observe_fast,
    sabotages=MappingProxyType(
        {
            "accuracy in place of the construction": Dropped(_teach_slowly),
            "without the powers of 1 - ρ": _fast_judge(
                lambda x: _fast_bound(x) * (1.0 - _probability_and_rho(x.instance, x.gamma, _OUTPUT)[1]) ** 4
            ),
            "regularisation without limit": Dropped(lambda x: _with_kl(x, 1.0)),
        }
    ),
    bound=True,
)


class Rivals(NamedTuple):
    """The lessons of a perfectly accurate teacher and of one that is wrong about nearly every pair."""

    perfect: Lesson
    wrong: Lesson

    @property
    def instance(self) -> Instance:
        """The problem of the perfectly accurate one."""
        return self.perfect.instance


def _rivals(source: Source) -> Rivals:
    lesson = _both_lessons(source)
    return Rivals(lesson, _reverse(lesson))


class Compared(NamedTuple):
    """When the policies of two rivals have learned."""

    perfect: Taught
    wrong: Taught


def _compare(rivals: Rivals) -> Compared:
    return Compared(_observe_slow(rivals.perfect), _observe_fast(rivals.wrong))


def _judge_both(compared: Compared) -> Sides:
    sides = _slow_judge(_slow_bound)(compared.perfect), _fast_judge(_fast_bound)(compared.wrong)
    both = Sides(*map(jnp.stack, zip(*sides, strict=True))).tightest()
    high, low = (_accuracies(taught.lesson)[0][0] for taught in compared)
    # Over uniform pairs they are 1, and at most 2 / K.
    as_claimed = ((high == 1.0) & (low <= 2.0 / SHAPE[1])).all()
    return Sides(jnp.where(as_claimed, both.smaller, jnp.inf), both.larger)


ACCURATE_YET_SLOWER = Statement(
    name="accurate_yet_slower",
    title="A perfectly accurate reward model may teach more slowly than one of accuracy 2/K or less",
    citation="arXiv:2503.15477, Theorem 2",
    formula="acc(r) = 1 and t_γ(r) ≥ 2 |S| (1 − exp(−γ/2)) T ≥ 4 |S| / (1−ρ)⁴ (1/π₀(y_γ) − 1/ρ) ≥ t_γ(r'), "
    "though acc(r') ≤ 2/K",
    draw=_rivals,
    judge=_judge_both,
    observe=_compare,
    sabotages=MappingProxyType(
        {
            "perfectly accurate with rewards in (0, 1)": Dropped(
                lambda x: x._replace(perfect=_with_large_rewards(x.perfect))
            ),
            "inaccurate without an output far ahead": Dropped(
                lambda x: x._replace(wrong=_teach_slowly(x.wrong))
            ),
        }
    ),
    bound=True,
)

STATEMENTS = (SLOW, FAST, ACCURATE_YET_SLOWER)
