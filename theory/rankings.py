"""Which accuracies a ranking can have, and rankings that have them (arXiv:2503.15477, Definition 3).

A ranking is a whole number per output, larger is better, equal ones are tied. The accuracy of a reward
model, :func:`goodteacher.sim.metrics.accuracy`, is that of the ranking that it makes.

**Ranked first** means in the argmax of the ranking; ``strictly`` asks that nothing else is.

**Any distribution over pairs** is decided by going through all weak orders of at most
:data:`MOST_ENUMERATED` outputs.

**Uniform pairs** of any number ``K`` of outputs are decided as follows (derived here). A class is a set of
outputs that the ground truth ties; what counts is the number of wrong ones among ``K (K-1) / 2`` pairs.

- A level of a ranking that mixes classes may be split by class, the best class lowest: the same pairs stay
  wrong. So a ranking is a sequence of blocks, each of one class.
- Let ``R_i`` outputs of class ``i`` be left, and be placed from the bottom up. A block of ``b`` outputs of
  class ``i`` makes ``b (sum_{j<=i} R_j - b)`` pairs wrong: those with what is left of its own class and of
  the worse ones. The numbers that can come of every ``R`` follow by dynamic programming; sets of numbers
  are held as the bits of integers, and a ranking is read off by walking back.
- Successive classes of one output each form a run: one class of the programme, whose ``s`` outputs are
  placed singly. Whichever places they get, their order among these makes any number from 0 to
  ``s (s-1) / 2`` of the pairs within the run wrong.
- The level of an output that is ranked first may hold more outputs of its class, and of worse ones (better
  ones may as well follow just below): each choice of these is tried.

This is exact. Its cost is ``prod_i (n_i + 1)`` over classes and runs of size ``n_i``, times the sum of the
sizes of classes; beyond :data:`MOST_STEPS` it is refused. What needs no ties is never refused: with every
output on a level of its own, each number of right pairs from 0 to that of the pairs of different classes is
attained, whatever the ties of the ground truth; and the same below an output that is strictly first.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from goodteacher.sim.validation import Numbers

MOST_ENUMERATED = 8
MOST_STEPS = 10_000_000
_ROUNDING = 1e-12  # accuracies so close are the same


def attainable_accuracies(
    ground_truth_rewards: Numbers,
    pair_weights: Numbers | None = None,
    *,
    ranked_first: int | None = None,
    strictly: bool = False,
) -> Float[np.ndarray, " accuracies"]:
    """All accuracies that a ranking can have, ascending.

    Args:
        ground_truth_rewards: ``[outputs]``, with ties or without.
        pair_weights: ``[outputs, outputs]`` as for :func:`goodteacher.sim.metrics.accuracy`; uniform pairs
            if not given.
        ranked_first: an output that the ranking must put first.
        strictly: whether it must be first alone.

    Raises:
        ValueError: if an argument is malformed, or the question is too large to be decided.
    """
    return _family(ground_truth_rewards, pair_weights, ranked_first, strictly).accuracies()


def is_attainable(
    accuracy: float,
    ground_truth_rewards: Numbers,
    pair_weights: Numbers | None = None,
    *,
    ranked_first: int | None = None,
    strictly: bool = False,
) -> bool:
    """Whether some ranking has an accuracy. Args and errors as for :func:`ranking`."""
    _check_accuracy(accuracy)
    return _family(ground_truth_rewards, pair_weights, ranked_first, strictly).find(accuracy) is not None


def ranking(
    accuracy: float,
    ground_truth_rewards: Numbers,
    pair_weights: Numbers | None = None,
    *,
    ranked_first: int | None = None,
    strictly: bool = False,
) -> Int[np.ndarray, " outputs"]:
    """A ranking of a given accuracy, to 1e-12.

    Args:
        accuracy: between 0 and 1.
        ground_truth_rewards, pair_weights, ranked_first, strictly: as for :func:`attainable_accuracies`.

    Returns:
        Levels from 0, larger is better.

    Raises:
        ValueError: if no ranking has that accuracy, naming the nearest ones that there are; if an argument is
            malformed; if the question is too large to be decided.
    """
    _check_accuracy(accuracy)
    family = _family(ground_truth_rewards, pair_weights, ranked_first, strictly)
    found = family.find(accuracy)
    if found is None:
        alone = " alone" if strictly else ""
        place = "" if ranked_first is None else f" with output {ranked_first} ranked first{alone}"
        nearest = " and ".join(str(value) for value in family.neighbors(accuracy))
        raise ValueError(f"accuracy {accuracy} is not attainable{place}; nearest to it is {nearest}")
    return found


def insertion_ranking(
    ground_truth_rewards: Float[np.ndarray, " outputs"], right: Int[np.ndarray, " outputs"]
) -> Int[np.ndarray, " outputs"]:
    """The ranking without ties in which every output is above so many of the worse ones.

    The sum of these numbers is that of the pairs that it ranks rightly.

    Args:
        ground_truth_rewards: by which an output is worse than another.
        right: for each output, from 0 to how many are worse.
    """
    order = np.empty(0, int)  # the lowest first
    for output in np.argsort(ground_truth_rewards, kind="stable"):
        worse = np.cumsum(ground_truth_rewards[order] < ground_truth_rewards[output])
        order = np.insert(order, np.searchsorted(worse, right[output]) + (right[output] > 0), output)
    return np.argsort(order)


def levels(rewards: Float[Array, "*batch outputs"]) -> Int[Array, "*batch outputs"]:
    """The ranking that rewards make: for every output, how many are worse."""
    return (rewards[..., :, None] > rewards[..., None, :]).sum(-1)


# Any pairs, few outputs -------------------------------------------------------


class _Enumerated(NamedTuple):
    """All rankings ``[n, outputs]`` of a family, and their accuracies."""

    rankings: np.ndarray
    every_accuracy: np.ndarray

    def accuracies(self) -> np.ndarray:
        ascending = np.sort(self.every_accuracy)
        return ascending[np.diff(ascending, prepend=-1.0) > _ROUNDING]

    def find(self, accuracy: float) -> np.ndarray | None:
        distance = np.abs(self.every_accuracy - accuracy)
        nearest = distance.argmin()
        return self.rankings[nearest].astype(int) if distance[nearest] <= _ROUNDING else None

    def neighbors(self, accuracy: float) -> list[float]:
        values = self.accuracies()
        position = np.searchsorted(values, accuracy)
        return values[max(position - 1, 0) : position + 1].tolist()


@functools.lru_cache(maxsize=4)
def _weak_orders(outputs: int) -> np.ndarray:
    """All rankings of so many outputs, on levels from 0 without gaps."""
    orders = np.zeros((1, 1), np.int8)
    for count in range(1, outputs):
        levels = orders.max(1) + 1
        grown = []
        for level in range(count + 1):
            joined, between = orders[levels > level], orders[levels >= level]
            grown += [(joined, level), (between + (between >= level), level)]
        orders = np.concatenate([np.column_stack([o, np.full(len(o), level, np.int8)]) for o, level in grown])
    return orders


def _enumerate(truth: np.ndarray, pair_weights: Numbers, first: int | None, strictly: bool) -> _Enumerated:
    count = truth.size
    if count > MOST_ENUMERATED:
        raise ValueError(
            f"ground_truth_rewards has {count} outputs; give at most {MOST_ENUMERATED} with pair_weights, or "
            "none of these for uniform pairs"
        )
    weights = np.asarray(pair_weights, float)
    if weights.shape != (count, count):
        raise ValueError(f"pair_weights has shape {list(weights.shape)}; give {[count, count]}")
    below, above = np.triu_indices(count, 1)
    weights = (weights + weights.T)[below, above]
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("pair_weights must be finite and not negative, and not all zero off the diagonal")
    rankings = _weak_orders(count)
    if first is not None:
        top = rankings == rankings.max(1, keepdims=True)
        rankings = rankings[top[:, first] & ((top.sum(1) == 1) | (not strictly))]
    right = np.sign(rankings[:, below] - rankings[:, above]) == np.sign(truth[below] - truth[above])
    return _Enumerated(rankings, right @ weights / weights.sum())


# Uniform pairs, any number of outputs -----------------------------------------


class _Class(NamedTuple):
    """Outputs that the ground truth ties; or a run of single ones, the worst first."""

    outputs: list[int]
    run: bool
    home: bool  # whether the class has, besides these, the output whose company at the top is to be chosen


class _Top(NamedTuple):
    """How many more outputs of each class are on the level that is ranked first, and what follows."""

    counts: tuple[int, ...]
    left: tuple[int, ...]
    wrong: int  # pairs, in the best order of the runs
    spread: int  # how many more the order of the runs may make wrong


@dataclass(frozen=True, eq=False)
class _Uniform:
    """The rankings of any number of outputs, judged by uniform pairs; see the head of the module."""

    truth: np.ndarray
    first: int | None
    strictly: bool

    def accuracies(self) -> np.ndarray:
        return np.array([right for right in range(self.pairs + 1) if self.attains(right)]) / self.pairs

    def find(self, accuracy: float) -> np.ndarray | None:
        right = round(accuracy * self.pairs)
        if abs(right / self.pairs - accuracy) > _ROUNDING or not self.attains(right):
            return None
        return (
            self._without_ties(right) if self._needs_no_ties(right) else self._with_ties(self.pairs - right)
        )

    def neighbors(self, accuracy: float) -> list[float]:
        at = accuracy * self.pairs
        sides = range(math.floor(at), -1, -1), range(math.ceil(at), self.pairs + 1)
        nearest = (next(filter(self.attains, side), None) for side in sides)
        return [right / self.pairs for right in nearest if right is not None]

    def attains(self, right: int) -> bool:
        """Whether a ranking gets so many pairs right."""
        return self._needs_no_ties(right) or bool(self._wrong_numbers >> (self.pairs - right) & 1)

    @property
    def pairs(self) -> int:
        return self.truth.size * (self.truth.size - 1) // 2

    # With every output on a level of its own.

    @functools.cached_property
    def _others(self) -> np.ndarray:
        return np.delete(np.arange(self.truth.size), [] if self.first is None else self.first)

    @functools.cached_property
    def _worse(self) -> np.ndarray:
        """For each of the others, how many of them are worse."""
        rewards = self.truth[self._others]
        return (rewards[:, None] > rewards).sum(1)

    @functools.cached_property
    def _below_first(self) -> int:
        return 0 if self.first is None else int((self.truth < self.truth[self.first]).sum())

    def _needs_no_ties(self, right: int) -> bool:
        return 0 <= right - self._below_first <= int(self._worse.sum())

    def _without_ties(self, right: int) -> np.ndarray:
        levels = np.full(self.truth.size, self._others.size)
        shares = _fill(right - self._below_first, self._worse)
        levels[self._others] = insertion_ranking(self.truth[self._others], shares)
        return levels

    # With ties.

    @functools.cached_property
    def _classes(self) -> list[_Class]:
        classes: list[_Class] = []
        for value in np.unique(self.truth):
            home = self.first is not None and not self.strictly and bool(value == self.truth[self.first])
            outputs = [int(output) for output in self._others if self.truth[output] == value]
            single = len(outputs) == 1 and not home
            if single and classes and classes[-1].run:
                classes[-1].outputs.extend(outputs)
            else:
                classes.append(_Class(outputs, single, home))
        return classes

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(each.outputs) for each in self._classes)

    @functools.cached_property
    def _table(self) -> dict[tuple[int, ...], int]:
        """For every state, which numbers of wrong pairs its outputs can have, those within runs left out."""
        runs = tuple(each.run for each in self._classes)
        steps = math.prod(n + 1 for n in self._sizes) * sum(
            1 if run else n for n, run in zip(self._sizes, runs, strict=True)
        )
        if steps > MOST_STEPS:
            raise ValueError(
                f"ground_truth_rewards has too many ties for so many outputs: deciding takes {steps:.1e} "
                f"steps, more than {MOST_STEPS:.0e}; give fewer outputs or fewer different rewards"
            )
        return _programme(self._sizes, runs)

    @functools.cached_property
    def _tops(self) -> list[_Top]:
        homes = [each.home for each in self._classes]
        free = [
            math.comb(n, 2) if each.run else 0 for n, each in zip(self._sizes, self._classes, strict=True)
        ]
        if not any(homes):
            wrong = 0 if self.first is None else self._others.size - self._below_first
            return [_Top((0,) * len(homes), self._sizes, wrong, sum(free))]
        home = homes.index(True)
        most = [n if i <= home else 0 for i, n in enumerate(self._sizes)]
        tops = []
        for counts in itertools.product(*(range(n + 1) for n in most)):
            left = tuple(n - count for n, count in zip(self._sizes, counts, strict=True))
            level = [count + own for count, own in zip(counts, homes, strict=True)]
            within = [
                math.comb(count, 2) if each.run else 0
                for count, each in zip(counts, self._classes, strict=True)
            ]
            wrong = sum(a * b for a, b in itertools.combinations(level, 2)) + sum(within)
            for i, count in enumerate(level):
                wrong += count * (sum(left[i + 1 :]) + (0 if self._classes[i].run else left[i]))
            tops.append(_Top(counts, left, wrong, sum(free) - sum(within)))
        return tops

    @functools.cached_property
    def _wrong_numbers(self) -> int:
        """Which numbers of wrong pairs can be had, as bits."""
        numbers = 0
        for top in self._tops:
            numbers |= _spread(self._table[top.left], top.spread) << top.wrong
        return numbers

    def _with_ties(self, wrong: int) -> np.ndarray:
        top = next(top for top in self._tops if self._within_reach(top, wrong))
        reachable = self._within_reach(top, wrong)
        number = (reachable & -reachable).bit_length() - 1  # the lowest one
        in_runs = top.spread - (wrong - top.wrong - number)  # right pairs, as far as they are free
        queues = []
        for each, count in zip(self._classes, top.counts, strict=True):
            n = len(each.outputs)
            right = min(in_runs, math.comb(n, 2) - math.comb(count, 2)) if each.run else 0
            in_runs -= right
            order = _run_order(n, count, right) if each.run else range(n)
            queues.append(iter([each.outputs[i] for i in order]))
        levels = np.empty(self.truth.size, int)
        blocks = self._walk(top.left, number)
        for level, (i, block) in enumerate(blocks):
            levels[list(itertools.islice(queues[i], block))] = level
        levels[list(itertools.chain(*queues))] = len(blocks)
        if self.first is not None:
            levels[self.first] = len(blocks)
        return levels

    def _within_reach(self, top: _Top, wrong: int) -> int:
        """The numbers, as bits, from which a top and the order of the runs make so many wrong pairs."""
        most = wrong - top.wrong
        fewest = max(most - top.spread, 0)
        numbers = self._table[top.left] & ((1 << max(most + 1, 0)) - 1)
        return numbers >> fewest << fewest

    def _walk(self, left: tuple[int, ...], number: int) -> list[tuple[int, int]]:
        """Blocks, from the bottom up, that make so many pairs wrong: their classes and sizes."""
        blocks = []
        runs = tuple(each.run for each in self._classes)
        while any(left):
            i, block, wrong = next(
                (i, block, wrong)
                for i, block, wrong in _moves(left, runs)
                if wrong <= number and self._table[_after(left, i, block)] >> (number - wrong) & 1
            )
            blocks.append((i, block))
            left, number = _after(left, i, block), number - wrong
        return blocks


def _moves(left: tuple[int, ...], runs: tuple[bool, ...]) -> Iterator[tuple[int, int, int]]:
    """The blocks that may come next: class, number of outputs, pairs that it makes wrong."""
    worse = 0
    for i, (n, run) in enumerate(zip(left, runs, strict=True)):
        if run and n:
            yield i, 1, worse
        elif not run:
            for block in range(1, n + 1):
                yield i, block, block * (worse + n - block)
        worse += n


def _after(left: tuple[int, ...], i: int, block: int) -> tuple[int, ...]:
    return (*left[:i], left[i] - block, *left[i + 1 :])


@functools.lru_cache(maxsize=2)
def _programme(sizes: tuple[int, ...], runs: tuple[bool, ...]) -> dict[tuple[int, ...], int]:
    table = {(0,) * len(sizes): 1}
    for left in itertools.product(*(range(n + 1) for n in sizes)):
        numbers = table.get(left, 0)
        for i, block, wrong in _moves(left, runs):
            numbers |= table[_after(left, i, block)] << wrong
        table[left] = numbers
    return table


def _spread(numbers: int, most: int) -> int:
    """Numbers, as bits, to each of which 0 to ``most`` is added."""
    reached = 0
    while reached < most:
        step = min(reached + 1, most - reached)
        numbers |= numbers << step
        reached += step
    return numbers


def _run_order(outputs: int, tied: int, right: int) -> list[int]:
    """An order, the lowest first, of ever better outputs, the last ones tied, with so many right pairs."""
    below = outputs - tied
    # How many of those below each of the tied ones is right about: as many as may be, the best first.
    lifted = _fill(right, np.full(tied, below))[::-1]
    top = (np.arange(tied) + lifted).tolist()
    rest = np.delete(np.arange(outputs), top)
    shares = _fill(right - int(lifted.sum()), np.arange(below))
    return [*rest[np.argsort(insertion_ranking(rest.astype(float), shares))].tolist(), *top]


def _fill(total: int, most: np.ndarray) -> np.ndarray:
    """A total shared out, to the first ones as much as they take."""
    return np.diff(np.minimum(np.cumsum(most), total), prepend=0)


# Arguments --------------------------------------------------------------------


def _family(
    truth: Numbers, pair_weights: Numbers | None, first: int | None, strictly: bool
) -> _Enumerated | _Uniform:
    rewards = np.asarray(truth, float)
    if rewards.ndim != 1 or rewards.size < 2 or not np.isfinite(rewards).all():
        raise ValueError(
            f"ground_truth_rewards has shape {list(rewards.shape)}; give a finite number for each of two "
            "or more outputs"
        )
    if first is not None and first not in range(rewards.size):
        raise ValueError(f"ranked_first is {first}; give an output from 0 to {rewards.size - 1}")
    if pair_weights is None:
        return _Uniform(rewards, first, strictly)
    return _enumerate(rewards, pair_weights, first, strictly)


def _check_accuracy(accuracy: float) -> None:
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy is {accuracy}; give a number between 0 and 1")
