"""Best-of-N sampling beside gradient flow: where accuracy is all, and where it is not."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.batches import follow_flow, taught
from goodteacher.experiments.datasets import TIME, Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.gallery.panels import TEACHER_LOOKS
from goodteacher.experiments.reward_models import (
    TEACHERS,
    Classroom,
    accuracy_and_variance,
    random_models,
)
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.figures.style import BLACK, MARKERS, PAGE, colorbar, decades, letter, paper
from goodteacher.sim.instance import Instance
from goodteacher.theory.best_of_n_law import expected_best_of_n


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        classroom: the policy, the ground truth, and its three teachers.
        most_samples: largest ``N``.
        latest: end of the flow.
        points: recorded numbers of samples, and times.
        models: random reward models, of each of the two kinds.
        samples: the ``N`` at which they are compared.
        time: of the flow, at which they are compared.
        least_variance: of the random reward models.
        seed: of the random reward models.
    """

    classroom: Classroom = field(default_factory=Classroom)
    most_samples: float = 1e3
    latest: float = 1e10
    points: int = 200
    models: int = 200
    samples: int = 16
    time: float = 100.0
    least_variance: float = 1e-6
    seed: int = 0


KINDS = ("rewards evenly spaced", "best output far ahead")  # of reward models


def run(settings: Settings) -> Data:
    """Best-of-N and the flow for the three teachers, and for random reward models at one N and one time."""
    classroom = settings.classroom
    instance = classroom.problem()
    models, kinds = _random_models(settings)
    rewards = np.concatenate([classroom.teachers(), models])
    samples = np.unique(np.geomspace(1, settings.most_samples, settings.points).round())
    samples = np.union1d(samples, [settings.samples])
    times = np.union1d(np.geomspace(1e-1, settings.latest, settings.points), [settings.time])

    best = np.asarray(_best_of_n(instance, rewards, samples))
    flow = follow_flow(taught(instance, rewards), {}, times)["expected_reward"].values
    three = slice(0, len(TEACHERS))
    rest = slice(len(TEACHERS), None)
    accuracy, variance = accuracy_and_variance(models, classroom.truth, classroom.policy)
    outcomes = np.stack([best[rest, samples == settings.samples], flow[rest, times == settings.time]])[..., 0]
    measured = np.stack([accuracy, variance, *outcomes])
    correlations = [
        rank_correlation(measured[:2, kinds == kind], measured[2:, None, kinds == kind])
        for kind in range(len(KINDS))
    ]
    description = "expected ground truth reward"
    teacher = {"teacher": xr.Variable("run", list(TEACHERS))}
    return {
        "best_of_n": xr.Dataset(
            {"expected_reward": variable(("run", "samples"), best[three], description)},
            {**teacher, "samples": variable("samples", samples, "number N of samples")},
        ),
        "flow": xr.Dataset(
            {"expected_reward": variable(("run", "time"), flow[three], description)},
            {**teacher, "time": variable("time", times, "time of the gradient flow", TIME)},
        ),
        "models": xr.Dataset(
            {
                "accuracy": variable("model", accuracy, "accuracy over uniform pairs"),
                "variance": variable("model", variance, "reward variance of the initial policy"),
                "best_of_n": variable("model", outcomes[0], f"{description} of best of {settings.samples}"),
                "flow": variable("model", outcomes[1], f"{description} of the flow at {settings.time:g}"),
            },
            {"kind": xr.Variable("model", [KINDS[kind] for kind in kinds])},
        ),
        "correlations": xr.Dataset(
            {
                "rank_correlation": variable(
                    ("kind", "outcome", "measure"), correlations, "rank correlation of measure and outcome"
                )
            },
            {"kind": list(KINDS), "outcome": ["best_of_n", "flow"], "measure": ["accuracy", "variance"]},
        ),
    }


@jax.jit
def _best_of_n(instance: Instance, rewards: Array, samples: Array) -> Array:
    """Expected ground truth reward, ``[models, samples]``."""

    def one(proxy: Array, count: Array) -> Array:
        return expected_best_of_n(instance, proxy[None], count)[0]

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(rewards, samples)


def _random_models(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Rewards ``[models, outputs]`` of random accuracy and variance, and their kinds."""
    rng, outputs = np.random.default_rng(settings.seed), settings.classroom.outputs
    kinds = np.repeat([0, 1], settings.models)
    right = rng.integers((outputs - 1) * kinds, outputs * (outputs - 1) // 2 + 1)
    units = random_models(settings.classroom, right.tolist(), (kinds == 1).tolist(), 1, rng)[:, 0]
    most = (2.0 / np.ptp(units, axis=-1)) ** 2  # of rewards with a range of 2
    variance = np.exp(rng.uniform(np.log(settings.least_variance), np.log(most)))
    return units * np.sqrt(variance)[:, None], kinds


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and dashes are the teacher; shade is the variance, the marker the kind of reward model."""
    sampled, flow, models = (data[panel] for panel in ("best_of_n", "flow", "models"))
    drawing = Figure(figsize=(PAGE, 5.2))
    axes = drawing.subplots(2, 2, sharey=True)
    for ax, paths, axis in ((axes[0, 0], sampled, "samples"), (axes[0, 1], flow, "time")):
        for run, name in enumerate(paths["teacher"].values):
            ax.plot(paths[axis], paths["expected_reward"][run], **TEACHER_LOOKS[name])
        ax.set(xscale="log", xlim=paths[axis].values[[0, -1]])
        decades(ax.xaxis)
    sampling, flowing = axes[0]
    sampling.set(title="best of N", xlabel="Number $N$ of samples", ylim=(-1.08, 1.08))
    flowing.set(title="gradient flow", xlabel="Time of the gradient flow")
    for ax, x, y, name, text, ha in (
        (sampling, 1.2, 0.55, "low variance", "ground truth,\nlow variance", "left"),
        (sampling, 35, 0.3, "fast", "fast", "left"),
        (flowing, 8, 0.35, "ground truth", "ground\ntruth", "right"),
        (flowing, 70, 0.5, "fast", "fast", "left"),
        (flowing, 1e7, 0.0, "low variance", "low variance", "left"),
    ):
        ax.text(x, y, text, color=TEACHER_LOOKS[name]["color"], ha=ha)

    norm = LogNorm(float(models["variance"].min()), float(models["variance"].max()))
    look: dict[str, Any] = {
        "s": 13,
        "norm": norm,
        "cmap": "viridis_r",
        "edgecolors": BLACK,
        "linewidths": 0.25,
    }
    for ax, outcome in zip(axes[1], ("best_of_n", "flow"), strict=True):
        for kind, marker in zip(KINDS, MARKERS, strict=False):
            some = models.isel(model=models["kind"].values == kind)
            ax.scatter(some["accuracy"], some[outcome], c=some["variance"], marker=marker, **look)
        ax.set(xlabel="Accuracy", xlim=(-0.03, 1.03))
    axes[1, 0].set_title(f"best of {settings.samples}, random reward models")
    axes[1, 1].set_title(f"gradient flow at time {settings.time:g}, the same models")
    axes[1, 0].text(0.23, 0.4, "squares: best\noutput far ahead", ha="center")
    axes[1, 0].text(0.22, -0.4, "dots: rewards\nevenly spaced", ha="center")
    for ax in axes[:, 0]:
        ax.set_ylabel("Expected ground truth reward")
    colorbar(drawing, axes[1, 0].collections[0], axes[1].tolist(), "Reward variance")
    letter(axes.ravel())
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    sampled, models = data["best_of_n"], data["models"]
    teachers, samples = sampled["expected_reward"].values, sampled["samples"].values
    fast, apart = teachers[TEACHERS.index("fast")], np.ptp(teachers[:2], axis=0).max()
    (even, even_flow), (ahead, ahead_flow) = data["correlations"]["rank_correlation"].values
    return (
        "Expected ground truth reward of best-of-N sampling (exact law) and along the gradient flow, for the "
        "same reward models and initial policy, those of the figure three_teachers. (a) For best of N the "
        "perfectly accurate model of low variance is as good as the ground truth (they differ by "
        f"{apart:.2g}), and none is better (Proposition 1); the almost wholly inaccurate one does harm at "
        f"first, down to {fast.min():.2f} at N = {samples[fast.argmin()]:.0f}, until the best output, which "
        "it ranks first, is among the samples. (b) Along the flow the two exchange roles. (c, d) "
        f"{models.sizes['model']} random reward models, half of them with evenly spaced rewards (dots), half "
        "with the best output far ahead (squares). Rank correlation of the outcome with accuracy and with "
        f"variance, dots: best of {settings.samples} {even[0]:.2f} and {even[1]:.2f}, flow at time "
        f"{settings.time:g} {even_flow[0]:.2f} and {even_flow[1]:.2f}; squares: {ahead[0]:.2f} and "
        f"{ahead[1]:.2f}, {ahead_flow[0]:.2f} and {ahead_flow[1]:.2f}. arXiv:2503.15477, Proposition 1 and "
        "Theorem 2."
    )


EXPERIMENT = Experiment(
    name="best_of_n",
    title="Best of N and gradient flow",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
