"""The phase diagram of stalling: exact hitting times, and the law, over probability and middling reward."""

from dataclasses import dataclass
from typing import Annotated

import jax
import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.domains import Number, Probability, Reward
from goodteacher.experiments.experiment import Experiment, Swept
from goodteacher.experiments.instances import padded
from goodteacher.experiments.sweeps.axes import Linspace, Logspace
from goodteacher.experiments.sweeps.measures import hitting_time
from goodteacher.experiments.sweeps.specification import Specification, specify
from goodteacher.figures.style import (
    BLACK,
    DARK_HALO,
    DASHED,
    DOTTED,
    GREY,
    MARKERS,
    ORANGE,
    PAGE,
    colorbar,
    decades,
    letter,
    paper,
    shades,
)
from goodteacher.sim.instance import Instance
from goodteacher.sim.validation import Numbers
from goodteacher.theory import stalling

LEVEL = 0.95  # of the expected ground truth reward; above every middling reward of the plane
_MOST = 8  # outputs
_SMALL = 0.02  # the largest small parameter for which the law is verified in theory/stalling.py
_CLOSE = 0.1  # relative deviation up to which the law counts as right


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        outputs: numbers ``K`` of outputs, from 3 to 8.
        points: along each side of the plane.
    """

    outputs: tuple[int, ...] = (3, 5, 8)
    points: int = 48


def stalling_instance(
    initial_probability: Probability = 0.05,
    middling_reward: Reward = 0.8,
    outputs: Annotated[Numbers, Number(3, _MOST, open=False)] = 5,
) -> Instance:
    """The ground truth ``(1, middling_reward, -1, ..., -1)``; one compiled shape serves all ``K``."""
    return padded(_MOST, outputs, initial_probability, middling_reward)


def sweep(settings: Settings) -> Specification:
    """Hitting times over ``K``, the initial probability of ``y*`` and the reward of ``y_med``."""
    axes = {
        "outputs": [float(outputs) for outputs in settings.outputs],
        "initial_probability": Logspace(-5, -0.5, settings.points),
        "middling_reward": Linspace(-0.98, 0.94, settings.points),
    }
    return specify(stalling_instance, axes, [hitting_time(LEVEL)])


def summary(swept: xr.Dataset, settings: Settings) -> Data:
    """Exact times, those of the law, and how far apart they are against the law's small parameter."""
    times = swept["hitting_time"].load()
    if not np.isfinite(times).all():
        raise RuntimeError("a hitting time did not converge, or is beyond the horizon")
    dimensions = [str(name) for name in times.dims]
    axes = [swept[name].values for name in dimensions]
    law, small = _law(*np.meshgrid(*axes, indexing="ij"))
    deviation = np.abs(np.log(times.values) - law)
    coordinates = {
        "outputs": variable("outputs", axes[0].astype(int), "number K of outputs"),
        "initial_probability": variable("initial_probability", axes[1], "initial probability of y*"),
        "middling_reward": variable("middling_reward", axes[2], "ground truth reward mu of y_med"),
    }
    values = {
        "exact": (times.values, f"time until the expected ground truth reward is {LEVEL}", TIME),
        "law": (np.exp(law), "time by the law", TIME),
        "small_parameter": (small, "what is small where the law holds", "1"),
    }
    plane = xr.Dataset({name: variable(dimensions, *value) for name, value in values.items()}, coordinates)

    edges = np.arange(np.floor(2 * np.log10(small.min())), 2 * np.log10(small.max()) + 1) / 2
    inside = np.digitize(np.log10(small), edges) - 1
    largest = np.full((len(axes[0]), len(edges) - 1), np.nan)
    for k, interval in np.ndindex(*largest.shape):
        largest[k, interval] = deviation[k].max(where=inside[k] == interval, initial=-1.0)
    largest[largest < 0] = np.nan
    middle = 10.0 ** (0.5 * (edges[1:] + edges[:-1]))
    return {
        "plane": plane,
        "deviation": xr.Dataset(
            {"largest": variable(("outputs", "small_parameter"), largest, "largest |ln(exact / law)|")},
            {
                "outputs": coordinates["outputs"],
                "small_parameter": variable("small_parameter", middle, "small parameter of the law"),
            },
        ),
        "agreement": xr.Dataset(
            {
                "share": variable(
                    "outputs",
                    (np.abs(np.expm1(-deviation)) < _CLOSE).mean((1, 2)),
                    f"share of the plane where the law is within {100 * _CLOSE:.0f} %",
                ),
                "where_small": variable(
                    "outputs",
                    deviation.max((1, 2), where=small < _SMALL, initial=0.0),
                    f"largest |ln(exact / law)| where the small parameter is below {_SMALL}",
                ),
                "largest": variable("outputs", deviation.max((1, 2)), "largest |ln(exact / law)|"),
            },
            {"outputs": coordinates["outputs"]},
        ),
    }


@jax.jit
@jax.vmap
def _measures(outputs: jax.Array, start: jax.Array, middling: jax.Array) -> tuple[jax.Array, jax.Array]:
    instance = padded(_MOST, outputs, start, middling)
    policy, rewards = instance.reference_log_probabilities[0], instance.rewards[0]
    return stalling.log_time(policy, rewards), stalling.small_parameter(policy, rewards)


def _law(*grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of the law's time and its small parameter, over the grid."""
    log_time, small = _measures(*(axis.ravel() for axis in grid))
    return np.asarray(log_time).reshape(grid[0].shape), np.asarray(small).reshape(grid[0].shape)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and white contours are exact, black dashes the law's at the same times."""
    plane, deviation = data["plane"], data["deviation"]
    count = plane.sizes["outputs"]
    columns = 2 if count < 4 else 3
    rows = -(-(count + 1) // columns)
    drawing = Figure(figsize=(PAGE, 2.3 * rows))
    every = list(drawing.subplots(rows, columns).flat)
    planes, growth = every[:count], every[count]

    norm = LogNorm(float(plane["exact"].min()), float(plane["exact"].max()))
    # Not so dark that black lines vanish.
    colors = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.15, 1.0, 256)))
    for ax, outputs in zip(planes, plane["outputs"].values, strict=True):
        _plane(ax, plane.sel(outputs=outputs), norm, colors, 10.0 ** (0.19 * columns))
        ax.set_title(f"$K={outputs}$")
    key = rf"color, white lines: exact   black dashes: law   dots: $\sigma={_SMALL}$"
    drawing.suptitle(key, x=0.01, ha="left", fontsize="medium")
    label = rf"Time until $V_{{\rm G}}={LEVEL}$ [{TIME}]"
    colorbar(drawing, ScalarMappable(norm, colors), every, label, aspect=40, pad=0.01)

    small = deviation["small_parameter"]
    for k, color in enumerate(reversed(shades(count))):
        label = f"$K={deviation['outputs'].values[k]}$"
        growth.plot(small, deviation["largest"][k], color=color, marker=MARKERS[k], ms=3, lw=0.9, label=label)
    growth.plot(small, 1.5 * small, color=GREY, ls=DOTTED, label=r"$1.5\,\sigma$")
    growth.axvline(_SMALL, color=ORANGE, ls=DOTTED)
    growth.text(0.8 * _SMALL, 1e2, rf"$\sigma={_SMALL}$", ha="right")
    growth.set(xscale="log", yscale="log", xlim=(small[0] / 2, small[-1] * 2), ylim=(1e-5, 1e3))
    growth.set(xlabel=r"Small parameter $\sigma$", ylabel=r"Largest $|\ln({\rm exact}/{\rm law})|$")
    growth.set_title("where the law holds")
    growth.legend(loc="lower right", handlelength=1.5, labelspacing=0.2)
    decades(growth.xaxis, 5)
    decades(growth.yaxis, 5)
    letter(every)
    return drawing


def _plane(ax: Axes, plane: xr.Dataset, norm: LogNorm, colors: Colormap, gap: float) -> None:
    """A panel; its labels are apart by a factor."""
    start, middling = plane["initial_probability"].values, plane["middling_reward"].values
    exact, law, small = (
        np.log10(plane[name].transpose("middling_reward", "initial_probability").values)
        for name in ("exact", "law", "small_parameter")
    )
    ax.pcolormesh(start, middling, 10.0**exact, norm=norm, cmap=colors, shading="nearest", rasterized=True)
    levels = [level for level in (2, 4, 6, 8, *range(12, 100, 4)) if level < exact.max()]
    ax.contour(start, middling, exact, levels, colors="white", linewidths=1.0)
    ax.contour(start, middling, law, levels, colors=BLACK, linewidths=1.0, linestyles=[DASHED])
    ax.contour(start, middling, small, [np.log10(_SMALL)], colors=ORANGE, linewidths=1.6, linestyles=[DOTTED])
    # Labels side by side, to the right of each contour that crosses this row, where they have room.
    row = exact[len(middling) // 2]
    free = np.inf
    for level in [level for level in levels if row.min() < level < row.max()]:
        at = 1.15 * float(start[np.abs(row - level).argmin()])
        if gap * at < free and gap * at < start[-1]:
            ax.text(
                at,
                middling[len(middling) // 2],
                f"$10^{{{level}}}$",
                color="white",
                va="center",
                fontsize=7.5,
                path_effects=list(DARK_HALO),
            )
            free = at
    ax.set(xscale="log", xlim=(start[0], start[-1]), ylim=(middling[0], middling[-1]))
    ax.set(xlabel="Initial probability of $y^{*}$", ylabel=r"Reward $\mu$ of $y_{\rm med}$")
    decades(ax.xaxis, 6)


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    plane, agreement, deviation = data["plane"], data["agreement"], data["deviation"]
    times = plane["exact"]
    outputs = listed(plane["outputs"].values)
    first, last = (float(f(times)) for f in (np.min, np.max))
    sides = " x ".join(str(plane.sizes[name]) for name in ("initial_probability", "middling_reward"))
    shares = listed(100.0 * agreement["share"].values)
    small = 100.0 * float(np.expm1(agreement["where_small"].max()))
    apart = np.abs(np.log(times / plane["law"]))
    worst = plane.isel(apart.argmax(...))  # pyright: ignore[reportArgumentType, reportCallIssue]
    factor = float(np.exp(apart.max()))
    low, high = (float(f(deviation["small_parameter"])) for f in (np.min, np.max))
    return (
        f"Exact time of the gradient flow until the expected ground truth reward is {LEVEL}, over the "
        f"initial probability of y* and the reward mu of y_med, for K = {outputs} outputs: {times.size:,} "
        f"times ({sides} for each K), from {first:.2g} to {last:.2g}. Color and white "
        "contours: exact; black dashes: the stalling law at the same times (nothing is fitted). Its small "
        f"parameter sigma is below {_SMALL} to the left of the dots, where law and exact time differ by at "
        f"most {small:.2g} %. The law is within {100 * _CLOSE:.0f} % on {shares} % of the planes. It is "
        f"worst at K = {int(worst['outputs'])}, a probability of {float(worst['initial_probability']):.2g} "
        f"and mu = {float(worst['middling_reward']):.2g}, by a factor of {factor:.2g}: y_med must be better "
        "than the low outputs, and y* rare. Last panel: the largest deviation among points of like sigma, "
        f"from {low:.0e} to {high:.0e}; dotted, 1.5 sigma. Ground truth rewards 1, mu, -1, ..., -1; y_med "
        "starts at 0.5, the low outputs share the rest. Setting: arXiv:2604.25872; law: theory/stalling.py."
    )


EXPERIMENT = Experiment(
    name="phase_diagram",
    title="The phase diagram of stalling",
    settings=Settings(),
    run=Swept(sweep, summary),
    figure=figure,
    caption=caption,
    full=Settings(outputs=(3, 4, 5, 6, 8), points=400),
)
