"""The papers' tables, miniature beside published, as they are printed."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

from goodteacher.experiments.miniature import carried_over, constraints_met, harm_aware, matrix, published
from goodteacher.experiments.miniature import settings as published_settings
from goodteacher.experiments.miniature.classrooms import FLAT, LEARNED, PUBLISHED, increases
from goodteacher.experiments.miniature.lessons import (
    MEASURES,
    Scale,
    at_start,
    blocks,
    crossings,
    joined,
    lessons,
)
from goodteacher.experiments.miniature.methods import CLOCKS
from goodteacher.experiments.miniature.papers import INCREASED, correlations
from goodteacher.experiments.statistics import mean_interval, rank_correlation
from goodteacher.experiments.text import numbers_table
from goodteacher.sim.names import unknown

Tell = Callable[[int, int], None]
_RISES = MappingProxyType({**INCREASED, "held out": "held_out.expected_ground_truth_reward"})


def _told(scale: Scale, tell: Tell, compute: Callable[[Scale, str], Any]) -> list[Any]:
    """What is computed for every block of worlds."""
    found = []
    for done, block in enumerate(blocks(scale)):
        tell(done, len(blocks(scale)))
        found.append(compute(scale, block))
    return found


def _together(scale: Scale, tell: Tell, compute: Callable[[Scale, str], Mapping[str, Any]]) -> dict[str, Any]:
    return joined(dict(zip(blocks(scale), _told(scale, tell, compute), strict=True)))


def interval(values: np.ndarray, digits: int = 2) -> str:
    """Mean over worlds, the last axis, and its 95 % interval."""
    low, high = mean_interval(values)
    return f"{np.nanmean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def training(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """A, Figure 2 and Table 1: measures and increases of each reward model; Tables 2, 4, 6, 8 and 9."""
    parts = dict(zip(blocks(scale), _told(scale, tell, lessons), strict=True))
    runs, counts = joined(parts), scale.course().counts
    start, rows = at_start(runs), published.mixes()
    measured = [header for name in start for header in (name, "published")]
    table = numbers_table("reward model", *measured, *(f"increase, {name}" for name in _RISES))
    for k, model in enumerate(PUBLISHED):
        cells = []
        for values, column in zip(start.values(), published.MEASURED, strict=True):
            reported = rows[column].to_numpy().reshape(-1, len(PUBLISHED))[:, k]
            cells += [f"{values[:, k].mean():.2f}", f"{reported.min():.2f} to {reported.max():.2f}"]
        table.add_row(model, *cells, *(interval(increases(runs[of])[:, k, -1]) for of in _RISES.values()))
    yield table
    rise = increases(runs[_RISES["held out"]])
    lead = rise[:, : len(LEARNED)].max(1) - rise[:, PUBLISHED.index(FLAT)]
    crossed = crossings(counts, lead)
    yield (
        "The flat model overtakes the best learned one on held-out truth for good in "
        f"{np.isfinite(crossed).sum()} of {scale.worlds} worlds within {scale.updates} updates."
    )
    found, reported = correlations(runs, scale), published.correlations()
    table = numbers_table(
        "rank correlation with",
        *(f"{name}, {how}" for name in INCREASED for how in ("early", "late", "published")),
    )
    for k, measure in enumerate(published.MEASURES):
        cells = []
        for j, column in enumerate(("training_reward_spearman", "ground_truth_spearman")):
            values = reported[reported["measure"] == measure][column]
            cells += [interval(found[k, j, when]) for when in (0, 1)] + [
                f"{values.min():.2f} to {values.max():.2f}"
            ]
        table.add_row(measure, *cells)
    yield table


def settings(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """A, Tables 2, 4, 6, 8 and 9, each in a setting of its own, beside the published ones."""
    found, reported = _together(scale, tell, published_settings.runs), published.correlations()
    for k, (name, (case, *_)) in enumerate(published_settings.SETTINGS.items()):
        runs = {metric: values[:, k] for metric, values in found.items()}
        of, rows = correlations(runs, scale), reported[reported["table"] == name].set_index("measure")
        table = numbers_table(
            f"{case}, {name.split(' (')[0]}",
            *(f"{increase}, {how}" for increase in INCREASED for how in ("early", "late", "published")),
        )
        for row, measure in enumerate(published.MEASURES):
            cells = []
            for j, column in enumerate(("training_reward_spearman", "ground_truth_spearman")):
                cells += [interval(of[row, j, when]) for when in (0, 1)]
                cells.append(f"{rows.loc[measure, column]:.2f}")
            table.add_row(measure, *cells)
        yield table


def policies(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """A, Figure 3 and Tables 10 to 12: what each reward model teaches each policy."""
    found = _together(scale, tell, matrix.entries)
    for k, method in enumerate(matrix.METHODS):
        table = numbers_table(f"ground truth, {method}", *matrix.REWARD_MODELS)
        for row, policy in enumerate(matrix.POLICIES):
            table.add_row(
                policy,
                *(interval(found["truth"][:, row, column, k]) for column in range(len(matrix.REWARD_MODELS))),
            )
        yield table
    rows = published.matrix()
    for method, of in rows.groupby("method", sort=False):
        models = list(dict.fromkeys(of["reward_model"]))
        table = numbers_table(f"ground truth, {method}, published", *models)
        for policy, row in of.groupby("initial_policy", sort=False):
            gained = row.set_index("reward_model")["reward_increase_G"]
            table.add_row(str(policy), *(f"{gained[model]:.3f}" for model in models))
        yield table
    table = numbers_table(
        "rank correlation within a policy",
        *(f"{of}, {how}" for of in ("proxy", "ground truth") for how in ("miniature", "published")),
    )
    for measure, column in zip(MEASURES, published.MEASURED, strict=True):
        cells = []
        for rise, increase in (("proxy", "reward_increase_RM"), ("truth", "reward_increase_G")):
            of = rank_correlation(found[measure], found[rise][..., 0]).mean(1)
            cells += [interval(of), f"{published.within_policies()[column, increase].mean():.2f}"]
        table.add_row(measure, *cells)
    yield table


def harm(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """B, Section 4: ranking accuracies and the increase of the ground truth."""
    found = np.concatenate(_told(scale, tell, harm_aware.correlations), 1)
    table = numbers_table("accuracy", "rank correlation with the increase of the ground truth")
    for name, values in zip(harm_aware.MEASURES, found, strict=True):
        table.add_row(name, interval(values))
    yield table
    for pair in ((2, 0), (3, 1), (6, 4), (7, 5)):
        better, plain = (harm_aware.MEASURES[k] for k in pair)
        yield f"{better} over {plain.split(',')[0]}, paired: {interval(found[pair[0]] - found[pair[1]])}."


def credit(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """B, Section 5: binary rewards and partial credit."""
    found = np.concatenate(_told(scale, tell, constraints_met.gains))
    columns = [f"{reward}, {method}" for reward in constraints_met.REWARDS for method in CLOCKS]
    table = numbers_table("constraints, gain of meeting all, held out", *columns)
    for k, count in enumerate(constraints_met.COUNTS):
        table.add_row(str(count), *(interval(values, 3) for values in found[:, k].reshape(len(found), -1).T))
    yield table


def theory(scale: Scale, tell: Tell) -> Iterator[Table | str]:
    """Bounds, foretold times and kinds of errors on networks."""
    looks = carried_over.Looks(scale=scale)
    found = _together(scale, tell, lambda _, block: carried_over.look(looks, block))
    headers = [f"{name}, {what}" for name in looks.policies for what in ("least factor", "median")]
    table = numbers_table("bound, over what is seen", *headers)
    factors = [*np.moveaxis(found["gradient"], 2, 0), *np.moveaxis(found["time"], 2, 0)]
    for name, values in zip(carried_over.BOUNDS, factors, strict=True):
        by_policy = np.moveaxis(values, 1, 0)
        cells = [f"{value:.4g}" for each in by_policy for value in (each.min(), np.median(each))]
        table.add_row(name, *cells)
    yield table
    ranks, ratios = carried_over.agreement(found["foretold"], found["seen"][:, :, None])
    headers = [f"{name}, {what}" for name in looks.policies for what in ("ranks", "seen over foretold")]
    table = numbers_table(f"time of {carried_over.SHARE:.0%} of a prompt's way", *headers)
    for k, forecast in enumerate(carried_over.FORECASTS):
        cells = [
            interval(of[:, policy, k], digits)
            for policy in range(len(looks.policies))
            for of, digits in ((ranks, 2), (ratios, 3))
        ]
        table.add_row(forecast, *cells)
    yield table
    for what, title in (("corrected", "gained by correcting"), ("alone", "lost by these alone")):
        for row, policy in enumerate(looks.policies):
            table = numbers_table(
                f"ground truth {title}, {policy}", "share of the policy", *carried_over.MODELS
            )
            for k, kind in enumerate(carried_over.KINDS):
                models = range(len(carried_over.MODELS))
                cells = [interval(found[what][:, row, model, k]) for model in models]
                table.add_row(kind, f"{found['share'][:, row, :, k].mean():.0%}", *cells)
            yield table


TABLES = MappingProxyType(
    {
        "training": training,
        "settings": settings,
        "policies": policies,
        "harm": harm,
        "credit": credit,
        "theory": theory,
    }
)


def find_table(name: str) -> Callable[[Scale, Tell], Iterator[Table | str]]:
    """What computes and prints tables, by name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]
