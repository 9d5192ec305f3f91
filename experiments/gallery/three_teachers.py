"""Three teachers of one policy: ground truth, accurate and slow, inaccurate and fast; and many others."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.batches import follow_flow, rises, taught
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.gallery.panels import TEACHER_LOOKS
from goodteacher.experiments.instances import BEST
from goodteacher.experiments.reward_models import (
    TEACHERS,
    Classroom,
    accuracy_and_variance,
    random_models,
)
from goodteacher.figures.style import (
    BLACK,
    DOTTED,
    GREY,
    NEVER,
    PAGE,
    colorbar,
    decades,
    edges,
    letter,
    paper,
)
from goodteacher.sim.flow import Control
from goodteacher.theory.teachers import fast_teacher_time, slow_teacher_time

KINDS = ("best output far ahead of the others", "rewards evenly spaced")
_LATEST = 1e10


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        classroom: the policy, the ground truth, and what is waited for.
        points: recorded times.
        rankings: random ones, for each accuracy.
        least_variance: of the plane.
        variances: how many, from the least to the largest that rewards in ``[-1, 1]`` can have.
        seed: of the rankings.
    """

    classroom: Classroom = field(default_factory=Classroom)
    points: int = 400
    rankings: int = 40
    least_variance: float = 1e-12
    variances: int = 47
    seed: int = 0


def run(settings: Settings) -> Data:
    """Paths and hitting times of the three, with their bounds; median hitting times over the plane."""
    classroom = settings.classroom
    instance, rewards, gamma = classroom.problem(), classroom.teachers(), classroom.gamma
    cells, units = _models(settings)
    models = taught(instance, np.concatenate([rewards, units.reshape(-1, classroom.outputs)]))
    times = rises(models, gamma, Control(tolerance=1e-8, horizon=_LATEST))
    plane = _plane(settings, cells, units, times[len(rewards) :].reshape(len(cells), -1))

    follow = np.concatenate([[0.0], np.geomspace(1e-1, _LATEST, settings.points)])
    paths = follow_flow(taught(instance, rewards), {"teacher": list(TEACHERS)}, follow)[["expected_reward"]]
    accuracy, variance = accuracy_and_variance(rewards, classroom.truth, classroom.policy)
    bounds = [
        np.nan,
        float(slow_teacher_time(instance, gamma, classroom.T)[0]),
        float(fast_teacher_time(instance, gamma, BEST)[0]),
    ]
    level = np.full(len(TEACHERS), classroom.policy @ classroom.truth + gamma)
    variables = {
        "level": variable("run", level, "expected ground truth reward that is waited for"),
        "time": variable("run", times[: len(rewards)], "time at which the level is reached", TIME),
        "bound": variable("run", bounds, "bound of Theorem 5 on that time", TIME),
        "accuracy": variable("run", accuracy, "accuracy over uniform pairs"),
        "variance": variable("run", variance, "reward variance of the initial policy"),
    }
    return {
        "paths": paths,
        "teachers": xr.Dataset(variables, {"teacher": xr.Variable("run", list(TEACHERS))}),
        "plane": plane,
    }


def _models(settings: Settings) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Kind and number of right pairs of each cell, and its reward models ``[cells, rankings, outputs]``."""
    outputs = settings.classroom.outputs
    pairs, fewest = outputs * (outputs - 1) // 2, outputs - 1
    cells = [(kind, right) for kind, low in enumerate((fewest, 0)) for right in range(low, pairs + 1)]
    right, ahead = [right for _, right in cells], [kind == 0 for kind, _ in cells]
    rng = np.random.default_rng(settings.seed)
    return cells, random_models(settings.classroom, right, ahead, settings.rankings, rng)


def _plane(
    settings: Settings, cells: list[tuple[int, int]], units: np.ndarray, times: np.ndarray
) -> xr.Dataset:
    """Median times over kind, accuracy and variance, from those at variance one, ``[cells, rankings]``."""
    kinds, right = np.transpose(cells)
    # With a range of 2 every model of a kind has at least this variance.
    least = (2.0 / np.ptp(units, axis=-1).max(-1)) ** 2
    most = np.array([least[kinds == kind].min() for kind in range(len(KINDS))])
    variances = np.geomspace(settings.least_variance, most.max(), settings.variances)
    medians = np.full((len(KINDS), right.max() + 1, 1), np.nan)
    medians[kinds, right, 0] = np.median(times, axis=1)
    possible = variances <= most[:, None, None] * (1.0 + 1e-9)
    # Without regularisation a time is inversely proportional to the scale of the rewards.
    scaled = np.where(possible, medians / np.sqrt(variances), np.nan)
    accuracy = np.arange(right.max() + 1) / right.max()
    return xr.Dataset(
        {
            "time": variable(
                ("kind", "accuracy", "variance"), scaled, "median time at which the level is reached", TIME
            )
        },
        {
            "kind": list(KINDS),
            "accuracy": variable("accuracy", accuracy, "accuracy over uniform pairs"),
            "variance": variable("variance", variances, "reward variance of the initial policy"),
        },
    )


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and dashes are the teacher; shade is the time."""
    paths, marks, plane = (data[panel] for panel in ("paths", "teachers", "plane"))
    drawing = Figure(figsize=(PAGE, 5.4))
    axes = drawing.subplots(2, 2)
    (linear, late), planes = axes
    gamma, level = settings.classroom.gamma, float(marks["level"][0])

    for ax in (linear, late):
        for run, name in enumerate(paths["teacher"].values):
            ax.plot(paths["time"], paths["expected_reward"][run], **TEACHER_LOOKS[name])
        ax.axhline(level, color=GREY, lw=0.7, zorder=0)
        ax.plot(marks["time"], marks["level"], "o", color=BLACK, ms=3, zorder=3)
        ax.set(xlabel="Time of the gradient flow", ylabel="Expected ground truth reward", ylim=(-0.3, 1.05))
    linear.set(title="at first", xlim=(0, 5 * float(marks["time"][2])))
    late.set(xscale="log", xlim=paths["time"].values[[1, -1]], title="later, with the bounds of Theorem 5")
    decades(late.xaxis)
    for name, (x, y) in {
        "ground truth": (0.32, 0.68),
        "fast": (0.15, 0.8),
        "low variance": (0.5, 0.13),
    }.items():
        linear.text(x, y, name, color=TEACHER_LOOKS[name]["color"], transform=linear.transAxes)
    linear.text(
        0.99,
        level + 0.02,
        f"risen by {gamma:g}",
        color=GREY,
        ha="right",
        transform=linear.get_yaxis_transform(),
    )
    for run, text, height, ha in (
        (1, " low variance:\n not before", 0.75, "left"),
        (2, "fast: \nbefore ", 0.6, "right"),
    ):
        at, color = float(marks["bound"][run]), TEACHER_LOOKS[TEACHERS[run]]["color"]
        late.axvline(at, color=color, ls=DOTTED, lw=1)
        late.text(at, height, text, ha=ha, va="center", color=color)

    finite = plane["time"].values[np.isfinite(plane["time"].values)]
    norm = LogNorm(finite.min(), finite.max())
    meshes = [_draw_plane(ax, plane.sel(kind=kind), norm) for ax, kind in zip(planes, KINDS, strict=True)]
    for run, (ax, side) in enumerate([(planes[1], -1), (planes[1], -1), (planes[0], 1)]):
        at = float(marks["accuracy"][run]), float(marks["variance"][run])
        ax.plot(*at, "o", mfc="white", mec=BLACK, ms=5, zorder=4)
        ax.annotate(
            TEACHERS[run],
            at,
            xytext=(8 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            bbox={"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        )
    colorbar(drawing, meshes[0], planes.tolist(), f"Median time until risen by {gamma:g}")
    letter(axes.ravel())
    return drawing


def _draw_plane(ax: Axes, plane: xr.Dataset, norm: LogNorm) -> QuadMesh:
    accuracy, variance, time = plane["accuracy"].values, plane["variance"].values, plane["time"].values.T
    reached = np.where(np.isfinite(time), time, np.nan)
    ax.set(yscale="log", ylim=(variance[0], 3 * variance[-1]), xlim=(-0.02, 1.04))
    ax.set(xlabel="Accuracy", ylabel="Reward variance", title=plane["kind"].item())
    decades(ax.yaxis)
    cells = edges(accuracy), edges(variance, log=True)
    NEVER.fill(ax, *cells, np.isinf(time))
    if np.isinf(time).any():
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(0.4, 1e-6, "most rankings: never", ha="center", color=GREY, bbox=box)
    else:
        ax.text(0.09, 1e-6, "not attainable", rotation=90, ha="center", va="center", color=GREY)
    mesh = ax.pcolormesh(*cells, reached, norm=norm, cmap="viridis_r", rasterized=True)
    lines = ax.contour(
        accuracy,
        variance,
        np.log10(reached),
        levels=[2, 4, 6],
        colors=[BLACK, "white", "white"],
        linewidths=0.8,
    )
    if not np.isinf(time).any():
        ax.clabel(lines, fmt="$10^{%d}$", fontsize=8)
    return mesh


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    marks, plane, classroom = data["teachers"], data["plane"], settings.classroom
    (truth, low, fast), bounds = marks["time"].values, marks["bound"].values
    low_variance, fast_variance = listed(marks["variance"].values[1:]).split(" and ")
    far, even = (plane["time"].sel(kind=kind).isel(variance=0).values for kind in KINDS)
    far = far[np.isfinite(far)]
    settled = plane["accuracy"].values[np.isinf(even).nonzero()[0].max()]
    changes = 100 * (far.max() / far.min() - 1)
    return (
        f"(a, b) Expected ground truth reward along the gradient flow for three teachers of one policy, and "
        f"the time at which it has risen by {classroom.gamma:g} (dots): {truth:.3g} for the ground "
        f"truth itself; {low:.3g} for a perfectly accurate reward model of variance {low_variance}, which by "
        f"Theorem 5 takes at least {bounds[1]:.3g}; {fast:.3g} for a model of accuracy "
        f"{float(marks['accuracy'][2]):g} and variance {fast_variance}, which ranks every pair wrongly but "
        f"those of the best output, and by Theorem 5 takes at most {bounds[2]:.3g}. (c, d) The time over "
        f"the plane of accuracy and variance: median of {settings.rankings} random rankings of each "
        "accuracy (the pairs to be ranked rightly are drawn, and each output inserted above as many worse "
        "ones as it has such pairs with), scaled to the variance as far as rewards in [-1, 1] allow; circles "
        "are the three teachers. (c) The best output has reward 1, the others evenly spaced ones between 0 "
        f"and its initial probability: accuracy changes the time by {changes:.2g}% at most, the variance "
        "decides it. (d) Rewards evenly spaced in the order of the ranking: hatched where half of the "
        "rankings or more never get there, as they put a bad output first; above an accuracy of "
        f"{settled:.2g} most get there. Ground truth rewards 1, then "
        f"{classroom.next_reward:g} to -1 evenly; the best output starts at "
        f"{classroom.initial_probability:g}, the {classroom.outputs - 1} others share the rest. "
        "arXiv:2503.15477, Theorems 2 and 5."
    )


EXPERIMENT = Experiment(
    name="three_teachers",
    title="Three teachers",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
