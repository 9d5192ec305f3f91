"""Rollouts: draws from a policy prompt by prompt, what rewards say of them, and a ground truth for some."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from goodteacher.experiments.rollouts.naming import Names, label
from goodteacher.sim.names import unknown
from goodteacher.sim.validation import Numbers, as_array

_MOST_CELLS = 1 << 20  # of a batch
LARGEST = 1e140  # of which the squares of many can be added
TOO_FEW, NO_PROMPT = "alone in its group", "has no prompt"

# Tables of pandas, whose methods have no types.
Frame = Any
Column = Any


class Losses:
    """What is left out, counted by reason; and where the first of each reason stand."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.places: dict[str, list[str]] = {}

    def add(self, reason: str, places: Iterable[str], count: int, most: int = 3) -> None:
        """Counts some, and names the places of the first; as many as are given at most."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            named = self.places.setdefault(reason, [])
            for place in places:
                if len(named) == most:
                    break
                if place not in named:
                    named.append(place)

    def join(self, other: "Losses") -> None:
        """Counts those of another too."""
        for reason, count in other.counts.items():
            self.add(reason, other.places[reason], count)

    def said(self) -> str:
        """All reasons, each with its first place."""
        each = (f"{count} x {reason} ({self.places[reason][0]})" for reason, count in self.counts.items())
        return ", ".join(each) or "no rows"


class Batch(NamedTuple):
    """Prompts with about as many draws each, as arrays that are filled up.

    Attributes:
        prompts: their numbers.
        rewards: ``nan`` where there is no draw.
        truth: ``nan`` where there is none.
        mask: where there is a draw.
    """

    prompts: Int[np.ndarray, " p"]
    rewards: Float[np.ndarray, "rewards p draws"]
    truth: Float[np.ndarray, "p draws"]
    mask: Bool[np.ndarray, "p draws"]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Draws from a policy, prompt by prompt. Immutable.

    Draws without a prompt, or with a reward that is not a number, and prompts with a single draw are left out
    and counted in ``skipped``.

    Attributes:
        names: of the rewards.
        rewards: ``[rewards, draws]``, the draws of a prompt side by side.
        truth: ``[draws]``, ``nan`` where it is missing; ``None`` if there is none at all.
        answers: ``[draws]``, equal codes for equal outputs; ``None`` if it is not known which are equal.
        starts: ``[prompts + 1]``: the first draw of each prompt, and the number of draws.
        prompts: what the prompts are called.
        draw_numbers: ``[draws]``, the number of each among all draws of its prompt, from 0, those that were
            left out included.
        skipped: what was left out: reasons with counts.
        recognised: the format they were read from, and which column was taken for what.
        places: where the first that were left out stand, with the reason.
        notes: sentences on what else is not as it might be expected.
        answer_texts: ``[draws]``, the answers in words, shortened; ``None`` if they are not known.
    """

    names: tuple[str, ...]
    rewards: Float[np.ndarray, "rewards draws"]
    truth: Float[np.ndarray, " draws"] | None
    answers: Int[np.ndarray, " draws"] | None
    starts: Int[np.ndarray, " starts"]
    prompts: tuple[str, ...]
    draw_numbers: Int[np.ndarray, " draws"]
    skipped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    recognised: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"format": "arrays"}))
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    answer_texts: np.ndarray | None = None

    @classmethod
    def from_arrays(
        cls,
        rewards: Numbers | Mapping[str, Numbers],
        truth: Numbers | None = None,
        *,
        mask: Numbers | None = None,
        answers: Any = None,
        prompts: Sequence[str] | None = None,
    ) -> "Rollouts":
        """From arrays ``[prompts, draws]``.

        Args:
            rewards: of one reward, or by the names of several.
            truth: ``nan`` where it is missing.
            mask: true where there is a draw; everywhere if not given.
            answers: equal for equal outputs of a prompt: numbers or texts.
            prompts: names; numbers if not given.

        Raises:
            ValueError: for arrays of different shapes, or if no prompt has two draws.
        """
        given = rewards if isinstance(rewards, Mapping) else {"reward": rewards}
        if not given:
            raise ValueError("rewards names none; give at least one")
        arrays = {name: as_array(f"rewards of {name}", of) for name, of in given.items()}
        shape = next(iter(arrays.values())).shape
        if len(shape) != 2:
            raise ValueError(f"rewards has {len(shape)} levels of nesting; give [prompts, draws]")
        others = {"truth": truth, "mask": mask, "answers": answers}
        fixed = {name: np.asarray(of) for name, of in others.items() if of is not None}
        for name, of in {**arrays, **fixed}.items():
            if of.shape != shape:
                raise ValueError(
                    f"{name} has shape {list(of.shape)} but rewards has shape {list(shape)}; make them equal"
                )
        if prompts is not None and len(prompts) != shape[0]:
            raise ValueError(f"prompts has {len(prompts)} names for {shape[0]} prompts; give one each")
        exists = np.ones(shape, bool) if mask is None else fixed["mask"].astype(bool)
        names = [str(i) for i in range(shape[0])] if prompts is None else list(map(str, prompts))
        number = np.nonzero(exists)[0]
        return cls.from_draws(
            number,
            {name: of[exists] for name, of in arrays.items()},
            None if truth is None else as_array("truth", truth)[exists],
            None if answers is None else pd.factorize(fixed["answers"][exists])[0],
            prompts=names,
            place=lambda i: f"prompt {names[number[i]]}",
            answer_texts=None if answers is None else in_words(pd.Series(fixed["answers"][exists])),
        )

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        *,
        prompt: str | Sequence[str],
        rewards: str | Sequence[str],
        truth: str | None = None,
        answer: str | None = None,
    ) -> "Rollouts":
        """From a table with a row for each draw.

        Args:
            frame: the table.
            prompt: the column that says which prompt, or several.
            rewards: the column, or several.
            truth: column of the ground truth; may have gaps.
            answer: column that is equal for equal outputs.

        Raises:
            ValueError: for a column that there is not, or if no prompt has two draws.
        """
        keys, names = ([given] if isinstance(given, str) else list(given) for given in (prompt, rewards))
        for what, given in (("prompt", keys), ("rewards", names)):
            if not given:
                raise ValueError(f"{what} names no column; give at least one")
        for name in (*keys, *names, *filter(None, (truth, answer))):
            if name not in frame.columns:
                raise unknown("column", name, map(str, frame.columns))
        number, levels = codes(frame, keys)
        called = Names()
        for level in levels:
            called.add(", ".join(level))
        return cls.from_draws(
            number,
            {name: numbers(frame[name]) for name in names},
            None if truth is None else numbers(frame[truth]),
            None if answer is None else texts(frame[answer])[0],
            prompts=list(called),
            place=lambda i: f"row {frame.index[i]}",
            answer_texts=None if answer is None else in_words(frame[answer]),
        )

    @classmethod
    def from_draws(
        cls,
        number: Int[np.ndarray, " draws"],
        rewards: Mapping[str, Float[np.ndarray, " draws"]],
        truth: Float[np.ndarray, " draws"] | None,
        answers: Int[np.ndarray, " draws"] | None,
        *,
        prompts: Sequence[str],
        place: Callable[[int], str],
        draw_numbers: Int[np.ndarray, " draws"] | None = None,
        answer_texts: np.ndarray | None = None,
        losses: Losses | None = None,
        recognised: Mapping[str, Any] = MappingProxyType({"format": "arrays"}),
        notes: tuple[str, ...] = (),
    ) -> "Rollouts":
        """From flat arrays in any order, with the number of each draw's prompt.

        Args:
            number: of the prompt; -1 if it has none.
            rewards: by their names.
            truth: ``nan`` where it is missing.
            answers: equal codes for equal outputs.
            prompts: what they are called.
            place: where a draw stands.
            draw_numbers: of the draws of each prompt; in their order if not given.
            losses: what is left out already; what is left out here is added.
            answer_texts, recognised, notes: as of the value.

        Raises:
            ValueError: if nothing is left.
        """
        losses = losses or Losses()
        values = np.stack([np.asarray(of, float) for of in rewards.values()])
        keep = np.ones(len(number), bool)

        def leave_out(reason: str, bad: Bool[np.ndarray, " draws"]) -> None:
            rows = np.flatnonzero(keep & bad)
            losses.add(reason, (place(int(i)) for i in rows), len(rows))
            keep[rows] = False

        leave_out(NO_PROMPT, number < 0)
        for name, row in zip(rewards, values, strict=True):
            leave_out(f"{name} is missing or no number", ~np.isfinite(row))
            leave_out(f"{name} is beyond {LARGEST:g}", np.abs(row) > LARGEST)
        leave_out(TOO_FEW, np.bincount(number[keep], minlength=len(prompts) + 1)[number] < 2)
        if not keep.any():
            raise ValueError(f"nothing usable: {losses.said()}; give at least two draws of a prompt")
        own = within_prompts(number) if draw_numbers is None else draw_numbers
        order = np.flatnonzero(keep)[np.argsort(number[keep], kind="stable")]
        _, first = np.unique(number[order], return_index=True)
        if truth is not None and np.isfinite(truth[order]).any():
            missing = np.flatnonzero(keep & ~np.isfinite(truth))
            truth = np.where(np.isfinite(truth[order]), truth[order], np.nan)
            if len(missing):
                first_place = place(int(missing[0]))
                said = (
                    f"{len(missing)} of {len(order)} draws have no ground truth: the first is {first_place}."
                )
                notes = (*notes, said)
        else:
            truth = None
        return cls(
            tuple(rewards),
            values[:, order],
            truth,
            None if answers is None else answers[order],
            np.append(first, len(order)),
            tuple(str(prompts[i]) for i in number[order][first]),
            own[order],
            MappingProxyType(losses.counts),
            recognised,
            tuple(f"{where}: {reason}" for reason, each in losses.places.items() for where in each),
            notes,
            None if answer_texts is None else answer_texts[order],
        )

    @property
    def counts(self) -> Int[np.ndarray, " prompts"]:
        """How many draws each prompt has."""
        return np.diff(self.starts)

    @property
    def prompt_of(self) -> Int[np.ndarray, " draws"]:
        """The number of each draw's prompt."""
        return np.repeat(np.arange(len(self.prompts)), self.counts)

    def choose(self, names: Sequence[str]) -> "Rollouts":
        """With some of the rewards.

        Raises:
            ValueError: for a name that is not known.
        """
        for name in names:
            if name not in self.names:
                raise unknown("reward", name, self.names)
        rows = [self.names.index(name) for name in dict.fromkeys(names)]
        return replace(self, names=tuple(self.names[i] for i in rows), rewards=self.rewards[rows])

    def with_sum(self, weights: Mapping[str, float]) -> "Rollouts":
        """With a weighted sum of rewards beside them.

        Raises:
            ValueError: for a name that is not known.
        """
        for name, weight in weights.items():
            if name not in self.names:
                raise unknown("reward", name, self.names)
            if not np.isfinite(weight):
                raise ValueError(f"the weight of {name} is {weight}; give a finite number")
        if not any(weights.values()):
            raise ValueError("all weights are 0; give one that is not")
        total = sum(weight * self.rewards[self.names.index(name)] for name, weight in weights.items())
        name = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())
        return replace(self, names=(*self.names, name), rewards=np.vstack([self.rewards, total]))

    def batches(self) -> Iterator[Batch]:
        """All prompts, those with about as many draws together, in arrays of moderate size."""
        widths = 1 << np.ceil(np.log2(np.maximum(self.counts, 2))).astype(int)
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            each = max(_MOST_CELLS // int(width), 1)
            for first in range(0, len(chosen), each):
                yield self._batch(chosen[first : first + each], int(width))

    def _batch(self, prompts: np.ndarray, width: int) -> Batch:
        place = self.starts[prompts][:, None] + np.arange(width)
        mask = np.arange(width) < self.counts[prompts][:, None]
        place = np.where(mask, place, 0)
        truth = np.full(mask.shape, np.nan) if self.truth is None else self.truth[place]
        return Batch(
            prompts,
            np.where(mask, self.rewards[:, place], np.nan),
            np.where(mask, truth, np.nan),
            mask,
        )


def numbers(column: Column) -> Float[np.ndarray, " rows"]:
    """A column as numbers, ``nan`` for what is none; true and false are 1 and 0."""
    found = np.array(pd.Series(pd.to_numeric(column, errors="coerce")).to_numpy(float, na_value=np.nan))
    rest = np.flatnonzero(np.isnan(found))
    if len(rest) and not pd.api.types.is_numeric_dtype(column):
        found[rest] = [_truth_value(value) for value in column.iloc[rest]]
    return found


_TRUTH_VALUES = MappingProxyType({"true": 1.0, "false": 0.0})


def _truth_value(value: Any) -> float:
    return _TRUTH_VALUES.get(value.strip().lower(), np.nan) if isinstance(value, str) else np.nan


def texts(column: Column) -> tuple[Int[np.ndarray, " rows"], list[str]]:
    """Rows with equal values have one code; and the text of each code. Empty cells are code -1.

    Values are equal if their texts are, so that it does not matter what else stands in a column: pandas makes
    5 a 5.0 where another row is empty. Numbers are equal however many zeros they end with.
    """
    try:
        local, values = pd.factorize(column)
    except TypeError:
        local, values = pd.factorize(column.map(_hashable))
    each = [_ZEROS.sub(r"\1\2", str(value)) or None for value in values]
    code, levels = pd.factorize(np.array(each, object))
    return np.append(code, -1)[local], list(levels)


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return repr(value) if isinstance(value, list | dict | tuple) else value


_ZEROS = re.compile(r"^(-?\d+)(?:\.0+|(\.\d*[1-9])0+)$")


def codes(frame: Frame, keys: Sequence[str]) -> tuple[Int[np.ndarray, " rows"], list[tuple[str, ...]]]:
    """Rows that agree in some columns have one code, -1 with an empty cell; and the texts of each code."""
    each = [texts(frame[key]) for key in keys]
    whole = np.logical_and.reduce([code >= 0 for code, _ in each])
    sizes = tuple(max(len(levels), 1) for _, levels in each)
    number = np.full(len(frame), -1)
    number[whole], found = pd.factorize(np.ravel_multi_index([code[whole] for code, _ in each], sizes))
    parts = zip(each, np.unravel_index(found, sizes), strict=True)
    return number, list(zip(*([levels[i] for i in part] for (_, levels), part in parts), strict=True))


def within_prompts(number: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
    """The number of each draw among those of its prompt, in their order, given the numbers of the prompts."""
    return np.asarray(pd.Series(number).groupby(number).cumcount())


def in_words(answers: Column) -> np.ndarray:
    """What is shown of answers; nothing of those that are missing."""
    return answers.map(partial(label, most=40), na_action="ignore").fillna("").to_numpy(object)
