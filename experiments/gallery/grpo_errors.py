"""Which errors of a reward stay harmful or beneficial under GRPO."""

from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodteacher.experiments.batches import hits
from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLACK, DASHED, GREEN, GREY, ORANGE, PAGE, PURPLE, RED, letter, paper
from goodteacher.sim.clocks import Clock, Gradient, Grpo
from goodteacher.sim.instance import Instance
from goodteacher.theory.error_kinds import (
    VERDICTS,
    Category,
    Trials,
    agreement,
    categories,
    confusion,
    most_of_the_way,
    trials,
    verdicts,
)

_CLOCKS: dict[str, Clock] = {"gradient": Gradient(), "GRPO": Grpo()}
_COLORS = {
    Category.HARMFUL_I: RED,
    Category.HARMFUL_II: ORANGE,
    Category.BENIGN_I: GREY,
    Category.BENIGN_II: PURPLE,
    Category.BENEFICIAL: GREEN,
}
_SHOWN = 2.5  # decades of the effect
_CLEAR = 0.5  # from which on effects are compared
_GOALS = jax.jit(jax.vmap(most_of_the_way))


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        trials: random errors, each in a random problem.
        seed: of them.
    """

    trials: int = 2_000
    seed: int = 0


def run(settings: Settings) -> Data:
    """The same errors under both, their effects, and how effects and categories go together."""
    samples = {name: _sample(settings, clock) for name, clock in _CLOCKS.items()}
    first = samples["gradient"]
    codes = np.asarray(jax.jit(jax.vmap(categories))(first.instances))[:, 0]
    code = np.take_along_axis(codes, first.output[:, None], axis=1)[:, 0]
    effects = np.array([sample.log_ratio for sample in samples.values()])
    moved = np.zeros((len(VERDICTS), len(VERDICTS)), int)
    known = ~np.isnan(effects).any(0)
    np.add.at(moved, tuple(verdicts(effects[:, known])), 1)
    counts = np.array([confusion(sample) for sample in samples.values()])
    names, verdict = list(_CLOCKS), list(VERDICTS)
    error = np.arange(settings.trials)
    ratio = "log10 of the hitting time over that without the error"
    return {
        "errors": xr.Dataset(
            {"log_ratio": variable(("estimator", "error"), effects, ratio)},
            {
                "estimator": names,
                "error": error,
                "category": variable("error", code, "category by rule, its code in theory.error_kinds"),
            },
        ),
        "moved": xr.Dataset(
            {"count": variable(("gradient", "GRPO"), moved, "errors with an effect under each")},
            {"gradient": verdict, "GRPO": verdict},
        ),
        "confusion": xr.Dataset(
            {
                "count": variable(
                    ("estimator", "category", "verdict"), counts, "errors of a category that have an effect"
                )
            },
            {"estimator": names, "category": [category.title for category in Category], "verdict": verdict},
        ),
        "agreement": xr.Dataset(
            {
                "agreement": variable(
                    "estimator", [agreement(of) for of in counts], "share foretold, mean over the effects"
                )
            },
            {"estimator": names},
        ),
    }


def _sample(settings: Settings, clock: Clock) -> Trials:
    def times(instances: Instance) -> np.ndarray:
        return np.asarray(hits(instances.following(clock), _GOALS).time)

    return trials(settings.seed, settings.trials, times)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Effects under both; which effects stay; what the rule foretells under each."""
    effects, moved, counts = data["errors"]["log_ratio"], data["moved"]["count"], data["confusion"]["count"]
    drawing = Figure(figsize=(PAGE, 3.0))
    axes = drawing.subplots(1, 3, width_ratios=(1.25, 0.8, 1.0))
    scatter, stays, by_rule = axes
    for category, color in _COLORS.items():
        of = effects[:, effects["category"].values == category]
        x, y = (np.clip(of.sel(estimator=name), -_SHOWN, _SHOWN) for name in _CLOCKS)
        scatter.plot(x, y, ".", color=color, ms=2.5, mew=0, label=category.title, rasterized=True)
    ends = np.array([-_SHOWN, _SHOWN])
    for slope, look in ((1.0, "-"), (0.5, DASHED)):
        scatter.plot(ends, slope * ends, color=BLACK, lw=0.7, ls=look, zorder=0)
    scatter.set(xlim=1.04 * ends, ylim=1.04 * ends)
    scatter.set(xlabel="under the gradient", ylabel="under GRPO", title="$\\log_{10}$ of the factor on time")
    scatter.legend(loc="upper left", markerscale=3, handletextpad=0.0, borderaxespad=0.0, fontsize="small")
    _matrix(stays, moved.values, [[f"{count}" for count in row] for row in moved.values])
    stays.set_yticks(range(len(VERDICTS)), VERDICTS)
    stays.set(xlabel="by effect under GRPO", ylabel="by effect under the gradient", title="which stay")
    kept = counts[:, counts.sum(("estimator", "verdict")).values > 0]
    each = [kept.sel(estimator=name).values for name in _CLOCKS]
    texts = [[f"{a} | {b}" for a, b in zip(*rows, strict=True)] for rows in zip(*each, strict=True)]
    _matrix(by_rule, each[1], texts)
    by_rule.set_yticks(range(len(kept["category"])), kept["category"].values)
    by_rule.set(xlabel="by effect: gradient | GRPO", title="and the rule")
    letter(axes)
    return drawing


def _matrix(ax: Axes, counts: np.ndarray, texts: list[list[str]]) -> None:
    """Counts, shaded by their share of the row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, cmap="Greys", vmin=0.0, vmax=1.6, aspect="auto")
    for (row, column), _ in np.ndenumerate(counts):
        ax.text(column, row, texts[row][column], ha="center", va="center", fontsize=7.5)
    ax.set_xticks(range(len(VERDICTS)), VERDICTS, rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    effects, moved = data["errors"]["log_ratio"], data["moved"]["count"]
    counts, agrees = data["confusion"]["count"], data["agreement"]["agreement"]
    gradient, grpo = (effects.sel(estimator=name).values for name in _CLOCKS)
    clear = np.isfinite(gradient) & np.isfinite(grpo) & (np.abs(gradient) > _CLEAR)
    never = int((np.isinf(gradient) & np.isinf(grpo)).sum())
    stays = moved.values.diagonal() / moved.values.sum(1)
    stalls = [counts.sel(estimator=name, category=Category.HARMFUL_II.title) for name in _CLOCKS]
    harmful = [float(of.sel(verdict="harmful") / of.sum()) for of in stalls]
    return (
        f"{settings.trials} random errors, each at one output of a random problem with four: what they do "
        "to the time until the expected ground truth reward has covered nine tenths of its way, under the "
        "gradient and under GRPO in the limit of large groups. (a) log10 of that time over the one with "
        "the error corrected, by the rule's categories; full: the same under both, dashed: half of it "
        f"(the median of effects beyond {_CLEAR:g} is {np.median(grpo[clear] / gradient[clear]):.2f} times "
        f"as large); at the edge are those beyond {_SHOWN:g} and the {never} that make the goal reachable "
        "or unreachable, which is the same under any clock. (b) Of what is harmful, benign (a factor of "
        "at most 1.26) and beneficial under the gradient, "
        f"{', '.join(f'{100 * share:.0f}' for share in stays)} % stay so under GRPO. (c) The rule of "
        "arXiv:2604.25872 against both: errors of the kind harmful II, which stall, do harm in "
        f"{100 * harmful[0]:.0f} % under the gradient and in {100 * harmful[1]:.0f} % under GRPO; the rule "
        f"foretells {100 * float(agrees[0]):.0f} and {100 * float(agrees[1]):.0f} % (mean over the three "
        "effects; guessing: 33 %)."
    )


EXPERIMENT = Experiment(
    name="grpo_errors",
    title="Which errors stay harmful or beneficial under GRPO",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
