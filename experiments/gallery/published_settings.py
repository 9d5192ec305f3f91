"""The five settings of arXiv:2503.15477 in miniature, beside Tables 2, 4, 6, 8, 9 and Figures 4 to 12."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import FLAT, LEARNED, PUBLISHED, TRUE, increases
from goodteacher.experiments.miniature.lessons import Scale, blocks, joined
from goodteacher.experiments.miniature.papers import INCREASED, correlations
from goodteacher.experiments.miniature.published import MEASURES
from goodteacher.experiments.miniature.published import correlations as published
from goodteacher.experiments.miniature.settings import SETTINGS, runs
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import BLACK, BLUE, DASHED, GREY, ORANGE, PAGE, RED, letter, paper, shades

_COLORS = dict(zip(PUBLISHED, (*shades(len(LEARNED)), ORANGE, BLACK), strict=True))
_SHORT = ("variance", "on-policy", "uniform", "accuracies", "all")
_COLUMNS = {"proxy": "training_reward_spearman", "ground truth": "ground_truth_spearman"}
_WHEN = ("early", "late")


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """Curves, and correlations beside those of the published table of each setting."""
    found = joined(parts)
    settings, counts = list(SETTINGS), scale.course().counts
    axes = ("setting", "model", "update")
    along = {
        name: variable(axes, increases(found[metric]).mean(0), title)
        for name, metric, title in (
            ("proxy", INCREASED["proxy"], "increase of the proxy"),
            ("truth", INCREASED["ground truth"], "increase of the ground truth"),
            ("held_out", "held_out.expected_ground_truth_reward", "the same on held-out prompts"),
        )
    }
    along["kl"] = variable(axes, found["train.kl_to_reference"].mean(0), "KL to the initial policy", "nats")
    in_worlds = np.stack(
        [
            correlations({name: values[:, k] for name, values in found.items()}, scale)
            for k in range(len(settings))
        ]
    )  # settings, measures, increases, early and late, worlds
    low, high = mean_interval(np.moveaxis(in_worlds, -1, 0))
    rows = published()
    reported = np.stack(
        [
            rows[rows["table"] == setting].set_index("measure").loc[list(MEASURES), list(_COLUMNS.values())]
            for setting in settings
        ]
    )
    quantiles = np.quantile(in_worlds, [0.025, 0.975], axis=-1)
    inside = (quantiles[0] <= reported[..., None]) & (reported[..., None] <= quantiles[1])
    axes = ("setting", "measure", "increase", "when")
    labels = {"setting": settings, "measure": list(MEASURES), "increase": list(INCREASED)}
    return {
        "paths": xr.Dataset(
            along,
            {"setting": settings, "model": list(PUBLISHED), "update": variable("update", counts, "updates")},
        ),
        "correlations": xr.Dataset(
            {
                "mean": variable(
                    axes, in_worlds.mean(-1), "rank correlation over six models, mean over worlds"
                ),
                "low": variable(axes, low, "lower end of its 95 % interval"),
                "high": variable(axes, high, "upper end"),
                "one_world_low": variable(axes, quantiles[0], "2.5 % of the worlds are below"),
                "one_world_high": variable(axes, quantiles[1], "2.5 % of the worlds are above"),
                "published_inside": variable(axes, inside, "whether the published one is between these"),
            },
            {**labels, "when": list(_WHEN)},
        ),
        "published": xr.Dataset(
            {"rank_correlation": variable(axes[:3], reported, "published rank correlation")}, labels
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """Reward against KL above, correlations with the increase of the truth below; a column each."""
    paths, found, reported = data["paths"], data["correlations"], data["published"]["rank_correlation"]
    drawing = Figure(figsize=(PAGE, 4.2))
    axes = drawing.subplots(2, len(SETTINGS), sharey="row")
    places = np.arange(len(MEASURES))[::-1]
    for column, (setting, (case, *_)) in enumerate(SETTINGS.items()):
        above, below = axes[:, column]
        for model, color in _COLORS.items():
            some = paths.sel(setting=setting, model=model)
            root = np.sqrt(np.maximum(some["kl"], 0.0))
            above.plot(root, some["truth"], color=color, ls=DASHED if model == FLAT else "-", label=model)
        above.set(xlabel="$\\sqrt{\\rm KL}$")
        above.set_title(case)
        for shift, when, color in ((0.15, "early", BLUE), (-0.15, "late", RED)):
            some = found.sel(setting=setting, increase="ground truth", when=when)
            below.hlines(
                places + shift, some["one_world_low"], some["one_world_high"], color=color, alpha=0.3, lw=4
            )
            below.plot(some["mean"], places + shift, "o", color=color, ms=3, label=f"miniature, {when}")
        some = reported.sel(setting=setting, increase="ground truth")
        below.plot(some, places, "x", color=BLACK, ms=4, label="published")
        below.axvline(0.0, color=GREY, lw=0.6)
        below.set_yticks(places, _SHORT)
        below.set(xlim=(-1.1, 1.1), xlabel="Rank correlation", xticks=[-1, 0, 1])
        below.set_title(" ".join(setting.split()[:2]))
    axes[0, 0].set_ylabel("Increase of the truth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more = axes[1, 0].get_legend_handles_labels()
    drawing.legend(
        [*handles, *more[0]], [*labels, *more[1]], loc="outside upper center", ncols=5, handlelength=1.2
    )
    letter(axes.flat)
    return drawing


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    found, reported = data["correlations"], data["published"]["rank_correlation"]
    paths = data["paths"].isel(update=-1)

    def of(setting: str) -> str:
        case = SETTINGS[setting][0]
        ends = paths.sel(setting=setting)["truth"]
        first, last, flat, true = (
            float(ends.sel(model=model)) for model in (LEARNED[0], LEARNED[-1], FLAT, TRUE)
        )
        told = []
        for measure, short in ((MEASURES[0], "variance"), (MEASURES[-1], "with accuracies")):
            at = {"setting": setting, "measure": measure, "increase": "ground truth"}
            some = found.sel(at).sel(when="early")
            told.append(
                f"{short} {float(some['mean']):+.2f} [{float(some['low']):+.2f}, {float(some['high']):+.2f}] "
                f"({float(reported.sel(at)):+.2f})"
            )
        return (
            f"{case} ({setting.split(' (')[0]}): {first:.2f}, {last:.2f}, {flat:.2f}, {true:.2f}; "
            f"{', '.join(told)}"
        )

    inside = found["published_inside"].values
    return (
        f"The five settings of arXiv:2503.15477 in miniature, {scale.worlds} worlds each (seeds from 0), "
        f"{scale.prompts} prompts, {scale.updates} updates of exact RLOO. Above: increase of the truth "
        "against the root of the KL to the initial policy, as its Figures 4, 6, 8, 10 and 12; dark to light "
        f"{LEARNED[0]} to {LEARNED[-1]}. Below: rank correlation of measures of the initial policy with that "
        "increase over six reward models, means and, pale, what 95 % of single worlds show; crosses: as "
        f"published. Of each: increases on {LEARNED[0]}, {LEARNED[-1]}, {FLAT}, {TRUE}; correlations early, "
        f"and published. {'. '.join(of(setting) for setting in SETTINGS)}. Of the {inside[..., 0].size} "
        "published correlations, with proxy and truth, single worlds have the like in "
        f"{int(inside[..., 0].sum())} early and {int(inside[..., 1].sum())} late."
    )


EXPERIMENT = Experiment(
    name="published_settings",
    title="The five published settings in miniature: curves against KL, correlations beside published",
    settings=Scale(worlds=2, updates=100, records=8),
    run=Parted(blocks, runs, summary),
    figure=figure,
    caption=caption,
    full=Scale(worlds=20, records=11),
)
