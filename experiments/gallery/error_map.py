"""What an error at one output does, by the exact flow, and what the rule calls it."""

from dataclasses import dataclass, fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodteacher.experiments.batches import batch, hits, join
from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLACK, DOTTED, NEVER, PAGE, colorbar, decades, edges, letter, paper
from goodteacher.sim.instance import Instance
from goodteacher.theory.error_kinds import (
    VERDICTS,
    Category,
    Thresholds,
    agreement,
    best_thresholds,
    categories,
    confusion,
    log_ratio,
    most_of_the_way,
    trials,
)

_OUTPUT = 1  # where the error is; y* is output 0
_SCALE = 6.0  # decades up to which colours tell


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        truths: ground truth rewards of the output at which the proxy errs: a low and a middling one.
        initial_probability: of y*.
        lows: two further outputs share the rest of the probability; their rewards.
        rewards: points of the grid over the proxy reward of the output, from -1 to ``largest``.
        largest: proxy reward; that of y* is 1.
        probabilities: points of the grid over its initial probability, log-spaced between ``rarest`` and
            ``commonest``.
        trials: random problems with an error, for the confusion matrix.
        seed: of these.
    """

    truths: tuple[float, float] = (-0.8, 0.5)
    initial_probability: float = 1e-3
    lows: tuple[float, float] = (-1.0, -0.3)
    rewards: int = 45
    largest: float = 1.2
    probabilities: int = 36
    rarest: float = 1e-7
    commonest: float = 0.8
    trials: int = 2_000
    seed: int = 0


def problem(settings: Settings, truth: Array, probability: Array, reward: Array) -> Instance:
    """Four outputs, with an error at the second."""
    rest = 0.5 * (1.0 - settings.initial_probability - probability)
    row = [settings.initial_probability, probability, rest, rest]
    return Instance(
        jnp.stack([1.0, reward, *settings.lows]),
        jnp.stack([1.0, truth, *settings.lows]),
        start=jnp.stack(row),
    )


def run(settings: Settings) -> Data:
    """Ratio of hitting times over the plane, the rule's categories, and both on random problems."""
    rewards = np.linspace(-1.0, settings.largest, settings.rewards)
    probabilities = np.geomspace(settings.rarest, settings.commonest, settings.probabilities)
    grid = np.meshgrid(settings.truths, probabilities, rewards, indexing="ij")
    instances = batch(partial(problem, settings), *map(np.ravel, grid))
    # Corrected, the proxy reward does not matter: one time for a truth and a probability.
    truths, starts = (axis[..., 0].ravel() for axis in grid[:2])
    both = join(instances, batch(partial(problem, settings), truths, starts, truths))
    times, without = np.split(_times(both)[:, 0], [grid[0].size])
    times, without = times.reshape(grid[0].shape), without.reshape(*grid[0].shape[:2], 1)
    ratio = log_ratio(jnp.asarray(times), jnp.asarray(np.broadcast_to(without, times.shape)))
    codes = jax.jit(jax.vmap(categories))(instances)[:, 0, _OUTPUT].reshape(grid[0].shape)

    sample = trials(settings.seed, settings.trials, _times)
    counts = confusion(sample)
    best, agrees = best_thresholds(sample)
    axes = ("truth", "probability", "reward")
    rules = {"as they are": Thresholds(), "best of a grid": best}
    kinds = ("category", "verdict")
    return {
        "plane": xr.Dataset(
            {
                "log_ratio": variable(axes, ratio, "log10 of the hitting time over that without the error"),
                "category": variable(axes, codes, "category by rule, its code in theory.error_kinds"),
            },
            {
                "truth": variable("truth", settings.truths, "ground truth reward of the output"),
                "probability": variable("probability", probabilities, "initial probability of the output"),
                "reward": variable("reward", rewards, "proxy reward of the output"),
            },
        ),
        "confusion": xr.Dataset(
            {
                "count": variable(kinds, counts, "random errors of a category that have an effect"),
                "share": variable(kinds, _shares(counts), "share of the errors of the category"),
            },
            {"category": [category.title for category in Category], "verdict": list(VERDICTS)},
        ),
        "rules": xr.Dataset(
            {
                "agreement": variable(
                    "thresholds", [agreement(counts), agrees], "share foretold, mean over the effects"
                ),
                **{
                    field.name: variable(
                        "thresholds", [getattr(rule, field.name) for rule in rules.values()], "threshold"
                    )
                    for field in fields(Thresholds)
                },
            },
            {"thresholds": list(rules)},
        ),
    }


def _times(instances: Instance) -> np.ndarray:
    """Until most of the way is covered, ``[batch, 1]``."""
    return np.asarray(hits(instances, jax.jit(jax.vmap(most_of_the_way))).time)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Of each row; ``nan`` in an empty one."""
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """The two planes with the rule's regions, and the confusion matrix."""
    plane, confusion = data["plane"], data["confusion"]
    canvas = Figure(figsize=(PAGE, 3.0))
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.0, 1.0, 0.72))
    image = None
    for ax, truth in zip((left, middle), plane["truth"].values, strict=True):
        of = plane.sel(truth=truth)
        reward, probability = of["reward"].values, of["probability"].values
        shown = np.clip(of["log_ratio"].values, -_SCALE, _SCALE)
        cells = edges(reward), edges(probability, log=True)
        image = ax.pcolormesh(*cells, shown, cmap="PuOr_r", vmin=-_SCALE, vmax=_SCALE, rasterized=True)
        NEVER.fill(ax, *cells, np.isposinf(of["log_ratio"].values))
        _regions(ax, reward, probability, of["category"].values)
        ax.axvline(truth, color=BLACK, lw=0.8, ls=DOTTED)
        ax.set(yscale="log", xlim=(reward[0], reward[-1]), ylim=(probability[0], probability[-1]))
        decades(ax.yaxis)
        ax.set(xlabel="Proxy reward of the output")
    left.set(ylabel="Its initial probability", title="its ground truth is low")
    middle.set(title="its ground truth is middling", yticklabels=[])
    assert image is not None
    label = "$\\log_{10}$ of the hitting time over that without the error (hatched: never reached)"
    colorbar(canvas, image, [left, middle], label, orientation="horizontal", aspect=45, shrink=0.75)

    kept = confusion.dropna("category")
    right.imshow(kept["share"].values, cmap="Greys", vmin=0.0, vmax=1.6, aspect="auto")
    for (row, column), value in np.ndenumerate(kept["count"].values):
        right.text(column, row, f"{int(value)}", ha="center", va="center")
    right.set(xticks=range(kept.sizes["verdict"]), yticks=range(kept.sizes["category"]))
    right.set_xticklabels(kept["verdict"].values, rotation=40, ha="right", rotation_mode="anchor")
    right.set_yticklabels([name.replace("beneficial", "benefi-\ncial") for name in kept["category"].values])
    right.set(xlabel="By effect", title="random errors")
    right.tick_params(length=0)
    letter((left, middle, right))
    return canvas


def _regions(ax: Axes, reward: np.ndarray, probability: np.ndarray, codes: np.ndarray) -> None:
    """Draws the borders of the rule's regions, and writes each region's name into its widest place."""
    for code in np.unique(codes):
        inside = codes == code
        if code == Category.NONE or inside.sum() < 0.01 * inside.size:
            continue
        ax.contour(reward, probability, inside, [0.5], colors=BLACK, linewidths=0.8)
        # The longest run of cells in a row, the middle one of the rows that have it.
        widths = inside.sum(1)
        rows = np.flatnonzero(widths >= 0.6 * widths.max())
        row = rows[len(rows) // 2]
        columns = np.flatnonzero(inside[row])
        at = 0.5 * float(reward[columns[0]] + reward[columns[-1]]), float(probability[row])
        narrow = len(columns) < 0.2 * len(reward)
        ax.text(
            *at, Category(code).title, ha="center", va="center", fontsize=7.5, rotation=90 if narrow else 0
        ).set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    low, middling = settings.truths
    total = int(data["confusion"]["count"].sum())
    standard, best = (data["rules"].isel(thresholds=k) for k in (0, 1))
    return (
        "What an error at one output does. Four outputs, y* of reward 1 starts at 0.001; the proxy errs "
        f"at one other, whose ground truth reward is {low:g} (a, low) or {middling:g} (b, middling; dotted: "
        "no error). Colour: log10 of the time until the expected ground truth reward has covered nine tenths "
        "of its way, over that with the error corrected; beyond +-6 it no longer changes. Lines: the "
        "regions of the rule, after arXiv:2604.25872, Section 3; benign II up to "
        f"{float(standard['negligible']):g} times the probability of y*. (c) {total} random errors, "
        "each in a random problem with four outputs, by rule (rows) and by effect (columns; benign: a factor "
        f"of at most 1.26). The rule foretells {100 * float(standard['agreement']):.0f} % (mean over the "
        "three effects; guessing: 33 %) "
        f"with the thresholds as they are (low {standard['low']:g}, high {standard['high']:g}, negligible "
        f"{standard['negligible']:g}), and {100 * best['agreement']:.0f} % with the best of a grid "
        f"({best['low']:g}, {best['high']:g}, {best['negligible']:g})."
    )


EXPERIMENT = Experiment(
    name="error_map",
    title="What an error at one output does, and what the rule calls it",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
