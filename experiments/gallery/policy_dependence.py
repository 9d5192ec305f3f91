"""Which of two teachers is fast depends on the initial policy (arXiv:2503.15477, Theorems 3 and 6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.batches import paths as follow
from goodteacher.experiments.batches import rises
from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLUE,
    DASHED,
    DOTTED,
    GREY,
    PAGE,
    RED,
    decades,
    label_right,
    letter,
    number,
    paper,
)
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.policy_families import Family, praise, right_teacher_time, wrong_teacher_time

_GOOD = ("a", "b")  # the first two outputs
_LOOKS: Mapping[str, Any] = {
    "a": {"color": BLUE, "linestyle": "-"},
    "b": {"color": RED, "linestyle": DASHED},
}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        ground_truth_rewards: of all outputs; the first two are the good ones, ``a`` and ``b``.
        value: expected ground truth reward of every initial policy.
        gamma: the increase of it that is waited for.
        c: the probability of the good output that a policy knows.
        T: of the trajectories, one of the scales; the other good output has probability ``T^-2``.
        scales: the ``T`` of the hitting times.
        last_time: until when the trajectories are followed.
        points: records along them.
    """

    ground_truth_rewards: tuple[float, ...] = (1.0, 0.8, 0.0, -0.5, -1.0)
    value: float = -0.4
    gamma: float = 0.5
    c: float = 0.1
    T: float = 100.0
    scales: tuple[float, ...] = tuple(10.0 ** np.arange(0.5, 5.01, 0.5))
    last_time: float = 1e5
    points: int = 300


def _family(settings: Settings, knows: Array, T: Array) -> Family:
    """Of policies that know one of the good outputs."""
    return Family(
        settings.ground_truth_rewards,
        value=settings.value,
        gamma=settings.gamma,
        likely=knows,
        rare=1 - knows,
        T=T,
        c=settings.c,
    )


def _instance(family: Family, praised: Array) -> Instance:
    rewards = family.ground_truth_rewards
    index = jnp.arange(rewards.size)
    position = jnp.where(index == family.likely, 0.0, jnp.where(index == family.rare, 1.0, 0.5))
    probabilities = family.member(position)
    return Instance(praise(praised, rewards.size), rewards, start=Parameters(jnp.log(probabilities)[None]))


def run(settings: Settings) -> Data:
    """Two policies under two teachers: trajectories, and hitting times with their bounds against ``T``."""
    times = np.geomspace(0.1, settings.last_time, settings.points)

    def every(*axes: npt.ArrayLike) -> list[np.ndarray]:
        return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]

    @jax.jit
    @jax.vmap
    def pose(knows: Array, praised: Array, T: Array) -> tuple[Instance, Array]:
        family = _family(settings, knows, T)
        right = praised == family.likely
        bound = jnp.where(right, right_teacher_time(family), wrong_teacher_time(family))
        return _instance(family, praised), bound

    both = range(len(_GOOD))
    axes = every(both, both, settings.scales)
    instances, bounds = jax.device_get(pose(*axes))
    followed = jax.tree.map(itemgetter(axes[-1] == settings.T), instances)
    values = np.exp(follow(followed, times)[:, :, 0]) @ np.array(settings.ground_truth_rewards)
    hitting = rises(instances, settings.gamma)

    labels = {"policy": list(_GOOD), "teacher": list(_GOOD)}

    def grid(axis: str, values: npt.ArrayLike, long_name: str) -> xr.Variable:
        return variable(("policy", "teacher", axis), np.reshape(values, (2, 2, -1)), long_name)

    risen = f"time at which the expected ground truth reward has risen by {settings.gamma}"
    return {
        "trajectories": xr.Dataset(
            {"expected_reward": grid("time", values, "expected ground truth reward")},
            {**labels, "time": variable("time", times, "time of the gradient flow")},
        ),
        "hitting_times": xr.Dataset(
            {
                "observed": grid("T", hitting, risen),
                "bound": grid("T", bounds, "its bound: from above if teacher and policy agree, else below"),
            },
            {**labels, "T": variable("T", settings.scales, "the unknown good output has probability 1/T^2")},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """A row is a policy; colour and line style are the teacher."""
    paths, hitting = data["trajectories"], data["hitting_times"]
    drawing = Figure(figsize=(PAGE, 4.4))
    axes = drawing.subplots(2, 2, sharex="col", sharey="col", width_ratios=(1.1, 1.0))
    level = settings.value + settings.gamma
    scales = hitting["T"]
    for (reward, scaling), policy in zip(axes, _GOOD, strict=True):
        other = _GOOD[1 - _GOOD.index(policy)]
        reward.axhline(level, color=GREY, lw=0.6)
        reward.text(1.2 * float(paths["time"][0]), level + 0.03, "$V_G(0)+\\gamma$", color=GREY)
        for teacher in _GOOD:
            at = {"policy": policy, "teacher": teacher}
            path, times = paths["expected_reward"].sel(at), hitting.sel(at)
            reward.plot(paths["time"], path, **_LOOKS[teacher])
            time = float(times["observed"].sel(T=settings.T))
            color = _LOOKS[teacher]["color"]
            reward.plot(time, level, "o", color=color, zorder=3)
            reward.annotate(
                f"$t_\\gamma=$ {number(time)}",
                (time, level),
                xytext=(5, -10),
                textcoords="offset points",
                color=color,
            )
            end = (float(paths["time"][-1]), float(path[-1]) - 0.04)
            reward.text(*end, f"teacher of $y_{teacher}$", color=color, ha="right", va="top")
            scaling.plot(scales, times["observed"], marker="o", **_LOOKS[teacher])
            scaling.plot(scales, times["bound"], **{**_LOOKS[teacher], "linestyle": DOTTED})
        reward.set_title(f"policy that knows $y_{policy}$ and hardly $y_{other}$")
        scaling.set_title(f"the rarer $y_{other}$, the slower its teacher")
        reward.set_ylabel("Expected ground truth reward")
        scaling.set_ylabel("Time of the rise, $t_\\gamma$")
        reward.set(xscale="log", xlim=(paths["time"][0], paths["time"][-1]), ylim=(-0.5, 1.06))
        scaling.set(xscale="log", yscale="log", xlim=(scales[0] / 1.3, 1.3 * scales[-1]))
    for ax in axes.flat:
        decades(ax.xaxis)
        ax.tick_params(labelbottom=True)
    for scaling in axes[:, 1]:
        decades(scaling.yaxis)
    for reward, scaling in axes:
        reward.set_xlabel("Time of the gradient flow")
        scaling.set_xlabel("$T$; the unknown output has probability $T^{-2}$")
    for (_, scaling), policy in zip(axes, _GOOD, strict=True):
        last = hitting.sel(policy=policy).isel(T=-1)
        names, heights, colors = [], [], []
        for teacher in _GOOD:
            kind = "upper" if teacher == policy else "lower"
            for quantity, name in {"observed": f"teacher of $y_{teacher}$", "bound": f"{kind} bound"}.items():
                names.append(name)
                heights.append(float(last[quantity].sel(teacher=teacher)))
                colors.append(_LOOKS[teacher]["color"])
        label_right(scaling, heights, names, colors)
    letter(axes.flat)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    hitting = data["hitting_times"]
    agree = hitting["policy"] == hitting["teacher"]
    right, wrong = (hitting.where(which).max("teacher").isel(T=-1) for which in (agree, ~agree))
    last = hitting["observed"].where(~agree).max("teacher").isel(T=[-2, -1])
    slopes = np.diff(np.log(last.values))[:, 0] / np.diff(np.log(last["T"].values))
    return (
        f"Two initial policies of the same expected ground truth reward, {settings.value}, and two "
        "teachers. The policy that knows one of the two good outputs gives it a probability of "
        f"{settings.c}, and the other one a probability of 1/T^2; a teacher has reward +1 on its own "
        "good output and -1 on all others. (a, c) The expected ground truth reward along the gradient flow "
        f"for T = {settings.T:g}; dots mark when it has risen by {settings.gamma}. The teacher of "
        "the known output is fast, that of the other one stalls; which is which depends on the policy "
        "alone. (b, d) The time of that rise against T with both bounds of the theorem (dotted). At T = "
        f"{float(hitting['T'][-1]):g} the right teachers take {listed(right['observed'].values)}, at most "
        f"{listed(right['bound'].values)} by the theorem; the wrong ones "
        f"{listed(wrong['observed'].values)}, at least {listed(wrong['bound'].values)}. The latter times "
        f"grow with powers {listed(slopes)} of T, where the theorem proves 1. Outputs of ground truth "
        f"rewards {listed(settings.ground_truth_rewards)}, the first two good; tabular policy, no KL. "
        "Bounds: arXiv:2503.15477, Theorem 6."
    )


EXPERIMENT = Experiment(
    name="policy_dependence",
    title="For different initial policies different teachers are best",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
