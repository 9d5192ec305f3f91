"""Rollouts: draws from a policy prompt by prompt, what rewards say of them, and a ground truth for some."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from goodteacher.sim.names import unknown
from goodteacher.sim.validation import Numbers, as_array

_MOST_CELLS = 1 << 20  # of a batch
TOO_FEW = "alone in its group"

# Tables of pandas, whose methods have no types.
Frame = Any
Column = Any


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

    Prompts with a single draw, and draws with a reward that is not a number, are left out and counted in
    ``skipped``.

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
        places: where the first rows that were left out stand.
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
            answer_texts=None if answers is None else in_words(pd.Series(fixed["answers"][exists])),
        )

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        *,
        prompt: str | Sequence[str],
        rewards: Sequence[str],
        truth: str | None = None,
        answer: str | None = None,
    ) -> "Rollouts":
        """From a table with a row for each draw.

        Args:
            frame: the table.
            prompt: the column that says which prompt, or several.
            rewards: columns.
            truth: column of the ground truth; may have gaps.
            answer: column that is equal for equal outputs.

        Raises:
            ValueError: for a column that there is not, or if no prompt has two draws.
        """
        keys = [prompt] if isinstance(prompt, str) else list(prompt)
        for name in (*keys, *rewards, *filter(None, (truth, answer))):
            if name not in frame.columns:
                raise unknown("column", name, map(str, frame.columns))
        number, labels = codes(frame, keys)
        return cls.from_draws(
            number,
            {name: numbers(frame[name]) for name in rewards},
            None if truth is None else numbers(frame[truth]),
            None if answer is None else pd.factorize(frame[answer].map(hashable))[0],
            prompts=labels,
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
        draw_numbers: Int[np.ndarray, " draws"] | None = None,
        answer_texts: np.ndarray | None = None,
        skipped: Mapping[str, int] = MappingProxyType({}),
        recognised: Mapping[str, Any] = MappingProxyType({"format": "arrays"}),
        places: tuple[str, ...] = (),
    ) -> "Rollouts":
        """From flat arrays in any order, with the number of each draw's prompt.

        The draws of a prompt are numbered in their order, unless their numbers are given.

        Raises:
            ValueError: if nothing is left.
        """
        reasons = dict(skipped)
        values = np.stack([np.asarray(of, float) for of in rewards.values()])
        keep = np.isfinite(values).all(0)
        for name, row in zip(rewards, values, strict=True):
            if bad := int((~np.isfinite(row)).sum()):
                reasons[f"{name} is not a number"] = reasons.get(f"{name} is not a number", 0) + bad
        counts = np.bincount(number[keep], minlength=len(prompts))
        alone = keep & (counts[number] < 2)
        if alone.any():
            reasons[TOO_FEW] = reasons.get(TOO_FEW, 0) + int(alone.sum())
        keep &= ~alone
        if not keep.any():
            said = ", ".join(f"{count} rows {reason}" for reason, count in reasons.items()) or "no rows"
            raise ValueError(f"nothing usable: {said}; give at least two draws of a prompt")
        own = within_prompts(number) if draw_numbers is None else draw_numbers
        order = np.flatnonzero(keep)[np.argsort(number[keep], kind="stable")]
        _, first = np.unique(number[order], return_index=True)
        if truth is not None:
            truth = np.where(np.isfinite(truth[order]), truth[order], np.nan)
            truth = None if np.isnan(truth).all() else truth
        return cls(
            tuple(rewards),
            values[:, order],
            truth,
            None if answers is None else answers[order],
            np.append(first, len(order)),
            tuple(str(prompts[i]) for i in number[order][first]),
            own[order],
            MappingProxyType(reasons),
            recognised,
            places,
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
    if column.dtype == object or not pd.api.types.is_numeric_dtype(column):
        column = pd.to_numeric(column.map(_truth_value), errors="coerce")
    return column.to_numpy(float, na_value=np.nan)


_TRUTH_VALUES = MappingProxyType({"true": 1.0, "false": 0.0})


def _truth_value(value: Any) -> Any:
    return _TRUTH_VALUES.get(str(value).strip().lower(), value)


def comparable(column: Column) -> Column:
    """A column whose values can be told apart, whatever they are."""
    return column.map(hashable) if column.dtype == object else column


def hashable(value: Any) -> Any:
    """Something to tell values apart by, whatever they are."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return repr(value) if isinstance(value, list | dict | tuple) else value


def codes(frame: Frame, keys: Sequence[str]) -> tuple[Int[np.ndarray, " rows"], list[str]]:
    """Rows that agree in some columns have one code; and a text for each code. Empty cells are code -1."""
    columns = [comparable(frame[key]) for key in keys]
    if len(columns) == 1:
        number, levels = pd.factorize(columns[0])
        return number, [label(level) for level in levels]
    number, levels = pd.factorize(pd.Series(list(zip(*columns, strict=True)), dtype=object))
    return number, [", ".join(map(label, level)) for level in levels]


def within_prompts(number: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
    """The number of each draw among those of its prompt, in their order, given the numbers of the prompts."""
    return np.asarray(pd.Series(number).groupby(number).cumcount())


def label(value: Any, most: int = 80) -> str:
    """A text on one line, shortened."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def in_words(answers: Column) -> np.ndarray:
    """What is shown of answers; nothing of those that are missing."""
    return answers.map(partial(label, most=40), na_action="ignore").fillna("").to_numpy(object)
