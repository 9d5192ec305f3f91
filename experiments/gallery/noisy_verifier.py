"""What a verifier's errors do to the time and to the end of learning, under the gradient and under GRPO."""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.batches import batch, hits
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLACK, HALO, NEVER, PAGE, colorbar, edges, letter, paper
from goodteacher.sim.clocks import Clock, Gradient, Grpo
from goodteacher.sim.flow import Control, final_policies
from goodteacher.sim.goals import Goal, reward_level
from goodteacher.sim.instance import Instance, Parameters, verified

_LEVEL = 0.9  # of the expected ground truth
_SLOWER = (2.0, 5.0, 10.0)  # contours


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        right: initial probabilities of right outputs.
        wrong: of wrong ones.
        rates: true and false positive rates.
        group: samples of a group of GRPO.
        budget: by when to look at the end, in times that the estimator takes with a verifier that never errs.
    """

    right: tuple[float, ...] = (0.025, 0.015, 0.01)
    wrong: tuple[float, ...] = (0.3, 0.25, 0.2, 0.125, 0.075)
    rates: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 21))
    group: int = 8
    budget: float = 4.0

    def clocks(self) -> dict[str, Clock]:
        """By what they are called."""
        return {"gradient": Gradient(), f"GRPO, G = {self.group}": Grpo(self.group)}


def _problem(settings: Settings, true: Array, false: Array) -> Instance:
    truth = np.repeat([1.0, 0.0], [len(settings.right), len(settings.wrong)])[None]
    rewards, variances = verified(truth, true, false)
    start = np.log([*settings.right, *settings.wrong])[None]
    return Instance(rewards, truth, start=Parameters(start), reward_variances=variances)


@jax.jit
@jax.vmap
def _goals(instance: Instance) -> Goal:
    return reward_level(instance, _LEVEL, instance.ground_truth_rewards)


def run(settings: Settings) -> Data:
    """Times over those with a verifier that never errs, and the ground truth at the end of a budget."""
    rates = np.asarray(settings.rates)
    true, false = (axis.ravel() for axis in np.meshgrid(rates, rates, indexing="ij"))
    build = partial(_problem, settings)
    problems, clean = batch(build, true, false), batch(build, np.ones(1), np.zeros(1))
    times, factors, ends, alone = [], [], [], []
    for clock in settings.clocks().values():
        time = np.asarray(hits(problems.following(clock), _goals).time)[:, 0]
        without = float(hits(clean.following(clock), _goals).time[0, 0])
        horizon = Control(horizon=np.full(len(true), settings.budget * without))
        log_p, _ = final_policies(problems.following(clock), horizon)
        policies = np.exp(np.asarray(log_p))[:, 0]
        times.append(without)
        factors.append(time / without)
        ends.append((policies * np.asarray(problems.ground_truth_rewards)[:, 0]).sum(-1))
        alone.append(policies.max(-1))
    names = list(settings.clocks())
    axes = ("estimator", "true", "false")
    shape = (len(names), len(rates), len(rates))
    return {
        "planes": xr.Dataset(
            {
                "factor": variable(axes, np.reshape(factors, shape), "time over that without errors"),
                "end": variable(
                    axes, np.reshape(ends, shape), "expected ground truth at the end of the budget"
                ),
                "largest": variable(axes, np.reshape(alone, shape), "largest probability of an output then"),
            },
            {
                "estimator": names,
                "true": variable("true", rates, "true positive rate"),
                "false": variable("false", rates, "false positive rate"),
            },
        ),
        "clean": xr.Dataset(
            {
                "time": variable(
                    "estimator", times, f"time until the ground truth is {_LEVEL}, no errors", TIME
                )
            },
            {"estimator": names},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """A row for times and one for ends, a column for each estimator."""
    planes = data["planes"]
    drawing = Figure(figsize=(PAGE, 5.4))
    axes = drawing.subplots(2, 2, sharex=True, sharey=True)
    images = []
    for column, name in enumerate(planes["estimator"].values):
        of = planes.sel(estimator=name)
        images = [_plane(ax, of, key) for ax, key in zip(axes[:, column], ("factor", "end"), strict=True)]
        axes[0, column].set_title(f"{name}: time over that without errors")
        axes[1, column].set_title(f"{name}: ground truth after {settings.budget:g} such times")
        axes[1, column].set_xlabel("False positive rate")
    for ax in axes[:, 0]:
        ax.set_ylabel("True positive rate")
    for row, image, label in zip(
        axes, images, ("factor on time (hatched: never)", "expected ground truth"), strict=True
    ):
        colorbar(drawing, image, list(row), label)
    letter(axes.ravel())
    return drawing


def _plane(ax: Axes, of: xr.Dataset, key: str) -> QuadMesh:
    rates, values = of["true"].values, of[key].values
    cells = edges(rates)
    norm = LogNorm(1.0, 100.0) if key == "factor" else LogNorm(0.005, 1.0)
    cmap = "viridis_r" if key == "factor" else "cividis"
    shown = np.where(np.isfinite(values), values, np.nan)
    image = ax.pcolormesh(cells, cells, shown, norm=norm, cmap=cmap, rasterized=True)
    if key == "factor":
        NEVER.fill(ax, cells, cells, np.isposinf(values))
        lines = ax.contour(rates, rates, np.where(np.isfinite(values), values, 1e3), _SLOWER, colors="white")
        # About where each crosses the other diagonal: places found automatically hang on rounding errors.
        places = [(0.5 - 0.5 / level, 0.5 + 0.5 / level) for level in _SLOWER]
        ax.clabel(lines, fmt=lambda level: f"{level:g}", manual=places)
    ax.plot([0.0, 1.0], [0.0, 1.0], color=BLACK, lw=1.2)
    ax.text(0.72, 0.74, "$J=0$", rotation=45, ha="center", va="bottom", path_effects=HALO)
    ax.set(aspect="equal", xlim=(0.0, 1.0), ylim=(0.0, 1.0))
    return image


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    planes, clean = data["planes"], data["clean"]["time"]
    gradient = planes["factor"].sel(estimator="gradient").values
    true, false = np.meshgrid(planes["true"], planes["false"], indexing="ij")
    learns = true > false
    apart = np.abs(gradient[learns] * (true - false)[learns] - 1.0).max()
    at = planes["factor"].sel(true=0.6, false=[0.0, 0.4], method="nearest")
    missed, both = (at.isel(false=k).values for k in (0, 1))
    ends = planes["end"].where(planes["true"] < planes["false"])
    start = sum(settings.right)
    return (
        f"Right outputs of probabilities {listed(settings.right)} and wrong ones of "
        f"{listed(settings.wrong)}; a verifier finds right what is right with the true positive rate and "
        "what is wrong with the false positive rate. (a, b) The time until the expected ground truth is "
        f"{_LEVEL}, over that with a verifier that never errs ({listed(clean.values)}). Under the gradient "
        f"it is 1/J, J = TPR - FPR (to {apart:.0e}); under GRPO, {settings.group} samples in a group, it "
        f"depends on both: at a true positive rate of 0.6 the factors are {listed(missed)} without false "
        f"positives, and {listed(both)} with a rate of 0.4, where rare successes no longer stand out. On "
        "and below the line J = 0 neither ever learns. (c, d) The expected ground truth after "
        f"{settings.budget:g} of the times without errors: it stays at {start:g} on the line, and "
        f"falls below it, down to {float(ends.min()):.2g} (arXiv:2601.04411). Theory: "
        "theory/clock_laws.py."
    )


EXPERIMENT = Experiment(
    name="noisy_verifier",
    title="What a verifier's errors do",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
