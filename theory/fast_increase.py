"""What is sufficient for a reward model to teach fast, for a tabular policy (arXiv:2503.15477, Prop. 4).

Beside the proposition stands a sharper one, derived here, with 1 for 4, and conditions on ``lambda`` and on
bad outputs that are weaker by orders of magnitude; see :func:`sharp_fast_increase_time`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import expected_reward
from goodteacher.theory.closed_forms import one_good_output_time
from goodteacher.theory.draws import (
    Source,
    Task,
    random_logits,
    random_outputs,
    random_prompt_weights,
    without,
)
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import SHAPE, rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement


class FastIncrease(NamedTuple):
    """The conditions of :func:`fast_increase` and its bound, for every prompt, and what the sharper one asks.

    Attributes:
        holds: whether all conditions do.
        time: :func:`fast_increase_time`; meaningless where they do not hold.
        outputs: how many outputs are good.
        rho: ``(V_G(0) + gamma + 1) / (min r_G + 1)``, minimum over the good outputs.
        delta: by how much the good outputs are ahead of the rest, less how much they differ.
        good_probability: initial probability ``p+`` of the good outputs.
        bad_probability: that of other outputs whose reward is above ``V_RM(0)``.
        largest_bad_log_probability: logarithm of the most that this may be.
        largest_kl_coefficient: the most that the KL coefficient may be.
        gap: the largest reward of the good outputs less that of the outputs not above ``V_RM(0)``, less how
            much the good ones differ over ``1 - rho``.
        pull: ``lambda (1 + ln(1 / min pi_0)) / ((1 - rho) gap)``, minimum over the good outputs.
        holds_sharply: whether the conditions of :func:`sharp_fast_increase_time` do.
        sharply_largest_bad_log_probability, sharply_largest_kl_coefficient: the most that they allow.
    """

    holds: Bool[Array, " prompts"]
    time: Float[Array, " prompts"]
    outputs: Int[Array, " prompts"]
    rho: Float[Array, " prompts"]
    delta: Float[Array, " prompts"]
    good_probability: Float[Array, " prompts"]
    bad_probability: Float[Array, " prompts"]
    largest_bad_log_probability: Float[Array, " prompts"]
    largest_kl_coefficient: Float[Array, " prompts"]
    gap: Float[Array, " prompts"]
    pull: Float[Array, " prompts"]
    holds_sharply: Bool[Array, " prompts"]
    sharply_largest_bad_log_probability: Float[Array, " prompts"]
    sharply_largest_kl_coefficient: Float[Array, " prompts"]


def fast_increase(
    instance: Instance, gamma: ArrayLike, good: Bool[Array, "prompts outputs"] | None = None
) -> FastIncrease:
    """``4 |S| |Y+| / ((1-rho) delta) (1/p+ - 1/rho)``: the ground truth rises by ``gamma`` no later.

    ``Y+`` are outputs whose ground truth reward is above ``V_G(0) + gamma`` and whose reward is above
    ``V_RM(0)``, ``p+`` is their probability, ``rho = (V_G(0) + gamma + 1) / (min_{Y+} r_G + 1)``, and
    ``delta = (1-rho) (max_{Y+} r_RM - V_RM(0)) - max_{y,y' in Y+} |r_RM(y) - r_RM(y')|`` must be positive.
    With ``wait = |Y+| / ((1-rho) delta) (1/p+ - 1/rho)``, the other outputs of rewards above ``V_RM(0)`` may
    have a probability of at most ``p+^2 (1-rho) delta / (16 |Y+|) exp(-20 wait)``, and ``lambda`` may be at
    most ``p+ (1-rho) delta / (8 |Y+| (2 ln(1/min pi_0) + 1/(2e)))``. Rewards in ``[-1, 1]``, a tabular policy
    that starts from its reference, prompts of equal weight. arXiv:2503.15477, Proposition 4.

    Args:
        instance: the problem.
        gamma: increase of the expected ground truth reward, in (0, 2).
        good: ``Y+``; all outputs that qualify, if not given. The bound holds for any of them.

    Raises:
        ValueError: if ``gamma`` is not between 0 and 2.
    """
    if not isinstance(gamma, Tracer) and not 0 < np.asarray(gamma) < 2:
        raise ValueError(f"gamma is {gamma}; give an increase between 0 and 2")
    log_p = instance.log_probabilities(instance.initial_parameters)
    probabilities = jnp.exp(log_p)
    rewards, truth = instance.rewards, instance.ground_truth_rewards
    proxy_value = expected_reward(probabilities, rewards)[:, None]
    level = expected_reward(probabilities, truth)[:, None] + gamma
    praised = (rewards > proxy_value) & (probabilities > 0)
    qualifies = praised & (truth > level)
    good = qualifies if good is None else good

    def over_good(values: Array, pick: Callable[..., Array], other: float) -> Array:
        return pick(values, axis=-1, where=good, initial=other)

    count = good.sum(-1)
    highest, lowest = over_good(rewards, jnp.max, -jnp.inf), over_good(rewards, jnp.min, jnp.inf)
    rho = (level[:, 0] + 1.0) / (over_good(truth, jnp.min, jnp.inf) + 1.0)
    delta = (1.0 - rho) * (highest - proxy_value[:, 0]) - (highest - lowest)
    bad_probability = jnp.where(praised & ~good, probabilities, 0.0).sum(-1)

    good_probability = jnp.where(good, probabilities, 0.0).sum(-1)
    pace = (1.0 - rho) * delta / count
    wait = (1.0 / good_probability - 1.0 / rho) / pace
    largest_bad = jnp.log(good_probability**2 * pace / 16.0) - 20.0 * wait
    rarest = jnp.where(jnp.isfinite(log_p), log_p, 0.0).min(-1)
    largest_kl = good_probability * pace / (8.0 * (0.5 / np.e - 2.0 * rarest))
    kl_coefficient = 0.0 if instance.regularizer is None else instance.regularizer.kl
    log_bad = jnp.log(bad_probability)
    admissible = (qualifies | ~good).all(-1) & (count > 0)

    rest = (probabilities > 0) & ~praised
    highest_rest = rewards.max(-1, where=rest, initial=-jnp.inf)
    gap = highest - highest_rest - (highest - lowest) / (1.0 - rho)
    sharp_wait = _odds_wait(good_probability, rho) * count / gap
    sharply_largest_bad = jnp.log(good_probability**2 * (1.0 - rho) ** 2 * gap / (16.0 * count)) - sharp_wait
    pull_of_one = (1.0 - over_good(log_p, jnp.min, 0.0)) / ((1.0 - rho) * gap)
    sharply_largest_kl = LARGEST_PULL / pull_of_one
    found = FastIncrease(
        holds=admissible & (delta > 0) & (log_bad <= largest_bad) & (kl_coefficient <= largest_kl),
        time=wait,
        outputs=count,
        rho=rho,
        delta=delta,
        good_probability=good_probability,
        bad_probability=bad_probability,
        largest_bad_log_probability=largest_bad,
        largest_kl_coefficient=largest_kl,
        gap=gap,
        pull=kl_coefficient * pull_of_one,
        holds_sharply=admissible
        & (gap > 0)
        & (log_bad <= sharply_largest_bad)
        & (kl_coefficient <= sharply_largest_kl),
        sharply_largest_bad_log_probability=sharply_largest_bad,
        sharply_largest_kl_coefficient=sharply_largest_kl,
    )
    return found._replace(time=fast_increase_time(found, 1.0 / instance.prompt_weights))


def fast_increase_time(
    found: FastIncrease,
    prompts: ArrayLike,
    *,
    constant: Number = 4.0,
    count: Number = 1.0,
    outputs: Number = 1.0,
    rest: Number = -1.0,
    lead: Number = -1.0,
    likely: Number = -1.0,
    late: Number = 1.0,
) -> Float[Array, " prompts"]:
    """``4 |S| |Y+| / ((1-rho) delta) (1/p+ - 1/rho)``: the bound of :func:`fast_increase`.

    Args:
        found: the quantities that enter.
        prompts: ``|S|``, or one over the weight of each prompt.
        constant: 4.
        count, outputs, rest, lead, likely: exponents of ``|S|``, ``|Y+|``, ``1 - rho``, ``delta`` and ``p+``.
        late: of ``1/rho``.
    """
    wait = found.good_probability**likely - late / found.rho
    pace = (1.0 - found.rho) ** rest * found.delta**lead
    return constant * jnp.asarray(prompts) ** count * found.outputs.astype(float) ** outputs * pace * wait


LARGEST_PULL = 3 / 8
"""Of ``lambda (1 + ln(1 / min pi_0)) / ((1-rho) gap)``, for :func:`sharp_fast_increase_time`."""


def sharp_fast_increase_time(
    found: FastIncrease,
    prompts: ArrayLike,
    *,
    constant: Number = 1.0,
    count: Number = 1.0,
    outputs: Number = 1.0,
    gap: Number = -1.0,
    pull: Number = 1.0,
    bad: Number = 1 / 40,
) -> Float[Array, "*batch prompts"]:
    """``|S| |Y+| [F(rho) - F(p+)] / ((1-theta) g)``: sooner than Proposition 4 says, and more often.

    ``F`` is that of :func:`goodteacher.theory.closed_forms.one_good_output_time`, ``g = max_{Y+} r_RM - max_Z
    r_RM - max_{y,y' in Y+} |r_RM(y) - r_RM(y')| / (1-rho)`` with ``Z`` the outputs whose reward is at most
    ``V_RM(0)``, ``theta = lambda (1 + ln(1 / min_{Y+} pi_0)) / ((1-rho) g)``, of which at most 3/8 is
    allowed, and 1/40 more where there are bad outputs. These may have a probability of at most ``p+^2
    (1-rho)^2 g / (16 |Y+|) exp(-wait)``, with ``wait = |Y+| [F(rho) - F(p+)] / g``; Proposition 4 has 20
    times its ``wait``.

    Derived here. Write ``c = r_KL - phi``, ``phi = E r_KL``, so that ``d theta_y/dt = w pi(y) c(y)`` with the
    weight ``w``; ``p`` and ``b`` for the probabilities of good and bad outputs, ``n = |Y+|``. Let ``p <
    rho``, for from ``rho`` on the ground truth has risen, and ``w t <= wait / (1-theta)``, at most ``(27/16)
    wait``.

    1. By :func:`goodteacher.theory.velocities.sharp_log_growth_bound`, ``b <= B = p+^2 (1-rho)^2 g / (16
       n)``, so ``2 b <= (1-rho) g / 54``, because ``p+^2 (1-rho) <= 4/27``.
    2. ``phi <= E r <= p max_{Y+} r + (1-p) max_Z r + 2 b``, so for a good output ``c(y) >= (1-p) g - 2 b -
       lambda ln(1/pi_0(y)) >= lambda + (1-theta + 1/40 - 1/54) (1-p) g``.
    3. ``c <= 0`` on ``Z``. It is so at the start. There ``c(z) = r(z) + kappa - lambda (theta_z(t) -
       theta_z(0))`` with one ``kappa`` for all outputs, and ``d kappa/dt = w sum_y pi(y)^2 c(y) (lambda -
       c(y))``: not positive on ``Z`` where ``c <= 0``, at most ``-w (1-theta)^2 (1-rho)^2 g^2 p^2/n`` on the
       good outputs by 2, and at most ``w lambda^2 b^2 / 4``, which is less, on the bad ones. So ``dc(z)/dt <
       0`` where ``c(z)`` is zero.
    4. By Lemma 9 ``dp/dt >= w [(1-p) sum_{Y+} pi^2 c - p sum_bad pi^2 c] >= w (1-theta) p^2 (1-p)^2 g / n``:
       the bad outputs take ``2 p B^2`` at most, which 2 has left over. Integrate from ``p+`` to ``rho``.

    By Chebyshev's integral inequality ``F(rho) - F(p) <= (1/p - 1/rho) / ((1-rho) (1-p))``. Under the
    published condition ``theta < 1/16``, so that Proposition 4 holds with 1.07 in place of 4; with ten times
    its ``lambda`` and a tenth of its exponent for bad outputs ``theta < 2/5``, and it holds with 2. So do the
    fast teacher of Theorem 5 with ``(1-rho)^-3`` for ``(1-rho)^-4``, the right one of Theorem 6 and the ideal
    proxy with ``(1-rho)^-2``, for a ``lambda`` at least ten times as large. Approached by one good output
    among many others that are equally likely, have one reward, and whose ground truth is -1.

    Args:
        found: the quantities that enter.
        prompts: ``|S|``, or one over the weight of each prompt.
        constant: 1.
        count, outputs, gap: exponents of ``|S|``, ``|Y+|`` and ``g``.
        pull: of ``lambda (...)`` in ``theta``.
        bad: what is added to ``theta`` where there are bad outputs.
    """
    free = 1.0 - pull * found.pull - jnp.where(found.bad_probability > 0, bad, 0.0)
    wait = _odds_wait(found.good_probability, found.rho) * found.gap**gap / free
    return constant * jnp.asarray(prompts) ** count * found.outputs.astype(float) ** outputs * wait


def _odds_wait(probability: Array, rho: Array) -> Array:
    """``F(rho) - F(p)``: of two outputs and a gap of 1 it is twice the time."""
    return 2.0 * one_good_output_time(probability, rho, 1.0)


# Statement --------------------------------------------------------------------

_PROMPTS = 2
_FIRST, _SECOND, _BAD, _REST = range(4)  # the second output is good as well, or like the rest
_KINDS = np.array([_FIRST, _SECOND, _BAD, *[_REST] * 5, *[_SECOND] * 8])  # of the outputs
_ROUNDS = 8  # in which the probability of the bad output settles


def _task(sharp: bool, source: Source) -> Task:
    """In a quarter of the draws all but the good outputs are as bad as can be, and these are alike: there the
    bounds are tightest, for a small rise."""
    prompts = (_PROMPTS,)
    worst = source.bernoulli(0.25)
    two = source.bernoulli(shape=prompts)
    both = jnp.stack([jnp.ones(prompts, bool), two], axis=-1)
    rare = source.bernoulli(shape=prompts)
    mass = jnp.where(
        rare, source.log_uniform(1e-3, 0.9, prompts), 1.0 - source.log_uniform(1e-3, 0.5, prompts)
    )
    exists, regularized = random_outputs(source, (_PROMPTS, SHAPE[1]), _REST + 1)
    alike = 1.0 / (1.0 + (exists & (_KINDS == _SECOND)).sum(-1))
    equally = source.bernoulli(shape=prompts) | worst
    share = jnp.where(equally, alike, source.uniform(0.05, 0.95, prompts))
    share = jnp.where(two, share, 1.0)
    rest = source.uniform(0.05, 0.95, prompts)

    # Ground truth: that of the bad output is no better than the rest's, so that it does not count as good.
    lowest_truth = jnp.where(worst, -1.0, source.uniform(-1.0, 0.9, prompts))
    lead = (1.0 - lowest_truth) * source.log_uniform(1e-2, 1.0, prompts)
    ahead = jnp.where(two, source.uniform(0.0, 0.5, prompts) * (1.0 - mass) * lead, 0.0)
    good_truth = jnp.minimum(lowest_truth + lead, 1.0 - ahead)
    bad_truth = -1.0 + source.uniform(0.0, 1.0, prompts) * (lowest_truth + 1.0)
    truth = jnp.stack(
        [good_truth + ahead, jnp.where(two, good_truth, lowest_truth), bad_truth, lowest_truth], axis=-1
    )

    # Rewards: the two good ones may differ by less than (1 - rho) of their lead.
    low = source.uniform(-1.0, 0.9, prompts)
    high = low + (1.0 - low) * source.log_uniform(1e-2, 1.0, prompts)
    portion = jnp.where(worst, 0.0, source.uniform(0.0, 0.8, prompts))
    bad_share, log_less = source.uniform(1e-3, 1.0, prompts), jnp.log(source.log_uniform(1e-6, 1.0, prompts))
    part = source.log_uniform(1e-4, 0.99)

    weights = random_prompt_weights(source, _PROMPTS)
    # Each of these four stands for the outputs of its kind, which share its probability.
    uneven = source.bernoulli() & ~worst
    spread = jnp.where(uneven, random_logits(source, (_PROMPTS, SHAPE[1]), high=3.0), 0.0)
    of_kind = exists[:, None] & (np.arange(4)[:, None] == _KINDS)
    shares = spread - jax.nn.logsumexp(spread[:, None], axis=-1, where=of_kind)[:, _KINDS]

    def instance(log_bad: Array, kl_coefficient: ArrayLike) -> tuple[Instance, Array]:
        remaining = (1.0 - mass) * -jnp.expm1(log_bad)
        second = jnp.where(two, jnp.log(mass) + jnp.log1p(-share), jnp.log(remaining) + jnp.log1p(-rest))
        logits = jnp.stack(
            [
                jnp.log(mass) + jnp.log(share),
                second,
                log_bad + jnp.log1p(-mass),
                jnp.log(remaining) + jnp.where(two, 0.0, jnp.log(rest)),
            ],
            axis=-1,
        )
        gap = good_truth - expected_reward(jnp.exp(logits), truth)
        gamma = part * gap.min()
        rho = (good_truth - gap + gamma + 1.0) / (good_truth + 1.0)
        second_mass = jnp.where(two, mass * (1.0 - share), 0.0)
        behind = portion * (1.0 - rho) * (1.0 - mass) * (high - low) / (1.0 - (1.0 - rho) * second_mass)
        value = mass * high - second_mass * behind + (1.0 - mass) * low
        top = jnp.minimum(1.0, value + bad_share * (2.0 - value))
        rewards = jnp.stack([high, jnp.where(two, high - behind, low), top, low], axis=-1)
        made = Instance(
            rewards[:, _KINDS],
            truth[:, _KINDS],
            start=Parameters(jnp.where(exists, logits[:, _KINDS] + shares, 0.0)),
            regularizer=Regularizer(kl=kl_coefficient),
            prompt_weights=weights,
        )
        return without(made, exists), gamma

    log_bad = jnp.full(prompts, -jnp.inf)
    good = jnp.concatenate([both, jnp.zeros_like(both)], axis=-1)[:, _KINDS] & exists

    def limits(log_bad: Array) -> FastIncrease:
        return fast_increase(*instance(log_bad, 0.0), good)

    def largest(found: FastIncrease) -> tuple[Array, Array]:
        if sharp:
            return found.sharply_largest_bad_log_probability, found.sharply_largest_kl_coefficient
        return found.largest_bad_log_probability, found.largest_kl_coefficient

    for _ in range(_ROUNDS):
        allowed = largest(limits(log_bad))[0] + log_less - jnp.log1p(-mass)
        log_bad = jnp.where(jnp.isneginf(log_bad), allowed, jnp.minimum(log_bad, allowed))
    within = jnp.where(source.bernoulli(0.25), 0.999, source.uniform(0.0, 0.999))
    strength = jnp.where(regularized, within, 0.0)
    return Task(*instance(log_bad, strength * largest(limits(log_bad))[1].min()))


class Increase(NamedTuple):
    """What the proposition says of a task, and when each prompt has risen."""

    found: FastIncrease
    prompt_weights: Float[Array, " prompts"]
    time: Float[Array, " prompts"]


def _observe(tasks: Task) -> Increase:
    found, horizon = _found(tasks)
    return Increase(found, tasks.instance.prompt_weights, rise_times(tasks, horizon).time)


@jax.jit
@jax.vmap
def _found(task: Task) -> tuple[FastIncrease, Array]:
    found = fast_increase(*task)
    times = jnp.stack([found.time, sharp_fast_increase_time(found, 1.0 / task.instance.prompt_weights)])
    return found, 2.0 * jnp.where((times > 0) & jnp.isfinite(times), times, 1.0).max()


_Bound = Callable[[FastIncrease, Array], Array]


def _judge(bound: _Bound) -> Judge:
    # The conditions must hold on what is drawn: else there is no bound.
    return _judge_where(bound, lambda found: found.holds, jnp.nan)


def _sharp_judge(bound: _Bound) -> Judge:
    return _judge_where(bound, lambda found: found.holds_sharply, jnp.nan)


def _judge_where(bound: _Bound, holds: Callable[[FastIncrease], Array], otherwise: float) -> Judge:
    def judge(increase: Increase) -> Sides:
        found, weights, time = increase
        claimed = jnp.where(holds(found), bound(found, 1.0 / weights), otherwise)
        return Sides(jnp.where(weights > 0, time, 0.0), claimed).tightest()

    return judge


def _with_a_likely_bad_output(task: Task) -> Task:
    """The bad output gets half of what the good ones leave, and the largest reward: a violation.

    Where it is as rewarding as the good outputs and likelier, the flow takes it for the goal: the good ones
    fade, the ground truth never rises, though the bound is finite.
    """
    instance = task.instance
    logits, rewards = instance.initial_parameters, instance.rewards
    rest = jax.nn.logsumexp(instance.logits(logits), axis=-1, where=jnp.asarray(_KINDS == _REST))
    likely = logits.at[..., _BAD].set(rest)
    praised = rewards.at[..., _BAD].set(rewards[..., _FIRST])
    changed = eqx.tree_at(lambda i: (i.initial_parameters, i.rewards), instance, (likely, praised))
    assert instance.mask is not None
    return task._replace(instance=without(changed, instance.mask))


def _with_kl(task: Task) -> Task:
    return eqx.tree_at(lambda t: t.instance.regularizer.kl, task, replace_fn=jnp.sign)


def _whatever(bound: _Bound) -> Judge:
    return _judge_where(bound, lambda found: found.delta > 0, jnp.inf)


def _sabotages(bound: _Bound) -> Mapping[str, Dropped]:
    return MappingProxyType(
        {
            "without the condition on Y_bad": Dropped(_with_a_likely_bad_output, _whatever(bound)),
            "without the condition on λ": Dropped(_with_kl, _whatever(bound)),
        }
    )


FAST_INCREASE = Statement(
    name="fast_increase",
    title="Likely good outputs far ahead of all likely others make learning fast",
    assumptions="tabular policy; outputs Y₊ with r_G > V_G(0) + γ and r_RM > V_RM(0), far ahead of "
    "all likely others (δ > 0); λ and π₀(Y_bad) up to their limits",
    citation="arXiv:2503.15477, Proposition 4",
    formula="t_γ ≤ 4 |S| |Y₊| / ((1−ρ) δ) (1/p₊ − 1/ρ), with conditions on λ and on π₀(Y_bad)",
    draw=partial(_task, False),
    judge=Formula(
        fast_increase_time,
        _judge,
        unrefuted={
            "outputs": "32 good ones of 64 refute it, tests/theory/test_fast_increase.py; here there are 16",
            "rest": "true with 0 where λ = 0, no output is bad and p₊ ≤ 3/4, by sharp_fast_increase_time",
        },
    ),
    observe=_observe,
    sabotages=_sabotages(fast_increase_time),
    bound=True,
)

SHARP_FAST_INCREASE = Statement(
    name="fast_increase_sharp",
    title="The same by a sharper bound, under weaker conditions",
    assumptions="tabular policy; outputs Y₊ with r_G > V_G(0) + γ and r_RM > V_RM(0), ahead of all "
    "likely others (g > 0); λ and π₀(Y_bad) up to their limits",
    citation="theory/fast_increase.py (derived here)",
    formula="t_γ ≤ |S| |Y₊| [F(ρ) − F(p₊)] / ((1−θ) g), F(p) = −1/p + 1/(1−p) + 2 ln(p/(1−p)), "
    "g = max_{Y₊} r − max_Z r − max_{Y₊} |r − r'| / (1−ρ), Z = {r ≤ V_RM(0)}, "
    "θ = λ (1 + ln(1/min_{Y₊} π₀)) / ((1−ρ) g) ≤ 3/8, and 1/40 more if π₀(Y_bad) > 0, "
    "π₀(Y_bad) ≤ p₊² (1−ρ)² g / (16 |Y₊|) exp(−|Y₊| [F(ρ) − F(p₊)] / g)",
    draw=partial(_task, True),
    judge=Formula(
        sharp_fast_increase_time,
        _sharp_judge,
        unrefuted={
            "pull": "open below 1: regularised flows were seen no later than 1.29 times below the bound",
            "bad": "what the proof adds for bad outputs, to be simple; with fewer of them it goes to zero",
        },
    ),
    observe=_observe,
    sabotages=_sabotages(sharp_fast_increase_time),
    bound=True,
)

STATEMENTS = (FAST_INCREASE, SHARP_FAST_INCREASE)
