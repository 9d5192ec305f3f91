"""A proxy that errs on a middling output escapes at once where the ground truth stalls (arXiv:2604.25872)."""

from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from goodteacher.experiments import instances
from goodteacher.experiments.batches import (
    LEVEL,
    batch,
    escape_dataset,
    follow_ascent,
    follow_flow,
    join,
    recorded_updates,
)
from goodteacher.experiments.datasets import Data, listed
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.gallery.panels import Look, escape_panels, label_times
from goodteacher.figures.style import DASHED, GREY, decades, paper, shades
from goodteacher.sim.clocks import Grpo


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        published: initial probabilities of ``y*`` that the paper reports.
        further: more of them, for the flow only.
        updates, learning_rate: of discrete ascent.
        last_time: until when the flow is followed.
        points: records along each axis.
    """

    published: tuple[float, ...] = (0.15, 0.10, 0.05)
    further: tuple[float, ...] = (0.01,)
    updates: int = 50_000
    learning_rate: float = 0.1
    last_time: float = 1e9
    points: int = 300


def run(settings: Settings) -> Data:
    """Discrete ascent and gradient flow, trained on the ground truth and on the proxy."""

    probabilities = settings.published + settings.further
    builders = [partial(instances.beneficial_errors, trained_on=name) for name in instances.TRAINED_ON]
    runs = join(*[batch(build, probabilities) for build in builders])
    labels = {
        "trained_on": np.repeat(instances.TRAINED_ON, len(probabilities)),
        "initial_probability": np.tile(probabilities, len(builders)),
    }
    published = np.tile(np.arange(len(probabilities)) < len(settings.published), len(builders))
    some, of_some = jax.tree.map(itemgetter(published), (runs, labels))
    updates = recorded_updates(settings.updates)
    times, clocked = np.geomspace(0.1, settings.last_time, settings.points), runs.following(Grpo())
    return {
        "ascent": follow_ascent(some, of_some, settings.learning_rate, updates),
        "flow": follow_flow(runs, labels, times),
        "escape": escape_dataset(runs, labels),
        "flow_under_grpo": follow_flow(clocked, labels, times),
        "escape_under_grpo": escape_dataset(clocked, labels),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Shade is the initial probability of ``y*``, line style what is trained on."""
    order = list(dict.fromkeys(data["flow"]["initial_probability"].values))
    colors = dict(zip(order, reversed(shades(len(order))), strict=True))

    def look(run: xr.Dataset) -> dict[str, Any]:
        style = "-" if run["trained_on"] == "ground_truth" else DASHED
        return {"color": colors[float(run["initial_probability"])], "linestyle": style}

    titles = (
        f"as published: {settings.updates:,} updates",
        "gradient flow, until every run has escaped",
        "the best output fades before it takes over",
        "the middling output holds the flow up",
        "the same under GRPO",
        "GRPO takes the root of the time",
    )
    drawing, ((linear, reward), (best, _), (clocked, compared)) = escape_panels(
        data, settings.learning_rate * settings.updates, look, titles, more=1
    )
    _under_grpo(clocked, data, look)
    _compare(compared, data, look)
    truth, proxy = _by_training(data["escape"])
    label_times(reward, truth, look)

    rarest = _by_training(data["ascent"])[0].isel(run=-1, updates=-1)
    at_the_end = {"x": float(rarest["updates"]), "ha": "right", "va": "center"}
    linear.text(y=0.94, s="on the proxy, from all three", **at_the_end)
    linear.text(
        y=float(rarest["expected_reward"]) - 0.06,
        s=f"on the ground truth, from {float(rarest['initial_probability']):.2f}",
        color=look(rarest)["color"],
        **at_the_end,
    )
    reward.legend(
        [Line2D([], [], **{**look(runs.isel(run=0)), "color": GREY}) for runs in (truth, proxy)],
        ["trained on the ground truth", "trained on the proxy"],
        loc="lower right",
        bbox_to_anchor=(1.0, 0.3),
    )
    best.legend(
        [Line2D([], [], color=color) for color in colors.values()],
        [f"{probability:.2f}" for probability in colors],
        title="$\\pi_0(y^{*})$",
        loc="lower left",
        ncols=2,
        handlelength=1.6,
        columnspacing=1.2,
    )
    return drawing


def _under_grpo(ax: Axes, data: Data, look: Look) -> None:
    flow, escape = data["flow_under_grpo"], data["escape_under_grpo"]
    for run in range(flow.sizes["run"]):
        way, end = flow.isel(run=run), escape.isel(run=run)
        ax.plot(way["time"], way["expected_reward"], **look(way))
        ax.plot(end["escape_time"], end["expected_reward"], "o", color=look(way)["color"], zorder=3)
    ax.set(xscale="log", xlim=(flow["time"][0], 1e5), ylim=(None, 1.04))
    ax.set(xlabel="Time under GRPO", ylabel="Expected ground truth reward")
    decades(ax.xaxis)
    label_times(ax, _by_training(escape)[0].isel(run=slice(1, None)), look)


def _compare(ax: Axes, data: Data, look: Look) -> None:
    """Times of escape against each other; filled on the ground truth, open on the proxy."""
    plain, grpo = data["escape"], data["escape_under_grpo"]
    for run in range(plain.sizes["run"]):
        one = plain.isel(run=run)
        filled = one["trained_on"] == "ground_truth"
        color = look(one)["color"]
        at = one["escape_time"], grpo["escape_time"][run]
        ax.plot(*at, "o", color=color, mfc=color if filled else "white")
    ends = np.array([10.0, 1e9])
    ax.plot(ends, ends**0.5, color=GREY, ls=DASHED, lw=0.8, zorder=0)
    ax.text(1e7, 3e2, "root", color=GREY)
    ax.set(xscale="log", yscale="log", xlim=(5.0, 2e8), ylim=(3.0, 1e5))
    ax.set(xlabel="Escape under the gradient", ylabel="Escape under GRPO")
    decades(ax.xaxis)
    decades(ax.yaxis)


def _by_training(dataset: xr.Dataset) -> list[xr.Dataset]:
    return [dataset.isel(run=dataset["trained_on"] == name) for name in instances.TRAINED_ON]


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    truth, proxy = _by_training(data["escape"])
    clocked_truth, clocked_proxy = (
        of["escape_time"].values for of in _by_training(data["escape_under_grpo"])
    )
    gained = (
        float(truth["escape_time"][-1] / proxy["escape_time"][-1]),
        float(clocked_truth[-1] / clocked_proxy[-1]),
    )
    slowest = _by_training(data["ascent"])[0].isel(run=-1, updates=-1)
    return (
        "Exact policy gradient trained on the ground truth (solid) and on a proxy that wrongly gives the "
        "middling output the low reward (dashed). (a) The six published runs, initial probabilities of y* "
        f"{_starts(data['ascent'])}: after {settings.updates:,} updates at learning rate "
        f"{settings.learning_rate} the one on the ground truth from "
        f"{float(slowest['initial_probability'])} has an expected reward of "
        f"{float(slowest['expected_reward']):.4f} and a probability of y* of "
        f"{float(slowest['best_probability']):.3e}. (b) The gradient flow, whose time is updates times "
        f"learning rate, on a logarithmic axis and from {_starts(truth)}; shaded is what (a) shows. It "
        f"does escape: dots mark when the probability of y* reaches {LEVEL}, on the ground truth at "
        f"{listed(truth['escape_time'].values)}, on the proxy at {listed(proxy['escape_time'].values)}. "
        "(c, d) The probabilities of y* and y_med on the way. (e) The same path under GRPO in the limit "
        f"of large groups: it escapes at {listed(clocked_truth)} on the ground truth and at "
        f"{listed(clocked_proxy)} on the proxy. (f) Both times of each run (open: on the proxy): from "
        f"{float(truth['initial_probability'][-1])} the error makes escape {gained[0]:,.0f} times faster "
        f"under the gradient, and {gained[1]:,.0f} times under GRPO. Five outputs with ground truth "
        "rewards 1, 0.8, -1, -1, -1; tabular softmax, which identity features amount to; y_med starts at "
        "0.5, the low outputs share the rest. Instances: arXiv:2604.25872."
    )


def _starts(runs: xr.Dataset) -> str:
    return listed(list(dict.fromkeys(runs["initial_probability"].values)))


EXPERIMENT = Experiment(
    name="beneficial_errors",
    title="Beneficial errors: what seems to stall for ever escapes",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
