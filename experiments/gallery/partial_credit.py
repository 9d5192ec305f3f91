"""When partial credit for one of two constraints delays satisfying both (arXiv:2604.25872, Section 5)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from goodteacher.experiments.batches import LEVEL, escapes, join, paths
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    HALO,
    PAGE,
    RED,
    colorbar,
    decades,
    letter,
    number,
    paper,
)
from goodteacher.sim.clocks import Grpo
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.partial_credit_law import (
    BINARY,
    CRITICAL_ODDS_RATIO,
    OUTPUTS,
    PARTIAL,
    joint_probabilities,
    log_ratio,
)

_REWARDS = {"binary": BINARY, "partial": PARTIAL}
_COLORS = {"binary": BLUE, "partial": RED}
_LEVELS = (1.0, 2.0)  # of the contours, in decades
_NAMES = "ABC"


def _logit_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    first, last = (np.log(p / (1.0 - p)) for p in (low, high))
    return tuple(1.0 / (1.0 + np.exp(-np.linspace(first, last, count))))


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        probabilities: of each constraint, initially; the axes of the planes.
        odds_ratios: of the constraints, one for each of the two planes over both probabilities.
        equal_odds_ratios: of the plane in which both constraints are equally likely.
        points: three ``(p_1, p_2, odds ratio)`` of which trajectories are followed.
        last_time: until when.
        records: along them.
        law_up_to: the probability of both up to which the law's contours are drawn.
    """

    probabilities: tuple[float, ...] = _logit_spaced(1e-3, 0.9, 41)
    odds_ratios: tuple[float, ...] = (1.0, 100.0)
    equal_odds_ratios: tuple[float, ...] = tuple(np.geomspace(1e-2, 1e4, 41))
    points: tuple[tuple[float, float, float], ...] = (
        (0.3, 0.005, 1.0),
        (0.005, 0.005, 1.0),
        (0.005, 0.005, 100.0),
    )
    last_time: float = 1e6
    records: int = 200
    law_up_to: float = 0.03


def run(settings: Settings) -> Data:
    """Times under both rewards over three planes and at three points, the law's ratio, and trajectories."""
    panels = _panels(settings)
    grids = [np.broadcast_arrays(*_constraints(panel)) for panel in panels.values()]
    given = [np.concatenate([grid[k].ravel() for grid in grids]) for k in range(3)]
    start = jnp.log(joint_probabilities(*given))
    runs = [_problems(start, rewards) for rewards in _REWARDS.values()]
    binary, partly = np.asarray(escapes(join(*runs)).time).reshape(2, -1)
    clocked = np.asarray(escapes(join(*runs).following(Grpo())).time).reshape(2, -1)
    rare = np.exp(start[:, 0]) <= settings.law_up_to
    law = np.full(len(start), np.nan)
    law[rare] = log_ratio(start[rare]) / np.log(10.0)

    until = f"until the probability of both is {LEVEL}"
    described = {
        "binary": (binary, f"time under the binary reward {until}", TIME),
        "partial": (partly, f"time under partial credit {until}", TIME),
        "ratio": (np.log10(partly / binary), "log10 of the time under partial credit over binary", "1"),
        "ratio_under_grpo": (np.log10(clocked[1] / clocked[0]), "the same when GRPO is followed", "1"),
        "law": (law, f"that ratio by the law, up to a probability of both of {settings.law_up_to}", "1"),
    }
    ends = np.cumsum([grid[0].size for grid in grids])
    data = {}
    for (name, panel), grid, end in zip(panels.items(), grids, ends, strict=True):
        part, shape = slice(end - grid[0].size, end), grid[0].shape
        data[name] = panel.assign(
            {
                key: variable([*map(str, panel.sizes)], values[part].reshape(shape), long_name, units)
                for key, (values, long_name, units) in described.items()
            }
        )
    chosen = [jax.tree.map(lambda leaf: leaf[-len(settings.points) :], batch) for batch in runs]
    return {**data, **_follow(settings, join(*chosen))}


def _panels(settings: Settings) -> dict[str, xr.Dataset]:
    """The planes and the points, without data."""

    def odds_ratio(values: Any, dimension: str = "odds_ratio") -> xr.Variable:
        return variable(dimension, values, "odds ratio of the constraints")

    def chance(which: str, values: Any, dimension: str) -> xr.Variable:
        return variable(dimension, values, f"initial probability of {which} constraint")

    first, second, psi = np.transpose(settings.points)
    chances = settings.probabilities
    return {
        "planes": xr.Dataset(
            coords={
                "odds_ratio": odds_ratio(settings.odds_ratios),
                "first": chance("the first", chances, "first"),
                "second": chance("the second", chances, "second"),
            }
        ),
        "equal": xr.Dataset(
            coords={
                "odds_ratio": odds_ratio(settings.equal_odds_ratios),
                "probability": chance("each", chances, "probability"),
            }
        ),
        "points": xr.Dataset(
            coords={
                "point": list(_NAMES),
                "first": chance("the first", first, "point"),
                "second": chance("the second", second, "point"),
                "odds_ratio": odds_ratio(psi, "point"),
            }
        ),
    }


def _constraints(panel: xr.Dataset) -> list[np.ndarray]:
    """Both probabilities and the odds ratio, each with all dimensions of the panel."""
    both = ("probability", "probability") if "probability" in panel else ("first", "second")
    like = xr.broadcast(*(panel[name] for name in panel.sizes))[0]
    return [panel[name].broadcast_like(like).transpose(*panel.sizes).values for name in (*both, "odds_ratio")]


@partial(jax.jit, static_argnames="rewards")
def _problems(log_probabilities: Array, rewards: tuple[float, ...]) -> Instance:
    return jax.vmap(lambda start: Instance(rewards, start=Parameters(start[None])))(log_probabilities)


def _follow(settings: Settings, instances: Instance) -> dict[str, xr.Dataset]:
    """Of every output, and of all that satisfy one constraint alone."""
    times = np.geomspace(1.0, settings.last_time, settings.records)
    axes = {
        "reward": list(_REWARDS),
        "point": list(_NAMES),
        "time": variable("time", times, "time of the gradient flow", TIME),
    }
    found = np.exp(paths(instances, times)).reshape([*(len(axis) for axis in axes.values()), len(OUTPUTS)])
    probability = variable([*axes, "output"], found, "probability of the output")
    alone = variable(
        list(axes), found[..., 1:3].sum(-1), "probability that one constraint alone is satisfied"
    )
    return {
        "trajectories": xr.Dataset({"probability": probability}, {**axes, "output": list(OUTPUTS)}),
        "alone": xr.Dataset({"probability": alone}, axes),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and solid contours of planes are simulated, dashed ones the law's, grey ones the gradient's;
    below, colour is the reward."""
    equal, points = data["equal"], data["points"]
    drawing = Figure(figsize=(PAGE, 7.0))
    above, middle, below = drawing.subplots(3, 3, height_ratios=(1.25, 1.25, 1.0))
    for row, ratio, name in ((above, "ratio", ""), (middle, "ratio_under_grpo", ", GRPO")):
        for ax, odds_ratio in zip(row, data["planes"]["odds_ratio"].values, strict=False):
            plane = data["planes"].sel(odds_ratio=odds_ratio)
            _color(ax, plane["first"], plane["second"], plane[ratio])
            # One side of the diagonal at a time, for contours run along it at less than a cell's distance.
            for side in (plane["first"] >= plane["second"], plane["first"] <= plane["second"]):
                _contours(ax, plane["first"], plane["second"], plane.where(side), ratio)
            here = points.isel(point=points["odds_ratio"].values == odds_ratio)
            _mark(ax, here["first"], here["second"])
            ax.set(xlabel="Probability $p_1$ of the first", ylabel="Probability $p_2$ of the second")
            ax.set_yscale("logit")
            _ticks(ax.yaxis)
            told = "independent, $\\psi=1$" if odds_ratio == 1.0 else f"odds ratio $\\psi={odds_ratio:g}$"
            ax.set_title(told + name)
        last = row[-1]
        image = _color(last, equal["probability"], equal["odds_ratio"], equal[ratio])
        _contours(last, equal["probability"], equal["odds_ratio"], equal, ratio)
        here = points.isel(point=points["first"].values == points["second"].values)
        _mark(last, here["first"], here["odds_ratio"])
        last.set(xlabel="Probability $p_1=p_2$", ylabel="Odds ratio $\\psi$", yscale="log")
        decades(last.yaxis)
        last.set_title("equally likely" + name)
        for ax in row:
            ax.set_xscale("logit")
            _ticks(ax.xaxis)
        colorbar(
            drawing, image, list(row), "$\\log_{10}$ of the time, partial / binary", extend="max", aspect=30
        )
    last = above[-1]
    last.text(1.15 * float(equal["probability"][0]), 0.8 * CRITICAL_ODDS_RATIO, "$\\pi^2$", va="top")
    last.text(2e-3, 1.5e3, "faster")
    last.text(2e-3, 1.5e-2, "slower", color="white")

    ways = data["trajectories"]["probability"]
    for ax, name in zip(below, ways["point"].values, strict=True):
        for reward, color in _COLORS.items():
            path, time = ways.sel(point=name, reward=reward), float(points[reward].sel(point=name))
            ax.plot(path["time"], path.sel(output="both"), color=color)
            ax.plot(time, LEVEL, "o", color=color, zorder=3)
        alone = data["alone"]["probability"].sel(point=name, reward="partial")
        ax.plot(alone["time"], alone, color=_COLORS["partial"], ls=DASHED, lw=0.9)
        ax.set(xscale="log", xlim=(alone["time"][0], alone["time"][-1]), ylim=(-0.02, 1.04))
        ax.set(xlabel="Time of the gradient flow", ylabel="Probability")
        decades(ax.xaxis)
        times = [f"{reward} {number(float(points[reward].sel(point=name)))}" for reward in _REWARDS]
        ax.set_title(f"{name}: {', '.join(times)}")
    for reward, color in _COLORS.items():
        time = float(points[reward][0])
        below[0].text(time / 1.4, 0.4, reward, color=color, ha="right")
    below[0].text(1.3, 0.2, "one alone", color=_COLORS["partial"])
    letter([*above, *middle, *below])
    return drawing


def _color(ax: Axes, x: xr.DataArray, y: xr.DataArray, ratio: xr.DataArray) -> Any:
    values = ratio.transpose(y.dims[0], x.dims[0])
    return ax.pcolormesh(x, y, values, cmap="RdBu_r", vmin=-2, vmax=2, shading="gouraud", rasterized=True)


def _contours(ax: Axes, x: xr.DataArray, y: xr.DataArray, plane: xr.Dataset, ratio: str) -> None:
    shown, plain, law = (plane[name].transpose(y.dims[0], x.dims[0]) for name in (ratio, "ratio", "law"))
    ax.contour(x, y, shown, _LEVELS, colors=BLACK, linewidths=0.7, linestyles="solid")
    ax.contour(x, y, shown, [0.0], colors=BLACK, linewidths=2.2)
    if ratio == "ratio":
        ax.contour(x, y, law, [0.0, *_LEVELS], colors="white", linewidths=0.9, linestyles=[DASHED])
    else:
        ax.contour(x, y, plain, [0.0], colors=GREY, linewidths=1.2)


def _mark(ax: Axes, x: xr.DataArray, y: xr.DataArray) -> None:
    ax.plot(x, y, "o", color=BLACK, mec="white", ls="none")
    for name, *at in zip(x["point"].values, x.values, y.values, strict=True):
        ax.annotate(name, (at[0], at[1]), (4, 3), textcoords="offset points", path_effects=HALO)


def _ticks(axis: Axis) -> None:
    axis.set_major_locator(FixedLocator([1e-3, 1e-2, 0.1, 0.5, 0.9]))
    axis.set_major_formatter(FixedFormatter(["0.001", "0.01", "0.1", "0.5", "0.9"]))
    axis.set_minor_locator(NullLocator())


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    planes, equal, points = data["planes"], data["equal"], data["points"]
    smallest = [10.0 ** float(plane["ratio"].min()) for _, plane in planes.groupby("odds_ratio")]
    apart = np.nanmedian(np.abs(10.0 ** (planes["law"] - planes["ratio"]) - 1.0))
    rare = equal.isel(probability=0)
    described = ", ".join(
        f"{name} ({p:g}, {q:g}, odds ratio {psi:g}) {listed([binary, partly])}"
        for name, p, q, psi, binary, partly in zip(
            *(points[key].values for key in ("point", "first", "second", "odds_ratio", *_REWARDS)),
            strict=True,
        )
    )
    return (
        "Two constraints; the binary reward is 1 if both are satisfied, partial credit half a point for "
        f"each. Color: the time of the gradient flow until both have probability {LEVEL} under partial "
        "credit over that under the binary reward, in decades: red is slower, blue is faster. Thick: equal "
        f"times; thin: {listed([10.0**level for level in _LEVELS])} times slower; dashed: the stalling law, "
        "nothing fitted. (a) Independent constraints over their initial probabilities: partial credit is "
        f"never faster, at best {smallest[0]:.2f} times as long. (b) With an odds ratio of "
        f"{float(planes['odds_ratio'][-1]):g} it is faster inside the wedge of about equally likely, rare "
        f"constraints, at best {smallest[-1]:.2f} times as long. The law's ratio is within "
        f"{100 * apart:.2g} % of the simulated one in half of both planes where it is "
        f"given. (c) Equally likely constraints: as they become rare, partial credit is faster if and only "
        f"if the odds ratio exceeds pi^2 = {CRITICAL_ODDS_RATIO:.2f}; at a probability of "
        f"{float(rare['probability']):g} the times are equal at {_crossing(rare, 'ratio'):.2f}. (d-f) The "
        "same under GRPO in the limit of large groups, with the gradient's line of equal times in grey: "
        f"{_under_grpo(data)} (g-i) The probability "
        "of both under the binary reward (blue) and under partial credit (red), and that of one constraint "
        f"alone under partial credit (dashed), at the points, with both times: {described}. Question: "
        "arXiv:2604.25872, Section 5; law: theory/partial_credit_law.py."
    )


def _crossing(equal: xr.Dataset, ratio: str) -> float:
    """The odds ratio at which both times are equal."""
    return 10.0 ** float(np.interp(0.0, -equal[ratio], np.log10(equal["odds_ratio"])))


def _under_grpo(data: Data) -> str:
    """What GRPO changes, in numbers."""
    worst, rare = [], data["equal"].isel(probability=0)
    for name in ("ratio_under_grpo", "ratio"):
        worst.append(max(10.0 ** float(data[panel][name].max()) for panel in ("planes", "equal")))
    return (
        f"partial credit takes at most {worst[0]:.3g} times as long as the binary reward, not {worst[1]:.3g} "
        f"times; at a probability of {float(rare['probability']):g} the times are equal at an odds ratio of "
        f"{_crossing(rare, 'ratio_under_grpo'):.3g}."
    )


EXPERIMENT = Experiment(
    name="partial_credit",
    title="When partial credit delays satisfying both constraints",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
