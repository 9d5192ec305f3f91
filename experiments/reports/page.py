"""The report of a diagnosis as one page of HTML that needs no network: pictures, tables, caveats."""

from importlib import resources
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from itables import to_html_datatable
from itables.javascript import generate_init_offline_itables_html
from itables.options import dt_bundle
from plotly.offline import get_plotlyjs
from rich.table import Table

from goodteacher.experiments.reports import teacher_answer
from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.verdicts import Verdict
from goodteacher.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY)
_OF_VERDICTS = {
    Verdict.NO_SIGNAL: GREY,
    Verdict.SATURATED: SKY,
    Verdict.UNSEEN: PURPLE,
    Verdict.LEARNS: GREEN,
    Verdict.STALLS: ORANGE,
    Verdict.MISLED: RED,
    Verdict.OVER_OPTIMISED: BLUE,
    Verdict.NO_TRUTH: GREY,
    Verdict.NOT_KNOWN: GREY,
}
_MOST_POINTS = 3000  # of the picture of prompts
_MOST_ROWS = 20_000  # of the table of prompts


class _Chart(NamedTuple):
    """A picture and what is seen in it."""

    html: str
    caption: str


class _Cells(NamedTuple):
    """A table as text."""

    header: list[str]
    rows: list[list[str]]


def page(data: xr.Dataset, rollouts: Rollouts) -> str:
    """The report as HTML.

    Args:
        data: as :func:`goodteacher.experiments.rollouts.diagnosis.diagnose` returns it.
        rollouts: what was diagnosed.
    """
    template = (
        resources.files("goodteacher.experiments.reports").joinpath("page.html").read_text(encoding="utf-8")
    )
    names = teacher_answer.ranked(data)
    tables = [
        ("Rewards", _cells(teacher_answer.rewards_table(data))),
        ("Verdicts", _cells(teacher_answer.verdicts_table(data))),
    ]
    if (prompts := teacher_answer.prompts_table(data)) is not None:
        tables.append((str(prompts.title), _cells(prompts)))
    tables.append(("Groups", _cells(teacher_answer.groups_table(data))))
    libraries = f"<script>{get_plotlyjs()}</script>\n{generate_init_offline_itables_html(dt_bundle)}"
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(template)
        .render(
            title=f"goodteacher: {', '.join(names)}",
            libraries=libraries,
            answer=teacher_answer.answer(data),
            source=teacher_answer.recognised(rollouts),
            tables=tables,
            charts=_charts(data),
            best=names[0] if len(names) > 1 else "",
            prompts=_prompts(data),
            limits=teacher_answer.limits(data),
            methods=_methods(data),
        )
    )


def _cells(table: Table) -> _Cells:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return _Cells(
        [str(column.header) for column in table.columns], [list(row) for row in zip(*columns, strict=True)]
    )


def _prompts(data: xr.Dataset) -> str:
    """The table of prompts under the best reward, which sorts and searches."""
    best = teacher_answer.ranked(data)[0]
    frame = teacher_answer.under(data, best).reset_index().dropna(axis="columns", how="all")
    if "truth_at_start" in data:
        frame["fixing_gains"] = teacher_answer.gains(data, best)
        frame = frame.sort_values("fixing_gains", ascending=False)
    first = [name for name in ("prompt", "verdict", "fixing_gains", "hitting_time") if name in frame]
    frame = frame[[*first, *(name for name in frame.columns if name not in first)]][:_MOST_ROWS]
    with pd.option_context("display.float_format", "{:.4g}".format):
        return to_html_datatable(
            frame,
            connected=False,
            showIndex=False,
            maxBytes=0,
            lengthMenu=[10, 50, 200],
            classes="display compact",
            text_in_header_can_be_selected=False,
        )


# Pictures -----------------------------------------------------------------------------


def _chart(figure: go.Figure, x: str, y: str, caption: str, *, log: bool = False) -> _Chart:
    grid: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)"}
    figure.update_layout(
        height=340,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
        colorway=_COLORS,
    )
    figure.update_xaxes(title=x, type="log" if log else "-", **grid)
    figure.update_yaxes(title=y, **grid)
    html = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return _Chart(html, caption)


def _lines(data: xr.Dataset, x: Any, y: str, *, markers: bool = False) -> go.Figure:
    figure = go.Figure()
    for i, name in enumerate(teacher_answer.ranked(data)):
        of = data.sel(reward=name)
        across = of[x].values if isinstance(x, str) else x
        style = {"color": _COLORS[i % len(_COLORS)], "dash": ("solid", "dash", "dot")[i // len(_COLORS) % 3]}
        mode = "lines+markers" if markers else "lines"
        figure.add_scatter(x=across, y=of[y].values, name=_escaped(name), mode=mode, line=style)
    return figure


def _charts(data: xr.Dataset) -> list[_Chart]:
    charts = _along(data) if data.attrs["followed"] else []
    if "truth_at_start" in data:
        said = "Ground truth of the best of N draws by each reward, estimated without bias."
        figure = _lines(data, "best_of", "truth_of_best_of", markers=True)
        charts.append(_chart(figure, "N", "ground truth", said, log=True))
        charts.append(_points(data))
    if data.attrs["followed"]:
        charts.append(_spread(data.isel(time=slice(1, None))))
    flat = data.assign(flat_groups=1.0 - data.share_with_spread)
    said = "Share of groups in which all draws have one reward, so that they teach nothing."
    charts.append(
        _chart(
            _lines(flat, "group", "flat_groups", markers=True), "group size G", "flat groups", said, log=True
        )
    )
    return charts


def _along(data: xr.Dataset) -> list[_Chart]:
    """What becomes of the ground truth, or without one of the reward that is trained on."""
    of, name = ("truth", "ground truth") if "truth_along" in data else ("reward", "scaled reward")
    followed, budget = data.attrs["followed"], data.attrs["budget"]
    figure = _lines(data.isel(time=slice(1, None)), data.time.values[1:] * budget, f"{of}_along")
    said = f"Expected {name} along training ({data.attrs['estimator']}), mean over {followed} prompts."
    charts = [_chart(figure, "time", name, said, log=True)]
    figure = _lines(data, "kl_along", f"{of}_along", markers=True)
    for i, reward in enumerate(teacher_answer.ranked(data)):
        if (peak := teacher_answer.peak(data.sel(reward=reward))) is None:
            continue
        mark = {"symbol": "star", "size": 13, "color": _COLORS[i % len(_COLORS)]}
        figure.add_scatter(
            x=[peak["kl"]],
            y=[peak["truth"]],
            mode="markers",
            marker=mark,
            name=f"peak of {_escaped(reward)}",
            showlegend=False,
        )
    said = "The same against the divergence from the initial policy"
    stars = "; stars mark peaks, after which it falls" if of == "truth" else ""
    charts.append(_chart(figure, "KL (nat)", name, f"{said}{stars}."))
    figure = _lines(data, "kl_tilted", f"{of}_tilted")
    said = (
        f"The frontier of {of} against KL: policies in proportion to exp(tau r), the optima of training "
        "with a KL penalty. It ends where a policy would rest on fewer than three draws."
    )
    charts.append(_chart(figure, "KL (nat)", name, said))
    return charts


def _spread(data: xr.Dataset) -> _Chart:
    """Of the best reward, for every size of group."""
    name = teacher_answer.leading(data)
    figure = go.Figure()
    for i, group in enumerate(data.group.values):
        along = data.spread_along.sel(reward=name, group=group).values
        line = {"color": _COLORS[i % len(_COLORS)]}
        times = data.time.values * data.attrs["budget"]
        figure.add_scatter(x=times, y=along, name=f"G = {int(group)}", mode="lines", line=line)
    said = f"Share of groups with spread along training under {name}, of the model policy."
    return _chart(figure, "time", "groups with spread", said, log=True)


def _points(data: xr.Dataset) -> _Chart:
    name = teacher_answer.ranked(data)[0]
    of = data.sel(reward=name)
    figure = go.Figure()
    rng = np.random.default_rng(0)
    count = data.sizes["prompt"]
    shown = np.sort(rng.permutation(count)[:_MOST_POINTS])
    codes = of.prompt_verdict.values[shown]
    for verdict, color in _OF_VERDICTS.items():
        rows = shown[codes == verdict]
        if not rows.size:
            continue
        labels = [f"{text}<br>{verdict.title}" for text in pd.Series(data.prompt.values[rows]).map(_escaped)]
        figure.add_scatter(
            x=of.reward_variance.values[rows],
            y=of.reward_covariance.values[rows],
            mode="markers",
            name=verdict.title,
            marker={"color": color, "size": 6, "opacity": 0.7},
            text=labels,
            hovertemplate="%{text}<br>variance %{x:.3g}, rate %{y:.3g}<extra></extra>",
        )
    more = f" {len(shown)} of {count}, drawn at random." if count > len(shown) else ""
    said = f"Prompts under {name}: variance of the reward against the first rate of the ground truth.{more}"
    return _chart(figure, "variance of the reward", "covariance with the truth", said)


def _escaped(text: Any) -> str:
    return str(markupsafe.escape(str(text)))


def _methods(data: xr.Dataset) -> list[str]:
    about = data.attrs
    drawn = [
        f"Rewards are on one scale: {about['scale']}. The within-prompt variance has divisor n - 1. Accuracy "
        "is over pairs of draws of one prompt: as defined in arXiv:2503.15477, where a tie is right only if "
        "the truth has one, and over the pairs that the truth tells apart; harm-aware accuracy is that of "
        "arXiv:2604.25872.",
        f"Intervals are of 95 %, by a bootstrap over prompts with {about['resamples']} resamples (BCa); "
        "rewards are compared on the same resamples.",
    ]
    if "truth_at_start" not in data:
        followed = (
            f"Policies follow the {about['estimator']} of a model policy whose outputs are the distinct "
            "draws of a prompt, with their shares as probabilities. Without a ground truth the budget is "
            f"{about['budget']:.3g}: what was given, or ten times the median time in which a prompt gains "
            f"{about['goal']:g} of what the reward could still give it."
        )
        return [*drawn, followed] if about["followed"] else drawn
    return [
        *drawn,
        f"Verdicts follow the {about['estimator']} of a model policy whose outputs are the distinct draws of "
        f"a prompt, with their shares as probabilities. The goal is {about['goal']:g} of the possible "
        "increase of the ground truth; the budget is the time at which rewards are compared.",
        "Times are comparable between rewards, prompts and settings. They are not updates of a large "
        "network, and an output that was never drawn is not in them.",
    ]
