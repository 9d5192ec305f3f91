"""How long escape takes if every batch of samples serves several updates (RE(S), arXiv:2609.36945).

A batch of the policy ``q`` that is used until nothing changes leaves ``pi(y) = q(y) r(y) / E_q r``, where the
mean update ``q(y) r(y) - (E_q r) pi(y)`` is zero: the odds of ``y*`` against ``y_med`` are multiplied by the
ratio of their rewards, whatever the others do, so that ``ln(odds of the end / odds of the start) / ln(r* /
r_med)`` batches are enough. ``y*`` comes to rest after a time of the order of ``1 / (r* q(y*))``: batches of
``S`` updates are used up if ``S`` times the learning rate is many times ``1/eps``, and the whole then takes
``eps^-1 ln(1/eps)`` updates. With fresh samples the stalling law holds.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    DASHED,
    DOTTED,
    GREY,
    MARKERS,
    PAGE,
    decades,
    letter,
    paper,
    shades,
)
from goodteacher.sim.reuse import updates_until
from goodteacher.theory.stalling import log_time

_REWARDS = 1.0, 0.8, 0.2  # of y*, y_med and a low output
_LEVEL = 0.9  # of the expected reward: y* and y_med are then equally likely


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probabilities: of ``y*``, descending; ``y_med`` starts at one half.
        reuses: updates ``S`` for each batch.
        learning_rate: of an update.
        clip: of the ratio, as in PPO.
        used_up: ``S`` times the learning rate times the initial probability, of the second panel.
        updates: after which to give up.
    """

    initial_probabilities: tuple[float, ...] = (3e-2, 1e-2, 3e-3, 1e-3)
    reuses: tuple[int, ...] = tuple(
        np.unique((10.0 ** np.arange(0.0, 4.51, 0.25)).round().astype(int)).tolist()
    )
    learning_rate: float = 0.5
    clip: float = 0.2
    used_up: float = 4.0
    updates: int = 1_300_000


def run(settings: Settings) -> Data:
    """Updates until escape by reuse and start, with and without clipping, and the laws."""
    starts, reuses = np.asarray(settings.initial_probabilities), np.asarray(settings.reuses)
    grid = [axis.ravel() for axis in np.meshgrid(starts, reuses, indexing="ij")]
    shape = len(starts), len(reuses)
    found = [
        np.where(count < 0, np.nan, count).reshape(shape)
        for count in (_updates(settings, grid[0], grid[1], clip) for clip in (None, settings.clip))
    ]
    many = np.ceil(settings.used_up / (settings.learning_rate * starts)).astype(int)
    law = np.exp([float(log_time(jnp.log(_start(eps)), jnp.asarray(_REWARDS))) for eps in starts])
    fresh = law / settings.learning_rate
    batches = np.log(0.5 / starts) / np.log(_REWARDS[0] / _REWARDS[1])
    rarity = variable("start", starts, "initial probability of y*")
    reuse = variable("reuses", reuses, "updates S for each batch")
    updates = f"updates until the expected reward is {_LEVEL}"
    return {
        "updates": xr.Dataset(
            {"updates": variable(("clipping", "start", "reuses"), found, updates)},
            {"clipping": ["none", "ratio"], "start": rarity, "reuses": reuse},
        ),
        "used_up": xr.Dataset(
            {
                "reuses": variable("start", many, "updates for each batch"),
                "updates": variable("start", _updates(settings, starts, many, None), updates),
                "fresh": variable("start", found[0][:, 0], f"{updates} with fresh samples"),
                "batches": variable("start", batches, "batches if all are used up"),
                "law": variable("start", fresh, "updates by the stalling law"),
            },
            {"start": rarity},
        ),
    }


def _start(eps: float | Array) -> Array:
    return jnp.stack([jnp.asarray(eps), jnp.asarray(0.5), 0.5 - jnp.asarray(eps)])


def _updates(settings: Settings, starts: np.ndarray, reuses: np.ndarray, clip: float | None) -> np.ndarray:
    def one(start: Array, reuse: Array) -> Array:
        numbers = _LEVEL, settings.learning_rate, reuse, settings.updates
        return updates_until(jnp.log(_start(start)), jnp.asarray(_REWARDS), *numbers, clip).update

    return np.asarray(jax.jit(jax.vmap(one))(starts, reuses)).astype(float)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Against reuse, and against the start."""
    updates, used_up = data["updates"]["updates"], data["used_up"]
    drawing = Figure(figsize=(PAGE, 3.1))
    axes = drawing.subplots(1, 2, width_ratios=(1.3, 1.0))
    by_reuse, by_start = axes
    colors = list(reversed(shades(updates.sizes["start"])))
    reuses = updates["reuses"].values
    for start, color, marker in zip(updates["start"].values, colors, MARKERS, strict=False):
        here, law = updates.sel(start=start), used_up.sel(start=start)
        by_reuse.plot(reuses, here.sel(clipping="none"), color=color, marker=marker, ms=3, lw=0.6)
        by_reuse.plot(
            reuses, here.sel(clipping="ratio"), color=color, marker=marker, ms=3, lw=0.6, mfc="white"
        )
        by_reuse.plot(reuses, np.full(len(reuses), law["law"]), color=color, ls=DASHED, lw=0.8)
        by_reuse.plot(reuses, reuses * float(law["batches"]), color=color, ls=DOTTED, lw=0.8)
        by_reuse.plot([], [], color=color, marker=marker, ms=3, ls="none", label=f"$\\epsilon={start:g}$")
    by_reuse.plot([], [], color=GREY, ls=DASHED, label="stalling law")
    by_reuse.plot([], [], color=GREY, ls=DOTTED, label="batches used up")
    by_reuse.plot([], [], color=GREY, marker="o", mfc="white", ls="none", ms=3, label="clipped")
    low, high = float(updates.min()), float(updates.max())
    by_reuse.set(xscale="log", yscale="log", xlim=(reuses[0] / 1.3, reuses[-1]), ylim=(low / 2, 4 * high))
    by_reuse.set(xlabel="Updates $S$ for each batch", ylabel=f"Updates until $V={_LEVEL}$")
    by_reuse.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    by_reuse.set_title("the same samples, again and again")
    rarity = used_up["start"]
    by_start.plot(rarity, used_up["law"], color=BLACK, lw=0.9)
    by_start.plot(rarity, used_up["fresh"], "o", color=BLACK)
    by_start.plot(rarity, used_up["reuses"] * used_up["batches"], color=colors[0], lw=0.9)
    by_start.plot(rarity, used_up["updates"], "s", color=colors[0])
    by_start.text(float(rarity[-1]) * 5, float(used_up["law"][-1]) / 4, "fresh", ha="right")
    there = float(rarity[-1]) * 6, float(used_up["updates"][-1]) / 30
    by_start.text(*there, f"$S={settings.used_up:g}/(\\eta\\epsilon)$", color=colors[0])
    by_start.set(
        xscale="log", yscale="log", xlim=(1.3 * rarity[0], rarity[-1] / 1.3), ylim=(low / 2, 4 * high)
    )
    by_start.set(xlabel="Initial probability $\\epsilon$ of $y^{*}$", yticklabels=[])
    by_start.set_title("$\\epsilon^{-2}$, and $\\epsilon^{-1}\\ln(1/\\epsilon)$")
    for axis in (by_reuse.xaxis, by_reuse.yaxis, by_start.xaxis, by_start.yaxis):
        decades(axis, 7)
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    updates, used_up = data["updates"]["updates"], data["used_up"]
    plain = updates.sel(clipping="none")
    rarest = plain.isel(start=-1)
    least = rarest.isel(reuses=int(np.nanargmin(rarest.values)))
    clipped = updates.sel(clipping="ratio").isel(start=-1)
    steps = np.diff(np.log(used_up["start"].values[-2:]))[0]
    slopes = [-np.diff(np.log(used_up[name].values[-2:]))[0] / steps for name in ("fresh", "updates")]
    apart = np.abs(used_up["updates"] / (used_up["reuses"] * used_up["batches"]) - 1.0)
    return (
        f"Three tabular outputs of rewards {listed(_REWARDS)}; y_med starts at 0.5; exact mean updates at "
        f"learning rate {settings.learning_rate:g}, S of them for each batch of samples, as of RE(S) "
        f"(arXiv:2609.36945). (a) Updates until the expected reward is {_LEVEL}, from initial "
        f"probabilities of y* of {listed(plain['start'].values)}. Fresh samples (S = 1) stall, by the "
        "stalling law (dashed). Batches that are used up (dotted) multiply the odds of y* by the ratio of "
        f"the rewards each. In between is the least: from {float(least['start']):g} {float(least):,.0f} "
        f"updates at S = {int(least['reuses']):,} for {float(rarest[0]):,.0f}. With ratios clipped at 1 ± "
        f"{settings.clip:g} as in PPO (open) the least is {float(clipped.min()):,.0f}. (b) Against the "
        f"initial probability: fresh, and with S = {settings.used_up:g}/(learning rate × initial "
        f"probability), on the lines; these grow with the powers {slopes[0]:.2f} and {slopes[1]:.2f} of "
        f"its inverse between the rarest, and the second line is met to {100 * float(apart.max()):.0f} %."
    )


EXPERIMENT = Experiment(
    name="stale_samples",
    title="Escape with samples that serve several updates",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
