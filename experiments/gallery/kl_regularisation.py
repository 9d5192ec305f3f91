"""What KL regularisation does to good and bad teachers: times, final policies, reward against KL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, ArrayLike
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from goodteacher.experiments.batches import paths, rises
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.reward_models import accuracy_and_variance
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASH_DOTTED,
    DASHED,
    DOTTED,
    PAGE,
    RED,
    decades,
    letter,
    number,
    paper,
)
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.objective import kl_divergence
from goodteacher.theory.closed_forms import kl_optimum
from goodteacher.theory.teachers import fast_teacher, low_variance_teacher

_LOOKS: Mapping[str, dict[str, Any]] = {
    "ground truth": {"color": BLACK, "linestyle": "-", "marker": "o"},
    "low variance": {"color": BLUE, "linestyle": DASHED, "marker": "s"},
    "inaccurate": {"color": RED, "linestyle": DASH_DOTTED, "marker": "^"},
}
_ZERO = 4e-4  # where a coefficient of zero is drawn on a logarithmic axis
_ALMOST_ZERO, _STRONGEST = 1e-9, 10.0  # coefficients of the closed forms
_BISECTIONS = 60


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probabilities: of the outputs; it is the reference too.
        ground_truth_rewards: of the outputs.
        T: of the accurate teacher of low variance.
        output, accuracy: what the fast teacher puts first, and its accuracy over uniform pairs.
        gamma: the increase of the expected ground truth reward that is waited for.
        coefficients: of KL, ascending from zero.
        times: early and late, at which the policies of the flow are looked at.
        points: along paths and curves.
    """

    initial_probabilities: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3)
    ground_truth_rewards: tuple[float, ...] = (1.0, 0.5, 0.0, -0.5, -1.0)
    T: float = 10.0
    output: int = 1
    accuracy: float = 0.3
    gamma: float = 0.5
    coefficients: tuple[float, ...] = (0.0, *(10.0 ** np.arange(-3.0, 0.01, 0.2)))
    times: tuple[float, float] = (20.0, 1e4)
    points: int = 200


def run(settings: Settings) -> Data:
    """Flows of the three teachers and their closed-form optima, over the KL coefficient."""
    start, truth = np.array(settings.initial_probabilities), np.array(settings.ground_truth_rewards)
    fast = fast_teacher(settings.accuracy, truth, start, settings.output, settings.gamma)
    rewards = np.stack([truth, low_variance_teacher(1.0, truth, settings.T), fast])
    coefficients = np.asarray(settings.coefficients)
    shape = (len(rewards), len(coefficients))

    which, kl = (axis.ravel() for axis in np.meshgrid(*map(np.arange, shape), indexing="ij"))

    def problem(rewards: Array, kl: Array) -> Instance:
        return Instance(rewards, truth, start=start, regularizer=Regularizer(kl=kl))

    instances = jax.jit(jax.vmap(problem))(rewards[which], coefficients[kl])
    hitting = rises(instances, settings.gamma).reshape(shape)
    times = np.unique(np.append(np.geomspace(0.1, settings.times[-1], settings.points), settings.times))
    flow = paths(instances, times).reshape(*shape, len(times), -1)
    looked_at = flow[:, :, np.searchsorted(times, settings.times)]

    @jax.jit
    def optimum(coefficients: ArrayLike) -> Array:
        """Log-probabilities of every teacher's, for coefficients that broadcast with ``[teachers, n]``."""
        limit = jnp.maximum(coefficients, _ALMOST_ZERO)
        return kl_optimum(jnp.log(start), jnp.asarray(rewards)[:, None], limit)

    @jax.jit
    def largest() -> Array:
        level = float(start @ truth) + settings.gamma
        return _largest_coefficient(lambda c: jnp.exp(optimum(c)) @ truth, level)

    optima = np.exp(optimum(coefficients))
    distance = np.abs(np.exp(looked_at) - optima[:, :, None]).sum(-1) / 2.0
    accuracy, variance = accuracy_and_variance(rewards, truth, start)
    strengths = np.geomspace(coefficients[1], _STRONGEST, settings.points)

    def worth(log_policy: np.ndarray, *axes: str) -> dict[str, xr.Variable]:
        """Of the policies of every teacher, along further axes."""
        log_start = np.broadcast_to(np.log(start), log_policy.shape)
        value, kl = np.exp(log_policy) @ truth, jax.jit(kl_divergence)(log_policy, log_start)
        return {
            "expected_reward": variable(("teacher", *axes), value, "expected ground truth reward"),
            "kl": variable(("teacher", *axes), kl, "KL to the initial policy", "nat"),
        }

    teachers = {"teacher": list(_LOOKS)}
    coefficient = {"coefficient": variable("coefficient", coefficients, "KL coefficient")}
    return {
        "hitting_times": xr.Dataset(
            {
                "time": variable(
                    ("teacher", "coefficient"),
                    hitting,
                    f"time at which the expected ground truth reward has risen by {settings.gamma}",
                )
            },
            {**teachers, **coefficient},
        ),
        "policies": xr.Dataset(
            {
                **worth(looked_at, "coefficient", "time"),
                "distance": variable(
                    ("teacher", "coefficient", "time"), distance, "total variation to the optimum"
                ),
            },
            {
                **teachers,
                **coefficient,
                "time": variable("time", list(settings.times), "time of the gradient flow"),
            },
        ),
        "unregularised": xr.Dataset(
            worth(flow[:, 0], "time"),
            {**teachers, "time": variable("time", times, "time of the gradient flow")},
        ),
        "optima": xr.Dataset(
            worth(np.asarray(optimum(strengths)), "coefficient"),
            {**teachers, "coefficient": variable("coefficient", strengths, "KL coefficient")},
        ),
        "teachers": xr.Dataset(
            {
                "accuracy": variable("teacher", accuracy, "accuracy over uniform pairs"),
                "variance": variable("teacher", variance, "initial reward variance"),
                "largest_coefficient": variable(
                    "teacher",
                    largest(),
                    "KL coefficient up to which the optimum has risen so far",
                ),
            },
            teachers,
        ),
    }


def _largest_coefficient(value: Callable[[Array], Array], level: float) -> Array:
    """Where the value of the optima falls to the level, ``[teachers]``: by bisection of the logarithm."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2.0
        reached = value(jnp.exp(middle)[:, None])[:, 0] > level
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    teachers = jnp.ones(len(_LOOKS))
    ends = (jnp.log(_ALMOST_ZERO) * teachers, jnp.log(_STRONGEST) * teachers)
    return jnp.exp(jax.lax.fori_loop(0, _BISECTIONS, halve, ends)[0])


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour, line style and marker are the teacher; open marks are early policies, filled ones late."""
    policies, optima, teachers = data["policies"], data["optima"], data["teachers"]
    drawing = Figure(figsize=(PAGE, 2.9))
    axes = drawing.subplots(1, 3)
    timing, value, frontier = axes
    positions = np.where(policies["coefficient"] > 0, policies["coefficient"], _ZERO)
    for teacher, look in _LOOKS.items():
        at = {"teacher": teacher}
        line, mark = {**look, "marker": ""}, {**look, "linestyle": "none", "markersize": 3}
        color = look["color"]
        times = data["hitting_times"]["time"].sel(at)
        timing.plot(positions, times, **mark)
        timing.plot(positions[1:], times[1:], **line)
        timing.axvline(float(teachers["largest_coefficient"].sel(at)), color=color, ls=DOTTED, lw=0.8)
        first, below = float(times[0]), teacher == "ground truth"
        place = {"y": 0.85 * first, "va": "top"} if below else {"y": 1.15 * first, "va": "bottom"}
        timing.text(_ZERO, s=teacher, color=color, **place)

        curve = optima.sel(at)
        value.plot(curve["coefficient"], curve["expected_reward"], **line)
        frontier.plot(curve["kl"], curve["expected_reward"], **line)
        for time, fill in zip(policies["time"], ("white", color), strict=True):
            then = policies.sel(at).sel(time=time)
            value.plot(positions, then["expected_reward"], mfc=fill, **mark)
            frontier.plot(then["kl"], then["expected_reward"], mfc=fill, **mark)
        path = data["unregularised"].sel(at)
        frontier.plot(path["kl"], path["expected_reward"], color=color, lw=0.5)

    coefficients = [f"$10^{{{power}}}$" for power in range(-3, 1)]
    for ax in (timing, value):
        ax.set(xscale="log", xlim=(_ZERO / 1.5, 1.6), xlabel="KL coefficient $\\lambda$")
        ax.set_xticks([_ZERO, 1e-3, 1e-2, 1e-1, 1.0], ["0", *coefficients])
        ax.xaxis.set_minor_locator(NullLocator())
    longest = data["hitting_times"]["time"].where(np.isfinite).max()
    timing.set(yscale="log", ylim=(3, 3 * longest), ylabel="Time of the rise, $t_\\gamma$")
    decades(timing.yaxis)
    frontier.set(xlabel="KL to the initial policy (nat)")
    for ax in (value, frontier):
        ax.set(ylabel="Expected ground truth reward", ylim=(-0.35, 1.06))
    early, late = (f"flow at $t=$ {number(float(time))}" for time in policies["time"])
    entries = {
        "optimum": {"linewidth": 1.3},
        late: {"linestyle": "none", "marker": "o"},
        early: {"linestyle": "none", "marker": "o", "mfc": "white"},
        "path of $\\lambda=0$": {"linewidth": 0.5},
    }
    handles = [
        Line2D([], [], color=BLACK, markersize=3, label=name, **look) for name, look in entries.items()
    ]
    frontier.legend(handles=handles, loc="lower right", handlelength=1.5)
    timing.set_title("how long it takes")
    value.set_title("where the flow is, and its optimum")
    frontier.set_title("what it pays")
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    policies, teachers = data["policies"], data["teachers"]
    hitting = data["hitting_times"]["time"]
    late = policies["distance"].isel(time=-1).sel(coefficient=slice(1e-2, None))
    early = policies["expected_reward"].isel(time=0, coefficient=0)
    praised = settings.ground_truth_rewards[settings.output]
    return (
        "Three teachers under reverse KL to the initial policy: the ground truth, a perfectly accurate "
        f"model with rewards between 0 and 1/{settings.T:g}, and a model with an accuracy "
        "over uniform pairs of "
        f"{float(teachers['accuracy'][-1]):.2g} that puts the output of ground truth reward {praised:g} far "
        f"above all others; their reward variances are {listed(teachers['variance'].values)}. (a) The time "
        f"in which the expected ground truth reward rises by {settings.gamma} along the gradient flow, "
        f"against the KL coefficient: {listed(hitting[:, 0].values)} without KL. Dotted: the coefficient "
        "above which a teacher's optimum is below that rise, "
        f"{listed(teachers['largest_coefficient'].values)}; beyond it no mark, as the flow was seen never "
        "to get there. (b) The expected ground truth reward of the flow (marks) and of the closed-form "
        "optimum, proportional to the reference times exp(reward / coefficient) (lines). Without KL the "
        f"flows are at {listed(early.values)} at t = {float(policies['time'][0]):g}. At t = "
        f"{float(policies['time'][-1]):g} all with a coefficient of 0.01 or more are within a total "
        f"variation of {float(late.max()):.2g} of their optimum. (c) The same policies against their KL: "
        "both accurate teachers, whose rewards differ by scale and shift, have the same optima at "
        "different coefficients, but the one of low variance gets there much later; for the same KL the "
        "inaccurate one gains less. Five outputs of ground truth rewards "
        f"{listed(settings.ground_truth_rewards)} and initial probabilities "
        f"{listed(settings.initial_probabilities)}; tabular policy. Teachers: arXiv:2503.15477, Theorem "
        "5."
    )


EXPERIMENT = Experiment(
    name="kl_regularisation",
    title="What KL regularisation does to good and bad teachers",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
