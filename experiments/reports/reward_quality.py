"""What ``goodteacher metrics`` does: how good a teacher a reward is by every measure, before any training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich import box
from rich.table import Table

from goodteacher.experiments.reports.best_outputs import best_outputs, no_preference, several_best
from goodteacher.experiments.reports.called import prompt_name
from goodteacher.experiments.text import digits, plain
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import (
    METRICS,
    Comparisons,
    RankingAccuracy,
    comparisons,
    one_vs_many_accuracy,
    pairwise_accuracy,
)
from goodteacher.sim.status import Status

_OF_A_PROMPT = {
    "reward_variance": "proxy_reward_variance",
    "on_policy_accuracy": "on_policy_accuracy",
    "on_policy_accuracy_where_truth_differs": "on_policy_accuracy_where_truth_differs",
    "uniform_accuracy": "uniform_accuracy",
    "uniform_accuracy_where_truth_differs": "uniform_accuracy_where_truth_differs",
}
_RANKINGS = {"pairwise": pairwise_accuracy, "one_vs_many": one_vs_many_accuracy}


def report(instance: Instance, *, has_truth: bool = True) -> dict[str, Any]:
    """What the output file holds: lists per prompt, and for all prompts together.

    Reward variance and accuracies of the mean are averages with the prompts' weights. Ranking accuracies of
    the data set are over all its comparisons, weighted ones with weights normalised over all of them. What
    needs a preferred output is ``None`` of a prompt on which the ground truth is constant, and without it in
    the means. Without a ground truth all is ``None`` but the variance.

    Raises:
        ValueError: if the ground truth is constant on every prompt.
    """
    best, status = None, [Status.NOT_KNOWN] * len(instance.rewards)
    if has_truth:
        which = best_outputs(instance)
        best = [np.flatnonzero(row).tolist() for row in which]
        status = [Status.FINISHED if row.any() else Status.NOTHING_TO_GAIN for row in which]
    measured = jax.device_get(_measured(instance))
    if not has_truth:
        measured = {of: _of_the_reward_alone(values) for of, values in measured.items()}
    names = (*_OF_A_PROMPT, *_RANKINGS)
    return {
        "best_outputs": best,
        "status": [of.title for of in status],
        "prompts": {name: _plain(measured["prompts"][name]) for name in names},
        "mean": {name: _plain(measured["mean"][name]) for name in names},
    }


def _of_the_reward_alone(values: dict[str, Any]) -> dict[str, Any]:
    """With ``nan`` for what needs a ground truth."""
    unknown = jax.tree.map(lambda of: np.full(of.shape, np.nan), values)
    return unknown | {"reward_variance": values["reward_variance"]}


@jax.jit
def _measured(instance: Instance) -> dict[str, dict[str, Any]]:
    start = instance.initial_parameters
    compared = comparisons(instance, start)
    values = {name: METRICS[metric](instance, start) for name, metric in _OF_A_PROMPT.items()}
    alone = {kind: jax.vmap(_alone(ranking))(compared) for kind, ranking in _RANKINGS.items()}
    together = {kind: ranking(compared) for kind, ranking in _RANKINGS.items()}
    means = {name: _mean(of, instance.prompt_weights) for name, of in values.items()}
    return {"prompts": values | alone, "mean": means | together}


def _mean(values: Array, weights: Array) -> Array:
    """Over the prompts that have a value."""
    known = jnp.isfinite(values)
    return jnp.where(known, weights * values, 0.0).sum() / jnp.where(known, weights, 0.0).sum()


def _alone(ranking: Any) -> Any:
    def of_prompt(row: Comparisons) -> RankingAccuracy:
        return ranking(jax.tree.map(lambda leaf: leaf[None], row))

    return of_prompt


def _plain(value: np.ndarray | RankingAccuracy) -> Any:
    if isinstance(value, RankingAccuracy):
        return {name: plain(of) for name, of in value._asdict().items()}
    return plain(value)


def table(result: Mapping[str, Any], rows: int | None = None) -> Table:
    """A row for each of the first prompts (all if it is not said how many), and one for all together."""
    columns = Table(box=box.SIMPLE_HEAD, header_style="bold")
    columns.add_column("prompt", no_wrap=True)
    rankings = ("Acc", "Acc-W", "HAcc", "HAcc-W")
    differing = "where truth differs"
    accuracies = ("on-policy accuracy", differing, "uniform accuracy", differing)
    for name in ("reward variance", *accuracies, *rankings, *(f"1-vs-all {name}" for name in rankings)):
        columns.add_column(name, justify="right")

    def row(title: str, values: Mapping[str, Any], pick: Any) -> None:
        numbers = [pick(values[name]) for name in _OF_A_PROMPT]
        numbers += [pick(value) for kind in _RANKINGS for value in values[kind].values()]
        columns.add_row(title, digits(numbers[0]), *[digits(value, 3) for value in numbers[1:]])

    for prompt in range(len(result["status"]))[:rows]:
        row(prompt_name(result, prompt), result["prompts"], lambda value, prompt=prompt: value[prompt])
    columns.add_section()
    row("all", result["mean"], lambda value: value)
    return columns


def note(result: Mapping[str, Any]) -> str:
    """What the table leaves out; empty if nothing."""
    several = several_best(result)
    said = [
        several and f"{several} What ties with it is not compared.",
        no_preference(result),
    ]
    return "\n".join(filter(None, said))
