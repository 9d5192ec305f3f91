"""What ``goodteacher metrics`` does: how good a teacher a reward is by every measure, before any training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from goodteacher.experiments.text import digits, plain, several_best
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import (
    Comparisons,
    RankingAccuracy,
    comparisons,
    measure,
    one_vs_many_accuracy,
    pairwise_accuracy,
)

_OF_A_PROMPT = {
    "reward_variance": "proxy_reward_variance",
    "accuracy": "on_policy_accuracy",
    "uniform_accuracy": "uniform_accuracy",
}
_RANKINGS = {"pairwise": pairwise_accuracy, "one_vs_many": one_vs_many_accuracy}


def report(instance: Instance) -> dict[str, Any]:
    """What the output file holds: lists per prompt, and for all prompts together.

    Reward variance and accuracies of the mean are averages with the prompts' weights. Ranking accuracies of
    the data set are over all its comparisons, weighted ones with weights normalised over all of them.

    Raises:
        ValueError: if all ground truth rewards of a prompt are equal, see
            :func:`goodteacher.sim.metrics.comparisons`.
    """
    start = instance.initial_parameters
    compared = comparisons(instance, start)
    measured = measure(instance, start, tuple(_OF_A_PROMPT.values()))
    values = {name: measured[metric] for name, metric in _OF_A_PROMPT.items()}
    best = jnp.isfinite(instance.log_probabilities(start)) & ~compared.mask
    return {
        "best_outputs": [np.flatnonzero(row).tolist() for row in best],
        "prompts": {name: plain(of) for name, of in values.items()}
        | {kind: _fields(jax.vmap(_alone(ranking))(compared)) for kind, ranking in _RANKINGS.items()},
        "mean": {name: plain(jnp.sum(instance.prompt_weights * of)) for name, of in values.items()}
        | {kind: _fields(ranking(compared)) for kind, ranking in _RANKINGS.items()},
    }


def _alone(ranking: Any) -> Any:
    def of_prompt(row: Comparisons) -> RankingAccuracy:
        return ranking(jax.tree.map(lambda leaf: leaf[None], row))

    return of_prompt


def _fields(accuracy: RankingAccuracy) -> dict[str, Any]:
    return {name: plain(value) for name, value in accuracy._asdict().items()}


def table(result: Mapping[str, Any]) -> Table:
    """A row per prompt, and one for all together."""
    columns = Table(box=box.SIMPLE_HEAD, header_style="bold")
    columns.add_column("prompt", no_wrap=True)
    names = ("reward variance", "accuracy", "uniform pairs", "Acc", "Acc-W", "HAcc", "HAcc-W")
    for name in (*names, *(f"1-vs-all {name}" for name in names[3:])):
        columns.add_column(name, justify="right")

    def row(title: str, values: Mapping[str, Any], pick: Any) -> None:
        numbers = [pick(values[name]) for name in _OF_A_PROMPT]
        numbers += [pick(value) for kind in _RANKINGS for value in values[kind].values()]
        columns.add_row(title, digits(numbers[0]), *[digits(value, 3) for value in numbers[1:]])

    for prompt in range(len(result["prompts"]["accuracy"])):
        row(str(prompt), result["prompts"], lambda value, prompt=prompt: value[prompt])
    columns.add_section()
    row("all", result["mean"], lambda value: value)
    return columns


def note(result: Mapping[str, Any]) -> str:
    """What the table leaves out; empty if nothing."""
    several = several_best(result["best_outputs"])
    return several and f"{several} What ties with it is not compared."
