"""Which measure of a reward model goes with what it teaches (arXiv:2503.15477, Tables 2, 4, 6, 8 and 9)."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.lessons import EARLY, LARGE, Scale, blocks, joined, lessons
from goodteacher.experiments.miniature.papers import INCREASED, correlations
from goodteacher.experiments.miniature.published import MEASURES
from goodteacher.experiments.miniature.published import correlations as published
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import BLUE, GREY, PAGE, RED, letter, paper

_SHORT = (
    "variance",
    "on-policy\naccuracy",
    "uniform\naccuracy",
    "both\naccuracies",
    "variance and\naccuracies",
)
_PUBLISHED = {"proxy": "training_reward_spearman", "ground truth": "ground_truth_spearman"}


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """Rank correlations over six reward models in every world, and the published ones."""
    found = correlations(joined(parts), scale)
    low, high = mean_interval(np.moveaxis(found, -1, 0))
    quantiles = np.quantile(found, [0.025, 0.975], axis=-1)
    dimensions = ("measure", "increase", "when")
    labels = {"measure": list(MEASURES), "increase": list(INCREASED), "when": ["early", "late"]}
    rows = published()
    tables = list(dict.fromkeys(rows["table"]))
    reported = np.stack(
        [
            rows.pivot(index="measure", columns="table", values=of).loc[list(MEASURES), tables]
            for of in _PUBLISHED.values()
        ],
        axis=1,
    )
    return {
        "worlds": xr.Dataset(
            {
                "rank_correlation": variable(
                    (*dimensions, "world"), found, "rank correlation over six reward models"
                )
            },
            {**labels, "world": variable("world", np.arange(scale.worlds), "seed")},
        ),
        "means": xr.Dataset(
            {
                "mean": variable(dimensions, found.mean(-1), "mean over worlds"),
                "low": variable(dimensions, low, "lower end of its 95 % interval"),
                "high": variable(dimensions, high, "upper end"),
                "one_world_low": variable(dimensions, quantiles[0], "2.5 % of the worlds are below"),
                "one_world_high": variable(dimensions, quantiles[1], "2.5 % of the worlds are above"),
            },
            labels,
        ),
        "published": xr.Dataset(
            {
                "rank_correlation": variable(
                    ("measure", "increase", "table"), reported, "published rank correlation"
                )
            },
            {"measure": list(MEASURES), "increase": list(INCREASED), "table": tables},
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """A panel for each increase; published ones beside the worlds'."""
    means, reported = data["means"], data["published"]
    drawing = Figure(figsize=(PAGE, 3.2))
    axes = drawing.subplots(1, 2, sharey=True)
    places = np.arange(len(MEASURES))
    for ax, increase in zip(axes, INCREASED, strict=True):
        for shift, when, color in ((-0.05, "early", BLUE), (0.25, "late", RED)):
            at = {"increase": increase, "when": when}
            some = means.sel(at)
            ax.vlines(
                places + shift, some["one_world_low"], some["one_world_high"], color=color, alpha=0.3, lw=4
            )
            ax.vlines(places + shift, some["low"], some["high"], color=color, lw=1.5)
            ax.plot(places + shift, some["mean"], "o", color=color, label=f"miniature, {when}")
        values = reported["rank_correlation"].sel(increase=increase).values
        ax.plot(np.repeat(places - 0.3, values.shape[1]), values.ravel(), "x", color=GREY, label="published")
        ax.axhline(0.0, color=GREY, lw=0.6)
        ax.set_xticks(places, _SHORT, fontsize="small")
        ax.set(ylim=(-1.05, 1.05))
        ax.set_title(f"with the increase of the {increase}")
    axes[0].set_ylabel("Rank correlation over six reward models")
    drawing.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, handlelength=1.0
    )
    letter(axes)
    return drawing


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    means, reported = data["means"], data["published"]["rank_correlation"]

    def of(measure: str, increase: str, when: str) -> str:
        some = means.sel(measure=measure, increase=increase, when=when)
        return f"{float(some['mean']):+.2f} [{float(some['low']):+.2f}, {float(some['high']):+.2f}]"

    def range_of(measure: str, increase: str) -> str:
        values = reported.sel(measure=measure, increase=increase).values
        return f"{values.min():+.2f} to {values.max():+.2f} published"

    variance, both = MEASURES[0], MEASURES[-1]
    luck = means.sel(measure=both, increase="ground truth", when="early")
    return (
        "Rank correlations over six reward models (five mixes and the perfect but flat one) in each of "
        f"{scale.worlds} worlds (seeds from 0), after {EARLY:.0%} of the training (early) and at its end "
        "(late): means with 95 % intervals, pale what 95 % of single worlds show; crosses are Tables 2, 4, "
        "6, 8 and 9 of arXiv:2503.15477, each of six reward models as well "
        "(off-policy in place of uniform pairs). Accuracies are over pairs on which the truth differs. "
        "The variance with the proxy: "
        f"early {of(variance, 'proxy', 'early')}, late {of(variance, 'proxy', 'late')} "
        f"({range_of(variance, 'proxy')}); with the ground truth: early "
        f"{of(variance, 'ground truth', 'early')}, late {of(variance, 'ground truth', 'late')} "
        f"({range_of(variance, 'ground truth')}). Variance and accuracies averaged, with the ground truth: "
        f"early {of(both, 'ground truth', 'early')}, late {of(both, 'ground truth', 'late')} "
        f"({range_of(both, 'ground truth')}). How much is luck: of single worlds 95 % show "
        f"{float(luck['one_world_low']):+.2f} to {float(luck['one_world_high']):+.2f} for the latter, early."
    )


EXPERIMENT = Experiment(
    name="miniature_correlations",
    title="How much of a correlation over six reward models is luck",
    settings=Scale(worlds=8, prompts=100),
    run=Parted(blocks, lessons, summary),
    figure=figure,
    caption=caption,
    full=LARGE,
)
