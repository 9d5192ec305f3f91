"""Rewards over the deviation of their group, of the whole batch, or of nothing: who waits for whom."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASHED,
    DOTTED,
    GREY,
    LONG_DASHED,
    PAGE,
    RED,
    decades,
    label_right,
    letter,
    number,
    paper,
    shades,
)
from goodteacher.sim.batching import as_batch
from goodteacher.sim.clocks import BatchScaled, Clock, Gradient, Grpo
from goodteacher.sim.flow import hitting_times_only, policies
from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance

_LOOKS = {
    "group": {"color": BLUE, "ls": "-"},
    "batch": {"color": RED, "ls": LONG_DASHED},
    "none": {"color": BLACK, "ls": DOTTED},
}
_NAMES = {"group": "its group", "batch": "the batch", "none": "nothing"}
_LEVEL = 0.5  # of what is waited for


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        prompts: of the batch, each with a policy of its own.
        easy: pass rate of an easy prompt.
        hard: of a hard one, in the first panel.
        rarities: of hard ones, in the second.
        harder: of hard ones, in the third.
        epsilon: that is added to standard deviations.
        times: of the trajectories, for each prompt by itself.
    """

    prompts: int = 16
    easy: float = 0.5
    hard: float = 1e-3
    rarities: tuple[float, ...] = tuple(10.0 ** -np.arange(1.0, 5.01, 0.25))
    harder: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    epsilon: float = 1e-6
    times: tuple[float, ...] = tuple(10.0 ** np.linspace(-1.0, 3.5, 181))

    def clocks(self) -> dict[str, Clock]:
        """By what rewards are divided by the deviation of."""
        return {"group": Grpo(epsilon=self.epsilon), "batch": BatchScaled(self.epsilon), "none": Gradient()}

    def batch(self, easy: int, hard: float) -> Instance:
        """So many easy prompts, and hard ones for the rest."""
        rates = np.repeat([self.easy, hard], [easy, self.prompts - easy])
        return Instance(np.tile([1.0, 0.0], (self.prompts, 1)), start=np.stack([rates, 1.0 - rates], 1))


def run(settings: Settings) -> Data:
    """Pass rates in a batch of which half is hard, and how long hard prompts take, in all mixtures."""
    clocks, half = settings.clocks(), settings.prompts // 2
    mixed, counts = settings.batch(half, settings.hard), np.arange(settings.prompts)
    rates = np.stack([_pass_rates(mixed.following(clock), settings) for clock in clocks.values()])
    halves = [[settings.batch(half, hard) for hard in settings.rarities]]
    mixtures = [[settings.batch(int(easy), hard) for easy in counts] for hard in settings.harder]
    times, took = (
        np.array([[_of_hard_prompts(batches, clock) for batches in many] for clock in clocks.values()])
        for many in (halves, mixtures)
    )
    names, rarity = list(clocks), np.asarray(settings.rarities)
    grown = -np.diff(np.log(times[:, 0, -2:]))[:, 0] / np.diff(np.log(rarity[-2:]))
    waited = f"time until a hard prompt passes at {_LEVEL}"
    return {
        "rates": xr.Dataset(
            {"rate": variable(("scaling", "prompt", "time"), rates, "pass rate")},
            {
                "scaling": names,
                "prompt": ["easy", "hard"],
                "time": variable("time", settings.times, "time, for each prompt by itself", TIME),
            },
        ),
        "rarities": xr.Dataset(
            {
                "time": variable(("scaling", "hard"), times[:, 0], waited, TIME),
                "exponent": variable("scaling", grown, "power of 1/pass rate with which the time grows"),
            },
            {"scaling": names, "hard": variable("hard", rarity, "initial pass rate of hard prompts")},
        ),
        "waits": xr.Dataset(
            {"time": variable(("scaling", "hard", "easy"), took, waited, TIME)},
            {
                "scaling": names,
                "hard": variable("hard", settings.harder, "initial pass rate of hard prompts"),
                "easy": variable("easy", counts / settings.prompts, "share of easy prompts in the batch"),
            },
        ),
    }


def _pass_rates(instance: Instance, settings: Settings) -> Float[np.ndarray, "two times"]:
    """Of the first prompt, which is easy, and of the last. Each has a share of the learning rate."""
    times = settings.prompts * np.asarray(settings.times)[None]
    return np.exp(np.asarray(policies(as_batch(instance), times)))[0, :, [0, -1], 0]


def _of_hard_prompts(batches: Sequence[Instance], clock: Clock) -> Float[np.ndarray, " batches"]:
    """How long they take, of which one is always the last."""
    problems = [(each, probability_level(each, 0, _LEVEL)) for each in batches]
    instances, goals = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    times = np.asarray(hitting_times_only(instances.following(clock), goals)[0])
    return times[:, -1] / times.shape[1]


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Colour and dashes are the scaling, in the first two panels; in the third the hard prompts."""
    rates, rarities, waits = data["rates"]["rate"], data["rarities"]["time"], data["waits"]["time"]
    drawing = Figure(figsize=(PAGE, 2.8))
    axes = drawing.subplots(1, 3)
    learning, growing, waiting = axes
    for name, look in _LOOKS.items():
        learning.plot(rates["time"], rates.sel(scaling=name, prompt="easy"), **look, alpha=0.45)
        learning.plot(rates["time"], rates.sel(scaling=name, prompt="hard"), **look)
        growing.plot(rarities["hard"], rarities.sel(scaling=name), **look, label=_NAMES[name])
    learning.set(xscale="log", ylim=(0, 1.02), xlim=(rates["time"][0], rates["time"][-1]))
    learning.set(xlabel="Learning rate × updates", ylabel="Pass rate")
    learning.text(0.12, 0.7, "easy", color=GREY)
    learning.text(46, 0.5, "hard", color=GREY)
    decades(learning.xaxis, 5)
    learning.set_title("half easy, half hard")
    hardest = rarities["hard"]
    growing.set(xscale="log", yscale="log", xlim=(hardest[0], hardest[-1]))
    growing.set(xlabel="Initial pass rate of the hard prompts", ylabel=f"Time until they pass at {_LEVEL}")
    decades(growing.xaxis, 5)
    decades(growing.yaxis, 5)
    growing.legend(
        title="divided by the deviation of", loc="upper left", bbox_to_anchor=(-0.03, 1), handlelength=2
    )
    growing.set_title("slopes 1/2 and 1")
    ratio = waits.sel(scaling="batch") / waits.sel(scaling="group")
    colors = shades(len(settings.harder))
    for line, color in zip(ratio, colors, strict=True):
        waiting.plot(waits["easy"], line, color=color, marker="o", ms=2.5)
    waiting.axhline(1.0, color=GREY, lw=0.7, ls=DASHED)
    waiting.set(yscale="log", ylim=(0.8, 1.6 * float(ratio.max())), xlim=(-0.02, 1.0))
    waiting.set(xlabel="Share of easy prompts", ylabel="Time of the hard ones, batch / group")
    waiting.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    waiting.set_yticks([], minor=True)
    waiting.set_title("who is in the batch")
    names = [f"from {hard:g}" for hard in settings.harder]
    label_right(waiting, [float(line[-1]) for line in ratio], names, colors)
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    waits, exponents = data["waits"]["time"], data["rarities"]["exponent"]
    half = waits.sel(easy=0.5, hard=settings.hard)
    group, batch, none = (float(half.sel(scaling=name)) for name in ("group", "batch", "none"))
    ratio = waits.sel(scaling="batch") / waits.sel(scaling="group")
    alone, one = (float(ratio.sel(hard=settings.hard)[k]) for k in (0, 1))
    grown = ", ".join(f"{_NAMES[name]} {float(exponents.sel(scaling=name)):.3f}" for name in _LOOKS)
    return (
        f"A batch of {settings.prompts} prompts with rewards 0 and 1, each with a policy of its own, of "
        f"which easy ones pass at {settings.easy:g} at first; large groups, epsilon {settings.epsilon:g}; "
        f"exact. (a) Half of them start at {settings.hard:g}. Divided by the deviation of its group a hard "
        f"prompt passes at {_LEVEL:g} after {number(group)}, by that of the batch after {number(batch)}, "
        f"undivided after {number(none)}; of the easy ones little changes. (b) The same for other hard "
        f"prompts, and the power of 1/pass rate with which the time grows at the rarest: {grown}. One factor "
        "for all leaves the path of the gradient, and hard prompts their handicap. (c) How much longer they "
        "take under the batch's deviation than under their group's, which no other prompt changes. If all "
        f"are alike it is the same ({alone:.3g}); one easy prompt in {settings.prompts} is enough for a "
        f"factor of {one:.2g}, and half of them for {batch / group:.2g}: the deviation of the batch then "
        "measures how far the prompts are apart. Method: sim/batch_scaling.py."
    )


EXPERIMENT = Experiment(
    name="group_or_batch",
    title="Scaling by the group or by the batch",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
