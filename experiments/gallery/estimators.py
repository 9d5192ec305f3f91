"""REINFORCE, RLOO and GRPO on rewards of high and low variance, at equal numbers of samples."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.batches import batch
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.instances import BEST
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    LONG_DASHED,
    MARKERS,
    ORANGE,
    PAGE,
    decades,
    letter,
    paper,
)
from goodteacher.sim.ascent import ascend
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn
from goodteacher.sim.sampling import estimator, sampled_gradient
from goodteacher.theory.estimator_moments import grpo_factor

ESTIMATORS = ("reinforce", "rloo", "grpo")
_TITLES = {"reinforce": "REINFORCE", "rloo": "RLOO", "grpo": "GRPO"}
_LOOKS = {
    "reinforce": {"color": ORANGE, "ls": DOTTED},
    "rloo": {"color": BLUE, "ls": "-"},
    "grpo": {"color": GREEN, "ls": LONG_DASHED},
}
_EXACT_LOOK = {"color": "0.78", "linewidth": 3.5}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probability: of the one good output.
        outputs: their number; all others are equally bad and equally likely.
        gaps: between the reward of the good output and of the others, whose mean is ``offset``.
        offset: mean of the two rewards.
        group: samples per update.
        updates, learning_rate: of every learner.
        seeds: learners per estimator and reward.
        groups: sizes for the factor of GRPO.
        successes: probabilities of the good output for the factor.
        samples: drawn for each factor that is estimated.
        seed: of all random numbers.
    """

    initial_probability: float = 0.05
    outputs: int = 5
    gaps: tuple[float, float] = (1.0, 0.05)
    offset: float = 0.5
    group: int = 8
    updates: int = 12_000
    learning_rate: float = 0.1
    seeds: int = 30
    groups: tuple[int, ...] = (2, 8, 64)
    successes: tuple[float, ...] = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5)
    samples: int = 200_000
    seed: int = 0


def one_good_output(probability: Array, gap: Array, offset: float, outputs: int) -> Instance:
    """Rewards ``offset + gap / 2`` for the first output and ``offset - gap / 2`` for the others."""
    good = jnp.arange(outputs) == BEST
    probabilities = jnp.where(good, probability, (1.0 - probability) / (outputs - 1))
    return Instance(offset + jnp.where(good, 0.5, -0.5) * gap, start=probabilities)


def run(settings: Settings) -> Data:
    """Learners with every estimator on both rewards, ascent with exact gradients, and the factor of GRPO."""
    pose = partial(one_good_output, offset=settings.offset, outputs=settings.outputs)
    rewards = batch(pose, np.full(len(settings.gaps), settings.initial_probability), settings.gaps)
    updates = np.unique(np.geomspace(1, settings.updates, 120).round().astype(int))
    keys = jax.random.split(jax.random.key(settings.seed), (len(settings.gaps), settings.seeds))
    transformation = optax.sgd(settings.learning_rate)

    def learners(name: str) -> Array:
        def one(instance: Instance, key: Array) -> Array:
            found = learn(
                instance, key, name, settings.group, transformation, updates, metrics=("probabilities",)
            )
            return found.records["probabilities"][:, 0, BEST]

        return jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0))))(rewards, keys)

    def exact(instance: Instance) -> Array:
        found = ascend(instance, transformation, updates, metrics=("probabilities",))
        return found.records["probabilities"][:, 0, BEST]

    found = np.stack([learners(name) for name in ESTIMATORS])
    samples = variable("samples", settings.group * updates, "samples drawn")
    gap = variable("gap", settings.gaps, "difference between the two rewards")
    return {
        "learners": xr.Dataset(
            {
                name: variable(
                    ("estimator", "gap", "samples"),
                    np.quantile(found, quantile, axis=2),
                    f"probability of the good output, quantile {quantile} over learners",
                )
                for name, quantile in (("low", 0.1), ("median", 0.5), ("high", 0.9))
            },
            {"estimator": list(ESTIMATORS), "gap": gap, "samples": samples},
        ),
        "ascent": xr.Dataset(
            {
                "probability": variable(
                    ("gap", "samples"),
                    jax.jit(jax.vmap(exact))(rewards),
                    "probability of the good output, exact gradients",
                )
            },
            {"gap": gap, "samples": samples},
        ),
        "factor": _factors(settings),
    }


def _factors(settings: Settings) -> xr.Dataset:
    """What GRPO multiplies the gradient by: the closed form, and the mean of sampled estimates."""
    success = np.asarray(settings.successes)
    grpo = estimator("grpo", 2)

    @jax.jit
    @jax.vmap
    def sampled(instance: Instance, uniforms: Array) -> tuple[Array, Array]:
        parameters = instance.initial_parameters
        p = instance.probabilities(parameters)[0, BEST]
        estimates = jax.vmap(lambda u: sampled_gradient(instance, parameters, u, grpo)[0, BEST])(uniforms)
        exact = p * (1.0 - p)
        return estimates.mean() / exact, estimates.std() / exact / jnp.sqrt(len(uniforms))

    instances = batch(
        partial(one_good_output, offset=settings.offset, outputs=settings.outputs),
        success,
        np.ones_like(success),
    )
    key = jax.random.key(settings.seed + 1)
    found = [
        sampled(instances, jax.random.uniform(key, (len(success), settings.samples // group, 1, group)))
        for group in settings.groups
    ]
    mean, error = (np.stack(values) for values in zip(*found, strict=True))
    grid = ("group", "success")
    return xr.Dataset(
        {
            "closed_form": variable(
                grid,
                [jax.jit(grpo_factor, static_argnums=2)(success, 1.0, group) for group in settings.groups],
                "factor times gap, exact",
            ),
            "sampled": variable(grid, mean, "factor times gap, mean of sampled estimates"),
            "standard_error": variable(grid, error, "standard error of that mean"),
            "large_groups": variable(
                grid,
                np.broadcast_to(1.0 / np.sqrt(success * (1.0 - success)), mean.shape),
                "factor times gap of infinitely large groups",
            ),
        },
        {
            "group": variable("group", settings.groups, "group size"),
            "success": variable("success", success, "probability of the good output"),
        },
    )


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and dashes are the estimator, markers the size of the group."""
    learners, ascent, factor = (data[name] for name in ("learners", "ascent", "factor"))
    drawing = Figure(figsize=(PAGE, 2.9))
    axes = drawing.subplots(1, 3, width_ratios=(1.0, 1.0, 1.05))
    *learning, scaling = axes
    samples, success = learners["samples"], factor["success"]
    for k, ax in enumerate(learning):
        ax.plot(samples, ascent["probability"][k], label="exact gradients", **_EXACT_LOOK)
        for low, median, high, name in zip(
            *(learners[band].values[:, k] for band in ("low", "median", "high")), ESTIMATORS, strict=True
        ):
            ax.fill_between(samples, low, high, color=_LOOKS[name]["color"], alpha=0.25, lw=0)
            ax.plot(samples, median, label=_TITLES[name], **_LOOKS[name])
        ax.set(xlabel="Samples drawn", ylabel="Probability of the good output", ylim=(-0.02, 1.02))
        ax.set(xscale="log", xlim=(samples[0], samples[-1]))
        ax.set_title(f"rewards {float(learners['gap'][k]):g} apart")
        decades(ax.xaxis, 6)

    for k, marker in zip(range(factor.sizes["group"]), MARKERS, strict=False):
        scaling.plot(success, factor["closed_form"][k], color=GREEN)
        scaling.errorbar(
            success,
            factor["sampled"][k],
            factor["standard_error"][k],
            color=BLACK,
            fmt=marker,
            ms=3.5,
            lw=0.8,
            mfc="white",
        )
        left = (float(success[0]), float(factor["closed_form"][k, 0]))
        scaling.annotate(f"groups of {int(factor['group'][k])}", left, (5, 5), textcoords="offset points")
    large = factor["large_groups"][0]
    scaling.plot(success, large, color=GREY, ls=DASHED)
    scaling.annotate(
        "infinite groups",
        (float(success[0]), float(large[0])),
        (14, 1),
        textcoords="offset points",
        color=GREY,
    )
    scaling.set(xscale="log", yscale="log", ylim=(0.7, 1.5 * float(large.max())))
    scaling.set(xlim=(success[0] / 1.2, success[-1] * 1.2), xlabel="Probability of the good output")
    scaling.set_ylabel("Factor on the gradient $\\times$ gap")
    scaling.set_title("what GRPO multiplies by")
    decades(scaling.xaxis, 6)
    decades(scaling.yaxis)
    drawing.legend(*learning[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    learners, factor = data["learners"], data["factor"]
    high, low = (listed([value]) for value in settings.gaps)
    reached = (learners["median"] >= 0.5).idxmax("samples").where((learners["median"] >= 0.5).any("samples"))

    def counts(k: int) -> str:
        found = zip(ESTIMATORS, reached[:, k].values, strict=True)
        return ", ".join(f"{_TITLES[name]} {_count(value)}" for name, value in found)

    worst = float((np.abs(factor["sampled"] - factor["closed_form"]) / factor["standard_error"]).max())
    midway = float(reached.sel(estimator="rloo").isel(gap=1).fillna(learners["samples"][-1]))
    halfway = learners.isel(gap=1).sel(samples=midway)
    spread = " and ".join(
        f"{float(band['low']):.2f} to {float(band['high']):.2f} for {_TITLES[name]}"
        for name, band in ((name, halfway.sel(estimator=name)) for name in ("reinforce", "rloo"))
    )
    return (
        f"One good output among {settings.outputs}, initially of probability "
        f"{settings.initial_probability}; groups of {settings.group} samples per update, learning rate "
        f"{settings.learning_rate}. (a) Rewards {high} apart, (b) the same ranking with rewards {low} "
        f"apart, both around {settings.offset}. Median over {settings.seeds} learners, and the band of "
        "eight in ten; grey, exact gradients. Samples until the median probability is one half: in "
        f"(a) {counts(0)}; in (b) {counts(1)}. Dividing by the standard deviation makes GRPO blind to the "
        "scale of the rewards. Without a baseline the common part of the rewards is noise beside a small "
        f"difference: when RLOO is halfway in (b), the bands are {spread}. "
        "(c) The factor by which GRPO's expected estimate differs from the gradient, times the gap between "
        f"the rewards: closed form (lines) and means of {settings.samples:,} samples each (marks with "
        f"standard errors; the farthest is {worst:.1f} of them away). For a rare good output it stays at the "
        "square root of the group size less one, where infinite groups (dashed) would have one over the "
        "standard deviation: the division makes up for rewards that differ little, not for outputs that are "
        "rare. Closed form: theory/estimator_moments.py."
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "not reached"


EXPERIMENT = Experiment(
    name="estimators",
    title="What the division by the standard deviation does, and does not",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
