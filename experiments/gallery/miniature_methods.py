"""Estimators, optimisers and policies: on which does the spread of rewards matter?"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import FLAT, LEARNED, PUBLISHED, TRUE
from goodteacher.experiments.miniature.lessons import EARLY, Scale, blocks, joined
from goodteacher.experiments.miniature.methods import ADAM_TIME, METHODS, POLICIES, taught
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import GREY, ORANGE, PAGE, letter, paper, shades

_PROXIES = [name for name in PUBLISHED if name != TRUE]
_COLORS = dict(zip(_PROXIES, (*shades(len(LEARNED)), ORANGE), strict=True))
_WHEN = ("early", "late")


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """Increases, as shares of that on the truth, and how often the flat model is the best proxy."""
    rises = joined(parts)["truth"]  # worlds, policies, methods, models, early and late
    proxies = [PUBLISHED.index(name) for name in _PROXIES]
    shares = rises[..., proxies, :] / rises[..., [PUBLISHED.index(TRUE)], :]
    first = shares.argmax(-2) == _PROXIES.index(FLAT)
    axes = ("policy", "method", "model", "when")
    labels = {"policy": list(POLICIES), "method": list(METHODS), "when": list(_WHEN)}
    low, high = mean_interval(shares)
    return {
        "increases": xr.Dataset(
            {"truth": variable(axes, rises.mean(0), "increase of the ground truth, mean over worlds")},
            {**labels, "model": list(PUBLISHED)},
        ),
        "shares": xr.Dataset(
            {
                "mean": variable(axes, shares.mean(0), "share of the increase that the truth itself teaches"),
                "low": variable(axes, low, "lower end of its 95 % interval"),
                "high": variable(axes, high, "upper end"),
            },
            {**labels, "model": _PROXIES},
        ),
        "flat": xr.Dataset(
            {
                "first": variable(
                    ("policy", "method", "when"),
                    first.mean(0),
                    "share of worlds in which it is the best proxy",
                )
            },
            labels,
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """A panel for each policy and time; a column of reward models for each method."""
    shares = data["shares"]
    drawing = Figure(figsize=(PAGE, 4.6))
    axes = drawing.subplots(len(POLICIES), len(_WHEN), sharex=True, sharey=True)
    places = np.arange(len(METHODS))
    shifts = np.linspace(-0.25, 0.25, len(_PROXIES))
    for row, policy in enumerate(POLICIES):
        for column, when in enumerate(_WHEN):
            ax = axes[row, column]
            for shift, (model, color) in zip(shifts, _COLORS.items(), strict=True):
                some = shares.sel(policy=policy, when=when, model=model)
                ax.vlines(places + shift, some["low"], some["high"], color=color, lw=1.0)
                ax.plot(
                    places + shift,
                    some["mean"],
                    "D" if model == FLAT else "o",
                    color=color,
                    ms=3.5,
                    label=model,
                )
            ax.axhline(1.0, color=GREY, lw=0.6)
            ax.axhline(0.0, color=GREY, lw=0.6)
            ax.set_xticks(places, list(METHODS))
            ax.set_title(f"{policy}, {when}")
    for ax in axes[:, 0]:
        ax.set_ylabel("Share of what the truth teaches")
    drawing.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, handlelength=0.8
    )
    letter(axes.flat)
    return drawing


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    shares, flat = data["shares"]["mean"], data["flat"]["first"]

    def of(policy: str, when: str) -> str:
        found = []
        for method in METHODS:
            at = {"policy": policy, "method": method, "when": when}
            best = float(shares.sel(at).sel(model=list(LEARNED)).max())
            found.append(
                f"{method} {float(shares.sel(at).sel(model=FLAT)):.2f} beside {best:.2f} "
                f"({float(flat.sel(at)):.0%})"
            )
        return f"{policy}, {when}: {'; '.join(found)}"

    told = ". ".join(of(policy, when) for policy in POLICIES for when in _WHEN)
    return (
        f"What reward models teach after {EARLY:.0%} of the training (early) and at its end (late), as a "
        "share of what the ground truth teaches by the same method, on the prompts trained on: means over "
        f"{scale.worlds} worlds (seeds from 0) with 95 % intervals; {scale.prompts} prompts, "
        f"{scale.updates} exact mean updates. RLOO, GRPO and MaxRL (on rewards less each prompt's least) by "
        "plain steps of the learning rate of miniature_training, on tables "
        f"{scale.prompts} times that; Adam on RLOO with {ADAM_TIME / scale.updates:g}. Tables start at the "
        "policy of the network and share nothing between prompts. The perfect but flat model beside the best "
        f"mean of one that learned, and in how many worlds the flat one is the best. {told}."
    )


EXPERIMENT = Experiment(
    name="miniature_methods",
    title="On which estimator, optimiser and policy the spread of rewards matters",
    settings=Scale(worlds=2, updates=100, records=5),
    run=Parted(blocks, taught, summary),
    figure=figure,
    caption=caption,
    full=Scale(worlds=20, records=5),
)
