"""Hitting time against reward variance, for two causes of a low variance, with the proven lower bounds."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from goodteacher.experiments.batches import rises
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLUE, DASHED, HALO, PAGE, RED, colorbar, decades, letter, paper
from goodteacher.sim.flow import Control
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.metrics import reward_variance
from goodteacher.theory.draws import Source
from goodteacher.theory.hitting_time_bound import (
    hitting_time_lower_bound,
    sharp_hitting_time_lower_bound,
)
from goodteacher.theory.token_hitting_times import hitting_time_lower_bound as autoregressive_bound

CAUSES = ("rewards that hardly differ", "a policy that hardly varies")
_QUANTILES = (0.05, 0.5, 0.95)
_FEWEST = 50  # instances of a variance, for a quantile of their times
_EXAMINED = ("sharp", "proposition_3", "theorem_4")


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        instances: how many, half of them for each cause.
        outputs: of each.
        gamma: increase of the expected ground truth reward that is waited for.
        least_variance: about the smallest that is drawn.
        horizon: time at which a flow is given up.
        bins: of the histogram, along the variance and along the time.
        seed: of the instances.
    """

    instances: int = 100_000
    outputs: int = 6
    gamma: float = 0.2
    least_variance: float = 1e-10
    horizon: float = 1e15
    bins: tuple[int, int] = (72, 60)
    seed: int = 0


def _instance(settings: Settings, cause: Array, point: Array) -> Instance:
    """Rewards and ground truth are the same but for scale, and in half of the draws for some noise."""
    source = Source(point)
    shape = (settings.outputs,)
    truth = source.uniform(-1.0, 1.0, shape)
    noise = jnp.where(source.bernoulli(), source.uniform(-1.0, 1.0, shape), truth)
    rewards = truth + source.uniform() * (noise - truth)
    logits = source.normal(shape)
    scale = source.log_uniform(settings.least_variance, 1.0)
    policy_varies = cause == 0
    # The likeliest output must leave something to be gained.
    likeliest = (jnp.arange(settings.outputs) == source.integer(0, settings.outputs - 1)) & ~policy_varies
    truth, rewards = (jnp.where(likeliest, -jnp.abs(values), values) for values in (truth, rewards))
    concentrated = jnp.where(likeliest, jax.nn.logsumexp(logits) - jnp.log(scale), logits)
    scaled = jnp.where(policy_varies, jnp.sqrt(scale), 1.0) * rewards
    return Instance(scaled, truth, start=Parameters(concentrated))


@partial(jax.jit, static_argnames="settings")
def _posed(settings: Settings, causes: Array, points: Array) -> tuple[Instance, tuple[Array, ...]]:
    """Instances; of each the reward variance and the bounds."""

    def one(cause: Array, point: Array) -> tuple[Instance, tuple[Array, ...]]:
        instance = _instance(settings, cause, point)
        policy = instance.probabilities(instance.initial_parameters)
        sharp = sharp_hitting_time_lower_bound(instance, settings.gamma)[0]
        tabular = hitting_time_lower_bound(instance, settings.gamma)[0]
        general = autoregressive_bound(instance, settings.gamma, jnp.ones(()))
        return instance, (reward_variance(policy, instance.rewards)[0], sharp, tabular, general)

    return jax.vmap(one)(causes, points)


def run(settings: Settings) -> Data:
    """A histogram over variance and time for each cause, quantiles of the time, and the bounds."""
    each = settings.instances // 2
    dimension = 4 * settings.outputs + 4
    points = jax.random.uniform(jax.random.key(settings.seed), (2, each, dimension))
    instances, measured = _posed(settings, np.repeat(np.arange(2), each), points.reshape(2 * each, -1))
    control = Control(tolerance=1e-8, horizon=settings.horizon)
    times = rises(instances, settings.gamma, control).reshape(2, each)
    variances, *lower = (np.reshape(values, (2, each)) for values in measured)

    reached = np.isfinite(times)
    log_variance, log_time = np.log10(variances), np.log10(np.where(reached, times, 1.0))
    edges = np.linspace(np.log10(settings.least_variance), 0.0, settings.bins[0] + 1)
    latest = np.ceil(log_time.max())
    time_edges = np.linspace(-1.0, latest, settings.bins[1] + 1)
    counts = [
        np.histogram2d(v[ok], t[ok], (edges, time_edges))[0]
        for v, t, ok in zip(log_variance, log_time, reached, strict=True)
    ]
    middle, time_middle = (10.0 ** (0.5 * (e[1:] + e[:-1])) for e in (edges, time_edges))
    index = np.digitize(log_variance, edges) - 1
    quantiles = np.full((2, len(middle), len(_QUANTILES)), np.nan)
    for cause, column in np.ndindex(2, len(middle)):
        here = reached[cause] & (index[cause] == column)
        if here.sum() >= _FEWEST:
            quantiles[cause, column] = 10.0 ** np.quantile(log_time[cause, here], _QUANTILES)

    # At a variance of one, by the powers of it that they go with.
    gamma = settings.gamma
    at_one = {
        "sharp": (-2.0 * np.expm1(-gamma), -1 / 2),
        "proposition_3": (-2.0 * np.expm1(-gamma / 2.0), -1 / 2),
        "theorem_4": (-np.expm1(-gamma / 9.0) / 8.0, -1 / 3),
    }
    cause = ("cause", list(CAUSES))
    axis = variable("variance", middle, "reward variance under the initial policy")
    least = {
        f"least_over_{name}": variable(
            "cause",
            np.where(reached, times / bound, np.inf).min(1),
            "least hitting time over the bound",
        )
        for name, bound in zip(_EXAMINED, lower, strict=True)
    }
    return {
        "histogram": xr.Dataset(
            {"instances": variable(("cause", "variance", "time"), np.stack(counts), "number of instances")},
            {"cause": cause, "variance": axis, "time": variable("time", time_middle, "hitting time", TIME)},
        ),
        "quantiles": xr.Dataset(
            {"time": variable(("cause", "variance", "quantile"), quantiles, "hitting time", TIME)},
            {"cause": cause, "variance": axis, "quantile": list(_QUANTILES)},
        ),
        "bounds": xr.Dataset(
            {
                name: variable("variance", value * middle**power, "lower bound", TIME)
                for name, (value, power) in at_one.items()
            },
            {"variance": axis},
        ),
        "outcomes": xr.Dataset(
            {
                "reached": variable("cause", reached.mean(1), "share of instances that rise by gamma"),
                "exponent": variable("cause", _slopes(middle, quantiles[..., 1]), "slope of the median time"),
                **least,
            },
            {"cause": cause},
        ),
    }


def _slopes(variance: np.ndarray, median: np.ndarray) -> list[float]:
    """Of the logarithm of the median time by that of the variance, where it is below 1e-2."""
    slopes = []
    for values in median:
        used = np.isfinite(values) & (variance < 1e-2)
        slopes.append(float(np.polyfit(np.log(variance[used]), np.log(values[used]), 1)[0]))
    return slopes


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """One panel per cause: the density of instances, the median time, and the bounds."""
    histogram, bounds = data["histogram"], data["bounds"]
    quantiles, outcomes = data["quantiles"]["time"], data["outcomes"]
    canvas = Figure(figsize=(PAGE, 3.3))
    axes = canvas.subplots(1, 2, sharey=True)
    norm = LogNorm(1, float(histogram["instances"].max()))
    for ax, cause in zip(axes, CAUSES, strict=True):
        counts = histogram["instances"].sel(cause=cause)
        shown = np.where(counts > 0, counts, np.nan).T
        ax.pcolormesh(
            counts["variance"], counts["time"], shown, norm=norm, cmap="Greys", rasterized=True, alpha=0.75
        )
        of_cause = quantiles.sel(cause=cause)
        for quantile in _QUANTILES:
            ax.plot(
                of_cause["variance"],
                of_cause.sel(quantile=quantile),
                color=BLUE,
                lw=1.8 if quantile == 0.5 else 0.7,
            )
        ax.plot(bounds["variance"], bounds["sharp"], color=RED, lw=2.2)
        ax.plot(bounds["variance"], bounds["proposition_3"], color=RED, lw=0.8)
        ax.plot(bounds["variance"], bounds["theorem_4"], color=RED, ls=DASHED)
        times = histogram["time"].values
        ax.set(xscale="log", yscale="log", xlim=(bounds["variance"][0], 1.0), ylim=(1e-3, times[-1]))
        ax.set(xlabel="Reward variance under the initial policy", title=cause)
        decades(ax.xaxis)
        decades(ax.yaxis)
        slope = float(outcomes["exponent"].sel(cause=cause))
        _label(ax, of_cause.sel(quantile=0.5), f"median, slope ${slope:.2f}$", BLUE, 1e-5, above=True)
        _label(ax, bounds["proposition_3"], "Proposition 3; bold: sharp", RED, 1e-5, above=False)
        _label(ax, bounds["theorem_4"], "Theorem 4, slope $-1/3$", RED, 1e-5, above=False)
    axes[0].set_ylabel(f"Time to rise by {settings.gamma:g}")
    letter(axes)
    colorbar(canvas, ScalarMappable(norm, "Greys"), list(axes), "Instances", aspect=30, pad=0.01)
    return canvas


def _label(ax: Axes, line: xr.DataArray, text: str, color: str, at: float, *, above: bool) -> None:
    """Writes beside a falling line so that it does not cross the text: right and above, or left and below."""
    near = line.dropna("variance")
    position = int(np.abs(np.log(near["variance"].values / at)).argmin())
    ax.annotate(
        text,
        (float(near["variance"][position]), float(near[position])),
        xytext=(6, 16) if above else (-2, -2),
        textcoords="offset points",
        ha="left" if above else "right",
        va="bottom" if above else "top",
        color=color,
        path_effects=HALO,
    )


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    outcomes = data["outcomes"]
    sharp, tabular, general = (outcomes[f"least_over_{name}"].min() for name in _EXAMINED)
    slopes = [f"{float(s):.2f}" for s in outcomes["exponent"]]
    shares = listed(100 * outcomes["reached"].values)
    return (
        f"Time for the expected ground truth reward to rise by {settings.gamma:g} against the variance "
        f"of the reward that is trained on: {settings.instances:,} random instances with "
        f"{settings.outputs} outputs, counted in cells. The variance is low because (a) rewards "
        "hardly differ, or (b) the policy hardly varies. Grey: instances; blue: median time, with the 5 % "
        "and 95 % quantiles; red: lower bounds of arXiv:2503.15477, Proposition 3 (solid) and Theorem 4 with "
        "L = J = 1 (dashed), and (bold) the sharp bound derived here, which is the same for tabular policies "
        "and for general ones with L = J = 1. The median falls with the variance to the power "
        f"{slopes[0]} in (a), as the bound does, and {slopes[1]} in (b). {shares} % of the instances rise by "
        f"so much. No time is below {float(sharp):.3g} times the sharp bound, {float(tabular):.3g} times "
        f"Proposition 3's or {float(general):.3g} times Theorem 4's."
    )


EXPERIMENT = Experiment(
    name="variance_and_time",
    title="Low reward variance makes learning slow",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
