"""The stalling law: the time to escape against how rare the best output is, with its constant."""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.batches import LEVEL, batch, escapes
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.instances import TRAINED_ON, padded
from goodteacher.figures.style import (
    BLACK,
    DOTTED,
    GREY,
    MARKERS,
    PAGE,
    decades,
    label_right,
    letter,
    paper,
    shades,
)
from goodteacher.sim.instance import Instance
from goodteacher.theory import stalling

_PUBLISHED = float(stalling.PUBLISHED_GROUND_TRUTH_EXPONENT)


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        outputs: numbers ``K`` of outputs.
        initial_probabilities: of ``y*``, descending.
    """

    outputs: tuple[int, ...] = (3, 4, 5, 7, 10)
    initial_probabilities: tuple[float, ...] = tuple(10.0 ** -np.arange(1.0, 8.01, 0.5))


def run(settings: Settings) -> Data:
    """Simulated times on ground truth and proxy, those of the law, and the exponents with which they grow."""
    truth, proxy = (_instances(settings, trained_on) for trained_on in TRAINED_ON)
    start, rewards = truth.reference_log_probabilities[:, 0], truth.rewards[:, 0]
    rarity = np.asarray(settings.initial_probabilities)
    shape = (len(settings.outputs), len(rarity))

    def times(runs: Instance) -> np.ndarray:
        return np.asarray(escapes(runs).time).reshape(shape)

    def exponent(times: np.ndarray) -> np.ndarray:
        """The power of 1 / probability with which times grow between the two rarest starts."""
        return -np.diff(np.log(times[:, -2:]))[:, 0] / np.diff(np.log(rarity[-2:]))

    on_truth, on_proxy = times(truth), times(proxy)
    law, correction, parameter = (np.reshape(values, shape) for values in _by_law(start, rewards))
    next_order = np.where(parameter < 1.0, np.abs(correction), np.nan)
    bound = on_proxy[:, 0].mean() * (rarity / rarity[0]) ** -_PUBLISHED

    outputs = {"outputs": variable("outputs", settings.outputs, "number K of outputs")}
    starts = {"initial_probability": variable("initial_probability", rarity, "initial probability of y*")}
    grid = ("outputs", "initial_probability")
    until = f"until the probability of y* is {LEVEL}"
    return {
        "times": xr.Dataset(
            {
                "ground_truth": variable(grid, on_truth, f"time on the ground truth {until}", TIME),
                "proxy": variable(grid, on_proxy, f"time on the proxy {until}", TIME),
                "law": variable(grid, law, "time on the ground truth by the law", TIME),
            },
            {**outputs, **starts},
        ),
        "bound": xr.Dataset(
            {
                "published_rate": variable(
                    "initial_probability", bound, "rate of the published lower bound, constant chosen", TIME
                )
            },
            starts,
        ),
        "exponents": xr.Dataset(
            {
                "ground_truth": variable("outputs", exponent(on_truth), "exponent on the ground truth"),
                "proxy": variable("outputs", exponent(on_proxy), "exponent on the proxy"),
                "law": variable("outputs", [stalling.exponent(k) for k in settings.outputs], "the law's"),
            },
            outputs,
        ),
        "deviation": xr.Dataset(
            {
                "deviation": variable(grid, np.abs(on_truth / law - 1.0), "relative deviation from the law"),
                "next_order": variable(
                    grid,
                    next_order,
                    "the law's own next order, where its terms are below 1",
                ),
            },
            {**outputs, **starts},
        ),
    }


@jax.jit
def _by_law(start: Array, rewards: Array) -> tuple[Array, ...]:
    """Its times, their next order and what is small."""
    laws = (stalling.time, stalling.correction, stalling.small_parameter)
    return tuple(law(start, rewards) for law in laws)


def _instances(settings: Settings, trained_on: str) -> Instance:
    build = partial(padded, max(settings.outputs), trained_on=trained_on)
    grid = np.meshgrid(settings.outputs, settings.initial_probabilities, indexing="ij")
    return batch(build, *(axis.ravel() for axis in grid))


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Shade and marker are the number of outputs."""
    times, exponents, deviation = (data[panel] for panel in ("times", "exponents", "deviation"))
    drawing = Figure(figsize=(PAGE, 2.9))
    axes = drawing.subplots(1, 3, width_ratios=(1.5, 1.0, 1.15))
    law, growth, error = axes
    bound = data["bound"]["published_rate"]
    rarity = times["initial_probability"]
    count = times.sizes["outputs"]
    looks = [
        {"color": color, "marker": marker}
        for color, marker in zip(reversed(shades(count)), MARKERS * count, strict=False)
    ]

    for k, look in enumerate(looks):
        law.plot(rarity, times["law"][k], color=look["color"], lw=0.9)
        law.plot(rarity, times["ground_truth"][k], ls="none", **look)
        law.plot(rarity, times["proxy"][k], ls="none", marker="_", color=look["color"])
        growth.plot(exponents["outputs"][k], exponents["ground_truth"][k], zorder=3, **look)
        error.plot(rarity, deviation["next_order"][k], color=look["color"], lw=0.9)
        error.plot(rarity, deviation["deviation"][k], ls="none", ms=3, **look)
    law.plot(rarity, bound, color=GREY, ls=DOTTED)
    growth.plot(exponents["outputs"], exponents["law"], color=GREY, lw=0.9)
    growth.plot(exponents["outputs"], exponents["proxy"], color=BLACK, marker="_", ls="none", ms=6)
    growth.axhline(_PUBLISHED, color=GREY, ls=DOTTED)

    for ax in (law, error):
        ax.set(xscale="log", yscale="log", xlim=(1.6 * rarity[0], rarity[-1] / 1.6))
        ax.set_xlabel("Initial probability of $y^{*}$")
        decades(ax.xaxis, 5)
        decades(ax.yaxis)
    law.set_ylabel(f"Time until $\\pi(y^{{*}})={LEVEL}$")
    error.set_ylabel("Relative deviation from the law")
    growth.set(xlabel="Number $K$ of outputs", xticks=exponents["outputs"], yticks=range(10))
    growth.set_ylabel("Exponent of the time")
    growth.text(6.1, 5.4, "law: $K-1$", ha="right")
    growth.text(10.2, 1.2, "published bound: 14/13", ha="right", color=GREY)
    growth.text(10.2, 0.35, "on the proxy: 1", ha="right")
    law.set_title("simulations (points) and law (lines)")
    growth.set_title("how the time grows")
    error.set_title("the law becomes exact")
    label_right(
        law,
        [*times["law"].values[:, -1], float(bound[-1]), float(times["proxy"][-1, -1])],
        [*(f"$K={outputs}$" for outputs in times["outputs"].values), "bound", "proxy"],
        [*(look["color"] for look in looks), GREY, BLACK],
    )
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    times, exponents = data["times"], data["exponents"]
    rarest = data["deviation"]["deviation"].isel(initial_probability=-1)
    grown = ", ".join(f"{value:.5f}" for value in exponents["ground_truth"].values)
    apart = float(np.abs(exponents["proxy"] - 1.0).max())
    return (
        f"(a) Time of the gradient flow until the probability of y* is {LEVEL}, against its initial "
        f"probability, for K = {listed(times['outputs'].values)} outputs: simulated on the ground truth "
        "(points), by the stalling law with its constant (lines; nothing is fitted), and on the proxy that "
        "gives the middling output the low reward (dashes, all K), out to "
        f"t = {listed([float(times['ground_truth'].max())])}. Dotted: the rate of the published lower bound, "
        "whose constant is not known and is chosen here. (b) The power of 1/probability with which the time "
        f"grows between the two rarest starts: {grown} on the ground truth, where the law says K - 1, and "
        f"1 to within {apart:.0e} on the proxy; the published bound says at least "
        f"{_PUBLISHED:.4f}. (c) The relative deviation of the simulated times "
        "from the law (points) falls in proportion to the initial probability, down to between "
        f"{float(rarest.min()):.1e} and {float(rarest.max()):.1e}, as the law's own next order says (lines). "
        "Ground truth rewards 1, 0.8, -1, ..., -1; y_med starts at 0.5, the low outputs share the rest. "
        "Rates: arXiv:2604.25872, Theorems 1 and 2; law: theory/stalling.py."
    )


EXPERIMENT = Experiment(
    name="stalling_law",
    title="The stalling law",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
