"""The one style of all figures: print-ready, colour-blind-safe, and readable in grey.

Figures are made without pyplot and inside :func:`paper`, so that a user's own matplotlib is left as it is.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullFormatter

COLUMN, PAGE = 3.3, 6.9  # widths in inches: one column and two columns of a paper

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
BLACK, BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
GREY = "#767676"

DOTTED, DASHED, LONG_DASHED = (0, (1.2, 1)), (0, (3, 1.2)), (0, (6, 1.5))
DASH_DOTTED, DASH_DOT_DOTTED = (0, (5, 1.2, 1, 1.2)), (0, (3, 1, 1, 1, 1, 1))
MARKERS = "osD^vP*X<"  # of an unordered or ordered quantity, as many as are told apart

# Around what is written or drawn over colours.
HALO, DARK_HALO = (
    (withStroke(linewidth=2, foreground="white"),),
    (withStroke(linewidth=1.5, foreground="0.2"),),
)

_STYLE = MappingProxyType(
    {
        "font.family": "STIXGeneral",  # comes with matplotlib: the same on every machine
        "mathtext.fontset": "stix",
        "font.size": 8.5,
        "axes.labelsize": 8.5,
        "axes.titlesize": 8.5,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.use_mathtext": True,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 1.6,
        "ytick.minor.size": 1.6,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "lines.dash_capstyle": "butt",
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.handlelength": 2.6,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "savefig.dpi": 250,
        "savefig.bbox": None,
        "pdf.fonttype": 42,
        "axes.unicode_minus": True,
    }
)


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """The style, as a context or as a decorator, whatever the user has set."""
    with style.context(["default", dict(_STYLE)]):
        yield


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Colours of an ordered quantity, dark to light, in grey too."""
    return [tuple(color) for color in mpl.colormaps["viridis"](np.linspace(0.0, 0.68, count))]


@dataclass(frozen=True)
class Hatching:
    """How a region is marked that has no place on a scale of colours.

    Attributes:
        pattern: of matplotlib.
        ground: the colour beneath.
    """

    pattern: str
    ground: str

    def fill(self, ax: Axes, x: np.ndarray, y: np.ndarray, where: npt.ArrayLike) -> None:
        """Marks the cells of a panel where ``where``, ``[rows, columns]``, is true, if there are any.

        Args:
            ax: the panel.
            x, y: edges of columns and rows.
            where: a cell each.
        """
        if np.any(where):
            # Each edge twice, so that a contour at one half runs along the edges of cells.
            across, up = (np.repeat(edges, 2)[1:-1] for edges in (x, y))
            cells = np.repeat(np.repeat(where, 2, axis=0), 2, axis=1)
            region = ax.contourf(across, up, cells, [0.5, 1.5], colors=[self.ground], hatches=[self.pattern])
            region.set(edgecolor=GREY, linewidth=0.0)

    def patch(self, label: str) -> Patch:
        """Its entry in a legend."""
        return Patch(facecolor=self.ground, edgecolor=GREY, lw=0, hatch=self.pattern, label=label)


NEVER, ZERO, MISSING = Hatching("/////", "0.85"), Hatching(".....", "white"), Hatching("xxxxx", "white")


def edges(centers: npt.ArrayLike, *, log: bool = False) -> np.ndarray:
    """Of the cells around ascending or descending centers, halfway between them on a linear or log scale."""
    places = np.log10(np.asarray(centers, float)) if log else np.asarray(centers, float)
    if len(places) == 1:
        found = places + np.array([-0.5, 0.5])
    else:
        between = 0.5 * (places[1:] + places[:-1])
        found = np.concatenate([[2 * places[0] - between[0]], between, [2 * places[-1] - between[-1]]])
    return 10.0**found if log else found


def colorbar(
    figure: Figure, mappable: ScalarMappable, axes: Axes | Sequence[Axes], label: str, **options: Any
) -> Colorbar:
    """The scale of colours of some panels, ticked at decades if it is logarithmic.

    Args:
        figure: what the panels are of.
        mappable: what has the colours.
        axes: the panels.
        label: of the scale.
        options: further ones of :meth:`matplotlib.figure.Figure.colorbar`.
    """
    bar = figure.colorbar(mappable, ax=axes, label=label, **options)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    if isinstance(mappable.norm, LogNorm):
        decades(bar.ax.xaxis if bar.orientation == "horizontal" else bar.ax.yaxis)
    return bar


def letter(axes: Iterable[Axes]) -> None:
    """Letters panels (a), (b), ... before their titles."""
    for name, ax in zip(ascii_lowercase, axes, strict=False):
        ax.set_title(f"({name})  {ax.get_title(loc='left')}")


def decades(axis: Axis, most: int = 8) -> None:
    """Ticks of a logarithmic axis at whole decades, few of them labelled; its limits must have been set.

    An axis that does not span one from power to power keeps matplotlib's own.
    """
    low, high = np.log10(np.sort(axis.get_view_interval()))
    if np.floor(high) - np.ceil(low) < 1:
        return
    step = next(step for step in (1, 2, 3, 5, 10, 20, 50, 100) if high - low < most * step)
    axis.set_major_locator(FixedLocator(_powers(low, high, step)))
    axis.set_minor_locator(FixedLocator(_powers(low, high, max(1, step // 5))))
    axis.set_minor_formatter(NullFormatter())


def _powers(low: float, high: float, step: int) -> list[float]:
    exponents = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    return (10.0**exponents).tolist()


def number(value: float) -> str:
    """A positive number to three digits or all before the point, as it is printed in a figure."""
    if value < 1e5:
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """The nearest positions, in the same order, that are at least ``gap`` apart (least squares).

    Pools neighbours that overlap until none do, as in isotonic regression.
    """
    order = np.argsort(positions, kind="stable")
    offset = gap * np.arange(len(order))
    blocks: list[list[float]] = []
    for value in np.asarray(positions, float)[order] - offset:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = np.empty(len(order))
    placed[order] = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks]) + offset
    return placed


def label_right(ax: Axes, heights: Sequence[float], texts: Sequence[str], colors: Sequence[Any]) -> None:
    """Labels lines at the right edge of a panel, at their heights (in data) or as near as they fit."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, which the distances depend on
    to_display, size = ax.transData, mpl.rcParams["font.size"] * figure.dpi / 72
    wanted = [to_display.transform((ax.get_xlim()[1], height))[1] for height in heights]
    bottom, top = ax.get_window_extent().intervaly
    for text, color, at in zip(texts, colors, spread(wanted, 1.15 * size), strict=True):
        ax.text(1.015, (at - bottom) / (top - bottom), text, color=color, transform=ax.transAxes, va="center")
