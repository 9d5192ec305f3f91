"""What figures share: the four panels of stalling and escape, and how the three teachers look."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data
from goodteacher.experiments.reward_models import TEACHERS
from goodteacher.figures.style import BLACK, BLUE, DASHED, GREY, ORANGE, PAGE, decades, letter, number

Look = Callable[[xr.Dataset], dict[str, Any]]

TEACHER_LOOKS: Mapping[str, dict[str, Any]] = MappingProxyType(
    dict(
        zip(
            TEACHERS,
            (
                {"color": BLACK, "linestyle": "-"},
                {"color": BLUE, "linestyle": "-"},
                {"color": ORANGE, "linestyle": DASHED},
            ),
            strict=True,
        )
    )
)


def escape_panels(
    data: Data, end_time: float, look: Look, titles: Sequence[str], more: int = 0
) -> tuple[Figure, np.ndarray]:
    """Expected reward as published and on a logarithmic time axis, and the two probabilities.

    Args:
        data: datasets ``ascent``, ``flow`` and ``escape`` of :mod:`goodteacher.experiments.batches`.
        end_time: learning rate times updates of the ascent.
        look: the line properties of a run, given its slice of a dataset.
        titles: of the panels.
        more: rows of panels that the caller fills.

    Returns:
        The figure and its axes ``[2 + more, 2]``.
    """
    ascent, flow, escape = (data[panel] for panel in ("ascent", "flow", "escape"))
    figure = Figure(figsize=(PAGE, 4.7 + 2.3 * more))
    axes = figure.subplots(2 + more, 2)
    (linear, reward), (best, middling) = axes[:2]

    for run in _runs(ascent):
        linear.plot(run["updates"], run["expected_reward"], **look(run))
    names = ("expected_reward", "best_probability", "middling_probability")
    for ax, name in zip((reward, best, middling), names, strict=True):
        ax.axvspan(flow["time"][0], end_time, color="0.93", lw=0, zorder=0)
        for run, end in zip(_runs(flow), _runs(escape), strict=True):
            ax.plot(run["time"], run[name], **look(run))
            if np.isfinite(end["escape_time"]):
                ax.plot(end["escape_time"], end[name], "o", color=look(run)["color"], zorder=3)
        ax.set(xscale="log", xlim=(flow["time"][0], flow["time"][-1]), xlabel="Time of the gradient flow")
        decades(ax.xaxis)
    best.set(yscale="log")
    decades(best.yaxis)

    reward.annotate(
        "$\\leftarrow$ shown in (a)",
        (end_time, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(2, 0),
        textcoords="offset points",
        color=GREY,
    )

    last = ascent["updates"].values[-1]
    linear.set(xlim=(-0.01 * last, last), xlabel="Updates of gradient ascent")
    linear.xaxis.set_major_formatter("{x:,.0f}")
    lowest = float(flow["expected_reward"].min())
    for ax in (linear, reward):
        ax.set(ylabel="Expected ground truth reward", ylim=(lowest - 0.05, 1.04))
    best.set_ylabel("Probability of $y^{*}$")
    middling.set(ylabel="Probability of $y_{\\rm med}$", ylim=(-0.02, 1.04))
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title)
    letter(axes.ravel())
    return figure, axes


def label_times(ax: Axes, escape: xr.Dataset, look: Look) -> None:
    """Writes beside the dots of finite escape times in the panel of the reward what the time is."""
    for run in _runs(escape):
        if np.isfinite(run["escape_time"]):
            ax.annotate(
                number(float(run["escape_time"])),
                (float(run["escape_time"]), float(run["expected_reward"])),
                xytext=(2, -10),
                textcoords="offset points",
                color=look(run)["color"],
                fontsize="small",
            )


def _runs(dataset: xr.Dataset) -> list[xr.Dataset]:
    return [dataset.isel(run=run) for run in range(dataset.sizes["run"])]
