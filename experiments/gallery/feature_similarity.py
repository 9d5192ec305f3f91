"""How the angle between two features decides whether a stall ends (arXiv:2604.25872)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from goodteacher.experiments.batches import (
    LEVEL,
    batch,
    escape_dataset,
    follow_ascent,
    follow_flow,
    recorded_updates,
)
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.gallery.panels import escape_panels, label_times
from goodteacher.experiments.instances import SIMILARITIES
from goodteacher.experiments.instances import feature_similarity as build
from goodteacher.figures.style import BLACK, BLUE, DASH_DOTTED, DASHED, RED, paper
from goodteacher.sim.flow import Control

_LOOKS = {
    "positive": {"color": BLUE, "linestyle": DASHED},
    "orthogonal": {"color": BLACK, "linestyle": "-"},
    "negative": {"color": RED, "linestyle": DASH_DOTTED},
}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probability: of ``y*``.
        updates, learning_rate: of discrete ascent.
        last_time: until when the flow is followed.
        horizon: until when escape is looked for, far beyond.
        points: records along the time axis.
    """

    initial_probability: float = 0.05
    updates: int = 50_000
    learning_rate: float = 0.1
    last_time: float = 1e8
    horizon: float = 1e60
    points: int = 300


def run(settings: Settings) -> Data:
    """Discrete ascent and gradient flow on the ground truth for the three published geometries."""
    labels = {"similarity": list(SIMILARITIES), "cosine": list(SIMILARITIES.values())}
    runs = batch(build, labels["cosine"], [settings.initial_probability] * len(SIMILARITIES))
    flow = follow_flow(runs, labels, np.geomspace(0.1, settings.last_time, settings.points))
    late = flow.isel(time=slice(-2, None))
    slope = np.diff(np.log(late["best_probability"]))[:, 0] / np.diff(np.log(late["time"]))
    control = Control(horizon=settings.horizon)
    exponent = variable("run", slope, "power of the time that the probability of y* follows at the end")
    return {
        "ascent": follow_ascent(runs, labels, settings.learning_rate, recorded_updates(settings.updates)),
        "flow": flow,
        "escape": escape_dataset(runs, labels, control).assign(last_exponent=exponent),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Line style and colour are the geometry."""

    def look(run: xr.Dataset) -> dict[str, Any]:
        return _LOOKS[str(run["similarity"].values)]

    titles = (
        f"as published: {settings.updates:,} updates",
        "gradient flow, until all that escape have done so",
        "the best output takes over, or dies out",
        "the middling output holds the flow up",
    )
    drawing, axes = escape_panels(data, settings.learning_rate * settings.updates, look, titles)
    reward, best = axes[0, 1], axes[1, 0]
    label_times(reward, data["escape"], look)
    runs = [data["escape"].isel(run=run) for run in range(data["escape"].sizes["run"])]
    reward.legend(
        [Line2D([], [], **look(run)) for run in runs],
        [f"{run['similarity'].values} (${float(run['cosine']):.2g}$)" for run in runs],
        title="similarity (cosine)",
        loc="lower right",
        bbox_to_anchor=(1.0, 0.12),
    )
    for run, path in zip(runs, data["flow"]["best_probability"], strict=True):
        if not np.isfinite(run["escape_time"]):
            middle = path.isel(time=path.sizes["time"] // 2)
            best.annotate(
                f"never escapes: falls like $t^{{{float(run['last_exponent']):.2f}}}$",
                (float(middle["time"]), float(middle)),
                xytext=(5, 3),
                textcoords="offset points",
                color=look(run)["color"],
            )
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    escape, last = data["escape"], data["ascent"].isel(updates=-1)
    names = escape["similarity"].values
    rewards = ", ".join(f"{float(value):.3f}" for value in last["expected_reward"])
    fates = [_fate(escape.isel(run=run)) for run in range(escape.sizes["run"])]
    return (
        "Exact policy gradient on the ground truth with a linear softmax policy: the features of the best "
        "output y* and of the middling one y_med are orthogonal, or at an angle of cosine -0.71 or 0.71. "
        f"(a) {settings.updates:,} updates at learning rate {settings.learning_rate}, after which "
        f"the expected rewards ({', '.join(names)}) are {rewards}. "
        "(b) The gradient flow on a logarithmic time axis; shaded is what (a) shows. Dots mark when the "
        f"probability of y* reaches {LEVEL}. "
        + "; ".join(f"{name}: {fate}" for name, fate in zip(names, fates, strict=True))
        + ". (c, d) The probabilities of y* and y_med. Five outputs with rewards 1, 0.8, -1, -1, -1; y* "
        f"starts at {settings.initial_probability}, y_med at 0.5, the low outputs share the rest; the "
        "feature of y* has length 1.5, the others 1. Instances: arXiv:2604.25872, Appendices A.1 and C."
    )


def _fate(run: xr.Dataset) -> str:
    if np.isfinite(run["escape_time"]):
        return f"escapes at t = {listed([float(run['escape_time'])])}"
    return (
        f"never escapes, its probability of y* falls like t^{float(run['last_exponent']):.2f} and is "
        f"{float(run['best_probability']):.1e} at t = {listed([float(run['end_time'])])}, "
        "where the search ended"
    )


EXPERIMENT = Experiment(
    name="feature_similarity",
    title="Feature geometry: the stall ends early, late or never",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
