"""The published runs from one sample per update: what the noise of sampling does to a stall."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from goodteacher.experiments import instances
from goodteacher.experiments.batches import (
    LEVEL,
    Labels,
    batch,
    escapes,
    follow_ascent,
    join,
    recorded_updates,
)
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLACK, BLUE, DASHED, DOTTED, GREY, ORANGE, PAGE, decades, letter, paper
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn

_COLORS: dict[str, str] = dict(zip(instances.TRAINED_ON, (BLUE, ORANGE), strict=True))
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_METRICS = ("expected_ground_truth_reward", "probabilities")


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probabilities: of ``y*``.
        seeds: learners per run.
        updates, learning_rate: of every learner, and of exact ascent beside it.
        estimator: a name of :data:`goodteacher.sim.sampling.ESTIMATORS`.
        group: samples per update.
        seed: of all random numbers.
    """

    initial_probabilities: tuple[float, ...] = (0.05, 0.10, 0.15)
    seeds: int = 200
    updates: int = 50_000
    learning_rate: float = 0.1
    estimator: str = "reinforce"
    group: int = 1
    seed: int = 0


def six_runs(initial_probabilities: Sequence[float]) -> tuple[Instance, Labels]:
    """The published instances, trained on the ground truth and on the proxy, and what tells them apart."""
    builders = [partial(instances.beneficial_errors, trained_on=name) for name in instances.TRAINED_ON]
    labels = {
        "trained_on": np.repeat(instances.TRAINED_ON, len(initial_probabilities)),
        "initial_probability": np.tile(initial_probabilities, len(builders)),
    }
    return join(*[batch(build, initial_probabilities) for build in builders]), labels


def follow_learners(runs: Instance, settings: Settings, updates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[runs, seeds, updates]``: expected ground truth reward and probability of ``y*`` of every learner."""
    transformation = optax.sgd(settings.learning_rate)

    def one(instance: Instance, key: Array) -> dict[str, Array]:
        return learn(
            instance, key, settings.estimator, settings.group, transformation, updates, metrics=_METRICS
        ).records

    keys = jax.random.split(jax.random.key(settings.seed), (len(runs.rewards), settings.seeds))
    records = jax.vmap(jax.vmap(one, in_axes=(None, 0)))(runs, keys)
    reward, probabilities = (np.asarray(records[name]) for name in _METRICS)
    return reward[..., 0], probabilities[..., 0, instances.BEST]


def run(settings: Settings) -> Data:
    """All learners, exact ascent of the same runs, and when its flow escapes."""
    runs, labels = six_runs(settings.initial_probabilities)
    updates = recorded_updates(settings.updates)
    reward, best = follow_learners(runs, settings, updates)
    flow = np.asarray(escapes(runs).time)[:, 0] / settings.learning_rate

    along = {"updates": variable("updates", updates, "updates")}
    names = {name: xr.Variable("run", np.asarray(values)) for name, values in labels.items()}
    axes = ("run", "updates")
    return {
        "bands": xr.Dataset(
            {
                "expected_reward": variable(
                    (*axes, "quantile"),
                    np.moveaxis(np.quantile(reward, QUANTILES, axis=1), 0, -1),
                    "quantile over learners of the expected ground truth reward",
                )
            },
            {**names, **along, "quantile": variable("quantile", QUANTILES, "quantile")},
        ),
        "learners": xr.Dataset(
            {
                "mean": variable(axes, reward.mean(1), "mean of the expected ground truth reward"),
                "standard_error": variable(
                    axes, reward.std(1, ddof=1) / np.sqrt(settings.seeds), "standard error of that mean"
                ),
                "escaped": variable(
                    axes, (best >= LEVEL).mean(1), f"fraction with a probability of y* of at least {LEVEL}"
                ),
            },
            {**names, **along},
        ),
        "ascent": follow_ascent(runs, labels, settings.learning_rate, updates),
        "flow": xr.Dataset(
            {
                "escape_updates": variable(
                    "run", flow, f"escape time of the exact flow (probability {LEVEL}) over the learning rate"
                )
            },
            names,
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour is what is trained on; bands are learners from samples, dashes exact ascent."""
    bands, learners, ascent, flow = (data[name] for name in ("bands", "learners", "ascent", "flow"))
    starts = list(dict.fromkeys(bands["initial_probability"].values))
    runs = [
        (k, float(bands["initial_probability"][k]), _COLORS[str(bands["trained_on"].values[k])])
        for k in range(bands.sizes["run"])
    ]
    drawing = Figure(figsize=(PAGE, 4.6))
    axes = drawing.subplots(2, 2)
    *panels, fraction = axes.flat
    updates = bands["updates"].values[1:]

    for k, start, color in runs:
        ax = panels[starts.index(start)]
        lowest, low, median, high, highest = bands["expected_reward"][k, 1:].values.T
        ax.fill_between(updates, lowest, highest, color=color, alpha=0.2, lw=0)
        ax.fill_between(updates, low, high, color=color, alpha=0.4, lw=0)
        ax.plot(updates, median, color=color)
        ax.plot(updates, ascent["expected_reward"][k, 1:], color=BLACK, ls=DASHED, lw=0.9)
        ax.set_title(f"from $\\pi_0(y^{{*}})={start:.2f}$")

        of_proxy = color == _COLORS["proxy"]
        fraction.plot(updates, learners["escaped"][k, 1:], color=color, ls=DOTTED if of_proxy else "-")
        fraction.plot(flow["escape_updates"][k], 0.5, "D" if of_proxy else "o", color=color, mec=BLACK)
        if not of_proxy:
            at_the_end = (updates[-1], float(learners["escaped"][k, -1]))
            fraction.annotate(
                f"from {start:.2f}", at_the_end, (3, -3), textcoords="offset points", color=color
            )

    lowest = float(bands["expected_reward"].min())
    for ax in panels:
        ax.set(xlim=(1, updates[-1]), ylim=(lowest - 0.05, 1.05), ylabel="Expected ground truth reward")
    fraction.set(xlim=(10, 20 * updates[-1]), ylim=(-0.03, 1.05), ylabel="Fraction of learners escaped")
    fraction.set_title(f"when $\\pi(y^{{*}})$ is at least {LEVEL}")
    for ax in axes.flat:
        ax.set(xscale="log", xlabel="Updates")
        decades(ax.xaxis)

    drawing.legend(
        [
            *(Line2D([], [], color=color) for color in _COLORS.values()),
            Patch(color=GREY, alpha=0.6, lw=0),
            Patch(color=GREY, alpha=0.25, lw=0),
            Line2D([], [], color=BLACK, ls=DASHED, lw=0.9),
        ],
        [
            "trained on the ground truth: median",
            "on the proxy",
            "half of the learners",
            "nine in ten",
            "exact gradients",
        ],
        loc="outside upper center",
        ncols=5,
        columnspacing=1.2,
        handlelength=2.0,
    )
    fraction.text(12, 0.95, "on the\nproxy", color=_COLORS["proxy"], va="top")
    fraction.text(1.2 * updates[-1], 0.44, "marks: escape of\nthe exact flow", va="top")
    letter(axes.ravel())
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    learners, flow = data["learners"], data["flow"]
    truth = learners["trained_on"].values == "ground_truth"
    end, exact = learners.isel(updates=-1), data["ascent"]["expected_reward"].isel(updates=-1)
    means = ", ".join(
        f"{float(run['mean']):.3f} ± {float(run['standard_error']):.3f} (exact: {float(ascent):.3f})"
        for run, ascent in zip(_runs(end.isel(run=truth)), exact.values[truth], strict=True)
    )
    shares = ", ".join(f"{value:.1%}" for value in end["escaped"].values[truth])
    escapes = ", ".join(f"{value:,.0f}" for value in flow["escape_updates"].values[truth])
    starts = listed(learners["initial_probability"].values[truth])
    samples = "one sampled output" if settings.group == 1 else f"{settings.group} sampled outputs"
    return (
        f"The published runs with gradients estimated from {samples} per update ({settings.estimator}), "
        f"{settings.seeds} learners each, learning rate {settings.learning_rate}. (a-c) Exact "
        "expected ground truth reward of the learned policies: median, and the bands of half and of nine in "
        "ten of the learners; dashed, ascent with exact gradients. (d) Fraction of the learners whose "
        f"probability of y* is at least {LEVEL}; marks show when the exact flow reaches it (time over "
        f"learning rate). On the ground truth, from {starts}, the exact "
        f"flow takes {escapes} updates, while after {int(learners['updates'][-1]):,} updates {shares} of the "
        "learners have escaped: the noise of sampling carries some out of a stall long before the flow, and "
        f"locks others in. Mean rewards then: {means}. "
        f"On the proxy at least {float(end['escaped'][~truth].min()):.1%} have escaped, from every start. "
        "Five outputs with ground truth rewards 1, 0.8, -1, -1, -1; the proxy gives y_med the low reward; "
        "y_med starts at 0.5, the low outputs share the rest. Instances: arXiv:2604.25872."
    )


def _runs(dataset: xr.Dataset) -> list[xr.Dataset]:
    return [dataset.isel(run=k) for k in range(dataset.sizes["run"])]


EXPERIMENT = Experiment(
    name="reinforce",
    title="One sample per update: noise ends some stalls",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
