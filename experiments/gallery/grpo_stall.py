"""The stall under the gradient, GRPO and MaxRL: simulated times on their laws."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.batches import LEVEL, batch, escapes
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import MARKERS, PAGE, decades, label_right, letter, paper, shades
from goodteacher.sim.clocks import Clock, Gradient, Grpo, MaxRl
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory import clocked_stalling, stalling
from goodteacher.theory.draws import without

_REWARDS = 1.0, 0.8, 0.0  # of y*, y_med and the others: none is negative, for MaxRL
_START = 0.5  # of y_med

_TITLES = {
    "gradient": "gradient",
    "GRPO": "GRPO: half the exponent",
    "MaxRL": "MaxRL: the exponent stays",
}
_CLOCKS: dict[str, Clock] = {"gradient": Gradient(), "GRPO": Grpo(), "MaxRL": MaxRl()}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        outputs: numbers ``K`` of outputs.
        initial_probabilities: of ``y*``, descending.
    """

    outputs: tuple[int, ...] = (3, 4, 5, 7)
    initial_probabilities: tuple[float, ...] = tuple(10.0 ** -np.arange(1.0, 8.01, 0.5))


def run(settings: Settings) -> Data:
    """Simulated times and those of the laws, and the exponents with which they grow."""
    build = partial(_problem, max(settings.outputs))
    grid = np.meshgrid(settings.outputs, settings.initial_probabilities, indexing="ij")
    problems = batch(build, *(axis.ravel() for axis in grid))
    rarity = np.asarray(settings.initial_probabilities)
    shape = (len(_CLOCKS), len(settings.outputs), len(rarity))
    times = np.reshape([escapes(problems.following(clock)).time for clock in _CLOCKS.values()], shape)
    start, rewards = problems.reference_log_probabilities[:, 0], problems.rewards[:, 0]
    law = np.exp(np.reshape(_by_law(start, rewards), shape))
    grown = -np.diff(np.log(times[..., -2:]))[..., 0] / np.diff(np.log(rarity[-2:]))
    axes = ("estimator", "outputs", "initial_probability")
    outputs = variable("outputs", settings.outputs, "number K of outputs")
    coordinates = {"estimator": list(_CLOCKS), "outputs": outputs}
    rarities = variable("initial_probability", rarity, "initial probability of y*")
    return {
        "times": xr.Dataset(
            {
                "time": variable(axes, times, f"time until the probability of y* is {LEVEL}", TIME),
                "law": variable(axes, law, "time by the law", TIME),
            },
            {**coordinates, "initial_probability": rarities},
        ),
        "exponents": xr.Dataset(
            {"exponent": variable(axes[:2], grown, "power of 1/probability with which the time grows")},
            coordinates,
        ),
    }


def _problem(most: int, outputs: Array, initial_probability: Array) -> Instance:
    index = jnp.arange(most)
    exists = index < outputs
    low = (1.0 - _START - initial_probability) / (outputs - 2)
    start = jnp.where(index == 0, initial_probability, jnp.where(index == 1, _START, low))
    rewards = jnp.where(index == 0, _REWARDS[0], jnp.where(index == 1, _REWARDS[1], _REWARDS[2]))
    instance = Instance(rewards[None], start=Parameters(jnp.log(jnp.where(exists, start, 1.0))[None]))
    return without(instance, exists[None])


@jax.jit
def _by_law(start: Array, rewards: Array) -> Array:
    laws = (stalling.log_time, clocked_stalling.log_grpo_time, clocked_stalling.log_max_rl_time)
    return jnp.stack([jax.vmap(law)(start, rewards) for law in laws])


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """A panel for each estimator; shade and marker are the number of outputs."""
    times, exponents = data["times"], data["exponents"]["exponent"]
    drawing = Figure(figsize=(PAGE, 2.7))
    axes = drawing.subplots(1, 3, sharey=True)
    rarity, count = times["initial_probability"], times.sizes["outputs"]
    for ax, name in zip(axes, times["estimator"].values, strict=True):
        here = times.sel(estimator=name)
        colors = list(reversed(shades(count)))
        for k, (color, marker) in enumerate(zip(colors, MARKERS, strict=False)):
            ax.plot(rarity, here["law"][k], color=color, lw=0.9)
            ax.plot(rarity, here["time"][k], ls="none", color=color, marker=marker, ms=3)
        ax.set(xscale="log", yscale="log", xlim=(1.6 * rarity[0], rarity[-1] / 1.6))
        ax.set_xlabel("Initial probability of $y^{*}$")
        decades(ax.xaxis, 5)
        grown = exponents.sel(estimator=name).values
        texts = [f"{value:.3g}" for value in grown]
        label_right(ax, list(here["time"].values[:, -1]), texts, colors)
        ax.set_title(_TITLES[str(name)])
    decades(axes[0].yaxis)
    axes[0].set_ylabel(f"Time until $\\pi(y^{{*}})={LEVEL}$")
    for k, marker in enumerate(MARKERS[:count]):
        axes[-1].plot([], [], ls="none", marker=marker, color="0.4", label=f"$K={settings.outputs[k]}$")
    axes[-1].legend(loc="upper left", handletextpad=0.1)
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    times, exponents = data["times"], data["exponents"]["exponent"]
    apart = np.abs(times["time"].values / times["law"].values - 1.0)[..., -1]
    grown = "; ".join(
        f"{name} {', '.join(f'{value:.4f}' for value in exponents.sel(estimator=name).values)}"
        for name in exponents["estimator"].values
    )
    return (
        f"Time until the probability of y* is {LEVEL} against its initial probability, for K = "
        f"{listed(settings.outputs)} outputs, along the mean updates of the gradient, of GRPO and of MaxRL "
        "in the limit of large groups: simulated (points) and by the laws with their constants (lines; "
        "nothing is fitted), which for the rarest start differ by at most "
        f"{apart.max():.1e}. Numbers: the power of 1/probability with which the time grows between "
        f"the two rarest starts ({grown}). GRPO halves the exponent K - 1 of the gradient; MaxRL keeps it "
        "where a middling output is rewarded, and is faster by that reward, "
        f"{_REWARDS[1]}. Rewards {listed(_REWARDS)} of y*, y_med and the others; y_med starts at {_START}. "
        "Laws: theory/stalling.py, theory/clocked_stalling.py."
    )


EXPERIMENT = Experiment(
    name="grpo_stall",
    title="The stall under GRPO and MaxRL",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
