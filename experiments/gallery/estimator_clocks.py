"""What estimators multiply the gradient by, and how long two outputs take under each."""

from dataclasses import dataclass

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
    GREEN,
    GREY,
    LONG_DASHED,
    ORANGE,
    PAGE,
    PURPLE,
    RED,
    decades,
    letter,
    paper,
)
from goodteacher.sim.clocks import Clock, DynamicSampling, Gradient, Grpo, MaxRl, PassAtK, moments, see
from goodteacher.sim.flow import hitting_times_only
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance, Parameters

_LEVEL = 0.5


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        group: samples of finite groups.
        k: of pass at k.
        probabilities: of success, of the first panel.
        initial_probabilities: of the second.
    """

    group: int = 16
    k: int = 16
    probabilities: tuple[float, ...] = tuple(1.0 / (1.0 + np.exp(-np.linspace(-14.0, 7.0, 169))))
    initial_probabilities: tuple[float, ...] = tuple(10.0 ** -np.arange(0.5, 10.01, 0.25))

    def clocks(self) -> dict[str, Clock]:
        """By what they are called."""
        return {
            "gradient": Gradient(),
            "GRPO": Grpo(),
            f"GRPO, G = {self.group}": Grpo(self.group),
            "same, dynamic sampling": DynamicSampling(Grpo(self.group)),
            "MaxRL": MaxRl(),
            f"MaxRL, G = {self.group}": MaxRl(self.group),
            f"pass at {self.k}": PassAtK(self.k),
        }


_LOOKS = (
    {"color": BLACK, "ls": "-"},
    {"color": BLUE, "ls": "-"},
    {"color": BLUE, "ls": DASHED},
    {"color": GREEN, "ls": LONG_DASHED},
    {"color": ORANGE, "ls": "-"},
    {"color": ORANGE, "ls": DASHED},
    {"color": PURPLE, "ls": DOTTED},
)
_EPSILONS = (1e-2, 1e-1)  # of rewards 0 and 1: as of rewards that differ by less


def run(settings: Settings) -> Data:
    """Rates and times, and the powers with which times grow at the rarest starts."""
    p, starts = np.asarray(settings.probabilities), np.asarray(settings.initial_probabilities)
    clocks = settings.clocks()
    at = moments(
        see(np.tile([1.0, 0.0], (len(p), 1)), None, None),
        np.stack([p, 1.0 - p], 1),
        np.stack([1.0 - p, -p], 1),
        -1,
    )
    rates = np.array([np.asarray(clock.rate(at)) for clock in clocks.values()])
    capped = np.array([np.asarray(Grpo(epsilon=epsilon).rate(at)) for epsilon in _EPSILONS])
    instances, goals = _problems(np.log(starts), np.log1p(-starts))
    times = np.array(
        [
            np.asarray(hitting_times_only(instances.following(clock), goals)[0])[:, 0]
            for clock in clocks.values()
        ]
    )
    grown = -np.diff(np.log(times[:, -2:]))[:, 0] / np.diff(np.log(starts[-2:]))
    names = list(clocks)
    success = variable("probability", p, "probability of success")
    rate = "what the gradient is multiplied by"
    return {
        "rates": xr.Dataset(
            {"rate": variable(("estimator", "probability"), rates, rate)},
            {"estimator": names, "probability": success},
        ),
        "epsilon": xr.Dataset(
            {"rate": variable(("epsilon", "probability"), capped, rate)},
            {"epsilon": list(_EPSILONS), "probability": success},
        ),
        "times": xr.Dataset(
            {
                "time": variable(
                    ("estimator", "start"), times, f"time until the probability of success is {_LEVEL}", TIME
                ),
                "exponent": variable("estimator", grown, "power of 1/probability with which the time grows"),
            },
            {
                "estimator": names,
                "start": variable("start", starts, "initial probability of success"),
            },
        ),
    }


@jax.jit
@jax.vmap
def _problems(log_p: Array, log_rest: Array) -> tuple[Instance, Goal]:
    instance = Instance([[1.0, 0.0]], start=Parameters(jnp.stack([log_p, log_rest])[None]))
    return instance, probability_level(instance, 0, _LEVEL)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """The same colours in both panels."""
    rates, capped, times = data["rates"]["rate"], data["epsilon"]["rate"], data["times"]["time"]
    drawing = Figure(figsize=(PAGE, 3.0))
    axes = drawing.subplots(1, 2)
    clocks, spent = axes
    for epsilon in capped:
        clocks.plot(capped["probability"], epsilon, color=GREY, lw=0.8)
        clocks.text(1.1e-6, 0.55 * float(epsilon[0]), f"$\\epsilon={float(epsilon['epsilon']):g}$", va="top")
    for name, look in zip(rates["estimator"].values, _LOOKS, strict=True):
        clocks.plot(rates["probability"], rates.sel(estimator=name), **look)
        spent.plot(times["start"], times.sel(estimator=name), label=name, **look)
    clocks.set(xscale="logit", yscale="log", ylim=(0.2, 2e4), xlim=(1e-6, 0.999))
    clocks.set(xlabel="Probability $p$ of success", ylabel="Rate $m$ of the clock")
    clocks.set_xticks([1e-6, 1e-4, 1e-2, 0.5, 0.99], ["$10^{-6}$", "$10^{-4}$", "0.01", "0.5", "0.99"])
    clocks.set_xticks([], minor=True)
    clocks.set_title("what the gradient is multiplied by")
    start = times["start"]
    spent.axvline(1.0 / settings.group, color=RED, lw=0.7, ls=DOTTED)
    spent.text(0.8 / settings.group, 2e9, "$1/G$", color=RED)
    spent.set(xscale="log", yscale="log", xlim=(start[0], start[-1]), ylim=(0.3, 1e10))
    spent.set(xlabel="Initial probability of success", ylabel=f"Time until $p={_LEVEL}$")
    decades(spent.xaxis, 6)
    decades(spent.yaxis)
    spent.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)
    spent.set_title("slopes 1, 1/2, and a logarithm")
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    exponents = data["times"]["exponent"]
    grown = ", ".join(
        f"{name} {float(exponents.sel(estimator=name)):.3f}" for name in exponents["estimator"].values
    )
    return (
        "(a) The number m by which estimators of groups multiply the gradient on average, against the "
        "probability of success: in the limit of large groups (full) and for groups of "
        f"{settings.group} (dashed), whose m ends where a group holds one success at most. Grey: GRPO whose "
        f"epsilon is {listed(_EPSILONS)} of the gap between the two rewards: m saturates. (b) Time until "
        f"success has probability {_LEVEL}, against its initial probability, of two tabular outputs. The "
        f"power of 1/probability with which it grows at the rarest starts: {grown}. Below 1/G finite groups "
        "are as slow as the gradient but for a factor; dynamic sampling, of which the groups that are thrown "
        "away are not counted, is left with a logarithm. Theory: theory/clock_laws.py."
    )


EXPERIMENT = Experiment(
    name="estimator_clocks",
    title="What estimators do to the clock",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
