"""What a beneficial error gains: how much sooner the best output wins when one trains on the proxy."""

from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.batches import LEVEL, batch, escapes, join
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.instances import TRAINED_ON, beneficial_errors
from goodteacher.figures.style import (
    BLACK,
    DASHED,
    MARKERS,
    PAGE,
    colorbar,
    decades,
    label_right,
    letter,
    paper,
    shades,
)
from goodteacher.theory.beneficial import log_gain
from goodteacher.theory.stalling import small_parameter


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probabilities: of ``y*``, descending.
        middling_rewards: ground truth rewards of ``y_med``, ascending.
        sections: middling rewards (of these) that the second panel shows.
    """

    initial_probabilities: tuple[float, ...] = tuple(np.geomspace(0.1, 1e-8, 29))
    middling_rewards: tuple[float, ...] = tuple(np.linspace(-0.9, 0.95, 38))
    sections: tuple[float, ...] = (-0.9, -0.5, 0.0, 0.5, 0.8)


def run(settings: Settings) -> Data:
    """Gains as simulated and by the law; negative ones are losses."""
    rarity, middling = np.asarray(settings.initial_probabilities), np.asarray(settings.middling_rewards)
    grid = np.meshgrid(middling, rarity, indexing="ij")
    truth, proxy = (
        batch(
            lambda reward, start, on=on: beneficial_errors(start, reward, trained_on=on), *map(np.ravel, grid)
        )
        for on in TRAINED_ON
    )
    # The proxy does not depend on the reward of y_med.
    once = jax.tree.map(lambda leaf: leaf[: len(rarity)], proxy)
    times = np.asarray(escapes(join(truth, once)).time[:, 0])
    on_truth, on_proxy = times[: grid[0].size].reshape(grid[0].shape), times[grid[0].size :]
    simulated = np.log10(on_truth / on_proxy)
    start, rewards = truth.reference_log_probabilities[:, 0], truth.rewards[:, 0]
    law = np.asarray(jax.jit(log_gain)(start, rewards, proxy.rewards[:, 0])) / np.log(10.0)
    parameter = np.asarray(jax.jit(small_parameter)(start, rewards))
    values = {
        "simulated": (simulated, "log10 of time on ground truth over time on proxy, simulated"),
        "law": (law, "log10 of time on ground truth over time on proxy, by the law"),
        "small_parameter": (parameter, "what is small where the law holds"),
    }
    dims = ("middling_reward", "initial_probability")
    axes = {
        "middling_reward": variable("middling_reward", middling, "ground truth reward of y_med"),
        "initial_probability": variable("initial_probability", rarity, "initial probability of y*"),
    }
    gains = xr.Dataset(
        {
            name: variable(dims, value.reshape(grid[0].shape), long_name)
            for name, (value, long_name) in values.items()
        },
        axes,
    )
    return {"gains": gains, "sections": gains.sel(middling_reward=list(settings.sections), method="nearest")}


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and solid contours are simulated, dashed ones the law's."""
    gains, sections = data["gains"], data["sections"]
    drawing = Figure(figsize=(PAGE, 2.9))
    plane, growth = drawing.subplots(1, 2, width_ratios=(1.25, 1.0))
    rarity, middling = gains["initial_probability"], gains["middling_reward"]
    most = float(gains["simulated"].max())
    image = plane.pcolormesh(
        rarity, middling, gains["simulated"], cmap="viridis", vmin=0.0, shading="gouraud", rasterized=True
    )
    colorbar(drawing, image, plane, "$\\log_{10}$ of the gain")
    levels = [level for level in (2, 5, 10, 15, 20, 25, 30) if level < most]
    plane.contour(rarity, middling, gains["simulated"], levels, colors="white", linewidths=0.8)
    plane.contour(rarity, middling, gains["law"], levels, colors=BLACK, linewidths=1.0, linestyles=[DASHED])
    # Labels side by side, to the right of each contour that crosses this row.
    row = gains["simulated"].isel(middling_reward=middling.size // 4)
    for level in [level for level in levels if level < float(row.max())]:
        at = float(rarity[int(np.abs(row.values - level).argmin())]) / 1.1, float(row["middling_reward"])
        plane.text(*at, f"$10^{{{level}}}$", color="white", va="center")
    plane.set(ylabel="Ground truth reward of $y_{\\rm med}$", ylim=(middling[0], middling[-1]))
    plane.set_title("gain: simulated (color, white) and law (dashed)")

    colors = list(reversed(shades(sections.sizes["middling_reward"])))
    for k, (color, marker) in enumerate(zip(colors, MARKERS, strict=False)):
        growth.plot(rarity, 10.0 ** sections["law"][k], color=color, lw=0.9)
        growth.plot(rarity, 10.0 ** sections["simulated"][k], ls="none", marker=marker, color=color, ms=3)
    growth.axhline(1.0, color=BLACK, lw=0.5)
    growth.set(ylabel="Gain: time on truth / time on proxy", yscale="log")
    decades(growth.yaxis)
    growth.set_title("sections: simulated (points), law (lines)")
    for ax in (plane, growth):
        ax.set(xscale="log", xlabel="Initial probability of $y^{*}$", xlim=(rarity[0], rarity[-1]))
        decades(ax.xaxis, 5)
    label_right(
        growth,
        [float(10.0**value) for value in sections["simulated"][:, -1]],
        [f"$\\mu={float(value):.2g}$" for value in sections["middling_reward"]],
        colors,
    )
    letter((plane, growth))
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    gains = data["gains"]
    rarest = gains.isel(initial_probability=-1)
    holds = gains["small_parameter"] < 1e-3
    apart = float(np.abs(10.0 ** (gains["law"] - gains["simulated"]).where(holds) - 1.0).max())
    common = gains.isel(initial_probability=0)
    ranges = [
        listed([float(10.0 ** start["simulated"].min()), float(10.0 ** start["simulated"].max())])
        for start in (rarest, common)
    ]
    starts = [listed([float(start["initial_probability"])]) for start in (rarest, common)]
    return (
        "What a beneficial error gains: the time of the gradient flow on the ground truth over that on the "
        f"proxy, until the probability of y* is {LEVEL}. The ground truth is 1 on y*, mu on y_med, -1 "
        "elsewhere; the proxy gives y_med the low reward too. (a) Over the initial probability of y* and mu: "
        "simulated (color, and white contours) and by the law (dashed; nothing is fitted). (b) Sections at "
        f"mu = {listed(data['sections']['middling_reward'].values)}. From a start of {starts[0]} the gain is "
        f"between {ranges[0]}; from {starts[1]} it is between {ranges[1]}. Where the law's small parameter "
        f"is below 0.001 it is within {100 * apart:.2g} % of the simulated gain. Five outputs, y_med starts "
        "at 0.5, the low outputs share the rest. Setting: arXiv:2604.25872, Theorems 1 and 2; law: "
        "theory/beneficial.py."
    )


EXPERIMENT = Experiment(
    name="beneficial_gain",
    title="The gain of a beneficial error",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
