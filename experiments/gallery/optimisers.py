"""Which ways of ascending the same objective escape from the same stall, and when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from goodteacher.experiments.batches import LEVEL, batch, escape_goals, escapes, join, paths
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.instances import BEST, beneficial_errors
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASH_DOT_DOTTED,
    DASH_DOTTED,
    DASHED,
    DOTTED,
    GREEN,
    LONG_DASHED,
    ORANGE,
    PAGE,
    PURPLE,
    RED,
    decades,
    letter,
    paper,
)
from goodteacher.sim.ascent import Ascent, ascend, optimizer
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Regularizer

_OPTIMIZERS: Mapping[str, str] = {  # name here: name in sim.ascent
    "gradient ascent": "sgd",
    "momentum": "momentum",
    "entropy bonus": "sgd",
    "natural gradient": "npg",
    "normalised gradient": "normalized",
    "Adam": "adam",
}
_FLOW, _FLOW_WITH_BONUS = "gradient flow", "gradient flow with entropy bonus"

_FLOW_LOOK: Mapping[str, Any] = {"color": "0.78", "linewidth": 3.5}
_LOOKS: Mapping[str, dict[str, Any]] = {
    "gradient ascent": {"color": BLACK, "linestyle": "-", "marker": "o"},
    "momentum": {"color": ORANGE, "linestyle": DOTTED, "marker": "v"},
    "entropy bonus": {"color": RED, "linestyle": DASH_DOTTED, "marker": "s"},
    "natural gradient": {"color": GREEN, "linestyle": DASHED, "marker": "D"},
    "normalised gradient": {"color": PURPLE, "linestyle": LONG_DASHED, "marker": "^"},
    "Adam": {"color": BLUE, "linestyle": DASH_DOT_DOTTED, "marker": "P"},
}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probability: of ``y*`` in the trajectories; at which rates are set.
        initial_probabilities: for the escape times.
        learning_rate: of gradient ascent; the others' follow from it (:func:`learning_rates`).
        entropy_coefficient: of the entropy bonus.
        updates: after which discrete methods are given up.
        points: records along the axis of updates.
    """

    initial_probability: float = 0.05
    initial_probabilities: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    learning_rate: float = 0.1
    entropy_coefficient: float = 0.05
    updates: int = 500_000
    points: int = 300


def learning_rates(instance: Instance, learning_rate: float) -> dict[str, float]:
    """For each optimiser the rate at which its first update is as long as that of gradient ascent.

    The length is the Euclidean one, of the logits; what differs afterwards is the method's own doing.

    Args:
        instance: where the first update is made.
        learning_rate: of gradient ascent.
    """

    def first_step(name: str) -> float:
        direction, transformation = optimizer(name, 1.0)

        @jax.jit
        def step(start: Array) -> Array:
            moved, _ = transformation.update(-direction(instance, start), transformation.init(start), start)
            return jnp.linalg.norm(jnp.asarray(moved))

        return float(step(instance.initial_parameters))

    plain = first_step("sgd")
    return {name: learning_rate * plain / first_step(name) for name in sorted(set(_OPTIMIZERS.values()))}


def run(settings: Settings) -> Data:
    """Every method from every start, and the way of each from one of them."""
    starts = np.array([settings.initial_probability, *settings.initial_probabilities])
    # A coefficient under vmap, even of zero, gives both batches one structure: one compilation.
    without, with_bonus = (
        batch(
            lambda start, c: beneficial_errors(start, regularizer=Regularizer(entropy=c)),
            starts,
            np.full_like(starts, c),
        )
        for c in (0.0, settings.entropy_coefficient)
    )
    rates = learning_rates(beneficial_errors(settings.initial_probability), settings.learning_rate)
    counts = np.unique(np.geomspace(1, settings.updates, settings.points).round().astype(int))

    def climb(name: str) -> tuple[Array, Array]:
        """The probability of ``y*`` from the first start, and the number of updates to escape from each."""
        direction, transformation = optimizer(_OPTIMIZERS[name], rates[_OPTIMIZERS[name]])

        def one(instance: Instance, goal: Goal) -> Ascent:
            metrics = ("probabilities",)
            return ascend(instance, transformation, counts, metrics=metrics, direction=direction, goal=goal)

        instances = with_bonus if name == "entropy bonus" else without
        result = jax.vmap(one)(instances, escape_goals(instances))
        assert result.first_update is not None
        return result.records["probabilities"][0, :, 0, BEST], result.first_update[:, 0]

    ways, first_updates = zip(*map(climb, _OPTIMIZERS), strict=True)
    times = escapes(join(without, with_bonus)).time.reshape(2, -1)
    first = jax.tree.map(lambda leaf: leaf[:1], without)
    flow = np.exp(paths(first, settings.learning_rate * counts)[0, :, 0, BEST])
    until = f"updates until the probability of y* is {LEVEL}"
    return {
        "ways": xr.Dataset(
            {
                "best_probability": variable(
                    ("method", "updates"), np.stack([*ways, flow]), "probability of y*"
                )
            },
            {"method": [*_OPTIMIZERS, _FLOW], "updates": variable("updates", counts, "updates")},
        ),
        "escape": xr.Dataset(
            {
                "updates": variable(
                    ("method", "initial_probability"),
                    np.concatenate([np.stack(first_updates), times / settings.learning_rate]),
                    f"{until}; for a flow, time over the learning rate of gradient ascent",
                )
            },
            {
                "method": [*_OPTIMIZERS, _FLOW, _FLOW_WITH_BONUS],
                "initial_probability": variable("initial_probability", starts, "initial probability of y*"),
            },
        ),
        "learning_rates": xr.Dataset(
            {
                "learning_rate": variable(
                    "method", [rates[name] for name in _OPTIMIZERS.values()], "learning rate"
                )
            },
            {"method": list(_OPTIMIZERS)},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Line style, marker and colour are the method."""
    start = settings.initial_probability
    ways = _by_method(data["ways"]["best_probability"])
    escapes = _by_method(data["escape"]["updates"].sortby("initial_probability"))
    updates, rarity = ways[_FLOW]["updates"], escapes[_FLOW]["initial_probability"]
    drawing = Figure(figsize=(PAGE, 3.5))
    axes = drawing.subplots(1, 2)
    climbing, scaling = axes

    climbing.plot(updates, ways[_FLOW], **_FLOW_LOOK)
    scaling.plot(rarity, escapes[_FLOW], **_FLOW_LOOK)
    scaling.plot(rarity, escapes[_FLOW_WITH_BONUS], **{**_LOOKS["entropy bonus"], "marker": ""})
    at_start = {name: float(times.sel(initial_probability=start)) for name, times in escapes.items()}
    entries = [Line2D([], [], label=f"{_FLOW}: {at_start[_FLOW]:,.0f}", **_FLOW_LOOK)]
    for name, look in _LOOKS.items():
        climbing.plot(updates, ways[name], **{**look, "marker": ""})
        climbing.plot(at_start[name], LEVEL, zorder=3, **look)
        has_flow = name in ("gradient ascent", "entropy bonus")
        scaling.plot(rarity, escapes[name], **{**look, **({"linestyle": "none"} if has_flow else {})})
        entries.append(Line2D([], [], label=f"{name}: {at_start[name]:,.0f}", **look))
    climbing.set(xscale="log", yscale="log", xlim=(1, updates[-1]))
    climbing.set(xlabel="Updates", ylabel="Probability of $y^{*}$")
    scaling.set(xscale="log", yscale="log", xlim=(1.6 * rarity[-1], rarity[0] / 1.6))
    scaling.set(xlabel="Initial probability of $y^{*}$", ylabel=f"Updates until $\\pi(y^{{*}})={LEVEL}$")
    for ax in axes:
        decades(ax.xaxis)
        decades(ax.yaxis)
    climbing.set_title(f"the way of each method from $\\pi_0(y^{{*}})={start}$")
    scaling.set_title("the rarer, the longer: by powers or by logarithms")
    letter(axes)
    drawing.legend(handles=entries, loc="outside upper center", ncols=4, title="updates until escape in (a)")
    return drawing


def _by_method(values: xr.DataArray) -> dict[str, xr.DataArray]:
    return {str(name): values[k] for k, name in enumerate(values["method"].values)}


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    ways, escapes = data["ways"], data["escape"]["updates"].sortby("initial_probability")
    start, rarest = settings.initial_probability, float(escapes["initial_probability"][0])
    at_start = _by_method(escapes.sel(initial_probability=start))
    at_rarest = _by_method(escapes.isel(initial_probability=0))
    rates = dict(zip(_OPTIMIZERS, data["learning_rates"]["learning_rate"].values, strict=True))
    counts = ", ".join(f"{name} {_count(at_start[name])}" for name in (*_OPTIMIZERS, _FLOW))
    far = ", ".join(f"{name} {_count(at)}" for name, at in at_rarest.items() if np.isfinite(at))
    return (
        "The same stalled instance, trained on the ground truth, under different ways of ascending. "
        f"(a) The probability of y* from {start}; marks show when it reaches {LEVEL}. Updates until then: "
        f"{counts} (for a flow, its time divided by the learning rate of gradient ascent). "
        "(b) The same number against the initial probability of y*; the lines through the first marks of "
        "gradient ascent and of the entropy bonus are their flows, and discrete methods were given up after "
        f"{int(ways['updates'][-1]):,} updates. From {rarest:.0e}: {far}; "
        "Adam feels its own eps of 1e-8 there. "
        "Learning rates are such that every method's first update moves the logits as far as that of "
        f"gradient ascent at rate {rates['gradient ascent']}, from {start}: "
        + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
        + f". Entropy bonus with coefficient {settings.entropy_coefficient}; momentum 0.9; Adam with "
        "optax's defaults. Five outputs with rewards 1, 0.8, -1, -1, -1; y_med starts at 0.5, the low ones "
        "share the rest. Instance: arXiv:2604.25872."
    )


def _count(updates: xr.DataArray) -> str:
    value = float(updates)
    if not np.isfinite(value):
        return "not reached"
    return f"{value:,.0f}" if value < 1e7 else listed([value])


EXPERIMENT = Experiment(
    name="optimisers",
    title="Who escapes from the stall, and when",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
