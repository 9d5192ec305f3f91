"""Formats in which programs write rollouts, recognised by their keys, and what each of their columns is.

A format turns a record of its file into rows, one for each draw; what is of no format that is known is a
table, see :mod:`goodteacher.experiments.rollouts.layouts`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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


def parsed(text: str) -> Record:
    """A line of JSON.

    Raises:
        ValueError: if it is none, or no object.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record
