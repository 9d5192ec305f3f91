"""Formats in which programs write rollouts, recognised by their keys, and what each of their columns is.

A format turns a record of its file into rows, one for each draw; what is of no format that is known is a
table whose columns are guessed from their names, or told.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from goodteacher.experiments.rollouts.collection import Column, Frame, numbers, texts
from goodteacher.sim.names import unknown

Record = Mapping[str, Any]
Rows = list[dict[str, Any] | str]  # a text says why a row is none


@dataclass(frozen=True)
class Format:
    """What a program writes.

    Attributes:
        name: of the program, or of the kind of table.
        keys: that a record has, by which it is recognised.
        prompt: columns that together say which prompt a row is of.
        rewards: columns; every other column of numbers if not given.
        truth, answer: columns, where there may be some.
        holds: what else is true of a record of it.
        apart: the records that a file has, if it is one object that holds them all.
        rows: from a record, and its number in the file, to rows; each record is one if not given.
        by_file: whether each file is a reward model of its own, on the same draws.
        variant: a column of which only the first value that is met is read: others are the same draws again.
        from_path: a column, and the pattern of its value in the path of the file.
    """

    name: str
    keys: frozenset[str]
    prompt: tuple[str, ...] = ("prompt",)
    rewards: tuple[str, ...] = ()
    truth: str | None = None
    answer: str | None = None
    holds: Callable[[Record], bool] = lambda record: True
    apart: Callable[[Record], Sequence[Any]] = lambda record: [record]
    rows: Callable[[Record, int], Rows] | None = None
    by_file: bool = False
    variant: str | None = None
    from_path: tuple[str, str] | None = None


def _listed(value: Any, what: str) -> list[Any]:
    """A list of at least one.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is no list of values")
    return value


def _needed(record: Record, key: str) -> Any:
    """What stands under a key.

    Raises:
        ValueError: if nothing does.
    """
    if record.get(key) is None:
        raise ValueError(f"has no {key}")
    return record[key]


def _prime_rl(record: Record, number: int) -> Rows:
    rows: Rows = []
    for trace in _listed(record.get("traces"), "traces"):
        if not isinstance(trace, Mapping):
            rows.append("a trace is no object")
            continue
        group = trace.get("group") or record.get("group")
        rewards = trace.get("rewards")
        if isinstance(rewards, list):
            rewards = {f"reward_{i}": value for i, value in enumerate(rewards)}
        elif not isinstance(rewards, Mapping):
            rewards = {} if rewards is None else {"reward": rewards}
        rows.append({"prompt": group.get("id") if isinstance(group, Mapping) else None, **rewards})
    return rows


def _by_column(record: Record) -> list[Record]:
    """The records of a file that stands column by column."""
    names = ("id", "scores", "num_correct")
    if not isinstance(record.get("id"), list):
        return [record]
    lists = [_listed(record[name], name) for name in names]
    if len({len(each) for each in lists}) > 1:
        raise ValueError(f"{', '.join(names)} have different lengths")
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


def _reward_bench_2(record: Record, number: int) -> Rows:
    scores = _listed(record.get("scores"), "scores")
    # A score may stand in a list of its own.
    flat = [score[0] if isinstance(score, list) and len(score) == 1 else score for score in scores]
    right = record.get("num_correct")
    if not isinstance(right, int | float) or not float(right).is_integer():
        raise ValueError("num_correct is no whole number")
    return [
        {"id": record["id"], "draw": i, "scores": score, "correct": float(i < right)}
        for i, score in enumerate(flat)
    ]


def _reward_bench(record: Record, number: int) -> Rows:
    prompt = next((record[key] for key in ("id", "prompt") if record.get(key) is not None), number)
    rows: Rows = []
    for kind, truth in (("chosen", 1.0), ("rejected", 0.0)):
        key = next(key for key in (f"scores_{kind}", f"score_{kind}", kind) if key in record)
        if key == kind and isinstance(record[key], str):
            raise ValueError(f"{key} is a text, and no score of it stands under scores_{kind}")
        rows.append({"prompt": prompt, "draw": len(rows), "score": record[key], "correct": truth})
    return rows


def _best_of_k(record: Record, number: int) -> Rows:
    question, scores = _needed(record, "question_id"), _listed(record.get("scores"), "scores")
    others = {
        key: _listed(value, key)
        for key, value in record.items()
        if key != "scores" and isinstance(value, list | np.ndarray) and len(value) == len(scores)
    }
    return [
        {
            "question_id": question,
            "response": record.get(f"response_{i + 1}"),
            "scores": score,
            **{key: values[i] for key, values in others.items()},
        }
        for i, score in enumerate(scores)
    ]


_NOT_METRICS = frozenset(
    {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "metrics", "filter"}
    | {"doc_hash", "prompt_hash", "target_hash"}
)


def _lm_evaluation(record: Record, number: int) -> Rows:
    draws = _listed(record.get("resps"), "resps")
    draws = draws[0] if len(draws) == 1 and isinstance(draws[0], list) else draws
    answers = _listed(record.get("filtered_resps"), "filtered_resps")
    answers = answers[0] if len(answers) == 1 and isinstance(answers[0], list) else answers
    names = record.get("metrics") or [key for key in record if key not in _NOT_METRICS]
    metrics = {name: record[name] for name in names if name in record}
    each = {name: of for name, of in metrics.items() if isinstance(of, list) and len(of) == len(draws)}
    if len(draws) == 1:
        each |= {name: [of] for name, of in metrics.items() if not isinstance(of, list)}
    elif not each and len(answers) == len(draws) and record.get("target") is not None:
        target = str(record["target"]).strip()
        each = {"exact_match": [float(str(answer).strip() == target) for answer in answers]}
    if not each:
        raise ValueError(f"{len(draws)} responses have one metric together")
    if len(answers) != len(draws):
        answers = draws
    document = _needed(record, "doc_id")
    return [
        {
            "doc_id": document,
            "answer": answer,
            "filter": record.get("filter"),
            **{name: of[i] for name, of in each.items()},
        }
        for i, answer in enumerate(answers)
    ]


def _are_results(record: Record) -> bool:
    results = record["results"]
    return isinstance(results, list) and any(
        isinstance(each, Mapping) and "completions" in each for each in results
    )


def _reasoning_gym(record: Record, number: int) -> Rows:
    prompt = f"{number - 1}: {record.get('question', '')}"
    return [
        {"prompt": prompt, "answer": completion.get("model_answer"), "score": completion.get("score")}
        if isinstance(completion, Mapping)
        else "a completion is no object"
        for completion in _listed(record.get("completions"), "completions")
    ]


FORMATS = (
    Format("TRL", frozenset({"step", "prompt", "completion", "advantage"}), ("step", "prompt")),
    Format(
        "verl",
        frozenset({"input", "output", "score", "step"}),
        ("step", "input"),
        ("score",),
        truth="acc",
        answer="pred",
    ),
    Format("NeMo Gym", frozenset({"_ng_task_index", "reward"}), ("_ng_task_index",), ("reward",)),
    Format(
        "prime-rl",
        frozenset({"traces"}),
        ("step", "prompt"),
        rows=_prime_rl,
        from_path=("step", r"/step_(\d+)/"),
    ),
    Format(
        "RewardBench 2",
        frozenset({"id", "scores", "num_correct"}),
        ("id",),
        ("scores",),
        truth="correct",
        apart=_by_column,
        rows=_reward_bench_2,
        by_file=True,
    ),
    Format(
        "reward-bench",
        frozenset({"chosen", "rejected"}),
        rewards=("score",),
        truth="correct",
        rows=_reward_bench,
        by_file=True,
    ),
    Format(
        "PPE best of K",
        frozenset({"question_id", "response_1", "scores"}),
        ("question_id",),
        truth="scores",
        rows=_best_of_k,
    ),
    Format(
        "lm-evaluation-harness",
        frozenset({"doc_id", "resps", "filtered_resps"}),
        ("task", "doc_id"),
        answer="answer",
        rows=_lm_evaluation,
        variant="filter",
        from_path=("task", r"samples_(.+)_[^_/]+$"),
    ),
    Format(
        "reasoning-gym-eval",
        frozenset({"results"}),
        rewards=("score",),
        answer="answer",
        holds=_are_results,
        apart=lambda record: record["results"],
        rows=_reasoning_gym,
    ),
)

TABLE = Format("table", frozenset())

_PROMPTS = (
    *("prompt", "prompt_id", "question", "question_id", "problem", "problem_id", "input", "query"),
    *("instruction", "task_id", "group", "group_id", "example_id", "doc_id", "uid", "id"),
)
_TRUTHS = (
    *("truth", "ground_truth", "ground_truth_reward", "gold", "gold_reward", "correct", "is_correct"),
    *("verified", "acc"),
)
_NO_REWARDS = frozenset(
    {*_PROMPTS, "step", "epoch", "index", "idx", "draw", "sample", "sample_id", "rollout", "rollout_id"}
    | {"completion", "response", "output", "answer", "text", "solution", "author", "model", "seed"}
    | {"length", "tokens", "num_tokens", "advantage", "advantages", "logprob", "log_prob", "temperature"}
    | {"subset", "category", "timestamp", "unnamed: 0", "_ng_rollout_index"}
)
_NUMBERED = re.compile(r"(.+?)[_.]?(\d+)")
_NO_OBJECT = "is not an object"


def recognise(record: Record) -> Format | None:
    """The format of a record, if it is one that is known."""
    have = set(record)
    return next((each for each in FORMATS if each.keys <= have and each.holds(record)), None)


def rows_of(format: Format, record: Any, number: int) -> list[tuple[int, dict[str, Any] | str]]:
    """The rows of a record, each with the number of the record that it is of; a text says why it is none."""
    if not isinstance(record, dict):
        return [(number, _NO_OBJECT)]
    if format.rows is None:
        return [(number, record)]
    try:
        records = format.apart(record)
    except _BAD as error:
        return [(number, _why(format, error))]
    rows: list[tuple[int, dict[str, Any] | str]] = []
    for i, each in enumerate(records, 1):
        its = i if len(records) > 1 else number
        try:
            rows += [(its, row) for row in format.rows(each, its)]
        except _BAD as error:
            rows.append((its, _why(format, error) if isinstance(each, Mapping) else _NO_OBJECT))
    return rows


_BAD = (ValueError, TypeError, KeyError, AttributeError, IndexError)


def _why(format: Format, error: Exception) -> str:
    """What is wrong with a record, in words."""
    return str(error) if isinstance(error, ValueError) else f"is not as {format.name} writes it"


@dataclass(frozen=True)
class Columns:
    """Which column is what; guessed where it is not said.

    Attributes:
        rewards: columns of rewards.
        truth: that of the ground truth.
        prompt: the one that says which prompt a row is of.
        answer: the one that is equal for equal outputs.
    """

    rewards: tuple[str, ...] = ()
    truth: str | None = None
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Layout:
    """What was recognised: the format, and which column was taken for what."""

    format: Format
    prompt: tuple[str, ...]
    rewards: tuple[str, ...]
    truth: str | None
    answer: str | None

    def described(self, rewards: Sequence[str]) -> dict[str, Any]:
        """For the output file, with the names that rewards have."""
        return {
            "format": self.format.name,
            "columns": {
                "prompt": list(self.prompt),
                "rewards": list(rewards),
                "truth": self.truth,
                "answer": self.answer,
            },
        }


def prompt_columns(format: Format, have: Sequence[str], columns: Columns) -> tuple[str, ...]:
    """The columns of a file that say which prompt a row is of.

    Raises:
        ValueError: if there are none.
    """
    if columns.prompt is not None:
        if columns.prompt not in have:
            raise unknown("column", columns.prompt, have)
        return (columns.prompt,)
    known = _named(_PROMPTS, have)[:1] if format is TABLE else format.prompt
    found = tuple(name for name in known if name in have)
    if not found:
        listed = ", ".join(have)
        raise ValueError(
            f"no column says which prompt a row is of; name it as the prompt: the columns are {listed}"
        )
    return found


def truths(have: Sequence[str]) -> tuple[str, ...]:
    """Columns that are named as a ground truth is."""
    return _named(_TRUTHS, have)


def candidates(format: Format, have: Sequence[str], columns: Columns) -> list[str]:
    """Columns that may turn out to be rewards or the truth."""
    truth = {columns.truth} if columns.truth is not None else {format.truth, *truths(have)}
    rewards = columns.rewards or format.rewards or [name for name in have if name.lower() not in _NO_REWARDS]
    return [name for name in have if name in truth or name in rewards]


def layout(
    format: Format, prompt: tuple[str, ...], have: Sequence[str], numeric: Collection[str], columns: Columns
) -> Layout:
    """What the columns are.

    Args:
        format: of all of it.
        prompt: the columns that say which prompt a row is of.
        have: all columns.
        numeric: those of which most is numbers.
        columns: what is said of them.

    Raises:
        ValueError: for a column that there is not, or if no reward is recognised.
    """
    for name in (*columns.rewards, *filter(None, (columns.truth, columns.answer))):
        if name not in have:
            raise unknown("column", name, have)
    answer = columns.answer or (format.answer if format.answer in have else None)
    truth = columns.truth or (format.truth if format.truth in have else None)
    if truth is None:
        taken = {*prompt, answer, *columns.rewards}
        truth = next((name for name in truths(have) if name in numeric and name not in taken), None)
    taken = {*prompt, answer, truth}
    rewards = (
        columns.rewards
        or tuple(name for name in format.rewards if name in have)
        or tuple(
            name for name in have if name in numeric and name not in taken and name.lower() not in _NO_REWARDS
        )
        or tuple(filter(None, [truth]))
    )
    if not rewards:
        listed = ", ".join(have)
        raise ValueError(
            f"no column of numbers is left to be a reward; name it as the reward: the columns are {listed}"
        )
    return Layout(format, prompt, rewards, truth, answer)


def _named(names: Sequence[str], have: Sequence[str]) -> tuple[str, ...]:
    """Those of some names that there are, whatever their case."""
    lower = {name.lower(): name for name in reversed(have)}
    return tuple(lower[name] for name in names if name in lower)


def _is_numeric(column: Column) -> bool:
    """Whether most of it is numbers, and some of it."""
    given = column.dropna()
    if given.empty or given.map(lambda value: isinstance(value, list | dict | np.ndarray)).any():
        return False
    return bool(np.isfinite(numbers(given)).mean() > 0.5)


def lengthening(frame: Frame, source: str) -> Callable[[Frame], Frame]:
    """How a table gets a row for each draw, as its first rows have it: what it makes of these and all others.

    A table has a row for each prompt if it has lists of values, or numbered columns such as ``score_1`` to
    ``score_8`` while few prompts have several rows. Any other stays as it is. Rows keep their index.

    Args:
        frame: the first rows.
        source: of which rows that name no prompt are prompts.
    """
    if lists := _lists_of_draws(frame):
        return partial(_from_lists, lists)
    prompts = _named(_PROMPTS, list(frame.columns))
    if prompts and _most_repeat(frame[prompts[0]]):
        return lambda longer: longer
    families: dict[str, list[tuple[int, str]]] = {}
    for name in frame.columns:
        if found := _NUMBERED.fullmatch(name):
            families.setdefault(found[1].rstrip("_."), []).append((int(found[2]), name))
    families = {family: sorted(of) for family, of in families.items() if len(of) > 1}
    if not any(_is_numeric(frame[of[0][1]]) for of in families.values()):
        return lambda longer: longer
    numbered: dict[int, dict[str, str]] = {}
    for family, of in families.items():
        for number, name in of:
            numbered.setdefault(number, {})[name] = family
    return partial(_from_numbered, numbered, None if prompts else source)


def _lists_of_draws(frame: Frame) -> list[str]:
    """Columns that mostly are lists, of the length of the first one that has numbers."""
    lists = [
        name
        for name in frame.columns
        if frame[name].dtype == object
        and name.lower() not in _PROMPTS
        and frame[name].dropna().map(_is_list).mean() > 0.5
    ]
    numeric = [name for name in lists if frame[name].map(_holds_numbers).any()]
    if not numeric:
        return []
    lengths = {name: frame[name].map(_length) for name in lists}
    length = lengths[numeric[0]]
    return [name for name, of in lengths.items() if (of == length)[(of > 0) & (length > 0)].mean() > 0.5]


def _from_lists(lists: Sequence[str], frame: Frame) -> Frame:
    """As many rows as the longest list has; of a shorter one it is not known which draws it is of."""
    cells = frame.reindex(columns=lists)
    count = cells.map(_length).max(axis=1).clip(lower=1)
    whole = {
        name: [
            list(value) if _length(value) == n else [np.nan] * n
            for value, n in zip(cells[name], count, strict=True)
        ]
        for name in lists
    }
    return frame.assign(**whole).explode(list(lists))


def _from_numbered(numbered: Mapping[int, Mapping[str, str]], source: str | None, frame: Frame) -> Frame:
    if source is not None:
        frame = frame.assign(prompt=[f"row {place} of {source}" for place in frame.index])
    # A column with the name of a family, such as the mean of its scores, is not of the draws.
    members = {name for of in numbered.values() for pair in of.items() for name in pair}
    rest = [name for name in frame.columns if name not in members]
    parts = [frame.reindex(columns=[*rest, *of]).rename(columns=of) for _, of in sorted(numbered.items())]
    return pd.concat(parts)


def _most_repeat(column: Column) -> bool:
    """Whether most values stand in several rows."""
    code, levels = texts(column)
    several = np.bincount(code[code >= 0], minlength=len(levels)) > 1
    return 2 * int(several.sum()) > len(levels)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def _length(value: Any) -> int:
    return len(value) if _is_list(value) else 0


def _holds_numbers(value: Any) -> bool:
    return _length(value) > 1 and all(isinstance(each, int | float | np.number) for each in value)


def parsed(text: str) -> Record:
    """A line of JSON.

    Raises:
        ValueError: if it is none, or no object.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record
