"""Training on learned reward models in miniature: who leads when (arXiv:2503.15477, Figure 2, Table 1)."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import FLAT, LEARNED, PUBLISHED, TRUE, increases
from goodteacher.experiments.miniature.lessons import (
    LARGE,
    MEASURES,
    ON_POLICY,
    TIME,
    UNIFORM,
    Scale,
    at_start,
    blocks,
    crossings,
    joined,
    lessons,
)
from goodteacher.experiments.miniature.published import MEASURED, mixes
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import BLACK, DASHED, ORANGE, PAGE, label_right, letter, paper, shades

_QUANTITIES = {
    "proxy": ("train.expected_proxy_reward", "increase of the proxy reward"),
    "truth": ("train.expected_ground_truth_reward", "increase of the ground truth"),
    "held_out": ("held_out.expected_ground_truth_reward", "increase of the ground truth on held-out prompts"),
}
_MEASURED = dict(zip(MEASURES, MEASURED, strict=True))
_LOOKS = dict(
    zip(
        PUBLISHED,
        [{"color": c, "linestyle": "-"} for c in (*shades(len(LEARNED)), ORANGE, BLACK)],
        strict=True,
    )
) | {FLAT: {"color": ORANGE, "linestyle": DASHED}}


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """Means over worlds with their intervals, leaders, crossings, and Table 1 beside the published one."""
    runs, counts = joined(parts), scale.course().counts
    models, labels = list(PUBLISHED), {"model": list(PUBLISHED)}
    curves, leads = {}, {}
    for name, (metric, title) in _QUANTITIES.items():
        rise = increases(runs[metric])
        low, high = mean_interval(rise)
        for end, values in {"": rise.mean(0), "_low": low, "_high": high}.items():
            curves[name + end] = variable(("model", "update"), values, f"{title}{end.replace('_', ', ')}")
        proxies = rise[:, :-1]  # the truth is no proxy
        first = proxies.argmax(1)[:, None] == np.arange(len(models))[:, None]
        leads[name] = variable(
            ("model", "update"), first.mean(0), f"share of worlds in which it has the most {title}"
        )
    updates = {"update": variable("update", counts, "updates")}
    rise = increases(runs[_QUANTITIES["held_out"][0]])
    lead = rise[:, : len(LEARNED)].max(1) - rise[:, models.index(FLAT)]
    start, published = at_start(runs), mixes().groupby("table", sort=False)
    table = {}
    for name, values in start.items():
        table[name] = variable(
            ("model", "origin"), np.full((len(models), 1 + published.ngroups), np.nan), name
        )
        table[name].values[:, 0] = values.mean(0)
        for k, (_, rows) in enumerate(published):
            table[name].values[:, 1 + k] = rows[_MEASURED[name]]
    return {
        "training": xr.Dataset(curves, {**labels, **updates}),
        "leaders": xr.Dataset(leads, {**labels, **updates}),
        "crossings": xr.Dataset(
            {
                "updates": variable(
                    "world", crossings(counts, lead), "updates after which the flat model leads"
                )
            },
            {"world": variable("world", np.arange(scale.worlds), "seed")},
        ),
        "start": xr.Dataset(
            table, {**labels, "origin": ["miniature", *(str(name) for name, _ in published)]}
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """Proxy and truth along training, and who leads."""
    training, leaders = data["training"], data["leaders"]
    drawing = Figure(figsize=(PAGE, 4.6))
    axes = drawing.subplots(2, 2)
    titles = ("what is trained on", "what is wanted", "what is wanted, held out")
    for ax, name, title in zip(axes.flat, _QUANTITIES, titles, strict=False):
        for model in PUBLISHED:
            some = training.sel(model=model)
            ax.plot(training["update"], some[name], **_LOOKS[model])
            ax.fill_between(
                training["update"], some[f"{name}_low"], some[f"{name}_high"],
                color=_LOOKS[model]["color"], alpha=0.12, lw=0,
            )  # fmt: skip
        ax.set(
            ylabel=_QUANTITIES[name][1]
            .replace("increase of the", "Increase of the")
            .replace(" on held-out prompts", "")
        )
        ax.set_title(title)
    panel = axes[1, 1]
    share = leaders["held_out"].sel(model=[*LEARNED, FLAT])
    panel.stackplot(
        leaders["update"],
        share.values,
        colors=[_LOOKS[m]["color"] for m in (*LEARNED, FLAT)],
        lw=0,
        step="mid",
    )
    panel.set(ylabel="Share of worlds", ylim=(0, 1))
    panel.set_title("which proxy leads, held out")
    for ax in axes.flat:
        ax.set(xlabel="Updates", xlim=(0, training["update"][-1]))
    axes[1, 1].set_xlim(float(training["update"][1]), float(training["update"][-1]))
    short = [str(model).replace("on-policy ", "") for model in PUBLISHED]
    for ax, name in zip(axes[:, 0], ("proxy", "held_out"), strict=True):
        ends = [float(training[name].sel(model=model)[-1]) for model in PUBLISHED]
        label_right(ax, ends, short, [_LOOKS[model]["color"] for model in PUBLISHED])
    letter(axes.flat)
    return drawing


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    start, cross = data["start"].sel(origin="miniature"), data["crossings"]["updates"].values
    training = data["training"]

    def spread(name: str) -> str:
        ends = start[name].sel(model=[LEARNED[0], LEARNED[-1], FLAT, TRUE]).values
        return ", ".join(f"{value:.2f}" for value in ends)

    def ends(model: str) -> str:
        last = training.sel(model=model).isel(update=-1)
        proxy, truth, held_out = (float(last[name]) for name in _QUANTITIES)
        return f"{proxy:.2f} and {truth:.2f} ({held_out:.2f} held out)"

    crossed = np.isfinite(cross)
    typical = f", there after {np.median(cross[crossed]):.0f} updates in the median" if crossed.any() else ""
    return (
        f"Figure 2 and Table 1 of arXiv:2503.15477 in miniature, in {scale.worlds} worlds (seeds from 0; "
        "none left out); means over worlds with 95 % intervals. A policy over 100 answers to pairs of "
        f"digits follows the exact mean update of RLOO for {scale.updates} updates (plain steps, learning "
        f"rate {TIME / scale.updates:g}) on {scale.prompts} prompts. Reward models learned from preferences "
        "of which 100 to 0 % were on-policy (dark to light), one that ranks perfectly but is flat (a "
        "thousandth of the spread on half of the prompts; dashed), and the ground truth (black). Increases "
        f"at the end of proxy and truth: {LEARNED[0]} {ends(LEARNED[0])}, {LEARNED[-1]} {ends(LEARNED[-1])}, "
        f"{FLAT} {ends(FLAT)}, {TRUE} {ends(TRUE)}. In the order {LEARNED[0]}, {LEARNED[-1]}, flat, truth: "
        f"variance {spread('variance')}, {ON_POLICY} {spread(ON_POLICY)}, {UNIFORM} "
        f"{spread(UNIFORM)}. (d) The share of worlds in which each proxy leads. The "
        f"flat model overtakes the best learned one for good in {crossed.sum()} of {scale.worlds} "
        f"worlds{typical}."
    )


EXPERIMENT = Experiment(
    name="miniature_training",
    title="RLHF in miniature: the perfect but flat reward model loses early and wins late",
    settings=Scale(),
    run=Parted(blocks, lessons, summary),
    figure=figure,
    caption=caption,
    full=LARGE,
)
