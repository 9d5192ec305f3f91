"""What becomes of prompts under a reward: exact flows of the model policy of what was drawn."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from goodteacher.experiments.rollouts.along import (
    LOOKS,
    Curves,
    Prompts,
    Tell,
    along,
    at_times,
    divergence,
    expected,
    of_all,
    patient,
    with_reward,
)
from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.outputs import outputs
from goodteacher.experiments.rollouts.scales import Unscaled
from goodteacher.experiments.rollouts.teaching import BLOCK, Estimator
from goodteacher.experiments.rollouts.verdicts import SLIGHT, Verdict, moving, still

_LATE = 1e300
_ZOOMS = 3  # after which times of peaks are known to a twentieth
_SIDE_BY_SIDE = 8192  # prompts, each with each reward, that are followed at a time


class Fate(NamedTuple):
    """What becomes of prompts under one reward.

    Attributes:
        verdict: codes of :class:`goodteacher.experiments.rollouts.verdicts.Verdict`.
        time: when the goal is reached; ``inf`` if never, ``nan`` if not known.
        truth: expected ground truth at the budget.
        kl: of the policy at the budget to the initial one.
        peak_time, peak_kl, peak_truth: of an over-optimised prompt, where the ground truth is largest.
        held_by: the first draw of the output that holds the policy up: of those that are not best, the most
            probable one at the budget; -1 where the goal is reached by then.
    """

    verdict: Int[np.ndarray, "*rewards prompts"]
    time: Float[np.ndarray, "*rewards prompts"]
    truth: Float[np.ndarray, "*rewards prompts"]
    kl: Float[np.ndarray, "*rewards prompts"]
    peak_time: Float[np.ndarray, "*rewards prompts"]
    peak_kl: Float[np.ndarray, "*rewards prompts"]
    peak_truth: Float[np.ndarray, "*rewards prompts"]
    held_by: Int[np.ndarray, "*rewards prompts"]


class Taught(NamedTuple):
    """What becomes of all prompts under every reward.

    Attributes:
        budget: the time that there was.
        start, best: expected ground truth at the start, and that of the best output.
        on_truth: what becomes of the prompts when the ground truth itself is trained on.
        on_rewards: under each reward.
        curves: along training.
    """

    budget: float
    start: Float[np.ndarray, " prompts"]
    best: Float[np.ndarray, " prompts"]
    on_truth: Fate
    on_rewards: Fate
    curves: Curves


def with_others(taught: Taught, kept: Sequence[int], count: int) -> Taught:
    """What becomes of all of ``count`` rewards, of which only those were followed that were kept."""
    fates = taught.on_rewards
    nothing = np.where(np.isfinite(taught.start), int(Verdict.NOT_KNOWN), int(Verdict.NO_TRUTH))
    verdicts = np.tile(nothing, (count, 1))
    verdicts[list(kept)] = fates.verdict
    others = {name: of_all(of, kept, count) for name, of in fates._asdict().items() if of.dtype == float}
    return taught._replace(
        on_rewards=Fate(**others, verdict=verdicts, held_by=of_all(fates.held_by, kept, count, -1)),
        curves=taught.curves.among(kept, count),
    )


class Objections(NamedTuple):
    """What cannot be followed, and why: sentences that begin after "the rewards".

    Attributes:
        rewards: those that cannot on any prompt, by name.
        prompts: those that cannot under another reward, or the ground truth, by number.
    """

    rewards: dict[str, str]
    prompts: dict[int, str]


def objections(scaled: Rollouts, scale: Unscaled, estimator: Estimator) -> Objections:
    """What the estimator objects to."""
    plain = type(scale) is Unscaled
    remark = "" if plain else f" (rewards are on a scale: {scale.title}; scale none leaves them as they are)"
    both = scaled if scaled.truth is None else _with_truth(scaled, scale)
    found: list[dict[int, str]] = [{} for _ in both.names]
    count = 0
    for part in outputs(both, estimator.sizes):
        count += len(part.prompts)
        exists = np.isfinite(part.log_probabilities)
        for of_reward, rewards in zip(found, part.rewards, strict=True):
            why = estimator.objections(exists, rewards)
            of_reward |= {int(part.prompts[row]): f"{reason}{remark}" for row, reason in why.items()}
    never = {
        name: next(iter(of.values()))
        for name, of in zip(scaled.names, found, strict=False)
        if len(of) == count
    }
    others = [of for name, of in zip(both.names, found, strict=True) if name not in never]
    return Objections(never, dict(sorted(item for of in others for item in of.items())))


def _with_truth(scaled: Rollouts, scale: Unscaled) -> Rollouts:
    """With the ground truth as the last of the rewards."""
    assert scaled.truth is not None
    by_truth = np.nan_to_num(scale.apply(scaled.truth, scaled))
    return replace(scaled, names=(*scaled.names, ""), rewards=np.vstack([scaled.rewards, by_truth]))


def teach(
    scaled: Rollouts,
    scale: Unscaled,
    estimator: Estimator,
    goal: float,
    budget: float | None,
    groups: Sequence[int],
    seed: int,
    tell: Tell,
) -> Taught:
    """Teaches the model policy of every prompt by every reward, and by the ground truth.

    Args:
        scaled: with a ground truth, and rewards on one scale.
        scale: that scale, on which the ground truth is put too when it is trained on.
        estimator: what the policy follows.
        goal: the share of the possible increase that is to be reached.
        budget: ten times the median time on the ground truth if not given.
        groups: sizes of groups.
        seed: of the prompts that are followed along training.
        tell: is told what is being done.
    """
    both = _with_truth(scaled, scale)
    assert scaled.truth is not None
    parts, count = list(outputs(both, estimator.sizes)), len(scaled.prompts)
    start, best = np.full(count, np.nan), np.full(count, np.nan)
    for part in parts:
        its = with_reward(part, -1)
        start[its.at], best[its.at] = its.start, its.best
    top = _highest(scaled.truth)

    # As many rewards at a time as there is to do for.
    rewards = len(both.names)
    found = _unmoved(start, rewards)
    several = max(_SIDE_BY_SIDE // count, 1)
    groups_of_rewards = [range(i, min(i + several, rewards)) for i in range(0, rewards, several)]
    moving = [
        _enter([with_reward(part, number) for number in numbers], numbers, found, top)
        for numbers in groups_of_rewards
        for part in parts
    ]
    moving = [(rows, its) for rows, its in moving if len(its.at)]
    tell("hitting times")
    with ThreadPoolExecutor(1) as aside:
        # Compiled, where it is, beside the other.
        sizes = {(min(len(its.at), BLOCK), its.log_p.shape[1]): its for _, its in moving}
        some = [its.of(np.arange(size)) for (size, _), its in sizes.items()]
        compiled = aside.submit(lambda: [at_times(estimator, [its], LOOKS) for its in some])
        for rows, its in moving:
            increase = goal * (its.best - its.start)
            found.time[rows, its.at] = estimator.times(its.log_p, its.rewards, its.truth, increase)
        compiled.result()
    if budget is None:
        budget = patient(found.time[-1])
    tell("policies at the budget")
    for rows, its in moving:
        fate = _followed(its, found.time[rows, its.at], estimator, goal, budget)
        for name, values in fate._asdict().items():
            getattr(found, name)[rows, its.at] = values
    tell("along training")
    curves = along(parts, len(scaled.names), estimator, budget, groups, seed)
    on_truth, on_rewards = (Fate(*(field[of] for field in found)) for of in (-1, slice(-1)))
    return Taught(budget, start, best, on_truth, on_rewards, curves)


def _enter(
    each: Sequence[Prompts], numbers: Sequence[int], found: Fate, top: float
) -> tuple[np.ndarray, Prompts]:
    """Enters the verdicts of prompts on which nothing moves.

    Returns:
        The others, under all rewards together, and the number of the reward of each.
    """
    moving = []
    for number, its in zip(numbers, each, strict=True):
        exists = np.isfinite(its.log_p)
        flat = its.best == its.worst
        lowest = np.where(exists, its.rewards, np.inf).min(1)
        signal = np.where(exists, its.rewards, -np.inf).max(1) > lowest
        codes = still(signal, flat & (its.best >= top), flat & (its.best < top))
        found.verdict[number, its.at] = codes
        moving.append(its.of(codes < 0))
    together = Prompts(*(np.concatenate(of) for of in zip(*moving, strict=True)))
    return np.repeat(numbers, [len(its.at) for its in moving]), together


def _highest(truth: np.ndarray) -> float:
    """The maximum of the ground truth: the largest seen, or 1 for what is between 0 and 1."""
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    return 1.0 if low >= 0.0 and high <= 1.0 else high


def _unmoved(start: np.ndarray, rewards: int) -> Fate:
    """Of prompts that nothing happens to; those without a ground truth have no verdict."""
    shape = rewards, len(start)
    known = np.isfinite(start)
    return Fate(
        np.full(shape, int(Verdict.NO_TRUTH)),
        np.tile(np.where(known, np.inf, np.nan), (rewards, 1)),
        np.tile(start, (rewards, 1)),
        np.tile(np.where(known, 0.0, np.nan), (rewards, 1)),
        *(np.full(shape, np.nan) for _ in range(3)),
        held_by=np.full(shape, -1),
    )


def _followed(its: Prompts, time: np.ndarray, estimator: Estimator, goal: float, budget: float) -> Fate:
    """Of prompts with a signal and something to gain, which reach the goal at given times."""
    increase = goal * (its.best - its.start)
    (then,) = at_times(estimator, [its], budget * LOOKS)
    truths, policy = expected(then, its.truth), then[-1]
    truth, kl = truths[-1], divergence(policy, its.log_p)
    at_last = np.full(time.shape, np.inf)
    if (lost := np.isnan(time)).any():
        late = its.of(lost)
        (last,) = at_times(estimator, [late], np.array([_LATE]))[0]
        at_last[lost] = expected(last, late.truth) - late.start
    peak = np.stack([np.full(time.shape, budget), kl, truth])
    best = np.vstack([its.start, truths]).argmax(0)
    # Unless it falls from the start, and what becomes of it was seen while it had not moved by much.
    ever = (best > 0) | estimator.rises(its.log_p, its.rewards, its.truth)
    ever |= budget * LOOKS[0] * _spread_of_rewards(its) > 1.0
    falls = ever & (best < len(LOOKS)) & (truth < its.start + increase)
    rows, ends = np.flatnonzero(falls), budget * np.concatenate([[0.0], LOOKS])
    low, high = ends[np.maximum(best - 1, 0)][rows], ends[np.minimum(best + 1, len(LOOKS))][rows]
    for _ in range(_ZOOMS):
        if not len(rows):
            break
        low, high, peak[:, rows] = _nearer(its, rows, low, high, estimator)
        # The others are far from a peak that would count.
        high_enough = peak[2, rows] - its.start[rows] > 0.5 * SLIGHT * (its.best - its.start)[rows]
        rows, low, high = (of[high_enough] for of in (rows, low, high))
    verdict = moving(
        time,
        budget,
        increase=increase,
        at_budget=truth - its.start,
        peak=peak[2] - its.start,
        at_last=at_last,
        share=goal,
    )
    peak = np.where(verdict == Verdict.OVER_OPTIMISED, peak, np.nan)
    worse = np.where(its.truth < its.best[:, None], policy, -np.inf).argmax(1)[:, None]
    holding = np.take_along_axis(its.first, worse, 1)[:, 0]
    return Fate(verdict, time, truth, kl, *peak, held_by=np.where(verdict == Verdict.LEARNS, -1, holding))


def _spread_of_rewards(its: Prompts) -> np.ndarray:
    """Of the outputs that exist: no logit moves faster than that."""
    return np.ptp(np.where(np.isfinite(its.log_p), its.rewards, its.rewards[:, :1]), axis=1)


def _nearer(
    its: Prompts, rows: np.ndarray, before: np.ndarray, after: np.ndarray, estimator: Estimator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which times the ground truth of some prompts is largest, given times further apart.

    Returns:
        Both, and the time, divergence and ground truth at the best time that was looked at.
    """
    # As many as there is a program for.
    filled = np.resize(rows, -(-len(rows) // BLOCK) * BLOCK if len(its.at) > BLOCK else len(its.at))
    some, each = its.of(filled), np.arange(len(filled))
    low, high = np.resize(before, len(filled)), np.resize(after, len(filled))
    unmoved = 1e-2 / np.maximum(_spread_of_rewards(some), 1.0)
    low = np.maximum(low, np.minimum(unmoved, 1e-2 * high))
    grid = np.geomspace(low, high, len(LOOKS) + 2, axis=1)
    then = estimator.policies(some.log_p, some.rewards, grid[:, 1:-1])
    best = expected(then, some.truth[:, None]).argmax(1)
    highest = then[each, best]
    found = np.stack([grid[each, best + 1], divergence(highest, some.log_p), expected(highest, some.truth)])
    count = len(rows)
    return grid[each, best][:count], grid[each, best + 2][:count], found[:, :count]
