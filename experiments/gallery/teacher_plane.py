"""A plane of random teachers: hitting time over reward variance and accuracy, at one policy."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, variable
from goodteacher.experiments.experiment import Experiment, Swept
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.experiments.sweeps import measures
from goodteacher.experiments.sweeps.axes import Logspace, Range
from goodteacher.experiments.sweeps.specification import Specification, specify
from goodteacher.figures.style import (
    DASHED,
    GREY,
    MARKERS,
    PAGE,
    RED,
    colorbar,
    decades,
    edges,
    label_right,
    letter,
    number,
    paper,
    shades,
)

GAMMA = 0.2  # increase of the expected ground truth reward that is waited for
_FEWEST = 20  # teachers of a cell, for a share, and of those that arrive, for a median
_LEAST = 1e-3  # of the scale of rewards
_ACCURACIES = (0.4, 0.6, 0.8, 1.0)  # near which sections are shown
_VARIANCES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        teachers: how many reward models.
        outputs: of the policy.
        policy_seed: decides the policy and the ground truth.
        bins: of a decade of the variance.
    """

    teachers: int = 20_000
    outputs: int = 6
    policy_seed: int = 0
    bins: int = 2


def sweep(settings: Settings) -> Specification:
    """Random rewards, uniform within scales that are logarithmically spaced from 0.001 to 1."""
    axes = {
        "seed": Range(0, settings.teachers),
        "reward_scale": Logspace(np.log10(_LEAST), 0, settings.teachers),
    }
    return specify(
        "random_teacher",
        axes,
        [measures.increase_time(GAMMA), measures.variance(), measures.uniform_accuracy()],
        zip=[list(axes)],
        parameters={"outputs": settings.outputs, "policy_seed": settings.policy_seed},
    )


def summary(swept: xr.Dataset, settings: Settings) -> Data:
    """Medians and shares in cells of the plane; rank correlations over all teachers."""
    names = ("increase_time", "variance", "uniform_accuracy", "reward_scale")
    time, variances, accuracy, scale = (swept[name].values for name in names)
    if np.isnan(time).any():
        raise RuntimeError("a hitting time did not converge")
    arrives = np.isfinite(time)

    # An accuracy is a share of the pairs of outputs.
    levels, row = np.unique(accuracy.round(12), return_inverse=True)
    step = 1.0 / settings.bins
    place = np.rint(np.log10(variances) / step).astype(int)
    first, last = place.min(), place.max()
    middle = 10.0 ** (step * np.arange(first, last + 1))
    cell = row * len(middle) + place - first
    shape = (len(levels), len(middle))

    def count(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(cell[chosen], minlength=len(levels) * len(middle))

    teachers, arriving = count(np.ones_like(arrives)), count(arrives)
    share = np.divide(arriving, teachers, out=np.full(teachers.shape, np.nan), where=teachers >= _FEWEST)
    order = np.lexsort((time[arrives], cell[arrives]))
    median = np.full(teachers.shape, np.nan)
    bound = -2.0 * np.expm1(-GAMMA / 2.0)
    least = np.full(teachers.shape, np.nan)
    np.fmin.at(least, cell[arrives], (time * np.sqrt(variances))[arrives] / bound)
    for index, times in enumerate(np.split(time[arrives][order], np.cumsum(arriving)[:-1])):
        if len(times) >= _FEWEST:
            median[index] = np.median(times)

    # A scale is a unit of time: the reward model times c is 1/c times as fast.
    about = [
        ("time", (time[arrives], variances[arrives], accuracy[arrives])),
        ("time_times_scale", ((time * scale)[arrives], (variances / scale**2)[arrives], accuracy[arrives])),
        ("arrival", (arrives, variances, accuracy)),
    ]
    correlations = {
        name: [float(rank_correlation(one, other)) for other in others] for name, (one, *others) in about
    }
    axes = {
        "uniform_accuracy": variable(
            "uniform_accuracy", levels, "accuracy of the reward model over uniform pairs"
        ),
        "variance": variable("variance", middle, "reward variance under the initial policy"),
    }
    grid = ("uniform_accuracy", "variance")
    return {
        "plane": xr.Dataset(
            {
                "teachers": variable(grid, teachers.reshape(shape), "number of reward models"),
                "arriving": variable(
                    grid, arriving.reshape(shape), f"those under which V_G rises by {GAMMA}"
                ),
                "share": variable(grid, share.reshape(shape), f"share under which V_G rises by {GAMMA}"),
                "median": variable(grid, median.reshape(shape), "median hitting time of these", TIME),
                "least_over_bound": variable(grid, least.reshape(shape), "least hitting time over its bound"),
            },
            axes,
        ),
        "bound": xr.Dataset(
            {"time": variable("variance", bound / np.sqrt(middle), "lower bound of Proposition 3", TIME)},
            {"variance": axes["variance"]},
        ),
        "correlations": xr.Dataset(
            {
                "time": variable("of", correlations["time"], "rank correlation with the hitting time"),
                "time_times_scale": variable(
                    "of", correlations["time_times_scale"], "the same, all rewards on one scale"
                ),
                "arrival": variable("of", correlations["arrival"], "rank correlation with arriving"),
            },
            {"of": ["variance", "uniform_accuracy"]},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """The plane, whether the goal is reached, and sections along its two axes."""
    plane, bound = data["plane"], data["bound"]
    drawing = Figure(figsize=(PAGE, 4.9))
    every = drawing.subplots(2, 2)
    (whole, whether), (along_variance, along_accuracy) = every
    _plane(drawing, whole, plane)

    at_variance = plane.sel(variance=list(_VARIANCES), method="nearest")
    at_variance = at_variance.isel(variance=at_variance["median"].notnull().any("uniform_accuracy").values)
    at_accuracy = plane.sel(uniform_accuracy=list(_ACCURACIES), method="nearest")
    at_accuracy = at_accuracy.isel(uniform_accuracy=at_accuracy["median"].notnull().any("variance").values)
    exponents = np.log10(at_variance["variance"].values)
    tones = shades(len(exponents))
    for k, (tone, exponent) in enumerate(zip(tones, exponents, strict=True)):
        column = at_variance.isel(variance=k).dropna("uniform_accuracy", subset=["share"])
        look = {"color": tone, "marker": MARKERS[k], "ms": 3, "lw": 1.0}
        whether.plot(column["uniform_accuracy"], column["share"], label=f"$10^{{{exponent:.2g}}}$", **look)
        column = column.dropna("uniform_accuracy", subset=["median"])
        along_accuracy.plot(column["uniform_accuracy"], column["median"], **look)
    rows = [
        at_accuracy.isel(uniform_accuracy=k).dropna("variance")
        for k in range(at_accuracy.sizes["uniform_accuracy"])
    ]
    colors = shades(len(rows))
    for k, (row, color) in enumerate(zip(rows, colors, strict=True)):
        along_variance.plot(
            row["variance"],
            row["median"],
            color=color,
            marker=MARKERS[k],
            ms=3,
            lw=1.0,
            label=f"{float(row['uniform_accuracy']):.2g}",
        )
    along_variance.plot(bound["variance"], bound["time"], color=RED, ls=DASHED, label="Proposition 3")

    whether.set(xlabel="Accuracy", ylabel="Share that reaches the goal", ylim=(-0.04, 1.04))
    whether.set_title("whether: accuracy decides")
    whether.legend(title="variance", loc="upper left", labelspacing=0.2)
    along_variance.set(xscale="log", yscale="log", xlim=whole.get_xlim())
    along_variance.set(xlabel="Reward variance", ylabel="Median hitting time")
    along_variance.set_title("how soon, at given accuracy")
    along_variance.legend(title="accuracy", loc="lower left", labelspacing=0.2)
    along_accuracy.set(yscale="log", ylim=along_variance.get_ylim(), xlim=whether.get_xlim())
    along_accuracy.set(xlabel="Accuracy", ylabel="Median hitting time")
    along_accuracy.set_title("how soon, at given variance")
    ends = [
        float(at_variance["median"].isel(variance=k).dropna("uniform_accuracy")[-1])
        for k in range(len(tones))
    ]
    label_right(along_accuracy, ends, [f"$10^{{{exponent:.2g}}}$" for exponent in exponents], tones)
    decades(along_variance.xaxis)
    for ax in (along_variance, along_accuracy):
        decades(ax.yaxis)
    letter(every.flat)
    return drawing


def _plane(drawing: Figure, ax: Axes, plane: xr.Dataset) -> None:
    variance, accuracy = plane["variance"].values, plane["uniform_accuracy"].values
    across, up = edges(variance, log=True), edges(accuracy)
    median = plane["median"].values
    norm = LogNorm(np.nanmin(median), np.nanmax(median))
    ax.pcolormesh(across, up, median, norm=norm, rasterized=True)
    row, column = np.nonzero(plane["share"].values == 0)
    ax.plot(variance[column], accuracy[row], "x", color=GREY, ms=3)
    ax.set(xscale="log", xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    ax.set(xlabel="Reward variance", ylabel="Accuracy", title="median hitting time; crosses: none arrives")
    decades(ax.xaxis)
    colorbar(drawing, ScalarMappable(norm, "viridis"), ax, f"[{TIME}]", pad=0.02)


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    plane, ranks = data["plane"], data["correlations"]
    # Sections of one length: accuracies at which the median is known for all of these variances.
    median = plane["median"].sel(variance=list(_VARIANCES), method="nearest").dropna("uniform_accuracy")
    low, high = (float(f(median["uniform_accuracy"])) for f in (np.min, np.max))

    def factors(along: str) -> str:
        ratio = median.max(along) / median.min(along)
        return f"{number(float(ratio.min()))} to {number(float(ratio.max()))}"

    def pair(name: str) -> str:
        return (
            f"{float(ranks[name][0]):.2f} with the variance and {float(ranks[name][1]):.2f} with the accuracy"
        )

    shares = (plane["share"] * plane["teachers"]).sum("variance") / plane["teachers"].where(
        plane["share"].notnull()
    ).sum("variance")
    arriving = float(plane["arriving"].sum() / plane["teachers"].sum())
    certain = plane["uniform_accuracy"].where(shares >= 0.99).min()
    hopeless = plane["uniform_accuracy"].where(shares <= 0.01).max()
    return (
        f"{settings.teachers:,} random reward models for one random policy and ground truth with "
        f"{settings.outputs} outputs; the expected ground truth reward is to rise by {GAMMA}. Rewards "
        f"are uniform in [-s, s], with s from {_LEAST:g} to 1, logarithmically, so that accuracy says "
        "nothing of s. (a) Median hitting time over reward variance and accuracy, of the "
        f"{100 * arriving:.3g} % that arrive; crosses: none of {_FEWEST} or more does; white: "
        f"fewer than {_FEWEST} are there, or arrive. (b) Accuracy decides whether: at most 1 % arrive up to "
        f"an accuracy of {float(hopeless):.2f}, at least 99 % from {float(certain):.2f} on; the rank "
        f"correlation of arriving is {pair('arrival')}. (c, d) Variance decides how soon: between variances "
        f"of {_VARIANCES[0]:g} and {_VARIANCES[-1]:g} the median varies by a factor of {factors('variance')} "
        f"at given accuracy, between accuracies of {low:.2f} and {high:.2f} by "
        f"{factors('uniform_accuracy')} at given variance; the rank correlation of the time is "
        f"{pair('time')}. The scale s, by which times are divided, has its part in this: with all rewards on "
        f"one scale it is {pair('time_times_scale')}. "
        "Red: the lower bound of arXiv:2503.15477, Proposition 3; no time is below "
        f"{float(plane['least_over_bound'].min()):.3g} times it."
    )


EXPERIMENT = Experiment(
    name="teacher_plane",
    title="Random teachers over variance and accuracy",
    settings=Settings(),
    run=Swept(sweep, summary),
    figure=figure,
    caption=caption,
    full=Settings(teachers=1_000_000, bins=4),
)
