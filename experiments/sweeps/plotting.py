"""Figures of a sweep without writing code: heat maps over two axes, lines over one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.sweeps.axes import unknown
from experiments.sweeps.store import open_store
from figures.style import COLUMN, GREY, PAGE, label_right, letter, number, paper, shades

_MOST_PANELS, _MOST_LINES = 9, 8
_NEVER, _UNKNOWN = "0.55", "white"  # of points that never arrive, and those without a number


@paper()
def plot(
    store: Path,
    output: Path,
    *,
    x: str,
    y: str,
    color: str | None = None,
    facet: str | None = None,
    log: Sequence[str] = (),
    contours: int = 0,
) -> None:
    """Draws a sweep into a PNG or PDF; arguments as of ``goodteacher plot``.

    Raises:
        ValueError: for a name that is neither an axis nor a measure where one is needed, too many panels or
            lines, a logarithmic scale of what is not positive, or a file that cannot be written.
    """
    if output.suffix not in (".png", ".pdf"):
        raise ValueError(f"cannot draw {output}: give a file that ends in .png or .pdf")
    with open_store(store) as dataset:
        axes = [str(name) for name in dataset.coords]
        measures = [str(n) for n in dataset.data_vars if not str(n).endswith("_status")]
        heat = y in axes
        for name in (x, *([facet] if facet else []), *([color] if color and not heat else [])):
            if name not in axes:
                raise unknown("axis", name, axes)
        if not heat and y not in measures:
            raise unknown("axis or measure", y, [*axes, *measures])
        if heat and color is None:
            raise ValueError(f"a heat map over {x} and {y} needs --color MEASURE")
        measure = color if heat else y
        assert measure is not None
        if measure not in measures:
            raise unknown("measure", measure, measures)
        for name in log:
            if name not in (x, y, measure):
                raise unknown("name of --log", name, [x, y, measure])
            values = dataset[name].values
            if values.dtype.kind not in "iuf" or not (values[np.isfinite(values)] > 0).all():
                raise ValueError(f"{name} has values that are not positive; leave it out of --log")
        kept = [name for name in (x, y if heat else color, facet) if name is not None]
        dimensions = [str(dataset[name].dims[0]) for name in kept]
        for first, second in zip(kept, dimensions, strict=True):
            if dimensions.count(second) > 1:
                raise ValueError(f"{first} varies along {second} with another of {', '.join(kept)}; take one")
        data = _middle(dataset[measure], dimensions)
        panels = [None] if facet is None else list(range(dataset.sizes[str(dataset[facet].dims[0])]))
        if len(panels) > _MOST_PANELS:
            raise ValueError(
                f"{facet} has {len(panels)} values; up to {_MOST_PANELS} panels are drawn, take another axis"
            )
        drawn, grid = _panels(len(panels))
        shared: dict[str, Any] = {"norm": _norm(data.sel(quantile=0.5), measure in log)}
        for ax, panel in zip(grid, panels, strict=True):
            part = data
            if facet is not None:
                along = str(dataset[facet].dims[0])
                part = data.isel({along: panel})
                ax.set_title(f"{_words(facet)} {_text(dataset[facet].values[panel])}")
            ax.set(xscale="log" if x in log else "linear", yscale="log" if y in log else "linear")
            if heat:
                _heat(ax, part.sel(quantile=0.5), dataset, x, y, contours, shared["norm"])
            else:
                _lines(ax, part, dataset, x, color)
            ax.set_xlabel(_words(x))
            ax.set_ylabel(_words(y) if heat else _title(dataset[measure]))
        if heat:
            mappable = ScalarMappable(shared["norm"], "viridis")
            width = 42 if len(panels) == 1 else 28
            drawn.colorbar(mappable, ax=list(grid), label=_title(dataset[measure], width))
            _legend(drawn, data.sel(quantile=0.5))
        elif color is not None:
            numbers = dataset[color].values
            label_axis = grid[len(panels) - 1]
            label_axis.set_title(label_axis.get_title(loc="left"))
            _label_lines(label_axis, numbers, color)
        if len(panels) > 1:
            letter(grid)
        try:
            drawn.savefig(output)
        except OSError as error:
            raise ValueError(f"cannot write {output}: {error.strerror or error}") from error


def _middle(values: xr.DataArray, dimensions: Sequence[str]) -> xr.DataArray:
    """Quartiles over the remaining dimensions, of what has a value."""
    values = values.load().astype(float)
    rest = [name for name in values.dims if name not in dimensions]
    if not rest:
        return values.expand_dims(quantile=[0.25, 0.5, 0.75])
    # An element of the data, so that infinite times are in order too.
    quartiles = np.array([0.25, 0.5, 0.75])
    order = [*(name for name in values.dims if name in dimensions), *rest]
    flat = values.transpose(*order).values.reshape(*(values.sizes[n] for n in order[: -len(rest)]), -1)
    ranked = np.sort(flat, axis=-1)  # nan last
    known = (~np.isnan(flat)).sum(-1)
    at = np.rint(quartiles[:, None] * (np.maximum(known, 1) - 1).ravel()).astype(int)
    chosen = np.take_along_axis(ranked.reshape(-1, ranked.shape[-1]), at.T, -1)
    names = order[: -len(rest)]
    shape = tuple(values.sizes[name] for name in names)
    return xr.DataArray(
        chosen.T.reshape(3, *shape), dims=("quantile", *names), coords={"quantile": quartiles}
    )


def _norm(values: xr.DataArray, logarithmic: bool) -> Normalize:
    finite = values.values[np.isfinite(values.values)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 10.0)
    if low == high:
        low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    width = COLUMN * 1.25 if count == 1 else PAGE
    figure = Figure(figsize=(width, 2.6 if count == 1 else 2.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in grid[count:]:
        ax.set_visible(False)
    return figure, list(grid[:count])


def _positions(values: np.ndarray) -> np.ndarray:
    return np.arange(len(values)) if values.dtype.kind not in "iuf" else values


def _heat(
    ax: Axes, part: xr.DataArray, dataset: xr.Dataset, x: str, y: str, contours: int, norm: Normalize
) -> None:
    horizontal, vertical = (str(dataset[name].dims[0]) for name in (x, y))
    values = part.transpose(vertical, horizontal).values
    across, up = _positions(dataset[x].values), _positions(dataset[y].values)
    colors = mpl.colormaps["viridis"](norm(np.where(np.isfinite(values), values, np.nan)))
    colors[np.isinf(values)] = to_rgba(_NEVER)
    colors[np.isnan(values)] = to_rgba(_UNKNOWN)
    ax.pcolormesh(across, up, colors, shading="nearest", rasterized=True)
    if contours and np.isfinite(values).any() and min(values.shape) > 1:
        inside = np.linspace(0.0, 1.0, contours + 2)[1:-1]
        levels = np.asarray(norm.inverse(inside))
        if isinstance(norm, LogNorm):
            levels = 10.0 ** np.log10(levels).round()
        levels = np.unique(levels)
        shown = np.ma.masked_invalid(values)
        lines = ax.contour(across, up, shown, levels=levels, colors="white", linewidths=0.8)
        ax.clabel(lines, fmt=number, fontsize=7)
    for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
        if dataset[name].dtype.kind not in "iuf":
            axis.set_ticks(_positions(dataset[name].values), [str(v) for v in dataset[name].values])


def _legend(figure: Figure, values: xr.DataArray) -> None:
    patches = []
    if np.isinf(values.values).any():
        patches.append(Patch(facecolor=_NEVER, label="never reached"))
    if np.isnan(values.values).any():
        patches.append(Patch(facecolor=_UNKNOWN, edgecolor=GREY, linewidth=0.5, label="no value"))
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=2)


def _lines(ax: Axes, part: xr.DataArray, dataset: xr.Dataset, x: str, color: str | None) -> None:
    across = _positions(dataset[x].values)
    along = str(dataset[x].dims[0])
    groups = [part] if color is None else _groups(part, dataset, color)
    quartiles = [
        [group.sel(quantile=q).transpose(along).values for q in (0.25, 0.5, 0.75)] for group in groups
    ]
    known = np.concatenate([np.ravel(values) for group in quartiles for values in group])
    top = np.max(known[np.isfinite(known)], initial=0.0)
    for tone, (low, middle, high) in zip(shades(len(groups)), quartiles, strict=True):
        finite = np.where(np.isfinite(middle), middle, np.nan)
        ax.plot(across, finite, color=tone, marker="" if len(across) > 20 else "o", markersize=2.5)
        if not np.array_equal(low, high, equal_nan=True):
            # What is never reached lies above all that is.
            above = np.where(np.isinf(high), 3.0 * top, high)
            ax.fill_between(across, low, above, where=np.isfinite(low), color=tone, alpha=0.2, linewidth=0)
    if np.isinf(known).any() and top > 0:
        ax.set_ylim(top=1.5 * top)
    if dataset[x].dtype.kind == "i":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if dataset[x].dtype.kind not in "iuf":
        ax.xaxis.set_ticks(across, [str(value) for value in dataset[x].values])


def _groups(part: xr.DataArray, dataset: xr.Dataset, color: str) -> list[xr.DataArray]:
    along = str(dataset[color].dims[0])
    count = dataset.sizes[along]
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_LINES)).round().astype(int))
    return [part.isel({along: int(i)}) for i in chosen]


def _label_lines(ax: Axes, numbers: np.ndarray, color: str) -> None:
    """Beside the right end of each line its value of the axis that the colours stand for."""
    count = len(numbers)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_LINES)).round().astype(int))
    ends = [line for line in ax.lines if len(np.atleast_1d(line.get_xdata())) > 0]
    heights, texts, tones = [], [], []
    for line, index in zip(ends, chosen, strict=True):
        values = np.asarray(line.get_ydata(), float)
        known = values[np.isfinite(values)]
        if known.size:
            heights.append(known[-1])
            texts.append(_text(numbers[index]))
            tones.append(line.get_color())
    if heights:
        label_right(ax, heights, texts, tones)
        ax.annotate(
            _words(color), (1.015, 1.0), xycoords="axes fraction", va="bottom", color=GREY, fontsize=7.5
        )


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.3g}"


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _title(variable: xr.DataArray, width: int = 42) -> str:
    name, units = _words(variable.attrs["long_name"]), variable.attrs["units"]
    return _wrapped(name, width) + ("" if units == "1" else f"\n[{units}]")


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return "\n".join(lines)
