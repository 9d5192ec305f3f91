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
from goodteacher.theory.closed_forms import one_good_output_time
from goodteacher.theory.draws import (
    REGULARIZED_OUTPUTS,
    Source,
    Task,
    random_logits,
    random_outputs,
    random_prompt_weights,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rankings import levels, ranking
from goodteacher.theory.rises import rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement, all_of

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


def slow_teacher_time(
    instance: Instance,
    gamma: ArrayLike,
    T: ArrayLike,
    *,
    constant: Number = 2.0,
    rate: Number = 1 / 2,
    count: Number = 1.0,
    scale: Number = 1.0,
) -> Float[Array, " prompts"]:
    """``2 |S| (1 - exp(-gamma / 2)) T``, at the least, under rewards in ``(0, 1 / T)``.

    For a tabular policy, any initial one, any reward to rise by ``gamma``, any ``lambda >= 0``; ``|S|``
    stands for one over the prompt's weight. arXiv:2503.15477, Theorem 5. The numbers are the constant, the
    rate of ``gamma``, and the exponents of ``|S|`` and ``T``.
    """
    rise = -jnp.expm1(-rate * jnp.asarray(gamma))
    return constant * rise * jnp.asarray(T) ** scale * instance.prompt_weights**-count


def sharp_slow_teacher_time(
    instance: Instance,
    gamma: ArrayLike,
    T: ArrayLike,
    *,
    constant: Number = 4.0,
    rate: Number = 1.0,
    count: Number = 1.0,
    scale: Number = 1.0,
) -> Float[Array, " prompts"]:
    """``4 |S| (1 - exp(-gamma)) T``: the same, up to four times as late.

    Derived here: rewards in ``(0, 1/T)`` have a standard deviation of at most ``1/(2T)``, which goes into
    :func:`goodteacher.theory.hitting_time_bound.sharp_hitting_time_lower_bound`. Args as for
    :func:`slow_teacher_time`.
    """
    return slow_teacher_time(instance, gamma, T, constant=constant, rate=rate, count=count, scale=scale)


def fast_teacher_time(
    instance: Instance,
    gamma: ArrayLike,
    output: ArrayLike,
    *,
    constant: Number = 4.0,
    rest: Number = -4.0,
    count: Number = 1.0,
    likely: Number = -1.0,
    late: Number = 1.0,
) -> Float[Array, " prompts"]:
    """``4 |S| / (1 - rho)^4 (1 / pi_0(y_gamma) - 1 / rho)``, at the most, under :func:`fast_rewards`.

    ``rho = (V_G(0) + gamma + 1) / (r_G(y_gamma) + 1)``. For a tabular policy, the expected ground truth
    reward to rise by ``gamma``, and ``lambda`` up to :func:`fast_teacher_kl_coefficient`; ``|S|`` stands for
    one over the prompt's weight. arXiv:2503.15477, Theorem 5.

    Args:
        instance: its ground truth and its initial policy count; its proxy does not.
        gamma: the increase.
        output: ``y_gamma``, the same for every prompt.
        constant: 4.
        rest, count, likely: exponents of ``1 - rho``, ``|S|`` and ``pi_0(y_gamma)``.
        late: of ``1/rho``.
    """
    probability, rho = _probability_and_rho(instance, gamma, output)
    wait = probability**likely - late / rho
    return constant * (1.0 - rho) ** rest * wait * instance.prompt_weights**-count


def sharp_fast_teacher_time(
    instance: Instance,
    gamma: ArrayLike,
    output: ArrayLike,
    *,
    constant: Number = 1.0,
    rest: Number = -1.0,
    count: Number = 1.0,
) -> Float[Array, " prompts"]:
    """``|S| [F(rho) - F(p)] / (1 - p)``, ``p = pi_0(y_gamma)``, at the most, without regularisation.

    ``F`` is that of :func:`goodteacher.theory.closed_forms.one_good_output_time`. Derived here: ``c_z < p <=
    V`` makes the advantages of all others negative, so by Lemma 9 ``dp_t/dt >= p_t^2 (1 - p_t) A / |S|``, and
    ``A >= 1 - p_t - (1 - p_t) p``. Once ``p_t`` is ``rho``, the ground truth has risen by ``gamma``.
    Approached for a rare ``y_gamma`` among many others of small rewards.

    Args:
        instance, gamma, output: as for :func:`fast_teacher_time`.
        constant: 1.
        rest, count: exponents of ``1 - p`` and ``|S|``.
    """
    probability, rho = _probability_and_rho(instance, gamma, output)
    # Of two outputs and a gap of 1 it is twice that.
    wait = 2.0 * one_good_output_time(probability, rho, 1.0)
    return constant * wait * (1.0 - probability) ** rest * instance.prompt_weights**-count


def fast_teacher_kl_coefficient(
    instance: Instance, gamma: ArrayLike, output: ArrayLike
) -> Float[Array, " prompts"]:
    """The largest ``lambda`` of Theorem 5: ``pi_0(y_gamma) (1-rho)^4 / (8 (1/(2e) - 2 ln min pi_0))``.

    Args as for :func:`fast_teacher_time`.
    """
    probability, rho = _probability_and_rho(instance, gamma, output)
    log_p = instance.log_probabilities(instance.initial_parameters)
    rarest = -jnp.where(jnp.isfinite(log_p), log_p, 0.0).min(-1)
    return probability * (1.0 - rho) ** 4 / (8.0 * (0.5 / jnp.e + 2.0 * rarest))


def _probability_and_rho(instance: Instance, gamma: ArrayLike, output: ArrayLike) -> tuple[Array, Array]:
    policy, truth = instance.probabilities(instance.initial_parameters), instance.ground_truth_rewards
    rho = (expected_reward(policy, truth) + gamma + 1.0) / (truth[:, output] + 1.0)
    return policy[:, output], rho


# Statements -------------------------------------------------------------------

_SHAPE = (2, REGULARIZED_OUTPUTS)
_OUTPUT = 0  # y_gamma
_FAR = 100.0  # a slow teacher's flow is followed to so many times the sharp bound, if it is regularised


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
    """Ground truth with ties or without, and a policy to which the first output is good, if not the best.

    In a quarter of the draws all others are as bad as can be, and alike.
    """
    rest = (_SHAPE[0], _SHAPE[1] - 1)
    exists, regularized = random_outputs(source, _SHAPE)
    alike = source.bernoulli(0.25)
    truth = source.uniform(-1.0, 0.9, rest)
    truth = jnp.where(source.bernoulli(), truth, 0.45 * jnp.round(2.0 * truth))
    truth = jnp.where(alike, -1.0, truth)
    logits = jnp.where(alike, 0.0, random_logits(source, rest))
    policy = jax.nn.softmax(jnp.where(exists[:, 1:], logits, -jnp.inf))
    good = source.uniform(expected_reward(policy, truth) + 0.02, 1.0, _SHAPE[:1])[:, None]
    early = source.bernoulli() & ~regularized  # a small rise, where the output is not rare
    share = source.log_uniform(jnp.where(early, 1e-2, 1e-6), 0.9, good.shape)
    others = jnp.where(exists[:, 1:], jnp.log(policy), 0.0)
    logits = jnp.concatenate([jnp.log(share), jnp.log1p(-share) + others], axis=1)
    truth = jnp.concatenate([good, truth], axis=1)
    instance = Instance(
        truth,
        start=Parameters(logits),
        regularizer=Regularizer(kl=jnp.where(regularized, 1.0, 0.0)),  # replaced later
        prompt_weights=random_prompt_weights(source, _SHAPE[0]),
    )
    instance = without(instance, exists)
    start = instance.probabilities(instance.initial_parameters)
    within = (good[:, 0] - expected_reward(start, truth)).min()
    part = jnp.where(early, source.log_uniform(1e-4, 0.99), source.uniform(0.01, 0.99))
    return Lesson(instance, part * within, levels, T)


def _random_levels(source: Source) -> Array:
    return source.integer(0, _SHAPE[1] - 1, _SHAPE)


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


def _scaled_kl(lesson: Lesson, factor: ArrayLike) -> Lesson:
    return eqx.tree_at(lambda x: x.instance.regularizer.kl, lesson, replace_fn=lambda kl: kl * factor)


def _with_much_kl(lesson: Lesson) -> Lesson:
    """Where there is some."""
    return eqx.tree_at(lambda x: x.instance.regularizer.kl, lesson, replace_fn=jnp.sign)


def _with_little_kl(source: Source, lesson: Lesson) -> Lesson:
    """If it is to be regularised, as much as the fast bound allows, or less."""
    most = fast_teacher_kl_coefficient(lesson.instance, lesson.gamma, _OUTPUT).min()
    return _scaled_kl(lesson, source.uniform(0.0, 1.3).clip(max=1.0) * most)


def _slow_lesson(source: Source) -> Lesson:
    T = source.log_uniform(1.0, 1e6)
    lesson = _untaught(source, _random_levels(source), T)
    lesson = _scaled_kl(lesson, source.log_uniform(1e-3, 1.0) / T)
    evenly = low_variance_rewards(lesson.levels, T)
    # In the same order near both ends of what is allowed they vary most, and the bounds are tightest.
    little = 1e-3 * evenly
    ends = jnp.where(evenly > source.uniform(0.2, 0.8) / T, (1.0 - 1e-3) / T + little, little)
    return _teach(lesson, jnp.where(source.bernoulli(), evenly, ends))


def _fast_lesson(source: Source) -> Lesson:
    T = source.log_uniform(1.0, 1e6)
    lesson = _untaught(source, _first_alone(_random_levels(source)), T)
    return _teach_fast(_with_little_kl(source, lesson))


def _both_lessons(source: Source) -> Lesson:
    """Taught slowly by the perfectly accurate model, with ``T`` so large that this must be the slower one."""
    lesson = _untaught(source, jnp.zeros(_SHAPE, int), jnp.ones(()))
    lesson = _with_little_kl(source, lesson)
    # One weight enters both.
    alone = eqx.tree_at(lambda x: x.instance.prompt_weights, lesson, jnp.ones(_SHAPE[0]))
    ratio = (_fast_bound(alone) / _slow_bound(alone)).max()
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


def _latest(bounds: Array) -> Array:
    """Of the prompts that are trained on."""
    return jnp.where(jnp.isfinite(bounds), bounds, 0.0).max()


def _accuracies(lesson: Lesson) -> tuple[Array, Array]:
    """Of the rewards and of the ranking: over uniform and over on-policy pairs, ``[2, prompts]``."""
    instance, truth = lesson.instance, lesson.instance.ground_truth_rewards
    policy = instance.probabilities(instance.initial_parameters)

    def of(rewards: Array) -> Array:
        exists = (policy > 0).astype(float)
        return jnp.stack([product_accuracy(rewards, truth, w) for w in (exists, policy)])

    return of(instance.rewards), of(lesson.levels.astype(float))


class Taught(NamedTuple):
    """A lesson, when the policies have learned, and how long those that have not were followed."""

    lesson: Lesson
    time: Float[Array, " prompts"]
    horizon: Float[Array, ""]


def _observe(lessons: Lesson, horizon: Array) -> Taught:
    times = rise_times(Task(lessons.instance, lessons.gamma), horizon).time
    return Taught(lessons, times, horizon)


def _observe_slow(lessons: Lesson) -> Taught:
    return _observe(lessons, _slow_horizon(lessons))


def _observe_fast(lessons: Lesson) -> Taught:
    return _observe(lessons, _fast_horizon(lessons))


@jax.jit
@jax.vmap
def _slow_horizon(lesson: Lesson) -> Array:
    return _FAR * _latest(sharp_slow_teacher_time(lesson.instance, lesson.gamma, lesson.T))


@jax.jit
@jax.vmap
def _fast_horizon(lesson: Lesson) -> Array:
    return 2.0 * _latest(_fast_bound(lesson))


_SlowBound = Callable[[Instance, Array, Array], Array]
_FastBound = Callable[[Instance, Array, int], Array]


def _slow_judge(bound: _SlowBound) -> Judge:
    def judge(taught: Taught) -> Sides:
        lesson, time, horizon = taught
        instance = lesson.instance
        # Without weight a prompt stands still; regularised, it is followed to the horizon.
        bounds = jnp.where(instance.prompt_weights > 0, bound(instance, lesson.gamma, lesson.T), 0.0)
        regularized = instance.regularizer is not None and instance.regularizer.kl > 0
        waited = jnp.where(regularized, jnp.minimum(time, horizon), time)
        return _if_accurate(lesson, Sides(bounds, waited, time < jnp.inf).tightest())

    return judge


def _fast_judge(bound: _FastBound) -> Judge:
    def judge(taught: Taught) -> Sides:
        lesson, time, _ = taught
        times = jnp.where(lesson.instance.prompt_weights > 0, time, 0.0)
        return _if_accurate(lesson, Sides(times, bound(lesson.instance, lesson.gamma, _OUTPUT)).tightest())

    return judge


def _if_accurate(lesson: Lesson, sides: Sides) -> Sides:
    """Violated unless the accuracies are as asked."""
    found, asked = _accuracies(lesson)
    return sides._replace(smaller=jnp.where((found == asked).all(), sides.smaller, jnp.inf))


_SLOW_SABOTAGES = MappingProxyType(
    {
        "the same order with rewards in (0, 1)": Dropped(_with_large_rewards),
        "the two lowest levels tied": Dropped(
            lambda x: _teach(x, low_variance_rewards(jnp.maximum(x.levels, 1), x.T))
        ),
    }
)

SLOW = Statement(
    name="slow_teacher",
    title="A reward model of any accuracy may teach slowly",
    assumptions="tabular policy, any initial one; any attainable accuracy α; rewards in (0, 1/T) in "
    "an order of accuracy α; T ≥ 1; any λ ≥ 0",
    citation="arXiv:2503.15477, Theorem 5",
    formula="0 < r < 1/T in an order of accuracy α: t_γ ≥ 2 |S| (1 − exp(−γ/2)) T, every λ ≥ 0",
    draw=_slow_lesson,
    judge=Formula(slow_teacher_time, _slow_judge),
    observe=_observe_slow,
    sabotages=_SLOW_SABOTAGES,
    bound=True,
)

SHARP_SLOW = Statement(
    name="slow_teacher_sharp",
    title="The same by the sharp bound",
    assumptions="tabular policy, any initial one; any attainable accuracy α; rewards in (0, 1/T) in "
    "an order of accuracy α; T ≥ 1; any λ ≥ 0",
    citation="theory/teachers.py (derived here)",
    formula="0 < r < 1/T in an order of accuracy α: t_γ ≥ 4 |S| (1 − exp(−γ)) T, every λ ≥ 0",
    draw=_slow_lesson,
    judge=Formula(sharp_slow_teacher_time, _slow_judge),
    observe=_observe_slow,
    sabotages=_SLOW_SABOTAGES,
    bound=True,
)

FAST = Statement(
    name="fast_teacher",
    title="A reward model of any accuracy may teach fast, if it puts a good output far above the others",
    assumptions="tabular policy; an output y_γ with r_G > V_G(0) + γ, ranked first and alone; the "
    "others' rewards in (0, π₀(y_γ)); λ up to its limit",
    citation="arXiv:2503.15477, Theorem 5",
    formula="r(y_γ) = 1, 0 < r < π₀(y_γ) for the rest in an order of accuracy α', r_G(y_γ) > V_G(0) + γ, "
    "ρ = (V_G(0)+γ+1)/(r_G(y_γ)+1), λ ≤ π₀(y_γ) (1−ρ)⁴ / (8 (1/(2e) + 2 ln(1/min π₀))): "
    "t_γ ≤ 4 |S| / (1−ρ)⁴ (1/π₀(y_γ) − 1/ρ)",
    draw=_fast_lesson,
    judge=Formula(fast_teacher_time, _fast_judge),
    observe=_observe_fast,
    sabotages=MappingProxyType(
        {
            "accuracy in place of the construction": Dropped(_teach_slowly),
            "regularisation without limit": Dropped(_with_much_kl),
        }
    ),
    bound=True,
)

SHARP_FAST = Statement(
    name="fast_teacher_sharp",
    title="The same without regularisation, by a sharper bound",
    assumptions="tabular policy, λ = 0; an output y_γ with r_G > V_G(0) + γ, ranked first and alone; "
    "the others' rewards in (0, π₀(y_γ))",
    citation="theory/teachers.py (derived here)",
    formula="t_γ ≤ |S| [F(ρ) − F(p)] / (1−p), p = π₀(y_γ), F(q) = −1/q + 1/(1−q) + 2 ln(q/(1−q)), λ = 0",
    draw=lambda source: _scaled_kl(_fast_lesson(source), 0.0),
    judge=Formula(
        sharp_fast_teacher_time,
        _fast_judge,
    ),
    observe=_observe_fast,
    sabotages=MappingProxyType({"accuracy in place of the construction": Dropped(_teach_slowly)}),
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
    sides = _slow_judge(slow_teacher_time)(compared.perfect), _fast_judge(fast_teacher_time)(compared.wrong)
    both = all_of(sides).tightest()
    high, low = (_accuracies(taught.lesson)[0][0] for taught in compared)
    # Over uniform pairs they are 1, and at most 2 / K.
    instance = compared.perfect.lesson.instance
    outputs = (instance.probabilities(instance.initial_parameters) > 0).sum(-1)
    as_claimed = ((high == 1.0) & (low <= 2.0 / outputs)).all()
    return both._replace(smaller=jnp.where(as_claimed, both.smaller, jnp.inf))


ACCURATE_YET_SLOWER = Statement(
    name="accurate_yet_slower",
    title="A perfectly accurate reward model may teach more slowly than one of accuracy 2/K or less",
    assumptions="tabular policy; both teachers as constructed in Theorem 5; λ up to the limit of the "
    "fast one; T large enough",
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

STATEMENTS = (SLOW, SHARP_SLOW, FAST, SHARP_FAST, ACCURATE_YET_SLOWER)
