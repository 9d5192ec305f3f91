"""Figures of a sweep without writing code: heat maps over two axes, lines over one."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from goodteacher.experiments.sweeps.store import open_store
from goodteacher.figures.style import (
    BLACK,
    COLUMN,
    DARK_HALO,
    GREY,
    MARKERS,
    MISSING,
    NEVER,
    PAGE,
    ZERO,
    colorbar,
    decades,
    edges,
    letter,
    paper,
    shades,
)
from goodteacher.sim.names import unknown

_MOST_PANELS, _MOST_LINES, _COLUMNS = 9, 8, 3
_QUARTILES = (0.25, 0.5, 0.75)
_MARGIN, _STRIP = 0.05, 0.14  # of the span of a scale: beyond its ends, and for what has no place on it
# What has no color: whether a value is such, its name, and how it is marked.
_EXCLUDED = (
    (np.isinf, "never reached", NEVER),
    (lambda values: values <= 0, "zero", ZERO),
    (np.isnan, "no value", MISSING),
)


@paper()
def plot(store: Path, output: Path, **view: Any) -> None:
    """Draws a sweep into a PNG or PDF.

    Args:
        store: the folder of the sweep.
        output: the file.
        view: as for :func:`draw`.

    Raises:
        ValueError: as :func:`draw`, or for a file that cannot be written.
    """
    if output.suffix not in (".png", ".pdf"):
        raise ValueError(f"cannot draw {output}: give a file that ends in .png or .pdf")
    with open_store(store) as dataset:
        figure = draw(dataset, **view)
    try:
        # Without dates and versions: the same file again.
        about = {".png": "Software", ".pdf": "CreationDate"}
        figure.savefig(output, metadata={about[output.suffix]: None})
    except OSError as error:
        raise ValueError(f"cannot write {output}: {error.strerror or error}") from error


@paper()
def draw(
    dataset: xr.Dataset,
    *,
    x: str,
    y: str,
    color: str | None = None,
    facet: str | None = None,
    log: Sequence[str] = (),
    contours: int = 0,
) -> Figure:
    """A heat map over two axes, or lines over one, of medians over the remaining dimensions.

    Args:
        dataset: a sweep.
        x: the horizontal axis.
        y: the vertical one: an axis for a heat map, a measure for lines.
        color: of a heat map, a measure; of lines, an axis.
        facet: an axis with a panel for each of its values.
        log: names of what is on a logarithmic scale.
        contours: about how many there are on a heat map.

    Raises:
        ValueError: for a name that is neither an axis nor a measure where one is needed, too many panels, or
            a logarithmic scale of what is not positive.
    """
    measure = _measure(dataset, x, y, color, facet, log)
    for name in dict.fromkeys((x, y)):
        if name != measure and dataset[name].dtype.kind in "iuf":
            dataset = dataset.sortby(name)
    return _draw(_View(dataset, measure, x, y, color, facet, tuple(log)), contours)


def _measure(
    dataset: xr.Dataset, x: str, y: str, color: str | None, facet: str | None, log: Sequence[str]
) -> str:
    """The measure that is to be drawn, after all names have been checked."""
    axes = [str(name) for name in dataset.coords]
    measures = [str(name) for name in dataset.data_vars if not str(name).endswith("_status")]
    heat = y in axes
    for name in (x, *([facet] if facet else []), *([color] if color and not heat else [])):
        if name not in axes:
            raise unknown("axis", name, axes)
    if not heat and y not in measures:
        raise unknown("axis or measure", y, [*axes, *measures])
    if heat and color is None:
        raise ValueError(f"a heat map over {x} and {y} needs a color: give a measure")
    measure = color if heat else y
    assert measure is not None
    if measure not in measures:
        raise unknown("measure", measure, measures)
    for name in log:
        if name not in (x, y, measure):
            raise unknown("name of what is logarithmic", name, [x, y, measure])
        values = dataset[name].values
        numbers = values.dtype.kind in "iuf"
        # A measure may be zero, as a time is where the goal is met from the start.
        if not numbers or (values < 0).any() or (name != measure and (values == 0).any()):
            raise ValueError(f"{name} has values that are not positive; its scale cannot be logarithmic")
    kept = [name for name in (x, y if heat else color, facet) if name is not None]
    dimensions = [str(dataset[name].dims[0]) for name in kept]
    for first, second in zip(kept, dimensions, strict=True):
        if dimensions.count(second) > 1:
            raise ValueError(f"{first} varies along {second} with another of {', '.join(kept)}; take one")
    count = 1 if facet is None else dataset[facet].size
    if count > _MOST_PANELS:
        raise ValueError(
            f"{facet} has {count} values; up to {_MOST_PANELS} panels are drawn, take another axis"
        )
    return measure


@dataclass(frozen=True)
class _View:
    """What is shown of a dataset: names of axes, and the measure."""

    dataset: xr.Dataset
    measure: str
    x: str
    y: str
    color: str | None
    facet: str | None
    log: tuple[str, ...]

    @property
    def heat(self) -> bool:
        """Whether color is the measure."""
        return self.y != self.measure

    def along(self, name: str) -> str:
        """The dimension of an axis."""
        return str(self.dataset[name].dims[0])

    @cached_property
    def quartiles(self) -> xr.DataArray:
        """Of the measure, over the dimensions that are not shown."""
        shown = [self.x, self.y if self.heat else self.color, self.facet]
        return _quartiles(
            self.dataset[self.measure].load(), [self.along(name) for name in shown if name is not None]
        )

    @property
    def over(self) -> str:
        """The dimensions that are not shown, in words."""
        sizes = self.dataset[self.measure].sizes
        names = [name for name, size in sizes.items() if name not in self.quartiles.dims and size > 1]
        return ", ".join(str(name).replace("_", " ") for name in names)

    @cached_property
    def panels(self) -> list[xr.DataArray]:
        """The quartiles of every panel."""
        if self.facet is None:
            return [self.quartiles]
        along = self.along(self.facet)
        return [self.quartiles.isel({along: k}) for k in range(self.quartiles.sizes[along])]

    @cached_property
    def scale(self) -> "_Scale":
        """Of the measure, the same for all panels."""
        values = self.quartiles.sel(quantile=0.5) if self.heat else self.quartiles
        return _Scale.of(values.values, self.measure in self.log)

    def positions(self, name: str) -> np.ndarray:
        """Where the values of an axis stand: at themselves, or in order if they are names."""
        values = self.dataset[name].values
        return values if values.dtype.kind in "iuf" else np.arange(len(values))


def _quartiles(values: xr.DataArray, kept: Sequence[str]) -> xr.DataArray:
    """Over the dimensions that are not kept, of what has a value; ``nan`` where nothing has."""
    shape = [values.sizes[name] for name in kept]
    flat = values.astype(float).transpose(*kept, ...).values.reshape(*shape, -1)
    ranked = np.sort(flat, axis=-1)  # nan last
    known = np.maximum((~np.isnan(ranked)).sum(-1, keepdims=True), 1)
    # Elements of the data, so that times that are infinite are in order too.
    at = np.rint(np.array(_QUARTILES) * (known - 1)).astype(int)
    chosen = np.take_along_axis(ranked, at, -1)
    return xr.DataArray(chosen, dims=(*kept, "quantile"), coords={"quantile": list(_QUARTILES)})


@dataclass(frozen=True)
class _Scale:
    """The scale of a measure: its ends, and strips beyond them for zero (if logarithmic) and for never."""

    low: float
    high: float
    log: bool
    zero: bool
    never: bool

    @classmethod
    def of(cls, values: np.ndarray, log: bool) -> "_Scale":
        """That of some values."""
        shown = values[np.isfinite(values) & ~(log & (values <= 0))]
        low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 10.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        return cls(low, high, log, bool((log & (values <= 0)).any()), bool(np.isinf(values).any()))

    @property
    def norm(self) -> Normalize:
        """For colors."""
        return LogNorm(self.low, self.high) if self.log else Normalize(self.low, self.high)

    def at(self, share: float) -> float:
        """The value at a share of the way from the lower end to the upper one."""
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)

    def place(self, values: np.ndarray, share: float) -> np.ndarray:
        """Heights of values in a panel, those in a strip at a share of its height."""
        placed = np.where(np.isinf(values), self.at(1.0 + _MARGIN + share * _STRIP), values)
        return np.where(placed <= 0, self.at(-_MARGIN - share * _STRIP), placed) if self.log else placed

    def regular(self, values: np.ndarray) -> np.ndarray:
        """Which values are on the scale."""
        return np.isfinite(values) & ~(self.log & (values <= 0))


def _draw(view: _View, contours: int) -> Figure:
    count = len(view.panels)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.4 * COLUMN, 2.9) if count == 1 else (PAGE, 0.7 + 1.9 * rows))
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    grid = list(every[:count])
    for ax in every[count:]:
        ax.set_visible(False)

    scales = {"xscale": "log" if view.x in view.log else "linear"}
    scales["yscale"] = "log" if view.y in view.log else "linear"
    for ax, panel in zip(grid, view.panels, strict=True):
        ax.set(**scales)  # pyright: ignore[reportArgumentType]
        if view.heat:
            _heat(ax, panel.sel(quantile=0.5), view)
        else:
            _lines(ax, panel, view)
    for k, ax in enumerate(grid):
        if view.facet is not None:
            ax.set_title(f"{_words(view.facet)} {_text(view.dataset[view.facet].values[k])}")
        left, bottom = k % columns == 0, k + columns >= count
        ax.tick_params(which="both", labelleft=left, labelbottom=bottom)
        ax.set_xlabel(_words(view.x) if bottom else "")
        ax.set_ylabel((_words(view.y) if view.heat else _title(view)) if left else "")
    if view.heat:
        colorbar(figure, ScalarMappable(view.scale.norm, "viridis"), grid, _title(view))
    _explain(figure, view)
    if count > 1:
        letter(grid)
    if contours and view.heat:
        figure.draw_without_rendering()  # settles the layout, which the room for labels depends on
        for ax, panel in zip(grid, view.panels, strict=True):
            _contours(ax, panel.sel(quantile=0.5), view, contours)
    return figure


def _explain(figure: Figure, view: _View) -> None:
    """Legends: of the lines at the right, of all else below."""
    below: list[Any] = []
    if view.heat:
        middle = view.quartiles.sel(quantile=0.5).values
        for excluded, name, hatching in _EXCLUDED:
            if (excluded(middle) & ~view.scale.regular(middle)).any():
                below.append(hatching.patch(name))
    else:
        if view.over:
            below.append(Line2D([], [], color=BLACK, label=f"median over {view.over}"))
            below.append(Patch(color=GREY, alpha=0.4, lw=0, label="quartiles"))
        if np.isnan(view.quartiles.values).any():
            below.append(Line2D([], [], color=GREY, marker="x", ls="none", label="no value"))
        if view.color is not None:
            names = view.dataset[view.color].values
            lines = [Line2D([], [], label=_text(names[k]), **look) for k, look in _looks(view)]
            title = _words(view.color)
            if len(lines) < len(names):
                title += f"\n({len(lines)} of {len(names)})"
            figure.legend(handles=lines, title=title, loc="outside right upper")
    if below:
        figure.legend(handles=below, loc="outside lower center", ncols=len(below))


# Heat maps --------------------------------------------------------------------------


def _heat(ax: Axes, middle: xr.DataArray, view: _View) -> None:
    values = middle.transpose(view.along(view.y), view.along(view.x)).values
    across, up = (edges(view.positions(name), log=name in view.log) for name in (view.x, view.y))
    regular = view.scale.regular(values)
    colors = np.ma.masked_where(~regular, values)
    ax.pcolormesh(across, up, colors, norm=view.scale.norm, cmap="viridis", rasterized=True)
    for excluded, _, hatching in _EXCLUDED:
        hatching.fill(ax, across, up, excluded(values) & ~regular)
    for axis, name in ((ax.xaxis, view.x), (ax.yaxis, view.y)):
        _mark(axis, view, name)


def _contours(ax: Axes, middle: xr.DataArray, view: _View, count: int) -> None:
    """Contours at round values, with labels where there is room for them."""
    values = middle.transpose(view.along(view.y), view.along(view.x)).values
    regular = view.scale.regular(values)
    if not regular.any() or min(values.shape) < 2:
        return
    low, high = view.scale.low, view.scale.high
    if view.scale.log:
        # Fewer than asked for if there are not so many decades.
        exponents = np.log10(np.geomspace(low, high, count + 2)[1:-1]).round()
        levels = 10.0 ** np.unique(exponents)
    else:
        levels = np.array(MaxNLocator(count + 1).tick_values(low, high))
    levels = levels[(low < levels) & (levels < high)]
    if not levels.size:
        return
    places = [view.positions(name) for name in (view.x, view.y)]
    lines = ax.contour(
        *places, np.ma.masked_where(~regular, values), levels=levels, colors="white", linewidths=0.8
    )
    lines.set_path_effects(list(DARK_HALO))
    labels = ax.clabel(lines, fmt=_power if view.scale.log else "%.3g", fontsize=7.5, inline=False)
    taken: list[Any] = []
    inside = ax.get_window_extent()
    for label in labels:
        label.set_path_effects(list(DARK_HALO))
        box = label.get_window_extent().expanded(1.1, 1.1)
        within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
        if within and not box.count_overlaps(taken):
            taken.append(box)
        else:
            label.remove()


# Lines ------------------------------------------------------------------------------


def _looks(view: _View) -> list[tuple[int, dict[str, Any]]]:
    """Positions along the axis of the colors, as many as can be told apart, and how their lines look."""
    assert view.color is not None
    size = view.dataset[view.color].size
    chosen = np.unique(np.linspace(0, size - 1, min(size, _MOST_LINES)).round().astype(int)).tolist()
    tones = shades(len(chosen))
    return [
        (k, {"color": tone, "marker": marker, "ms": 3.0, "lw": 1.0})
        for k, tone, marker in zip(chosen, tones, MARKERS, strict=False)
    ]


def _lines(ax: Axes, panel: xr.DataArray, view: _View) -> None:
    """Medians and quartiles; strips above and below hold what is never reached, and zero on a log scale."""
    across, scale = view.positions(view.x), view.scale
    lines = [(panel, {"color": shades(1)[0], "marker": "o", "ms": 3.0, "lw": 1.0})]
    if view.color is not None:
        along = view.along(view.color)
        lines = [(panel.isel({along: k}), look) for k, look in _looks(view)]
    for k, (line, look) in enumerate(lines):
        share = (k + 1) / (len(lines) + 1)  # beside each other in a strip
        low, middle, high = (line.sel(quantile=q).values for q in _QUARTILES)
        regular = scale.regular(middle)
        # Few markers, but one wherever there is no line to see.
        alone = np.convolve(regular, [1, 0, 1], "same")[: len(regular)] == 0
        few = np.arange(len(across)) % max(1, len(across) // 12) == 0
        marked = np.flatnonzero(regular & (few | alone)).tolist()
        ax.plot(across, np.where(regular, middle, np.nan), markevery=marked, **look)
        beyond = ~regular & ~np.isnan(middle)
        ax.plot(across[beyond], scale.place(middle[beyond], share), **{**look, "lw": 0})
        if not np.array_equal(low, high, equal_nan=True):
            ax.fill_between(
                across,
                scale.place(low, share),
                scale.place(high, share),
                color=look["color"],
                alpha=0.18,
                lw=0,
            )
        lost = across[np.isnan(middle)]
        ax.plot(lost, np.full(len(lost), 0.03), "x", color=GREY, ms=3, transform=ax.get_xaxis_transform())
    _mark(ax.xaxis, view, view.x)

    bottom, top = -_MARGIN, 1.0 + _MARGIN
    ax.set_ylim(scale.at(bottom), scale.at(top))
    if scale.log:
        decades(ax.yaxis, 6)
    else:
        # None of them in a strip.
        ticks = np.array(MaxNLocator(6).tick_values(scale.at(bottom), scale.at(top)))
        ax.yaxis.set_major_locator(
            FixedLocator(ticks[(scale.at(bottom) <= ticks) & (ticks <= scale.at(top))].tolist())
        )
    for there, first, last, name in (
        (scale.never, top, top + _STRIP, "never"),
        (scale.zero, bottom - _STRIP, bottom, "zero"),
    ):
        if there:
            ax.axhspan(scale.at(first), scale.at(last), color="0.93", lw=0, zorder=0)
            if ax.get_subplotspec().is_first_col():  # pyright: ignore[reportOptionalMemberAccess]
                place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
                at = (0.0, scale.at(0.5 * (first + last)))
                ax.annotate(name, at, xytext=(-5, 0), ha="right", va="center", fontsize=8, **place)
    ax.set_ylim(scale.at(bottom - _STRIP * scale.zero), scale.at(top + _STRIP * scale.never))


# Axes and words ---------------------------------------------------------------------


def _mark(axis: Axis, view: _View, name: str) -> None:
    """The ticks of an axis of the sweep: powers of ten, whole numbers, or names."""
    kind = view.dataset[name].dtype.kind
    if kind not in "iuf":
        axis.set_ticks(view.positions(name), [_text(value) for value in view.dataset[name].values])
    elif name in view.log:
        decades(axis, 6)
    elif kind in "iu":
        axis.set_major_locator(MaxNLocator(6, integer=True))


def _power(value: float) -> str:
    return f"$10^{{{np.log10(value):.0f}}}$"


def _text(value: Any) -> str:
    return str(value).replace("_", " ") if isinstance(value, str) else f"{value:.3g}"


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words.replace("kl ", "KL ") if words.startswith("kl ") else words[:1].upper() + words[1:]


def _title(view: _View) -> str:
    """The measure in words, with its unit, in lines that fit beside a panel."""
    about = view.dataset[view.measure].attrs
    words = _words(about["long_name"])
    if about["units"] != "1":
        # The unit in one line.
        words += " " + f"[{about['units']}]".replace(" ", "\N{NO-BREAK SPACE}")
    if view.heat and view.over:
        words += f", median over {view.over}"
    return "\n".join(textwrap.wrap(words, 44))
