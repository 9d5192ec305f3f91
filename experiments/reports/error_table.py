"""What ``goodteacher errors`` does: every error of a proxy reward, what it is by rule and what it does."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array
from rich import box
from rich.table import Table

from goodteacher.experiments.aims import constant, increase, share, statuses
from goodteacher.experiments.followed import Following
from goodteacher.experiments.reports.best_outputs import (
    best_outputs,
    existing,
    no_preference,
    several_best,
)
from goodteacher.experiments.reports.called import output_name, prompt_name
from goodteacher.experiments.reports.simulation import stops
from goodteacher.experiments.text import digits, plain, reward_text
from goodteacher.sim.flow import hitting_time
from goodteacher.sim.instance import Instance
from goodteacher.sim.status import Status
from goodteacher.sim.validation import jax_array
from goodteacher.theory.error_kinds import (
    MOST_SUBSETS,
    Category,
    Shares,
    Tell,
    Thresholds,
    all_shares,
    categories,
    effects,
    trained_on,
    wrong,
)


def _silent(done: int, total: int) -> None:
    """Says nothing of the progress."""


def report(
    instance: Instance,
    gamma: float | None,
    thresholds: Thresholds,
    part: float | None = None,
    tell: Tell = _silent,
    followed: Following | None = None,
) -> dict[str, Any]:
    """What the output file holds: lists per prompt, entries per output, ``None`` where there is no error.

    Infinite effects are ``"inf"`` and ``"-inf"``; of an unknown one there is none.

    Args:
        instance: the problem.
        gamma: increase of the expected ground truth reward.
        thresholds: of the rule.
        part: of the possible increase, where no gamma is given; nine tenths if neither is.
        tell: is told how much is done, of how much.
        followed: the problem under a clock; under the gradient, or its own, if not given.

    Raises:
        ValueError: for a goal out of reach, or if the ground truth is constant on every prompt.
    """
    given, exists, best = instance, existing(instance), best_outputs(instance)
    # Where no output is preferred nothing is an error.
    flat = constant(instance, instance.ground_truth_rewards)
    judged = np.where(flat[:, None], instance.ground_truth_rewards, instance.rewards)
    instance = trained_on(instance, jax_array(judged))
    codes, initial = jax.device_get(_judged(instance, thresholds))
    unknown = {} if followed is None else followed.unknown
    if followed is not None:
        instance = _without(instance, followed)
    goal = increase(instance, gamma) if gamma is not None else share(instance, 0.9 if part is None else part)
    wrongs = np.asarray(wrong(instance, thresholds))
    found = effects(instance, goal, thresholds=thresholds, tell=tell)
    several = [prompt for prompt, row in enumerate(wrongs) if 1 < row.sum() <= MOST_SUBSETS]
    of_prompt: list[Shares | None] = [None] * len(wrongs)
    shared = all_shares(instance, several, goal, thresholds=thresholds, tell=tell)
    for prompt, each in zip(several, shared, strict=True):
        of_prompt[prompt] = each

    def spread(values: np.ndarray) -> list[list[Any]]:
        cells: list[list[Any]] = [[None] * instance.rewards.shape[1] for _ in wrongs]
        for (prompt, output), value in zip(found.errors, values, strict=True):
            cells[prompt][output] = (
                None if np.isnan(value) else str(value) if np.isinf(value) else float(value)
            )
        return cells

    status = statuses(instance, goal, hitting_time(instance, goal).status)
    status = [Status.NOT_KNOWN if prompt in unknown else of for prompt, of in enumerate(status)]
    lost = np.isin(np.arange(len(status)), list(unknown))
    return {
        "gamma": gamma,
        "status": [of.title for of in status],
        "best_outputs": [np.flatnonzero(row).tolist() for row in best],
        "rewards": plain(np.where(exists, given.rewards, np.nan)),
        "ground_truth_rewards": plain(np.where(exists, given.ground_truth_rewards, np.nan)),
        "initial_policy_probabilities": plain(np.where(exists, initial, np.nan)),
        "category": [[Category(code).title for code in row] for row in codes],
        "hitting_time": plain(np.where(lost, np.nan, found.time)),
        "corrected_hitting_time": spread(found.corrected_time),
        "log10_time_ratio": spread(found.log_ratio),
        "final_ground_truth_reward": plain(np.where(lost, np.nan, found.reward)),
        "final_ground_truth_reward_change": spread(found.reward_change),
        "shapley": [
            None if each is None else {name: plain(value) for name, value in each._asdict().items()}
            for each in of_prompt
        ],
        "itinerary": stops(instance, unknown),
    }


def _without(instance: Instance, followed: Following) -> Instance:
    """A problem under a clock, with neither signal nor errors where that is none."""
    lost = np.isin(np.arange(len(instance.rewards)), list(followed.unknown))[:, None]
    rows = [np.where(lost, 0.0, of) for of in (instance.rewards, instance.ground_truth_rewards)]
    return eqx.tree_at(
        lambda i: (i.rewards, i.ground_truth_rewards), followed.instance, tuple(map(jax_array, rows))
    )


def most_harmful_first(result: Mapping[str, Any]) -> list[int]:
    """Prompts by the harm of their worst errors; those that have none last."""

    def harm(prompt: int) -> float:
        ratios = [float(ratio) for ratio in result["log10_time_ratio"][prompt] if ratio is not None]
        changes = [-change for change in result["final_ground_truth_reward_change"][prompt] if change]
        # An error that changes no time may still cost reward at last.
        return max([*ratios, *(1e-3 * change for change in changes), -np.inf])

    return sorted(range(len(result["category"])), key=lambda prompt: -harm(prompt))


def shown(result: Mapping[str, Any], rows: int | None = None) -> dict[int, list[int]]:
    """Prompts with those of their outputs that are printed, the most harmful prompts first.

    Args:
        result: the report.
        rows: how many prompts; if not given, as many as fit a screen. Of one that alone does not, y* and the
            most harmful outputs are taken.
    """
    order = most_harmful_first(result)
    if rows is not None:
        return {prompt: _existing(result, prompt) for prompt in order[:rows]}
    found: dict[int, list[int]] = {}
    left = _SCREENFUL
    for prompt in order:
        outputs = _existing(result, prompt)
        lines = len(outputs) + 2  # with one between it and the next, and its itinerary
        if found and lines > left:
            break
        found[prompt] = sorted(sorted(outputs, key=partial(_importance, result, prompt))[: left - 2])
        left -= lines
    return found


_SCREENFUL = 36  # lines of prompts


def _existing(result: Mapping[str, Any], prompt: int) -> list[int]:
    return [output for output, reward in enumerate(result["rewards"][prompt]) if reward is not None]


def _importance(result: Mapping[str, Any], prompt: int, output: int) -> tuple[bool, float, float]:
    """Ascending: y* first, then by harm; where that is the same, by what the proxy gives."""
    worse = output not in result["best_outputs"][prompt][:1]
    ratio = result["log10_time_ratio"][prompt][output] or 0.0
    return worse, -float(ratio), -result["rewards"][prompt][output]


def unprinted(result: Mapping[str, Any], chosen: Mapping[int, Sequence[int]]) -> int:
    """How many outputs of chosen prompts are not."""
    return sum(len(_existing(result, prompt)) - len(outputs) for prompt, outputs in chosen.items())


@partial(jax.jit, static_argnames="thresholds")
def _judged(instance: Instance, thresholds: Thresholds) -> tuple[Array, Array]:
    """Categories and initial probabilities, ``[prompts, outputs]`` each."""
    return categories(instance, thresholds), instance.probabilities(instance.initial_parameters)


def table(result: Mapping[str, Any], chosen: Mapping[int, Sequence[int]]) -> Table:
    """A row for each of some outputs, prompt by prompt; as :func:`shown` chooses them."""
    columns = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("prompt", "output"):
        columns.add_column(name, no_wrap=True)
    for name in ("r_P", "r_G", "probability"):
        columns.add_column(name, justify="right")
    columns.add_column("by rule")
    for name in ("time with error", "corrected", "factor on time", "final r_G", "Shapley"):
        columns.add_column(name, justify="right")
    for prompt, outputs in chosen.items():
        values, lost = result["shapley"][prompt], result["status"][prompt] == Status.NOT_KNOWN.title
        shapley = {} if values is None else dict(zip(values["outputs"], values["values"], strict=True))
        for output in outputs:
            kind = result["category"][prompt][output]
            star = "*" if output in result["best_outputs"][prompt] else ""
            given = [
                reward_text(result[name][prompt][output]) for name in ("rewards", "ground_truth_rewards")
            ]
            probability = digits(result["initial_policy_probabilities"][prompt][output], 3)
            cells: list[str] = []
            if kind != Category.NONE.title:
                ratio, change, corrected = (
                    result[name][prompt][output]
                    for name in (
                        "log10_time_ratio",
                        "final_ground_truth_reward_change",
                        "corrected_hitting_time",
                    )
                )
                time = result["hitting_time"][prompt]
                cells = [
                    digits(time, 4) if time is not None else "unknown" if lost else "never",
                    _time(corrected),
                    _factor(ratio),
                    "-" if change is None else f"{round(change, 9) + 0.0:+.3g}",
                    f"{shapley[output]:+.3g}" if output in shapley else "",
                ]
            columns.add_row(
                prompt_name(result, prompt) if output == outputs[0] else "",
                f"{output_name(result, prompt, output)}{star}",
                *given,
                probability,
                kind,
                *cells,
            )
        columns.add_section()
    return columns


def _time(value: float | str | None) -> str:
    return "unknown" if value is None else "never" if isinstance(value, str) else digits(value, 4)


def _factor(ratio: float | str | None) -> str:
    if ratio is None:
        return "-"
    if isinstance(ratio, str):
        return "makes it unreachable" if ratio == "inf" else "makes it reachable"
    return f"{10.0**ratio:.3g}" if abs(ratio) < 100 else f"1e{ratio:+.0f}"


def summary(result: Mapping[str, Any]) -> str:
    """One sentence, or two if a prompt has several best outputs."""
    kinds = Counter(kind for row in result["category"] for kind in row if kind != Category.NONE.title)
    said = several_best(result), no_preference(result)
    note = "".join(f" {sentence}" for sentence in said if sentence)
    if not kinds:
        return "No errors: the proxy is the ground truth." + note
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    ratios = {
        (prompt, output): float(value)
        for prompt, row in enumerate(result["log10_time_ratio"])
        for output, value in enumerate(row)
        if value is not None
    }
    if not ratios:
        return f"Errors by rule: {counted}; the goal is out of reach with any one of them corrected." + note
    worst, best = max(ratios, key=lambda at: ratios[at]), min(ratios, key=lambda at: ratios[at])
    does = [
        f"the most {kind} is at output {output_name(result, *at)} of prompt {prompt_name(result, at[0])} "
        f"({_says(ratios[at])})"
        for kind, at, sign in (("harmful", worst, 1), ("beneficial", best, -1))
        if sign * ratios[at] > 0
    ]
    return f"Errors by rule: {counted}; {' and '.join(does) or 'none changes the time'}." + note


def _says(ratio: float) -> str:
    if np.isinf(ratio):
        return _factor(str(ratio))
    return f"time times {_factor(ratio)}"
