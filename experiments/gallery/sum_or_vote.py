"""Several rewards: summed and then normalised (GRPO), or normalised and then summed (GDPO)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    LONG_DASHED,
    ORANGE,
    PAGE,
    RED,
    SKY,
    decades,
    edges,
    letter,
    paper,
    shades,
)
from goodteacher.sim.several_rewards import (
    Advantages,
    normalised_then_summed,
    summed_then_normalised,
    updated,
)

_ORDERS: dict[str, Advantages] = {"GRPO": summed_then_normalised, "GDPO": normalised_then_summed}
# Who ends at the right one of two outputs, as GDPO + 2 GRPO; colours, and where in the panel.
_OUTCOMES = (
    ("neither", "0.7", (0.72, 0.8)),
    ("GDPO\nalone", ORANGE, (0.86, 0.3)),
    ("GRPO\nalone", SKY, (0.14, 0.7)),
    ("both", "0.94", (0.28, 0.2)),
)


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        gaps: of the second reward, in favour of a wrong output; that of correctness is one.
        weights: of the second reward; that of correctness is one.
        settled: updates after which a winner is told.
        scales: of a second reward that does not contradict, in the second panel.
        right, formatted: initial probabilities of being right, and of what the second reward asks for.
        updates: records of the second panel.
        circling: initial probabilities of the third panel.
        rounds: its records.
        learning_rate: of all.
        epsilon: that is added to standard deviations.
    """

    gaps: tuple[float, ...] = tuple(10.0 ** np.linspace(-2.0, 2.0, 48))
    weights: tuple[float, ...] = tuple(10.0 ** np.linspace(-1.0, 1.0, 48))
    settled: int = 5000
    scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    right: float = 0.02
    formatted: float = 0.5
    updates: tuple[int, ...] = (
        0,
        *np.unique(np.round(10.0 ** np.linspace(1.0, 5.0, 81)).astype(int)).tolist(),
    )
    circling: tuple[float, ...] = (0.8, 0.15, 0.05)
    rounds: tuple[int, ...] = tuple(range(0, 1501, 10))
    learning_rate: float = 0.1
    epsilon: float = 1e-4


def run(settings: Settings) -> Data:
    """Winners over gap and weight, learning beside a reward of some scale, and a circle of majorities."""
    gap, weight = (axis.ravel() for axis in np.meshgrid(settings.gaps, settings.weights))
    zero, one = np.zeros_like(gap), np.ones_like(gap)
    contradicting = np.stack([np.stack([one, zero], -1), np.stack([zero, gap], -1)], 1)
    weights, at_first = np.stack([one, weight], 1), np.zeros((len(gap), 2))
    wins = [
        _along(order, at_first, contradicting, weights, (settings.settled,), settings)[0, :, 0]
        for order in _ORDERS.values()
    ]

    (right, wrong), (is_so, not_so) = ((p, 1.0 - p) for p in (settings.right, settings.formatted))
    start = np.log([right * is_so, right * not_so, wrong * is_so, wrong * not_so])
    scaled = np.array([[[1.0, 1.0, 0.0, 0.0], [scale, 0.0, scale, 0.0]] for scale in settings.scales])
    count = len(scaled)
    learned = [
        _along(order, np.tile(start, (count, 1)), scaled, np.ones((count, 2)), settings.updates, settings)
        for order in _ORDERS.values()
    ]

    at_first = np.log(settings.circling)[None]
    circle = np.array([[[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]]])
    turned = [
        _along(order, at_first, circle, np.ones((1, 3)), settings.rounds, settings)[:, 0]
        for order in _ORDERS.values()
    ]

    rate, orders = settings.learning_rate, list(_ORDERS)
    shape = (2, len(settings.weights), len(settings.gaps))
    return {
        "winners": xr.Dataset(
            {
                "probability": variable(
                    ("order", "weight", "gap"),
                    np.reshape(wins, shape),
                    "probability of the right output at last",
                )
            },
            {
                "order": orders,
                "weight": variable("weight", settings.weights, "weight of the second reward"),
                "gap": variable("gap", settings.gaps, "gap of the second reward"),
            },
        ),
        "learned": xr.Dataset(
            {
                "right": variable(
                    ("order", "time", "scale"),
                    np.array(learned)[..., :2].sum(-1),
                    "probability of being right",
                )
            },
            {
                "order": orders,
                "time": variable("time", rate * np.array(settings.updates), "time", TIME),
                "scale": variable("scale", settings.scales, "scale of the second reward"),
            },
        ),
        "circle": xr.Dataset(
            {"probability": variable(("order", "time", "output"), np.array(turned), "probability")},
            {
                "order": orders,
                "time": variable("time", rate * np.array(settings.rounds), "time", TIME),
                "output": list("ABC"),
            },
        ),
    }


def _along(
    order: Advantages,
    logits: Float[np.ndarray, "n outputs"],
    rewards: Float[np.ndarray, "n kinds outputs"],
    weights: Float[np.ndarray, "n kinds"],
    updates: Sequence[int],
    settings: Settings,
) -> Float[np.ndarray, "records n outputs"]:
    """Policies after numbers of exact updates."""
    options = {"learning_rate": settings.learning_rate, "epsilon": settings.epsilon}

    records, now = [], jnp.asarray(logits)
    for steps in np.diff(updates, prepend=0):
        forward = partial(updated, order, updates=int(steps), **options)
        now = jax.vmap(forward)(now, jnp.asarray(rewards), jnp.asarray(weights))
        records.append(np.asarray(jax.nn.softmax(now)))
    return np.stack(records)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Full lines are GDPO, dashed ones GRPO of the sum."""
    drawing = Figure(figsize=(PAGE, 2.9))
    axes = drawing.subplots(1, 3)
    winners, learning, turning = axes
    right = data["winners"]["probability"] > 0.5
    outcome = 2 * right.sel(order="GRPO") + right.sel(order="GDPO")
    across, up = edges(outcome["gap"], log=True), edges(outcome["weight"], log=True)
    colors = ListedColormap([color for _, color, _ in _OUTCOMES])
    winners.pcolormesh(
        across, up, outcome, cmap=colors, vmin=-0.5, vmax=len(_OUTCOMES) - 0.5, rasterized=True
    )
    for name, _, place in _OUTCOMES:
        winners.text(*place, name, ha="center", va="center", transform=winners.transAxes)
    winners.set(xscale="log", yscale="log", xlim=across[[0, -1]], ylim=up[[0, -1]])
    winners.set(xlabel="Gap of the second reward", ylabel="Weight of the second reward")
    decades(winners.xaxis, 5)
    decades(winners.yaxis)
    winners.set_title("who finds the right output")
    learned, colors = data["learned"]["right"], shades(len(settings.scales))
    for k, (scale, color) in enumerate(zip(settings.scales, colors, strict=True)):
        lines = learned.isel(scale=k)
        name = f"GRPO, scale {scale:g}"
        learning.plot(learned["time"], lines.sel(order="GRPO"), color=color, ls=LONG_DASHED, label=name)
        learning.plot(learned["time"], lines.sel(order="GDPO"), color=BLACK, zorder=1.5)
    learning.plot([], [], color=BLACK, label="GDPO, any scale")
    learning.set(xscale="log", ylim=(0, 1.02), xlim=(settings.learning_rate * settings.updates[1], 1e4))
    learning.set(xlabel="Learning rate × updates", ylabel="Probability of being right")
    decades(learning.xaxis, 5)
    learning.set_title("beside a reward of some scale")
    learning.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.8, columnspacing=1
    )
    circle = data["circle"]["probability"]
    for output, color in zip(circle["output"].values, (BLUE, RED, GREEN), strict=True):
        turning.plot(
            circle["time"], circle.sel(order="GDPO", output=output), color=color, label=f"GDPO, {output}"
        )
        turning.plot(
            circle["time"], circle.sel(order="GRPO", output=output), color=color, ls=LONG_DASHED, lw=0.8
        )
    turning.plot([], [], color="0.4", ls=LONG_DASHED, lw=0.8, label="GRPO")
    turning.set(ylim=(0, 1.02), xlim=(0, circle["time"][-1]))
    turning.set(xlabel="Learning rate × updates", ylabel="Probability of an output")
    turning.set_title("votes that go in circles")
    turning.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.8)
    letter(axes)
    return drawing


def _half(times: np.ndarray, p: np.ndarray) -> float:
    """When one half is passed, between records."""
    return float(np.interp(0.5, p[p.argmin() :], times[p.argmin() :]))


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    right, learned = data["winners"]["probability"] > 0.5, data["learned"]["right"]
    shares = {
        code: float((2 * right.sel(order="GRPO") + right.sel(order="GDPO") == code).mean()) for code in (1, 2)
    }
    times = {
        order: [_half(learned["time"].values, learned.sel(order=order)[:, k].values) for k in range(3)]
        for order in _ORDERS
    }
    tops = data["circle"]["probability"].sel(order="GDPO").max("time")
    return (
        "Several rewards, normalised in groups: their sum (GRPO), or each by itself, then summed (GDPO, "
        "arXiv:2601.05242); large groups, tabular policies, exact updates at rate "
        f"{settings.learning_rate:g}, epsilon {settings.epsilon:g}. (a) Two outputs; correctness prefers "
        "the right one by 1, with weight 1, a second reward the wrong one, by its gap. Who ends at the right "
        f"output after {settings.settled:,} updates: GRPO where weight times gap is below 1, GDPO where the "
        f"weight is, whatever the gap; they end differently on {100 * (shares[1] + shares[2]):.0f} % of the "
        "plane. (b) The second reward asks for something that does not contradict, such as a format; being "
        f"right starts at {settings.right:g}. It reaches one half at {listed(times['GRPO'])} under GRPO, if "
        f"the second reward's scale is {listed(settings.scales)}, and at {listed(times['GDPO'])} under GDPO, "
        "which does not see scales. (c) Three outputs, each preferred to the next by two of three rewards: "
        f"the sum is constant and GRPO stays where it is; GDPO takes the outputs in turn, to "
        f"{', '.join(f'{top:.2f}' for top in tops.values)} at most. Method: sim/several_rewards.py; law of "
        "two outputs: theory/several_rewards_law.py."
    )


EXPERIMENT = Experiment(
    name="sum_or_vote",
    title="Several rewards: summed, or put to the vote",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
