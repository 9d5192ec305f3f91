"""What an error at one output does, by the exact flow, and what the rule calls it."""

from dataclasses import asdict, dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodteacher.experiments.batches import SOLVER, variable
from goodteacher.experiments.registry import Data, Experiment
from goodteacher.figures.style import BLACK, PAGE, decades, letter, paper
from goodteacher.sim.flow import Control, hitting_times
from goodteacher.sim.instance import Instance
from goodteacher.sim.status import Status
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
    instances = jax.vmap(partial(problem, settings))(*[jnp.asarray(axis.ravel()) for axis in grid])
    # Corrected, the proxy reward does not matter: one time for a truth and a probability.
    truths, starts = (jnp.asarray(axis[..., 0].ravel()) for axis in grid[:2])
    corrected = jax.vmap(partial(problem, settings))(truths, starts, truths)
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), instances, corrected)
    found = hitting_times(both, jax.vmap(most_of_the_way)(both), Control(solver=SOLVER))
    if (found.status == Status.NOT_CONVERGED).any():
        raise RuntimeError("a hitting time did not converge; change the grid")
    size = grid[0].size
    times = found.time[:size, 0].reshape(grid[0].shape)
    without = found.time[size:, 0].reshape(*grid[0].shape[:2], 1)
    ratio = log_ratio(times, jnp.broadcast_to(without, times.shape))
    codes = jax.jit(jax.vmap(categories))(instances)[:, 0, _OUTPUT].reshape(grid[0].shape)

    sample = trials(settings.seed, settings.trials)
    counts = confusion(sample)
    best, agrees = best_thresholds(sample)
    axes = ("truth", "probability", "reward")
    standard = Thresholds()
    return {
        "plane": xr.Dataset(
            {
                "log_ratio": variable(axes, ratio, "log10 of the hitting time over that without the error"),
                "category": variable(axes, codes, "category by rule, its code in theory.errors.Category"),
            },
            {
                "truth": variable("truth", settings.truths, "ground truth reward of the output"),
                "probability": variable("probability", probabilities, "initial probability of the output"),
                "reward": variable("reward", rewards, "proxy reward of the output"),
            },
            {"negligible": standard.negligible},
        ),
        "confusion": xr.Dataset(
            {
                "count": variable(
                    ("category", "verdict"), counts, "random errors of a category that have an effect"
                )
            },
            {"category": [category.title for category in Category], "verdict": list(VERDICTS)},
            {
                "agreement": agreement(counts),
                **asdict(standard),
                "best_agreement": agrees,
                **{f"best_{name}": value for name, value in asdict(best).items()},
            },
        ),
    }


@paper()
def figure(data: Data) -> Figure:
    """The two planes with the rule's regions, and the confusion matrix."""
    plane, counts = data["plane"], data["confusion"]["count"]
    canvas = Figure(figsize=(PAGE, 3.0))
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.0, 1.0, 0.72))
    image = None
    for ax, truth in zip((left, middle), plane["truth"].values, strict=True):
        of = plane.sel(truth=truth)
        reward, probability = of["reward"].values, of["probability"].values
        shown = np.clip(of["log_ratio"].values, -_SCALE, _SCALE)
        image = ax.pcolormesh(
            reward, probability, shown, cmap="PuOr_r", vmin=-_SCALE, vmax=_SCALE, rasterized=True
        )
        never = np.isposinf(of["log_ratio"].values)
        with np.errstate(invalid="ignore"):
            ax.contourf(reward, probability, never, [0.5, 1.5], hatches=["////"], colors="none")
        _regions(ax, reward, probability, of["category"].values)
        ax.axvline(truth, color=BLACK, lw=0.8, ls=(0, (1, 1.5)))
        ax.set(yscale="log", xlim=(reward[0], reward[-1]), ylim=(probability[0], probability[-1]))
        decades(ax.yaxis)
        ax.set(xlabel="Proxy reward of the output")
    left.set(ylabel="Its initial probability", title="its ground truth is low")
    middle.set(title="its ground truth is middling", yticklabels=[])
    assert image is not None
    bar = canvas.colorbar(image, ax=[left, middle], orientation="horizontal", aspect=45, shrink=0.75)
    bar.set_label("$\\log_{10}$ of the hitting time over that without the error (hatched: never reached)")
    bar.outline.set_visible(False)

    kept = counts.isel(category=np.flatnonzero(counts.sum("verdict") > 0))
    share = (kept / kept.sum("verdict")).values
    right.imshow(share, cmap="Greys", vmin=0.0, vmax=1.6, aspect="auto")
    for (row, column), value in np.ndenumerate(kept.values):
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


def caption(data: Data) -> str:
    """What is seen, with the numbers."""
    confusion = data["confusion"]
    found, low, middling = confusion.attrs, *data["plane"]["truth"].values
    total = int(confusion["count"].sum())
    return (
        "What an error at one output does. Four outputs, y* of reward 1 starts at 0.001; the proxy errs "
        f"at one other, whose ground truth reward is {low:g} (a, low) or {middling:g} (b, middling; dotted: "
        "no error). Colour: log10 of the time until the expected ground truth reward has covered nine tenths "
        "of its way, over that with the error corrected; beyond +-6 it no longer changes. Lines: the "
        "regions of the rule, after arXiv:2604.25872, Section 3; benign II up to "
        f"{data['plane'].attrs['negligible']:g} times the probability of y*. (c) {total} random errors, "
        "each in a random problem with four outputs, by rule (rows) and by effect (columns; benign: a factor "
        f"of at most 1.26). The rule foretells {100 * found['agreement']:.0f} % (mean over the three "
        f"effects; guessing: 33 %) "
        f"with the thresholds as they are (low {found['low']:g}, high {found['high']:g}, negligible "
        f"{found['negligible']:g}), and {100 * found['best_agreement']:.0f} % with the best of a grid "
        f"({found['best_low']:g}, {found['best_high']:g}, {found['best_negligible']:g})."
    )


EXPERIMENT = Experiment(
    name="error_map",
    title="What an error at one output does, and what the rule calls it",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
