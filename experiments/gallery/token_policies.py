"""Token policies: how long any reward waits, how small the gradient is, and the Jacobian norm on the way."""

from dataclasses import dataclass
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    DOTTED,
    GREY,
    MARKERS,
    ORANGE,
    PAGE,
    decades,
    letter,
    paper,
)
from goodteacher.sim.autoregressive import Autoregressive, Sequences, TokenLinear, token_mlp
from goodteacher.sim.flow import Control, hitting_time, trajectory
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.metrics import reward_variance
from goodteacher.sim.status import Status
from goodteacher.theory.token_gradient_bounds import (
    gradient_norms,
    gradient_upper_bound,
    sharp_gradient_upper_bound,
)
from goodteacher.theory.token_hitting_times import hitting_time_lower_bound

SOLVER = diffrax.Bosh3()  # few stages, soon compiled
KINDS = ("table", "linear", "MLP")
_COLORS = dict(zip(KINDS, (BLACK, BLUE, ORANGE), strict=True))
_MARKERS = dict(zip(KINDS, MARKERS, strict=False))
_GRADIENTS = ("norm", "proposition_2", "sharp")


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        vocabulary: number of tokens.
        length: of an output, in tokens.
        gamma: increase of the expected ground truth reward that is waited for.
        scales: of the reward that is trained on, ascending up to one.
        features: of the linear policy, shared by all prefixes.
        width: of the network's one hidden layer.
        points: recorded times.
        last_time: recorded.
        seed: of rewards, features and initial parameters.
    """

    vocabulary: int = 3
    length: int = 3
    gamma: float = 0.2
    scales: tuple[float, ...] = tuple(np.geomspace(1e-5, 1.0, 11))
    features: int = 8
    width: int = 8
    points: int = 60
    last_time: float = 1e3
    seed: int = 0


def _policy(settings: Settings, kind: str) -> tuple[Autoregressive, Array]:
    """A policy and its initial parameters.

    A table is linear in features that tell its entries apart, and features of zeros change nothing: the table
    and the linear policy then have one shape, and are compiled once.
    """
    sequences = Sequences(1, settings.vocabulary, settings.length)
    of_features, of_start = jax.random.split(jax.random.key(settings.seed))
    if kind == "MLP":
        return token_mlp(sequences, settings.width, 1, of_start)
    entries = sequences.prefixes * settings.vocabulary
    if kind == "table":
        features = jnp.eye(entries)
    else:
        shared = jax.random.normal(of_features, (entries, settings.features)) / settings.features**0.5
        features = jnp.pad(shared, ((0, 0), (0, entries - settings.features)))
    policy = TokenLinear(sequences, features.reshape(1, sequences.prefixes, settings.vocabulary, entries))
    return policy, 0.5 * jax.random.normal(of_start, (policy.size,))


def _truth(settings: Settings) -> np.ndarray:
    """From -1 to 1: how many tokens are those of a random output, and a little noise."""
    random = np.random.default_rng(settings.seed)
    tokens = Sequences(1, settings.vocabulary, settings.length).tokens()
    right = (tokens == random.integers(settings.vocabulary, size=settings.length)).mean(1)
    return np.clip(2.0 * right - 1.0 + 0.05 * random.standard_normal(len(right)), -1.0, 1.0)


@jax.jit
def _measure(
    policy: Autoregressive, start: Array, truth: Array, gamma: float, times: Array, scales: Array
) -> dict[str, Array]:
    def instance(scale: Array) -> Instance:
        return Instance(scale * truth, truth, policy=policy, start=Parameters(start))

    whole = instance(jnp.ones(()))
    path = trajectory(whole, times, Control(solver=SOLVER, tolerance=1e-8))
    norms = jax.vmap(lambda parameters: policy.jacobian_norms(parameters).max())(path)
    gradients = [
        jax.vmap(partial(of, whole))(path)[:, 0]
        for of in (gradient_norms, gradient_upper_bound, sharp_gradient_upper_bound)
    ]
    batch = jax.vmap(instance)(scales)
    # One after the other: lanes for so few problems would only take longer to compile.
    found = jax.lax.map(
        lambda one: hitting_time(one, reward_increase(one, gamma), Control(solver=SOLVER, tolerance=1e-8)),
        batch,
    )
    # Rewards on another scale are followed on the same way, only at another pace.
    largest = norms.max(where=times <= found.time[-1, 0], initial=norms[0])
    bounds = jax.vmap(lambda one: hitting_time_lower_bound(one, gamma, largest))(batch)
    variances = jax.vmap(lambda one: reward_variance(one.probabilities(start), one.rewards)[0])(batch)
    return {
        "time": found.time[:, 0],
        "status": found.status[:, 0],
        "bound": bounds,
        "variance": variances,
        "gradients": jnp.stack(gradients),
        "jacobian_norm": norms,
    }


def _follow(settings: Settings, kind: str) -> dict[str, np.ndarray]:
    policy, start = _policy(settings, kind)
    times = np.concatenate([[0.0], np.geomspace(1e-2, settings.last_time, settings.points)])
    result = jax.device_get(
        _measure(policy, start, _truth(settings), settings.gamma, times, np.array(settings.scales))
    )
    if (result["status"] != Status.REACHED).any():
        raise RuntimeError(f"the {kind} policy does not rise by {settings.gamma}; lower gamma")
    return {**result, "times": times}


def run(settings: Settings) -> Data:
    """Hitting times with their bound, and norms of gradient and Jacobian along the way, for each kind."""
    found = [_follow(settings, kind) for kind in KINDS]

    def gathered(name: str) -> np.ndarray:
        return np.stack([each[name] for each in found])

    kinds = ("policy", list(KINDS))
    scale = variable("scale", settings.scales, "scale of the reward that is trained on")
    time = variable("time", found[0]["times"][1:], "time of the gradient flow", TIME)
    gradients, norms = gathered("gradients")[..., 1:], gathered("jacobian_norm")[:, 1:]
    descriptions = (
        "gradient norm",
        "bound of Proposition 2",
        "the same with constant and exponent sharpened",
    )
    of_time = ("policy", "scale")
    return {
        "waiting": xr.Dataset(
            {
                "variance": variable(of_time, gathered("variance"), "reward variance at the start"),
                "time": variable(of_time, gathered("time"), "hitting time", TIME),
                "bound": variable(of_time, gathered("bound"), "lower bound of Theorem 4", TIME),
            },
            {"policy": kinds, "scale": scale},
        ),
        "way": xr.Dataset(
            {
                **{
                    name: variable(("policy", "time"), gradients[:, position], description)
                    for position, (name, description) in enumerate(zip(_GRADIENTS, descriptions, strict=True))
                },
                "jacobian_norm": variable(("policy", "time"), norms, "largest Jacobian norm of a prefix"),
            },
            {"policy": kinds, "time": time},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Hitting times over the variance; gradient norms and Jacobian norms over time."""
    waiting, way = data["waiting"], data["way"]
    canvas = Figure(figsize=(PAGE, 2.9))
    left, middle, right = canvas.subplots(1, 3)
    for kind in KINDS:
        color, of, along = _COLORS[kind], waiting.sel(policy=kind), way.sel(policy=kind)
        left.plot(of["variance"], of["time"], _MARKERS[kind], color=color, mfc="white")
        left.plot(of["variance"], of["bound"], color=color, lw=0.9, ls=DASHED)
        middle.plot(along["time"], along["norm"], color=color)
        middle.plot(along["time"], along["sharp"], color=color, lw=0.9, ls=DOTTED)
        middle.plot(along["time"], along["proposition_2"], color=color, lw=0.9, ls=DASHED)
        right.plot(along["time"], along["jacobian_norm"], color=color, label=kind)
    variances = waiting["variance"].values
    left.set(xscale="log", yscale="log", xlim=(variances.min() / 3, variances.max() * 3))
    left.set(ylim=(float(waiting["bound"].min()) / 3, float(waiting["time"].max()) * 3))
    left.set(xlabel="Reward variance", ylabel=f"Time to rise by {settings.gamma:g}")
    for ax in (middle, right):
        ax.set(xscale="log", xlim=(way["time"][0], way["time"][-1]), xlabel="Time of the gradient flow")
        decades(ax.xaxis)
    middle.set(yscale="log", ylabel="Norm of the gradient")
    right.set(ylabel="Largest Jacobian norm", ylim=(0.0, 1.25 * float(way["jacobian_norm"].max())))
    decades(left.xaxis)
    decades(left.yaxis)
    low, high = float(way["norm"].min()), float(way["proposition_2"].max())
    middle.set_ylim(low / 2, high * 3)
    decades(middle.yaxis)
    titles = ("any reward waits", "the gradient is small", "not constant for a network")
    for ax, title in zip((left, middle, right), titles, strict=True):
        ax.set_title(title)
    letter((left, middle, right))
    right.legend(loc="upper left", ncols=3, handlelength=1.2, columnspacing=1.0, borderaxespad=0.0)
    handles = [
        left.plot([], [], "o", color=GREY, mfc="white")[0],
        left.plot([], [], color=GREY, lw=0.9, ls=DASHED)[0],
    ]
    left.legend(handles, ["hitting time", "Theorem 4"], loc="upper right", borderaxespad=0.0)
    handles = [
        middle.plot([], [], color=GREY, ls=line, lw=width)[0]
        for line, width in (("-", 1.3), (DOTTED, 0.9), (DASHED, 0.9))
    ]
    middle.legend(handles, ["gradient", "sharp bound", "Proposition 2"], loc="lower left", borderaxespad=0.0)
    return canvas


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    waiting, way = data["waiting"], data["way"]
    steps = np.diff(np.log(waiting["time"])) / np.diff(np.log(waiting["variance"]))
    ratio = (waiting["time"] / waiting["bound"]).min("scale")
    sharp, plain = ((way[name] / way["norm"]).min("time") for name in ("sharp", "proposition_2"))
    norms = way["jacobian_norm"].sel(policy="MLP")
    return (
        f"Policies that write {settings.length} tokens of {settings.vocabulary}, exactly over all "
        f"{settings.vocabulary**settings.length} outputs: a table of logits per prefix, logits linear in "
        "features of prefix and token with shared weights, and a small network. (a) Time for the ground "
        f"truth to rise by {settings.gamma:g} when its multiples are trained on, and the lower bound of "
        f"arXiv:2503.15477, Theorem 4 (dashed): slopes {steps.mean():.2f} and -1/3; the least ratio is "
        f"{listed(ratio.values)} for {', '.join(KINDS)}. (b) Gradient norm, the bound of Proposition 2 "
        f"(dashed; at least {listed(plain.values)} times the norm) and the sharp one derived in "
        f"theory/token_gradient_bounds.py (dotted; {listed(sharp.values)} times). (c) The largest Jacobian "
        "norm of the next token's logits: "
        f"constant for table and linear logits, for the network from {float(norms[0]):.3g} to "
        f"{float(norms[-1]):.3g}."
    )


EXPERIMENT = Experiment(
    name="token_policies",
    title="Low variance slows token policies down as well",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
    slow=True,
)
