"""Which prompts to spend a budget of samples on: cuts, filters, and the exact optimum.

Every prompt has two outputs of rewards 1 and 0, of which the right one has a probability ``p``, and a policy
of its own. All prompts then run along one curve: after ``s`` units of the budget one that started at ``p0``
is at the ``p`` with ``T(p) = T(p0) + s``, with the exact time ``T`` of the estimator's clock. A unit is a
group that is drawn, times the learning rate.

The optimum maximises the sum of ``p_i(s_i)`` for a given sum of ``s_i``. With a price ``mu`` of a unit every
prompt maximises ``p_i(s_i) - mu s_i`` by itself: ``dp/ds = 2 m p^2 (1-p)^2`` rises and then falls, so that a
prompt is either left alone or taken to the one ``p`` where it has fallen to ``mu``, and this only if ``p -
p0`` is more than the price of the way. What maximises that is an optimum for what it costs (the sufficient
side of Lagrange's condition, which needs no convexity), and no other is above the lines that join these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import (
    BLACK,
    BLUE,
    DASH_DOTTED,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    LONG_DASHED,
    ORANGE,
    PAGE,
    RED,
    decades,
    letter,
    paper,
)
from goodteacher.sim.clocks import Clock, DynamicSampling, Grpo, MeanSubtracted, moments, see
from goodteacher.sim.flow import hitting_times_only
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance, Parameters

_LOOKS = {
    "all alike": {"color": BLACK, "ls": "-"},
    "cut": {"color": RED, "ls": DASHED},
    "variance filter": {"color": ORANGE, "ls": LONG_DASHED},
    "drawn again": {"color": GREEN, "ls": DASH_DOTTED},
    "others drawn": {"color": GREEN, "ls": DOTTED},
    "optimum": {"color": BLUE, "ls": "-"},
}
_COLORS = BLACK, BLUE
_PLACES = (20.0, 1e-2), (0.4, 6e-4)  # of their names
_FARTHEST = 20.0  # log-odds beyond which no prompt is followed
_HALVINGS = 80
_MOST = 1e9  # groups drawn, times the learning rate


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        lowest, highest: pass rates of the population, whose log-odds are spread evenly between.
        prompts: how many there are.
        group: samples of a group.
        cut: pass rates between which the cut keeps prompts.
        kept: share of the prompts that the variance filter keeps, those with the largest ``p (1 - p)``.
        rounds: after how many equal parts of the budget cut and filter look at the pass rates again.
        budgets: groups per prompt, times the learning rate.
        points: of the curve that all prompts run along.
        aim: mean pass rate of which the caption says what it costs.
    """

    lowest: float = 1e-4
    highest: float = 0.999
    prompts: int = 1000
    group: int = 16
    cut: tuple[float, float] = (0.2, 0.8)
    kept: float = 0.5
    rounds: int = 20
    budgets: tuple[float, ...] = tuple(10.0 ** np.arange(-0.5, 4.01, 0.125))
    points: int = 801
    aim: float = 0.8

    def clocks(self) -> dict[str, MeanSubtracted | Grpo]:
        """By what they are called."""
        return {"mean subtracted": MeanSubtracted(self.group), "GRPO": Grpo(self.group)}


class _Curve(NamedTuple):
    """What all prompts run along: log-odds, and the times at which they are passed."""

    log_odds: Float[np.ndarray, " points"]
    time: Float[np.ndarray, " points"]

    def spent(self, log_odds: np.ndarray) -> np.ndarray:
        """When log-odds are passed."""
        # In asinh, for times grow like exponentials to both sides of even odds.
        return np.sinh(np.interp(log_odds, self.log_odds, np.arcsinh(self.time)))

    def after(self, log_odds: np.ndarray, time: np.ndarray | float) -> np.ndarray:
        """Where prompts are a time later."""
        then = np.arcsinh(self.spent(log_odds) + time)
        return np.interp(then, np.arcsinh(self.time), self.log_odds)


def _rate(log_odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-log_odds))


def _log_odds(rate: float) -> float:
    return float(np.log(rate) - np.log1p(-rate))


@jax.jit
@jax.vmap
def _step(low: Array, high: Array) -> tuple[Instance, Goal]:
    start = jnp.stack([jax.nn.log_sigmoid(low), jax.nn.log_sigmoid(-low)])
    instance = Instance([[1.0, 0.0]], start=Parameters(start[None]))
    return instance, probability_level(instance, 0, jax.nn.sigmoid(high))


def _curve(clock: Clock, log_odds: np.ndarray) -> _Curve:
    """By the exact times from each point to the next, counted from even odds."""
    instances, goals = _step(log_odds[:-1], log_odds[1:])
    steps = np.asarray(hitting_times_only(instances.following(clock), goals)[0])[:, 0]
    middle = np.abs(log_odds).argmin()
    after = np.concatenate([[0.0], np.cumsum(steps[middle:])])
    before = -np.cumsum(steps[:middle][::-1])[::-1]
    return _Curve(log_odds, np.concatenate([before, after]))


_Keep = Callable[[np.ndarray], np.ndarray]


def _in_rounds(curve: _Curve, start: np.ndarray, budget: float, rounds: int, keep: _Keep) -> np.ndarray:
    """Where prompts end if each part of a budget is shared among those that are kept."""
    now = start
    for _ in range(rounds):
        kept = keep(now)
        share = budget * len(now) / (rounds * max(1, kept.sum()))
        now = np.where(kept, curve.after(now, share), now)
    return now


def _affordable(costs: Callable[[float], np.ndarray], budget: float, most: float) -> float:
    """The largest number up to ``most`` whose mean cost is within a budget."""
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if costs(middle).mean() < budget else (low, middle)
    return low


def _kept(curve: _Curve, again: _Curve, start: np.ndarray, budget: float) -> np.ndarray:
    """Where prompts end if all are drawn alike, and groups with a spread alone are counted."""
    before = again.spent(start)
    return curve.after(
        start, _affordable(lambda drawn: again.spent(curve.after(start, drawn)) - before, budget, _MOST)
    )


def _drawn_again(curve: _Curve, again: _Curve, start: np.ndarray, budget: float) -> np.ndarray:
    """Where prompts end after as many groups with a spread each, at the cost of all that are drawn."""
    before = curve.spent(start)
    return again.after(
        start, _affordable(lambda updates: curve.spent(again.after(start, updates)) - before, budget, budget)
    )


class _Optimum(NamedTuple):
    """Optima for what they cost, by the log-odds to which prompts are taken."""

    budget: Float[np.ndarray, " points"]
    mean: Float[np.ndarray, " points"]
    first: Float[np.ndarray, " points"]  # log-odds from which on prompts are trained
    last: Float[np.ndarray, " points"]  # to which they are taken


def _optima(clock: Clock, curve: _Curve, start: np.ndarray) -> _Optimum:
    p, rest = _rate(curve.log_odds), _rate(-curve.log_odds)
    seen = see(np.tile([1.0, 0.0], (len(p), 1)), None, None)
    rate = clock.rate(moments(seen, np.stack([p, rest], 1), np.stack([rest, -p], 1), -1))
    slope = 2.0 * np.asarray(rate) * (p * rest) ** 2
    ends = np.arange(slope.argmax() + 1, len(slope) - 1)
    price, last = slope[ends, None], curve.log_odds[ends, None]
    gain = _rate(last) - _rate(start)
    cost = curve.time[ends, None] - curve.spent(start)
    trained = (start < last) & (gain > price * cost)
    return _Optimum(
        np.where(trained, cost, 0.0).mean(1),
        np.where(trained, _rate(last), _rate(start)).mean(1),
        np.where(trained, start, np.inf).min(1),
        last[:, 0],
    )


def run(settings: Settings) -> Data:
    """Mean pass rates by rule and budget under each estimator, and whom the optimum trains."""
    start = np.linspace(_log_odds(settings.lowest), _log_odds(settings.highest), settings.prompts)
    log_odds = np.linspace(start[0], _FARTHEST, settings.points)
    low, high = settings.cut
    kept = round(settings.kept * settings.prompts)

    def inside(now: np.ndarray) -> np.ndarray:
        return (_rate(now) >= low) & (_rate(now) <= high)

    def of_most_variance(now: np.ndarray) -> np.ndarray:
        return np.abs(now) <= np.sort(np.abs(now))[kept - 1]

    means, costs, windows = [], [], []
    for clock in settings.clocks().values():
        curve, again = _curve(clock, log_odds), _curve(DynamicSampling(clock), log_odds)
        optima = _optima(clock, curve, start)
        rules = {
            "all alike": lambda budget, c=curve: c.after(start, budget),
            "cut": lambda budget, c=curve: _in_rounds(c, start, budget, settings.rounds, inside),
            "variance filter": lambda budget, c=curve: _in_rounds(
                c, start, budget, settings.rounds, of_most_variance
            ),
            "drawn again": lambda budget, c=curve, a=again: _drawn_again(c, a, start, budget),
            "others drawn": lambda budget, c=curve, a=again: _kept(c, a, start, budget),
        }
        found = [[_rate(rule(budget)).mean() for budget in settings.budgets] for rule in rules.values()]
        known = optima.budget > 0
        of = _Optimum(*(values[known] for values in optima))
        means.append([*found, np.interp(settings.budgets, of.budget, of.mean)])
        windows.append([_rate(np.interp(settings.budgets, of.budget, end)) for end in (of.first, of.last)])
        costs.append([_cost(settings, np.asarray(row)) for row in means[-1]])
    names, rules = list(settings.clocks()), list(_LOOKS)
    budget = variable("budget", settings.budgets, "groups drawn per prompt, times the learning rate", TIME)
    axes = ("estimator", "rule", "budget")
    return {
        "means": xr.Dataset(
            {"mean": variable(axes, means, "mean pass rate at the end")},
            {"estimator": names, "rule": rules, "budget": budget},
        ),
        "costs": xr.Dataset(
            {"cost": variable(axes[:2], costs, f"budget for a mean pass rate of {settings.aim}", TIME)},
            {"estimator": names, "rule": rules},
        ),
        "windows": xr.Dataset(
            {"rate": variable(("estimator", "end", "budget"), windows, "pass rate that the optimum trains")},
            {"estimator": names, "end": ["from", "to"], "budget": budget},
        ),
    }


def _cost(settings: Settings, mean: np.ndarray) -> float:
    """At which budget a mean pass rate is reached; ``inf`` if at none."""
    if mean.max() < settings.aim:
        return np.inf
    return float(np.exp(np.interp(settings.aim, mean, np.log(settings.budgets))))


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """A panel for each estimator, and the windows that the optimum trains."""
    means, windows = data["means"]["mean"], data["windows"]["rate"]
    drawing = Figure(figsize=(PAGE, 3.3))
    axes = drawing.subplots(1, 3)
    budget = means["budget"]
    for ax, name in zip(axes, means["estimator"].values, strict=False):
        for rule, look in _LOOKS.items():
            ax.plot(budget, means.sel(estimator=name, rule=rule), label=_named(rule, settings), **look)
        ax.set(xscale="log", xlim=(budget[0], budget[-1]), ylim=(float(means.min()) - 0.02, 1.01))
        ax.set(ylabel="Mean pass rate", xlabel="Budget: groups × learning rate")
        decades(ax.xaxis, 6)
        ax.set_title(f"{name}, $G={settings.group}$")
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    last = axes[-1]
    last.axhspan(*settings.cut, color="0.9", lw=0)
    last.text(float(budget[-1]) / 1.3, settings.cut[0] * 1.3, "the cut", color=GREY, ha="right")
    for name, color in zip(windows["estimator"].values, _COLORS, strict=True):
        for end in windows["end"].values:
            last.plot(budget, windows.sel(estimator=name, end=end), color=color, label=name)
    for (x, y), name, color in zip(_PLACES, windows["estimator"].values, _COLORS, strict=True):
        last.text(x, y, name, color=color)
    last.set(xscale="log", xlim=(budget[0], budget[-1]), yscale="logit", ylim=(0.7 * settings.lowest, 0.9999))
    last.set(xlabel="Budget: groups × learning rate", ylabel="Pass rates, from and to")
    last.set_yticks(
        [1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99], ["$10^{-4}$", "0.001", "0.01", "0.1", "0.5", "0.9", "0.99"]
    )
    last.set_yticks([], minor=True)
    decades(last.xaxis, 6)
    last.set_title("whom the optimum trains")
    letter(axes)
    return drawing


def _named(rule: str, settings: Settings) -> str:
    low, high = settings.cut
    return {
        "drawn again": "groups without spread drawn again",
        "others drawn": "others drawn instead, not counted",
        "cut": f"{100 * low:g} to {100 * high:g} % alone",
        "variance filter": f"the {100 * settings.kept:g} % of most variance",
    }.get(rule, rule)


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    costs, windows = data["costs"]["cost"], data["windows"]["rate"]
    compared = []
    for name in costs["estimator"].values:
        here = costs.sel(estimator=name)
        parts = [
            f"{_named(str(rule), settings)} "
            + (f"{float(cost / here.sel(rule='all alike')):.2g}" if np.isfinite(cost) else "never")
            for rule, cost in zip(here["rule"].values, here.values, strict=True)
            if rule != "all alike"
        ]
        compared.append(
            f"under {name} {', '.join(parts)} of the {float(here.sel(rule='all alike')):.2g} of all alike"
        )
    rarest = [float(windows.sel(estimator=name, end="from")[0]) for name in windows["estimator"].values]
    return (
        f"{settings.prompts} prompts with pass rates from {settings.lowest:g} to {settings.highest:g}, their "
        "log-odds spread evenly, each with a policy of its own over two outputs. (a, b) Mean pass rate after "
        f"a budget of groups of {settings.group}, with the mean subtracted, and as GRPO has them: spent "
        f"on all alike; on those between {settings.cut[0]:g} and {settings.cut[1]:g} alone; on the "
        f"{100 * settings.kept:g} % of most variance p(1 - p) (both choose anew {settings.rounds} times); "
        "with dynamic sampling, on as many groups with a spread for each prompt, those without being drawn "
        "again, and counted; on all alike, but groups without a spread are replaced by those of other "
        "prompts and not counted, as in the updates of DAPO (of what is drawn that makes no difference); "
        f"and by the exact optimum. For a mean of {settings.aim:g} they need {'; '.join(compared)}. (c) The "
        "optimum takes every prompt from the lower line on up to the upper line and leaves the others "
        f"alone. At the smallest budget here the lower line is at {listed(rarest)}; with more it falls "
        "to the rarest prompts, far below the cut (grey). Times are exact."
    )


EXPERIMENT = Experiment(
    name="which_prompts",
    title="Which prompts to spend a budget on",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
