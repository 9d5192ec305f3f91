"""The itinerary: why a flow stalls, and at which outputs, seen in straight lines."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    RED,
    SKY,
    label_right,
    letter,
    paper,
)
from goodteacher.sim.flow import trajectory
from goodteacher.sim.instance import Instance
from goodteacher.sim.itineraries import itineraries

_COLORS = (BLUE, SKY, ORANGE, GREEN, RED)


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        rewards: that are trained on, of outputs that are the rarer the better they are.
        initial_probabilities: of the outputs.
        span: how far to go, in units of the last breakpoint.
        points: of tau, on the lines.
    """

    rewards: tuple[float, ...] = (-1.0, -0.6, -0.2, 0.4, 1.0)
    initial_probabilities: tuple[float, ...] = (0.896, 0.08, 0.012, 0.008, 0.004)
    span: float = 1.3
    points: int = 241


def run(settings: Settings) -> Data:
    """The lines, their lower envelope, and the probabilities of the flow at the same tau."""
    instance = Instance(settings.rewards, start=settings.initial_probabilities)
    (itinerary,) = itineraries(instance)
    probabilities, rewards = np.asarray(settings.initial_probabilities), np.asarray(settings.rewards)
    tau = np.linspace(0.0, settings.span * itinerary.breakpoints[-1], settings.points)
    lines = 1.0 / probabilities[:, None] - rewards[:, None] * tau
    # tau is what the flow's mass, of the logits that it conserves, makes of time: found from a fine path.
    last = 1e3 * max(stop.start for stop in itinerary.stops)
    times = np.append(0.0, np.geomspace(1e-4, last, 20_000))
    logits = np.asarray(trajectory(instance, times))[:, 0]
    shift = np.log(np.exp(logits[0]).sum())
    masses = np.exp(logits - shift)
    rate = 1.0 / masses.sum(-1)
    passed = np.append(0.0, np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(times)))
    shares = masses / masses.sum(-1, keepdims=True)
    flow = np.stack([np.interp(tau, passed, share, right=np.nan) for share in shares.T])

    axes = {
        "output": variable("output", np.arange(len(rewards)), "number of the output"),
        "tau": variable("tau", tau, "tau, in which the lines are straight"),
    }
    return {
        "paths": xr.Dataset(
            {
                "line": variable(("output", "tau"), lines, "1 / p - r tau"),
                "probability": variable(("output", "tau"), flow, "probability along the flow"),
            },
            axes,
        ),
        "stops": xr.Dataset(
            {
                "output": variable("stop", itinerary.outputs, "output that is lowest from here on"),
                "tau": variable("stop", itinerary.breakpoints, "breakpoint of the lower envelope"),
                "time": variable("stop", [stop.start for stop in itinerary.stops], "time at the breakpoint"),
            },
            {"stop": np.arange(len(itinerary.stops))},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Lines and their envelope above, probabilities below, on one axis."""
    paths, stops = data["paths"], data["stops"]
    drawing = Figure(figsize=(PAGE, 3.9))
    axes = drawing.subplots(2, 1, sharex=True, height_ratios=(1.1, 1.0))
    above, below = axes
    tau = paths["tau"].values
    lowest = paths["line"].min("output")
    for output, color in zip(paths["output"].values, _COLORS, strict=True):
        above.plot(tau, paths["line"][output], color=color, lw=1.0)
        below.plot(tau, paths["probability"][output], color=color, lw=1.4)
    above.plot(tau, lowest, color=BLACK, lw=2.4, alpha=0.35, zorder=0)
    for ax in axes:
        for breakpoint in stops["tau"].values[1:]:
            ax.axvline(breakpoint, color=GREY, lw=0.6, ls=DOTTED)
    low, high = float(lowest.min()), float(paths["line"][:, 0].max())
    above.set(
        ylabel=r"$1/\pi_0(y)-r(y)\,\tau$", ylim=(low - 0.05 * (high - low), 1.08 * high), xlim=(0, tau[-1])
    )
    below.set(ylabel="Probability", xlabel=r"$\tau$ (time counted by $d\tau=dt/Z$)", ylim=(-0.03, 1.03))
    label_right(
        above,
        [float(value) for value in paths["line"][:, -1]],
        [f"output {output}, $r={reward:g}$" for output, reward in enumerate(settings.rewards)],
        _COLORS,
    )
    for number in stops["stop"].values[1:]:
        below.annotate(
            f"$t={float(stops['time'][number]):.3g}$",
            (float(stops["tau"][number]), 1.0),
            xytext=(3, -8),
            textcoords="offset points",
            color=GREY,
        )
    above.set_title("the lowest line is the most probable output")
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    stops = data["stops"]
    order = ", ".join(str(int(output)) for output in stops["output"].values)
    never = sorted({*range(len(settings.rewards))} - {int(output) for output in stops["output"].values})
    last = stops["time"].values[1:]
    return (
        "(a) For every output the line 1/p - r tau, with its initial probability p and its reward r, and the "
        "lower envelope of the lines (grey). (b) The probabilities along the exact flow at the same tau. The "
        f"modal outputs are in turn those of the envelope: {order}; they take over where lines meet, at times"
        f" {listed(list(last))}. Never lowest, and holding nothing up: {listed(never) or 'none'}. "
        f"Rewards {listed(settings.rewards)}, "
        f"initial probabilities {listed(settings.initial_probabilities)}. "
        "See sim/lines.py."
    )


EXPERIMENT = Experiment(
    name="itinerary",
    title="Which outputs hold the flow up",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
