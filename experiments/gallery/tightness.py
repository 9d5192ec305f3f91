"""How tight each bound is: on random instances, and on the least favourable one that a search has found."""

from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.figures.style import BLACK, BLUE, PAGE, RED, decades, paper
from goodteacher.theory import findings
from goodteacher.theory.statements import Statement, find_statements

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95)
_MOST = 6.0  # decades shown


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        instances: how many random ones for each bound.
        seed: of their sequence.
        bounds: which; all if empty.
    """

    instances: int = 500
    seed: int = 0
    bounds: tuple[str, ...] = ()


def tightest_points() -> dict[str, np.ndarray]:
    """For each bound the point of the unit cube where a search found it tightest."""
    return {name: one.point for name, one in findings.known().items()}


def _factors(statement: Statement, point: np.ndarray, settings: Settings) -> np.ndarray:
    """Decades between the sides of a bound: at the point found, then on random instances."""
    if point.shape != (statement.dimension,):
        raise ValueError(
            f"{findings.FOUND.name} holds a point of {point.size} numbers for {statement.name}, which takes "
            f"{statement.dimension}; run make tightest"
        )
    points = statement.points(jax.random.key(settings.seed), settings.instances).at[0].set(point)
    return np.asarray(statement.margin(statement.build(points)))


def run(settings: Settings) -> Data:
    """Quantiles of the factor between the two sides of every bound, and the smallest factor found."""
    points = tightest_points()
    chosen = settings.bounds or points
    bounds = {name: s for name, s in find_statements().items() if s.bound and name in chosen}
    margins = np.array([_factors(bound, points[name], settings) for name, bound in bounds.items()])
    found, random = margins[:, 0], margins[:, 1:]
    order = np.argsort(found.round(12), kind="stable")  # bounds that are attained in one order
    names = np.array(list(bounds))[order]
    labels = {
        "bound": names,
        "title": ("bound", [bounds[name].title for name in names]),
        "citation": ("bound", [bounds[name].citation for name in names]),
    }
    quantiles = np.quantile(random, _QUANTILES, axis=1, method="inverted_cdf").T
    return {
        "random": xr.Dataset(
            {
                "factor": variable(
                    ("bound", "quantile"),
                    10.0 ** quantiles[order],
                    "larger side of the bound over the smaller",
                )
            },
            {**labels, "quantile": list(_QUANTILES)},
        ),
        "adversarial": xr.Dataset(
            {"factor": variable("bound", 10.0 ** found[order], "the same on the tightest instance found")},
            labels,
        ),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """One row per bound: the range of the factor on random instances, and its smallest value found."""
    random, found = data["random"]["factor"], data["adversarial"]["factor"]
    rows = np.arange(random.sizes["bound"])[::-1]
    canvas = Figure(figsize=(PAGE, 0.9 + 0.27 * len(rows)))
    axes = canvas.subplots()
    shown = random.clip(max=10.0**_MOST)
    outer, inner, middle = (
        [shown.sel(quantile=q) for q in part] for part in ((0.05, 0.95), (0.25, 0.75), (0.5,))
    )
    axes.hlines(rows, outer[0], outer[1], color=BLUE, lw=1.0, label="90 % of the random instances")
    axes.hlines(rows, inner[0], inner[1], color=BLUE, lw=4.0, label="half of them")
    axes.plot(*middle, rows, "|", color="white", ms=7, mew=1.4)
    axes.plot(shown.sel(quantile=0.0), rows, "o", mfc="white", color=BLACK, label="the tightest of them")
    axes.plot(found, rows, "D", color=RED, label="the tightest that a search finds")
    axes.axvline(1.0, color=BLACK, lw=0.8)
    axes.set(xscale="log", xlim=(0.8, 10.0**_MOST), ylim=(-0.7, len(rows) - 0.3))
    axes.set(xlabel="Larger side of the bound over the smaller", yticks=rows)
    axes.set_yticklabels([f"{bound['bound'].item()}: {_place(bound['citation'].item())}" for bound in found])
    axes.tick_params(axis="y", length=0)
    decades(axes.xaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    return canvas


def _place(citation: str) -> str:
    """What of a citation fits beside a row: the number of the first paper's result."""
    if "derived" in citation:
        return "derived here"
    return citation.removeprefix("arXiv:2503.15477, ").split(" (")[0]


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    found = data["adversarial"]["factor"]
    tight = [f"{b['title'].item()!s} {float(b):.3g}" for b in found if float(b) < 10]
    return (
        f"How tight each bound is: the factor between its two sides on {settings.instances - 1} "
        "random instances, and on the tightest instance that a search has found (diamonds). One means "
        "attained. Results without a paper are of arXiv:2503.15477. Where a flow is given up at a multiple "
        f"of a lower bound, the factor shown is that multiple. Below ten: {'; '.join(tight)}."
    )


EXPERIMENT = Experiment(
    name="tightness",
    title="How tight each bound is",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
    slow=True,
)
