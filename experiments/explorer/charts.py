"""The pictures of the page, on Bokeh: made once, and given other numbers after every change."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from goodteacher.experiments.explorer.outlook import Outlook
from goodteacher.experiments.explorer.toolkit import toolkit
from goodteacher.sim.status import Status

# Of the outputs, told apart on white and on black.
COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1",
    "#A6761D", "#66A61E", "#E7298A", "#1F9E9E", "#B15928", "#7570B3", "#B2A100",
    "#FB8072", "#5E8C61", "#9E6EBD", "#3690C0", "#C0607A", "#808000",
)  # fmt: skip
_PINNED = "#8a8a8a"
_FLOOR = 1e-14  # of probabilities that are drawn
_INKS: Mapping[bool, tuple[str, str, str]] = MappingProxyType(
    {False: ("#222222", "#dddddd", "#ffffff"), True: ("#e8e8e8", "#3a3a3a", "#16181b")}
)
_HEIGHTS = (270, 240, 100)
_TOOLS = "save,reset"


class Charts:
    """Expected rewards, probabilities, and what holds the flow up, along logarithmic time."""

    def __init__(self) -> None:
        """Makes the empty pictures."""
        models, plotting = toolkit("bokeh.models"), toolkit("bokeh.plotting")
        source = models.ColumnDataSource
        self._rewards = source({name: [] for name in ("time", "truth", "proxy", "on_truth")})
        self._pinned = source({"time": [], "truth": []})
        self._paths = source({name: [] for name in ("xs", "ys", "color", "output")})
        self._pinned_paths = source({"xs": [], "ys": []})
        self._held = source({name: [] for name in ("left", "right", "color", "output", "middle")})
        self._events = source({name: [] for name in ("time", "dash")})
        self._times = models.Range1d(0.1, 1e3)
        self._values = models.Range1d(-1.0, 1.0)
        self._chances = models.Range1d(1e-3, 1.5)
        titles = ("expected reward", "probability", "held up by output")

        def figure(title: str, height: int, **options: Any) -> Any:
            return plotting.figure(
                height=height, sizing_mode="stretch_width", x_range=self._times, x_axis_type="log",
                tools=_TOOLS, title=title, min_border_left=58, min_border_right=12, **options,
            )  # fmt: skip

        top = figure(titles[0], _HEIGHTS[0], y_range=self._values)
        middle = figure(titles[1], _HEIGHTS[1], y_range=self._chances, y_axis_type="log")
        bottom = figure(titles[2], _HEIGHTS[2], y_range=(0, 1))
        self.figures = top, middle, bottom
        top.line("time", "truth", source=self._pinned, color=_PINNED, width=2, line_dash="dotted")
        items = []
        for name, title, color, dash in (
            ("truth", "ground truth", COLORS[0], "solid"),
            ("proxy", "proxy, which is trained on", COLORS[1], "dashed"),
            ("on_truth", "ground truth, if that were trained on", COLORS[2], "dotdash"),
        ):
            line = top.line("time", name, source=self._rewards, color=color, width=2, line_dash=dash)
            items.append(models.LegendItem(label=title, renderers=[line]))
        self._legend = models.Legend(
            items=items, label_text_font_size="11px", padding=2, spacing=0, margin=4, glyph_height=14
        )
        top.add_layout(self._legend, "below")
        for chart in (top, middle):
            chart.vspan("time", source=self._events, line_dash="dash", color=_PINNED, line_width=1.5)
        middle.multi_line("xs", "ys", source=self._pinned_paths, color=_PINNED, line_dash="dotted", width=1)
        paths = middle.multi_line("xs", "ys", source=self._paths, color="color", width=2)
        middle.add_tools(models.HoverTool(renderers=[paths], tooltips=[("output", "@output")]))
        bottom.hbar(
            0.5, left="left", right="right", height=0.8, source=self._held, color="color", line_color=None
        )
        self._names = bottom.text(
            "middle", 0.5, text="output", source=self._held, text_align="center", text_baseline="middle",
            text_font_size="12px", text_color="#ffffff", text_font_style="bold",
        )  # fmt: skip
        bottom.yaxis.visible = False
        bottom.ygrid.visible = False
        bottom.xaxis.axis_label = "time of the flow"
        # One toolbar, whose picture is of all.
        self.grid = toolkit("bokeh.layouts").gridplot(
            list(self.figures), ncols=1, sizing_mode="stretch_width", toolbar_location="above",
            toolbar_options={"logo": None},
        )  # fmt: skip
        for tool in self.grid.toolbar.tools:
            if isinstance(tool, models.SaveTool):
                tool.filename = "goodteacher"
        self.paint(dark=False)

    def paint(self, *, dark: bool) -> None:
        """In the colours of light or dark."""
        ink, grid, ground = _INKS[dark]
        for chart in self.figures:
            chart.background_fill_color = chart.border_fill_color = ground
            chart.outline_line_color = grid
            chart.title.text_color = ink
            for axis in chart.axis:
                axis.axis_label_text_color = axis.major_label_text_color = ink
                axis.axis_line_color = axis.major_tick_line_color = ink
                axis.minor_tick_line_color = None
            for lines in chart.grid:
                lines.grid_line_color = grid
        self._legend.label_text_color = ink
        self._legend.background_fill_color = ground
        self._legend.border_line_color = None

    def show(self, of: Outlook, pinned: Outlook | None) -> None:
        """Draws an outlook, and behind it the one it is compared with."""
        last = max(of.times[-1], 0.0 if pinned is None else pinned.times[-1])
        first = min(of.times[0], math.inf if pinned is None else pinned.times[0])
        values = [of.truth, of.proxy, of.truth_on_truth] + ([] if pinned is None else [pinned.truth])
        low, high = np.nanmin(np.concatenate(values)), np.nanmax(np.concatenate(values))
        room = 0.06 * max(high - low, 0.1)
        least = max(min(float(np.nanmin(of.probabilities)), 0.1), _FLOOR)
        self._times.update(start=first, end=last)
        self._values.update(start=low - room, end=high + room)
        self._chances.update(start=0.5 * least, end=1.6)
        self._rewards.data = _listed(
            time=of.times, truth=of.truth, proxy=of.proxy, on_truth=of.truth_on_truth
        )
        self._paths.data = _lines(of) | {
            "color": list(COLORS[: of.probabilities.shape[1]]),
            "output": list(range(of.probabilities.shape[1])),
        }
        self._pinned.data = (
            {"time": [], "truth": []} if pinned is None else _listed(time=pinned.times, truth=pinned.truth)
        )
        self._pinned_paths.data = {"xs": [], "ys": []} if pinned is None else _lines(pinned)
        stops = [(stop, max(stop.start, first), min(stop.end, last)) for stop in of.held if stop.start < last]
        stops = [(stop, left, right) for stop, left, right in stops if right > left]
        wide = [math.log(right / left) > 0.04 * math.log(last / first) for _, left, right in stops]
        self._held.data = {
            "left": [left for _, left, _ in stops],
            "right": [right for _, _, right in stops],
            "middle": [math.sqrt(left) * math.sqrt(right) for _, left, right in stops],
            "color": [COLORS[stop.output] for stop, _, _ in stops],
            "output": [
                str(stop.output) if room else "" for (stop, _, _), room in zip(stops, wide, strict=True)
            ],
        }
        # The hitting time, and dotted the law's.
        marks = [(of.time, "solid")] if of.status is Status.REACHED else []
        marks += [] if math.isnan(of.law.time) else [(of.law.time, "dotted")]
        self._events.data = {"time": [time for time, _ in marks], "dash": [dash for _, dash in marks]}


def _listed(**columns: np.ndarray) -> dict[str, list[Any]]:
    """Columns as numbers within the message: of arrays each would be sent in two of its own."""
    return {name: column.tolist() for name, column in columns.items()}


def _lines(of: Outlook) -> dict[str, list[Any]]:
    paths = np.maximum(of.probabilities.T, _FLOOR)
    return _listed(xs=np.broadcast_to(of.times, paths.shape), ys=paths)
