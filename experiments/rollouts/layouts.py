"""Which column of rollouts is what: as its format has it, as it is told, or guessed from names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from goodteacher.experiments.rollouts.formats import TABLE, Format
from goodteacher.sim.names import unknown

PROMPT_NAMES = (
    *("prompt", "prompt_id", "question", "question_id", "problem", "problem_id", "input", "query"),
    *("instruction", "task_id", "group", "group_id", "example_id", "doc_id", "uid", "id"),
)
_TRUTHS = (
    *("truth", "ground_truth", "ground_truth_reward", "gold", "gold_reward", "correct", "is_correct"),
    *("verified", "acc"),
)
_NO_REWARDS = frozenset(
    {*PROMPT_NAMES, "step", "epoch", "index", "idx", "draw", "sample", "sample_id", "rollout", "rollout_id"}
    | {"completion", "response", "output", "answer", "text", "solution", "author", "model", "seed"}
    | {"length", "tokens", "num_tokens", "advantage", "advantages", "logprob", "log_prob", "temperature"}
    | {"subset", "category", "timestamp", "unnamed: 0", "_ng_rollout_index"}
)


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
    known = named(PROMPT_NAMES, have)[:1] if format is TABLE else format.prompt
    found = tuple(name for name in known if name in have)
    if not found:
        listed = ", ".join(have)
        raise ValueError(
            f"no column says which prompt a row is of; name it as the prompt: the columns are {listed}"
        )
    return found


def truths(have: Sequence[str]) -> tuple[str, ...]:
    """Columns that are named as a ground truth is."""
    return named(_TRUTHS, have)


def candidates(format: Format, have: Sequence[str], columns: Columns) -> list[str]:
    """Columns that may turn out to be rewards or the truth."""
    truth = {columns.truth} if columns.truth is not None else {format.truth, *truths(have)}
    rewards = columns.rewards or format.rewards or [name for name in have if name.lower() not in _NO_REWARDS]
    return [name for name in have if name in truth or name in rewards]


def layout(
    format: Format, prompt: tuple[str, ...], have: Sequence[str], numeric: Collection[str], columns: Columns
) -> Layout:
    """What the columns are; with no reward if none is recognised.

    Args:
        format: of all of it.
        prompt: the columns that say which prompt a row is of.
        have: all columns.
        numeric: those of which most is numbers.
        columns: what is said of them.

    Raises:
        ValueError: for a column that there is not.
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
    return Layout(format, prompt, rewards, truth, answer)


def named(names: Sequence[str], have: Sequence[str]) -> tuple[str, ...]:
    """Those of some names that there are, whatever their case."""
    lower = {name.lower(): name for name in reversed(have)}
    return tuple(lower[name] for name in names if name in lower)
