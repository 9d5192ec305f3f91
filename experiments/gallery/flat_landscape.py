"""What accuracy and reward variance do to the landscape that is climbed (cf. arXiv:2503.15477, Figure 1)."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from goodteacher.experiments.batches import paths as follow
from goodteacher.experiments.batches import rises, taught
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.reward_models import accuracy_and_variance
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    HALO,
    PAGE,
    RED,
    colorbar,
    decades,
    letter,
    number,
    paper,
)
from goodteacher.sim.instance import Instance

# Orthonormal: the flow of a tabular policy keeps the sum of the logits, and so stays in their plane.
_DIRECTIONS = np.array([[2.0, -1.0, -1.0], [0.0, 3.0**0.5, -(3.0**0.5)]]) / 6.0**0.5
_WINDOW = ((-4.5, 5.5), (-5.0, 5.0))
_LEVELS = np.linspace(-1.0, 1.0, 21)
_MARKS = (1.0, 10.0)  # times on the paths


@dataclass(frozen=True)
class Settings:
    """What is run. Three outputs, of which the first is the best and the last the worst.

    Attributes:
        initial_probabilities: of the outputs.
        ground_truth_rewards: of the outputs, in ``[-1, 1]``.
        orders: rewards of models of falling accuracy, up to a scale that gives all of them the variance of
            the ground truth. The last has no landscape of its own.
        accurate: rewards of a model that orders all outputs as the ground truth does.
        scales: that multiply these, so that the variance falls.
        gamma: the increase of the expected ground truth reward that is waited for.
        duration: of the paths on the landscapes.
        last_time: until when the expected ground truth reward is followed.
        points: records along the flow.
        side: points along a side of a landscape.
    """

    initial_probabilities: tuple[float, ...] = (0.2, 0.5, 0.3)
    ground_truth_rewards: tuple[float, ...] = (1.0, 0.0, -1.0)
    orders: tuple[tuple[float, ...], ...] = (
        (1.0, -0.5, -1.0),
        (0.0, 1.0, -1.0),
        (0.0, -1.0, 1.0),
        (1.0, -1.0, 0.0),
    )
    accurate: tuple[float, ...] = (1.0, -0.9, -1.0)
    scales: tuple[float, ...] = (1.0, 0.3, 0.03)
    gamma: float = 0.8
    duration: float = 30.0
    last_time: float = 1e4
    points: int = 200
    side: int = 41


def run(settings: Settings) -> Data:
    """Landscapes of all models, the flow on each, and what the models are worth."""
    start, truth = np.array(settings.initial_probabilities), np.array(settings.ground_truth_rewards)
    orders = np.array(settings.orders)
    # Of the variance of the ground truth, which stands in the first row.
    scales = np.sqrt(accuracy_and_variance(np.stack([truth, *orders]), truth, start)[1])
    equal = (scales[0] / scales[1:])[:, None] * orders
    rewards = np.concatenate([truth[None], equal, np.outer(settings.scales, settings.accurate)])
    accuracy, variance = accuracy_and_variance(rewards, truth, start)

    instances = taught(Instance(truth, start=start), rewards)
    times = np.geomspace(1e-2, settings.last_time, settings.points)
    log_policies = follow(instances, times)[:, :, 0]
    first, second = np.moveaxis(log_policies @ _DIRECTIONS.T, -1, 0)

    axes = [np.linspace(*ends, settings.side) for ends in _WINDOW]
    plane = np.exp(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ _DIRECTIONS)
    surfaces = np.moveaxis(plane / plane.sum(-1, keepdims=True) @ rewards.T, -1, 0)
    goal = np.full(len(rewards), start @ truth + settings.gamma)

    models = {"model": np.arange(len(rewards))}
    directions = ("first direction of the logits", "second direction of the logits")
    return {
        "landscapes": xr.Dataset(
            {
                "expected_reward": variable(
                    ("model", "first", "second"), surfaces, "expected reward under the model itself"
                )
            },
            {
                **models,
                **{
                    name: variable(name, axis, text)
                    for name, axis, text in zip(("first", "second"), axes, directions, strict=True)
                },
            },
        ),
        "flow": xr.Dataset(
            {
                "first": variable(("model", "time"), first, directions[0]),
                "second": variable(("model", "time"), second, directions[1]),
                "expected_reward": variable(
                    ("model", "time"),
                    np.exp(log_policies) @ truth,
                    "expected ground truth reward",
                ),
            },
            {**models, "time": variable("time", times, "time of the gradient flow")},
        ),
        "models": xr.Dataset(
            {
                "accuracy": variable("model", accuracy, "accuracy over uniform pairs"),
                "variance": variable("model", variance, "initial reward variance"),
                "hitting_time": variable(
                    "model",
                    rises(instances, settings.gamma),
                    f"time at which the expected ground truth reward has risen by {settings.gamma}",
                ),
                "goal": variable("model", goal, "expected ground truth reward that is waited for"),
            },
            models,
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Rows are falling accuracy and falling variance, with one scale of colour."""
    flow, models = data["flow"], data["models"]
    count, goal = len(settings.orders), float(models["goal"][0])
    drawing = Figure(figsize=(PAGE, 3.9))
    axes = drawing.subplots(2, 4)
    summary = axes[1, 0]
    models_of = {"accuracy": range(1, count), "variance": range(count + 1, models.sizes["model"])}
    panels = {0: axes[0, 0]}
    for row, drawn in zip(axes, models_of.values(), strict=True):
        panels.update(zip(drawn, row[1:], strict=True))
    landscapes = [_landscape(ax, data, model, settings.duration) for model, ax in panels.items()]
    for model, ax in panels.items():
        of = models.sel(model=model)
        worth = f"acc. {float(of['accuracy']):.2f}, var. {float(of['variance']):.2g}"
        ax.set_title("ground truth" if model == 0 else worth)
        time = float(of["hitting_time"])
        ax.set_xlabel(f"$t_\\gamma=$ {number(time)}" if np.isfinite(time) else "never")
    axes[0, 1].set_ylabel("falling accuracy,\nequal variance")
    axes[1, 1].set_ylabel("perfect accuracy,\nfalling variance")

    colors = {model: BLUE if model in models_of["accuracy"] else RED for model in panels} | {0: BLACK}
    for model in panels:
        style = DASHED if model in models_of["accuracy"] else "-"
        summary.plot(flow["time"], flow["expected_reward"][model], color=colors[model], ls=style, lw=1.1)
    summary.set(xscale="log", xlim=(0.1, flow["time"][-1]), ylim=(-1.1, 1.1), yticks=(-1, 0, 1))
    summary.set(xlabel="Time of the flow", ylabel="Ground truth reward", box_aspect=1.0)
    summary.axhline(goal, color=GREY, lw=0.6)
    summary.set_title("what each flow gains")
    decades(summary.xaxis, 4)
    letter(axes.flat)
    # Lines by the letters of their panels: left of the first to rise, right of the others.
    times = models["hitting_time"].sel(model=list(panels))
    rising = times[np.argsort(times.values)].where(np.isfinite(times), drop=True)
    names = {model: ax.get_title(loc="left")[1] for model, ax in panels.items()}
    together = rising < 2.0 * rising[0]
    text = ", ".join(sorted(names[int(model)] for model in rising["model"][together]))
    summary.text(0.8 * float(rising[0]), 0.8, text, ha="right")
    for time in rising[~together]:
        summary.text(1.2 * float(time), 0.2, names[int(time["model"])])
    for model in set(panels) - set(rising["model"].values.tolist()):
        end = float(flow["expected_reward"][model, -1])
        summary.text(0.8 * float(flow["time"][-1]), end + 0.05, names[model], ha="right")
    label, ticks = "Expected reward under the model itself", [-1, -0.5, 0, 0.5, 1]
    colorbar(drawing, landscapes[0], axes.ravel().tolist(), label, aspect=40, pad=0.01, ticks=ticks)
    return drawing


def _landscape(ax: Axes, data: Data, model: int, duration: float) -> ContourSet:
    """One model's expected reward, the goal, the flow's path with marks of time, and who is where."""
    surfaces, models = data["landscapes"]["expected_reward"], data["models"]
    first, second = surfaces["first"], surfaces["second"]
    filled = ax.contourf(first, second, surfaces[model].T, _LEVELS, cmap="viridis")
    ax.contour(first, second, surfaces[0].T, [models["goal"][model]], colors="white", linestyles=[DASHED])
    flow = data["flow"].sel(model=model)
    path = flow.sel(time=slice(None, duration))
    marks = path.sel(time=list(_MARKS), method="nearest")
    ax.plot(path["first"], path["second"], color=BLACK, path_effects=HALO)
    ax.plot(marks["first"], marks["second"], "o", ms=2.5, color=BLACK, path_effects=HALO)
    ax.plot(path["first"][0], path["second"][0], "s", mfc="white", mec=BLACK, zorder=3)
    for place, text in {(0.92, 0.36): "$y_1$", (0.1, 0.9): "$y_2$", (0.1, 0.1): "$y_3$"}.items():
        ax.text(*place, text, transform=ax.transAxes, ha="center", va="center", path_effects=HALO)
    ax.set(aspect="equal", xticks=[], yticks=[])
    return filled


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    models, count = data["models"], len(settings.orders)
    accurate, other = models.sel(model=1), models.sel(model=count)
    falling = models.sel(model=slice(count + 1, None))
    return (
        "(a-d, f-h) What the gradient flow climbs: the expected reward under the ground truth and under "
        "six reward models, over the two directions in which the logits of a tabular policy of three "
        "outputs move; towards a name the policy grows certain of that output. The squares are the initial "
        f"policy, of probabilities {listed(settings.initial_probabilities)}; from there the flow is "
        f"drawn until t = {settings.duration:g}, with dots at t = {listed(_MARKS)}. Dashed: where the "
        f"expected ground truth reward, of rewards {listed(settings.ground_truth_rewards)}, has risen by "
        f"{settings.gamma}; below each panel, when the flow is there. (b-d) Falling accuracy over uniform "
        "pairs at the variance of the ground truth: the flow moves on, but elsewhere. Accuracy alone does "
        "not say where: another model of this variance, not drawn, has an accuracy of "
        f"{float(other['accuracy']):.2f} as well, and gets there at t = {float(other['hitting_time']):.3g}, "
        f"while the perfectly accurate one takes {float(accurate['hitting_time']):.3g}. (f-h) Perfect "
        f"accuracy and variances {listed(falling['variance'].values)}: the landscape flattens and the flow "
        f"takes {listed(falling['hitting_time'].values)}. (e) The expected ground truth reward along the "
        "seven flows, named by their panels. No KL. Sketched in arXiv:2503.15477, Figure 1."
    )


EXPERIMENT = Experiment(
    name="flat_landscape",
    title="A flat landscape is climbed slowly however accurate the model",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
