"""Three teachers of one policy: ground truth, accurate and slow, inaccurate and fast; and many others."""

from dataclasses import asdict, dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.batches import SOLVER, TIME, follow_flow, listed, variable
from goodteacher.experiments.registry import Data, Experiment
from goodteacher.figures.style import BLACK, BLUE, GREY, ORANGE, PAGE, decades, letter, paper
from goodteacher.sim.flow import Control, hitting_times
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import product_accuracy, reward_variance
from goodteacher.sim.status import Status
from goodteacher.theory.rankings import insertion_ranking
from goodteacher.theory.teachers import (
    fast_rewards,
    fast_teacher,
    fast_teacher_time,
    low_variance_teacher,
    slow_teacher_time,
)

BEST = 0  # position of y_gamma, which here is the best output
TEACHERS = ("ground truth", "low variance", "fast")
COLORS: dict[str, str] = dict(zip(TEACHERS, (BLACK, BLUE, ORANGE), strict=True))
STYLES = dict(zip(TEACHERS, ("-", "-", (0, (4, 1.5))), strict=True))
KINDS = ("best output far ahead of the others", "rewards evenly spaced")
_LATEST = 1e10
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        outputs: how many there are.
        initial_probability: of the best output; the others share the rest equally.
        next_reward: ground truth reward of the second best output; those of the others are evenly spaced from
            -1 up to it, and the best has 1.
        gamma: increase of the expected ground truth reward that is waited for.
        T: time scale of the low-variance teacher.
        points: recorded times.
        rankings: random ones, for each accuracy.
        least_variance: of the plane.
        variances: how many, from the least to the largest that rewards in ``[-1, 1]`` can have.
        seed: of the rankings.
    """

    outputs: int = 10
    initial_probability: float = 0.05
    next_reward: float = 0.5
    gamma: float = 0.4
    T: float = 1e5
    points: int = 400
    rankings: int = 40
    least_variance: float = 1e-12
    variances: int = 47
    seed: int = 0


def problem(settings: Settings) -> Instance:
    """The ground truth and the initial policy, trained on the ground truth."""
    others = settings.outputs - 1
    share = (1.0 - settings.initial_probability) / others
    return Instance(
        [1.0, *np.linspace(settings.next_reward, -1.0, others)],
        start=[settings.initial_probability, *[share] * others],
    )


def teachers(settings: Settings) -> dict[str, Array]:
    """The rewards of the three teachers."""
    instance = problem(settings)
    truth, policy = instance.rewards[0], instance.probabilities(instance.initial_parameters)[0]
    rewards = (
        truth,
        low_variance_teacher(1.0, truth, settings.T),
        # All pairs wrong but those of the best output: K - 1 of K (K - 1) / 2.
        fast_teacher(2.0 / settings.outputs, truth, policy, BEST, settings.gamma),
    )
    return dict(zip(TEACHERS, rewards, strict=True))


@jax.jit
def taught(instance: Instance, rewards: Array) -> Instance:
    """A batch: the problem with each of many reward models, ``[models, outputs]``."""
    return jax.vmap(lambda proxy: eqx.tree_at(lambda i: i.rewards, instance, proxy[None]))(rewards)


def standardized(rewards: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Reward models ``[..., outputs]`` shifted and scaled to mean 0 and variance 1 under a policy."""
    centred = rewards - (policy * rewards).sum(-1, keepdims=True)
    return centred / np.sqrt((policy * centred**2).sum(-1, keepdims=True))


def random_rankings(
    truth: np.ndarray, right: int, count: int, rng: np.random.Generator, first: bool = False
) -> np.ndarray:
    """Random rankings without ties that get so many pairs right, ``[count, outputs]``.

    As many pairs are drawn from all of them, and each output is put above as many worse ones as it has worse
    partners among these. ``first`` puts the best output first, with all its pairs right.
    """
    worse = (truth[:, None] > truth).sum(-1)
    free = np.where(np.arange(truth.size) == BEST, 0, worse) if first else worse
    shares = rng.multivariate_hypergeometric(free, int(right - (worse - free).sum()), size=count)
    return np.stack([insertion_ranking(truth, share + worse - free) for share in shares])


def run(settings: Settings) -> Data:
    """Paths and hitting times of the three, with their bounds; median hitting times over the plane."""
    instance = problem(settings)
    rewards = jnp.asarray(list(teachers(settings).values()))
    cells, units = _models(settings, instance)
    times = _times(instance, jnp.concatenate([rewards, *units]), settings.gamma)
    plane = _plane(settings, cells, np.asarray(units), times[len(rewards) :].reshape(len(cells), -1))

    start = np.asarray(instance.probabilities(instance.initial_parameters))
    level = float((start * np.asarray(instance.rewards)).sum()) + settings.gamma
    follow = np.concatenate([[0.0], np.geomspace(1e-1, _LATEST, settings.points)])
    paths = follow_flow(taught(instance, rewards), {"teacher": list(TEACHERS)}, follow)[["expected_reward"]]
    accuracy, variance = accuracy_and_variance(instance, rewards)
    bounds = [
        np.nan,
        float(slow_teacher_time(instance, settings.gamma, settings.T)[0]),
        float(fast_teacher_time(instance, settings.gamma, BEST)[0]),
    ]
    variables = {
        "time": variable("run", times[: len(rewards)], "time at which the level is reached", TIME),
        "bound": variable("run", bounds, "bound of Theorem 5 on that time", TIME),
        "accuracy": variable("run", accuracy, "accuracy over uniform pairs"),
        "variance": variable("run", variance, "reward variance of the initial policy"),
    }
    return {
        "paths": paths.assign_attrs(asdict(settings), level=level),
        "teachers": xr.Dataset(variables, {"teacher": xr.Variable("run", list(TEACHERS))}),
        "plane": plane,
    }


def _models(settings: Settings, instance: Instance) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Kind and number of right pairs of each cell, and its reward models ``[cells, rankings, outputs]``."""
    truth = np.asarray(instance.rewards[0])
    policy = np.asarray(instance.probabilities(instance.initial_parameters)[0])
    rng = np.random.default_rng(settings.seed)
    pairs, fewest = settings.outputs * (settings.outputs - 1) // 2, settings.outputs - 1
    cells = [(kind, right) for kind, low in enumerate((fewest, 0)) for right in range(low, pairs + 1)]
    levels = np.array(
        [random_rankings(truth, right, settings.rankings, rng, first=kind == 0) for kind, right in cells]
    )
    ahead = np.array([kind == 0 for kind, _ in cells])[:, None, None]
    far = jax.jit(fast_rewards)(levels, BEST, np.full(levels.shape[:-1], policy[BEST]))
    return cells, standardized(np.where(ahead, far, levels), policy)


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
        {"rankings": settings.rankings},
    )


def _times(instance: Instance, rewards: Array, gamma: float) -> np.ndarray:
    """Of the rise of the ground truth by gamma, for many reward models."""
    batch = taught(instance, rewards)
    goals = jax.jit(jax.vmap(lambda i: reward_increase(i, gamma)))(batch)
    result = hitting_times(batch, goals, Control(solver=SOLVER, tolerance=_TOLERANCE, horizon=_LATEST))
    if (result.status == Status.NOT_CONVERGED).any():
        raise RuntimeError("a hitting time did not converge; raise max_steps")
    return np.asarray(result.time[:, 0])


@jax.jit
def accuracy_and_variance(instance: Instance, rewards: Array) -> tuple[Array, Array]:
    """Of many reward models, ``[models, outputs]``: over uniform pairs, and under the initial policy."""
    policy = instance.probabilities(instance.initial_parameters)

    def one(proxy: Array) -> tuple[Array, Array]:
        accuracy = product_accuracy(proxy, instance.ground_truth_rewards[0], jnp.ones_like(proxy))
        return accuracy, reward_variance(policy[0], proxy)

    return jax.vmap(one)(rewards)


@paper()
def figure(data: Data) -> Figure:
    """Colour and dashes are the teacher; shade is the time."""
    paths, marks, plane = (data[panel] for panel in ("paths", "teachers", "plane"))
    drawing = Figure(figsize=(PAGE, 5.4))
    axes = drawing.subplots(2, 2)
    (linear, late), planes = axes

    for ax in (linear, late):
        for run, name in enumerate(paths["teacher"].values):
            ax.plot(paths["time"], paths["expected_reward"][run], color=COLORS[name], ls=STYLES[name])
        ax.axhline(paths.attrs["level"], color=GREY, lw=0.7, zorder=0)
        ax.plot(marks["time"], [paths.attrs["level"]] * len(TEACHERS), "o", color=BLACK, ms=3, zorder=3)
        ax.set(xlabel="Time of the gradient flow", ylabel="Expected ground truth reward", ylim=(-0.3, 1.05))
    linear.set(title="at first", xlim=(0, 5 * float(marks["time"][2])))
    late.set(xscale="log", xlim=paths["time"].values[[1, -1]], title="later, with the bounds of Theorem 5")
    decades(late.xaxis)
    for name, (x, y) in {
        "ground truth": (0.32, 0.68),
        "fast": (0.15, 0.8),
        "low variance": (0.5, 0.13),
    }.items():
        linear.text(x, y, name, color=COLORS[name], transform=linear.transAxes)
    linear.text(
        0.99,
        paths.attrs["level"] + 0.02,
        f"risen by {paths.attrs['gamma']:g}",
        color=GREY,
        ha="right",
        transform=linear.get_yaxis_transform(),
    )
    for run, text, height, ha in (
        (1, " low variance:\n not before", 0.75, "left"),
        (2, "fast: \nbefore ", 0.6, "right"),
    ):
        at, color = float(marks["bound"][run]), COLORS[TEACHERS[run]]
        late.axvline(at, color=color, ls=(0, (1.2, 1)), lw=1)
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
    drawing.colorbar(
        meshes[0], ax=planes.tolist(), label=f"Median time until risen by {paths.attrs['gamma']:g}"
    )
    letter(axes.ravel())
    return drawing


def _draw_plane(ax: Axes, plane: xr.Dataset, norm: LogNorm) -> QuadMesh:
    accuracy, variance, time = plane["accuracy"].values, plane["variance"].values, plane["time"].values.T
    reached = np.where(np.isfinite(time), time, np.nan)
    ax.set(yscale="log", ylim=(variance[0], 3 * variance[-1]), xlim=(-0.02, 1.04))
    ax.set(xlabel="Accuracy", ylabel="Reward variance", title=plane["kind"].item())
    decades(ax.yaxis)
    never = np.where(np.isinf(time), 1.0, np.nan)
    if np.isinf(time).any():
        ax.pcolormesh(accuracy, variance, never, cmap="Greys", vmin=0, vmax=8, rasterized=True)
        ax.text(0.4, 1e-6, "most rankings: never", ha="center", color=GREY)
    else:
        ax.text(0.09, 1e-6, "not attainable", rotation=90, ha="center", va="center", color=GREY)
    mesh = ax.pcolormesh(accuracy, variance, reached, norm=norm, cmap="viridis_r", rasterized=True)
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


def caption(data: Data) -> str:
    """What is seen, settings and source."""
    paths, marks, plane = (data[panel] for panel in ("paths", "teachers", "plane"))
    (truth, low, fast), bounds = marks["time"].values, marks["bound"].values
    low_variance, fast_variance = listed(marks["variance"].values[1:]).split(" and ")
    far, even = (plane["time"].sel(kind=kind).isel(variance=0).values for kind in KINDS)
    far = far[np.isfinite(far)]
    settled = plane["accuracy"].values[np.isinf(even).nonzero()[0].max()]
    changes = 100 * (far.max() / far.min() - 1)
    return (
        f"(a, b) Expected ground truth reward along the gradient flow for three teachers of one policy, and "
        f"the time at which it has risen by {paths.attrs['gamma']:g} (dots): {truth:.3g} for the ground "
        f"truth itself; {low:.3g} for a perfectly accurate reward model of variance {low_variance}, which by "
        f"Theorem 5 takes at least {bounds[1]:.3g}; {fast:.3g} for a model of accuracy "
        f"{float(marks['accuracy'][2]):g} and variance {fast_variance}, which ranks every pair wrongly but "
        f"those of the best output, and by Theorem 5 takes at most {bounds[2]:.3g}. (c, d) The time over "
        f"the plane of accuracy and variance: median of {plane.attrs['rankings']} random rankings of each "
        "accuracy (the pairs to be ranked rightly are drawn, and each output inserted above as many worse "
        "ones as it has such pairs with), scaled to the variance as far as rewards in [-1, 1] allow; circles "
        "are the three teachers. (c) The best output has reward 1, the others evenly spaced ones between 0 "
        f"and its initial probability: accuracy changes the time by {changes:.2g}% at most, the variance "
        "decides it. (d) Rewards evenly spaced in the order of the ranking: grey where half of the rankings "
        "or more never get there, as they put a bad output first; above an accuracy of "
        f"{settled:.2g} most get there. Ground truth rewards 1, then "
        f"{paths.attrs['next_reward']:g} to -1 evenly; the best output starts at "
        f"{paths.attrs['initial_probability']:g}, the {paths.attrs['outputs'] - 1} others share the rest. "
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
