"""What the intervals and probabilities of a diagnosis are worth: made-up populations whose truth is exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.diagnosis import columns, estimators
from goodteacher.experiments.rollouts.drawn import drawn
from goodteacher.experiments.rollouts.resampling import ratio, resample, resample_each
from goodteacher.experiments.rollouts.scales import SCALES
from goodteacher.figures.style import BLUE, GREY, MARKERS, ORANGE, PAGE, letter, paper
from goodteacher.sim.estimates import tilt

NOMINAL = 0.95
MEASURES = {
    "within_variance": "variance within",
    "between_variance": "variance between",
    "covariance": "covariance",
    "accuracy": "on-policy accuracy",
    "accuracy_where_truth_differs": "where truth differs",
}
_KINDS = ("verifier", "reward model")
_OUTPUTS = 6
_TOGETHER = 100  # files with one set of resamples


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        sizes: numbers of prompts and of draws of the files.
        files: how many of each size.
        resamples: of the bootstrap of each file.
        types: kinds of prompts in a population, each with outputs of its own.
        rankings: files with two rewards.
        tau: time along the natural gradient at which rewards are compared.
        bins: of the probability that is stated.
        seed: of all random numbers.
    """

    sizes: tuple[tuple[int, int], ...] = (
        *((50, 4), (50, 8), (50, 16), (50, 64)),
        *((200, 8), (1000, 4), (1000, 8), (1000, 16)),
    )
    files: int = 2000
    resamples: int = 1000
    types: int = 40
    rankings: int = 2000
    tau: float = 1.0
    bins: int = 5
    seed: int = 0


class _Population(NamedTuple):
    """Types of prompts, equally likely: probabilities, rewards and truths of their outputs."""

    p: np.ndarray
    rewards: np.ndarray
    truth: np.ndarray


def _population(rng: np.random.Generator, types: int, kind: str) -> _Population:
    p = rng.dirichlet(np.full(_OUTPUTS, 0.7), size=types)
    truth = (rng.random(p.shape) < rng.beta(0.5, 0.8, size=(types, 1))).astype(float)
    if kind == "verifier":
        # Right four times of five; rewards of two values, so that ties are heavy.
        return _Population(p, np.where(rng.random(p.shape) < 0.8, truth, 1.0 - truth), truth)
    return _Population(p, truth + 0.8 * rng.normal(size=p.shape) + rng.normal(size=(types, 1)), truth)


def _exact(of: _Population) -> dict[str, float]:
    """What is estimated."""
    p, r, g = of

    def mean(values: np.ndarray) -> np.ndarray:
        return (p * values).sum(1)

    pairs = p[:, :, None] * p[:, None, :]
    signs = [np.sign(each[:, :, None] - each[:, None, :]) for each in (r, g)]
    right, decided = signs[0] == signs[1], signs[1] != 0
    return {
        "within_variance": float((mean(r**2) - mean(r) ** 2).mean()),
        "between_variance": float(mean(r).var()),
        "covariance": float((mean(r * g) - mean(r) * mean(g)).mean()),
        "accuracy": float((pairs * right).sum((1, 2)).mean()),
        "accuracy_where_truth_differs": float((pairs * (right & decided)).sum() / (pairs * decided).sum()),
    }


def _draw(
    rng: np.random.Generator, of: _Population, prompts: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Types of prompts, and outputs that are drawn from them."""
    types = rng.integers(len(of.p), size=prompts)
    uniform = rng.random((prompts, draws))
    chosen = (uniform[..., None] > np.cumsum(of.p, axis=1)[types][:, None, :-1]).sum(-1)
    return types, chosen


def _files(
    rng: np.random.Generator, of: _Population, prompts: int, draws: int, files: int
) -> Iterator[dict[str, np.ndarray]]:
    """What is summed over the prompts of each file; many files are made at once."""
    together = max(20_000 // prompts, 1)
    for first in range(0, files, together):
        count = min(together, files - first)
        types, chosen = _draw(rng, of, count * prompts, draws)
        rewards, truth = (each[types[:, None], chosen] for each in (of.rewards, of.truth))
        rollouts = Rollouts.from_arrays(rewards, truth)
        summed = columns(drawn(rollouts, rollouts, groups=(), numbers=()))
        for i in range(count):
            rows = slice(i * prompts, (i + 1) * prompts)
            yield {name: np.asarray(values)[rows] for name, values in summed.items()}


def _coverage(settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """``[kinds, sizes, measures]``."""
    found = np.zeros((len(_KINDS), len(settings.sizes), len(MEASURES)))
    wanted = {name: of for name, of in estimators(0, SCALES["none"]).items() if name in MEASURES}
    for i, kind in enumerate(_KINDS):
        population = _population(rng, settings.types, kind)
        exact = _exact(population)
        for j, (prompts, draws) in enumerate(settings.sizes):
            files = list(_files(rng, population, prompts, draws, settings.files))
            # A few sets of resamples serve all files.
            for number, first in enumerate(range(0, len(files), _TOGETHER)):
                some = files[first : first + _TOGETHER]
                for sums in resample_each(some, settings.resamples, number):
                    for k, (name, estimate) in enumerate(wanted.items()):
                        interval = sums.interval(estimate, NOMINAL)
                        found[i, j, k] += interval.low <= exact[name] <= interval.high
    return found / settings.files


def _rankings(settings: Settings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of files with two rewards: the probability that is stated for the better one, and whether it is."""
    prompts, draws = 100, 8
    stated, right = np.zeros(settings.rankings), np.zeros(settings.rankings, bool)
    for file in range(settings.rankings):
        population = _population(rng, settings.types, "reward model")
        quality = rng.uniform(0.0, 1.0, size=2)
        noise = rng.normal(size=(2, *population.p.shape))
        rewards = [q * population.truth + (1.0 - q) * e for q, e in zip(quality, noise, strict=True)]
        types, chosen = _draw(rng, population, prompts, draws)
        truth = population.truth[types[:, None], chosen]
        uniform = np.full(truth.shape, -np.log(draws))
        scores, exact = [], []
        for reward in rewards:
            whole = tilt(np.log(population.p), reward, np.full(len(population.p), settings.tau))
            exact.append((np.exp(whole.log_probabilities) * population.truth).sum(1).mean())
            seen = tilt(uniform, reward[types[:, None], chosen], np.full(prompts, settings.tau))
            scores.append((np.exp(seen.log_probabilities) * truth).sum(1))
        sums = resample(
            {"first": scores[0], "second": scores[1], "one": np.ones(prompts)},
            settings.resamples,
            file // _TOGETHER,
        )
        first = sums.exceeds(ratio("first", "one"), ratio("second", "one"))
        stated[file] = max(first, 1.0 - first)
        right[file] = (first >= 0.5) == (exact[0] > exact[1])
    return stated, right


def run(settings: Settings) -> Data:
    """Coverage of every interval by size of the file, and how often a ranking is right."""
    rng = np.random.default_rng(settings.seed)
    covered = _coverage(settings, rng)
    stated, right = _rankings(settings, rng)
    edges = np.linspace(0.5, 1.0, settings.bins + 1)
    of_bin = np.clip(np.searchsorted(edges, stated, side="right") - 1, 0, settings.bins - 1)
    count = np.bincount(of_bin, minlength=settings.bins)
    with np.errstate(invalid="ignore"):
        said, came_true = (np.bincount(of_bin, of, settings.bins) / count for of in (stated, right))
    error = np.sqrt(said * (1.0 - said) / np.maximum(count, 1))
    return {
        "coverage": xr.Dataset(
            {
                "coverage": variable(
                    ("kind", "size", "measure"), covered, "share of files whose interval holds the truth"
                )
            },
            {
                "kind": list(_KINDS),
                "size": [f"{prompts} x {draws}" for prompts, draws in settings.sizes],
                "measure": list(MEASURES),
            },
        ),
        "calibration": xr.Dataset(
            {
                "stated": variable("bin", said, "mean probability that is stated for the better reward"),
                "right": variable("bin", came_true, "share of files in which it is the better one"),
                "error": variable("bin", error, "standard error, if the statement is true"),
                "files": variable("bin", count, "number of files"),
            },
            {"bin": np.arange(settings.bins)},
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Coverage of the intervals of both kinds of rewards; stated and true probabilities of ranks."""
    coverage, calibration = data["coverage"]["coverage"], data["calibration"]
    canvas = Figure(figsize=(PAGE, 2.7))
    *left, right = canvas.subplots(1, 3, width_ratios=(1.25, 1.25, 1.0))
    place = np.arange(coverage.sizes["size"])
    for ax, kind, color in zip(left, _KINDS, (BLUE, ORANGE), strict=True):
        ax.axhspan(93, 97, color=GREY, alpha=0.15, lw=0)
        ax.axhline(100 * NOMINAL, color=GREY, lw=0.6)
        for (name, title), marker in zip(MEASURES.items(), MARKERS, strict=False):
            of = 100 * coverage.sel(kind=kind, measure=name)
            ax.plot(place, of, marker, color=color, mfc="white", ms=3.5, label=title)
        ax.set(xticks=place, ylim=(85, 100), title=f"{kind}, two values" if kind == "verifier" else kind)
        ax.set_xticklabels(coverage["size"].values, rotation=90)
        ax.set_xlabel("Prompts x draws")
    left[0].set_ylabel("Intervals that hold the truth (%)")
    left[0].legend(loc="lower right", handletextpad=0.2, labelspacing=0.2, fontsize=7)
    right.plot([0.5, 1.0], [0.5, 1.0], color=GREY, lw=0.6)
    right.errorbar(calibration["stated"], calibration["right"], 2 * calibration["error"], fmt="o", color=BLUE)
    right.set(xlabel="Stated probability", ylabel="Share ranked rightly", title="ranks")
    letter((*left, right))
    return canvas


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    coverage = data["coverage"]["coverage"]
    calibration = data["calibration"]
    low, high = float(coverage.min()), float(coverage.max())
    inside = float(((coverage >= 0.93) & (coverage <= 0.97)).mean())
    worst = float(np.nanmax(np.abs(calibration["right"] - calibration["stated"])))
    files = (
        f"Files of rollouts from made-up populations whose truth is exact: {settings.types} types of "
        f"prompts, {_OUTPUTS} outputs each; {settings.files} files of each size, {settings.resamples} "
        "resamples. "
    )
    intervals = (
        "(a) A verifier, whose rewards have two values, and (b) a reward model: how often the 95 % interval "
        f"holds the truth; between {100 * low:.1f} and {100 * high:.1f} %, within the grey band of 93 to 97 "
        f"% in {100 * inside:.0f} % of the cases. "
    )
    ranks = (
        f"(c) {settings.rankings} files of 100 prompts with 8 draws and two rewards of random quality: the "
        "probability with which one is said to teach better, and how often it does; they differ by at most "
        f"{worst:.2f}. Bars are two standard errors."
    )
    return files + intervals + ranks


EXPERIMENT = Experiment(
    name="rollout_coverage",
    title="What the intervals and the probabilities of a diagnosis are worth",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
    slow=True,
)
