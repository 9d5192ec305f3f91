"""What each reward model teaches each policy (arXiv:2503.15477, Figure 3 and Tables 10 to 12)."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.lessons import MEASURES, ON_POLICY, Scale, blocks, joined
from goodteacher.experiments.miniature.matrix import METHODS, POLICIES, REWARD_MODELS, entries
from goodteacher.experiments.miniature.published import matrix
from goodteacher.experiments.statistics import mean_interval, rank_correlation
from goodteacher.figures.style import PAGE, colorbar, letter, paper

_RISES = {"proxy": "the proxy", "truth": "the ground truth", "held_out": "the ground truth, held out"}


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """The matrix, how often each reward model is the best, and rank correlations within a policy."""
    found = joined(parts)
    labels = {"policy": list(POLICIES), "reward_model": list(REWARD_MODELS), "estimator": list(METHODS)}
    axes = ("policy", "reward_model", "estimator")
    cells = {}
    for name, title in _RISES.items():
        low, high = mean_interval(found[name])
        cells[name] = variable(axes, found[name].mean(0), f"increase of {title}, mean over worlds")
        cells[f"{name}_low"] = variable(axes, low, "lower end of its 95 % interval")
        cells[f"{name}_high"] = variable(axes, high, "upper end")
        best = found[name].argmax(2)[:, :, None] == np.arange(len(REWARD_MODELS))[:, None]
        cells[f"{name}_best"] = variable(
            axes, best.mean(0), f"share of worlds in which it teaches {title} best"
        )
    for name in MEASURES:
        values = np.repeat(found[name].mean(0)[..., None], len(METHODS), -1)
        cells[name.replace(" ", "_")] = variable(axes, values, f"{name} under the initial policy")
    # Over the reward models of one policy, as of the published tables.
    within = [
        [
            rank_correlation(found[measure][..., None, :], np.moveaxis(found[rise], 2, -1)).mean(1)
            for rise in ("proxy", "truth")
        ]
        for measure in MEASURES
    ]  # measures, increases, worlds, methods
    low, high = mean_interval(np.moveaxis(np.array(within), 2, 0))
    dimensions = ("measure", "increase", "estimator")
    correlations = {
        "mean": variable(dimensions, np.mean(within, 2), "rank correlation within a policy, mean"),
        "low": variable(dimensions, low, "lower end of its 95 % interval over worlds"),
        "high": variable(dimensions, high, "upper end"),
    }
    rows = matrix()
    reported = {
        name: variable("row", rows[column].to_numpy(kind), title)
        for name, column, kind, title in (
            ("policy", "initial_policy", str, "initial policy"),
            ("reward_model", "reward_model", str, "reward model"),
            ("method", "method", str, "method"),
            ("truth", "reward_increase_G", float, "published increase of the ground truth"),
            ("proxy", "reward_increase_RM", float, "published increase of the proxy"),
        )
    }
    return {
        "matrix": xr.Dataset(cells, labels),
        "correlations": xr.Dataset(
            correlations,
            {"measure": list(MEASURES), "increase": ["proxy", "truth"], "estimator": list(METHODS)},
        ),
        "published": xr.Dataset(
            reported, {"row": variable("row", np.arange(len(rows)), "row of Tables 10 to 12")}
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """Miniature above, published below; RLOO to the left."""
    cells, reported = data["matrix"], data["published"].to_dataframe()
    drawing = Figure(figsize=(PAGE, 4.5))
    axes = drawing.subplots(2, 2, height_ratios=(len(POLICIES), 4))
    image = None
    for column, method in enumerate(METHODS):
        of = cells["truth"].sel(estimator=method)
        _cells(axes[0, column], of.values, list(REWARD_MODELS), list(POLICIES), f"miniature, {method}")
        rows = reported[reported["method"] == method]
        wide = rows.pivot(index="policy", columns="reward_model", values="truth")
        short = [str(name).replace("UltraFeedback", "").replace(" SFT", "").strip() for name in wide.index]
        models = [str(name).replace("RM-", "RM\n", 1).replace("-", "\n", 1) for name in wide.columns]
        image = _cells(axes[1, column], wide.to_numpy(), models, short, f"published, {method}")
    assert image is not None
    bar = colorbar(drawing, image, list(axes.flat), "", shrink=0.5, ticks=[0.0, 1.0])
    bar.ax.set_yticklabels(["worst of\nthe row", "best of\nthe row"])
    letter(axes.flat)
    return drawing


def _cells(ax, values: np.ndarray, columns: list[str], rows: list[str], title: str):
    least = values.min(1, keepdims=True)
    share = (values - least) / (values.max(1, keepdims=True) - least)
    image = ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", alpha=0.75)
    for (row, column), value in np.ndenumerate(values):
        best = value == values[row].max()
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", weight="bold" if best else "normal")
    ax.set_xticks(range(len(columns)), columns, fontsize="small")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title)
    return image


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    cells, within = data["matrix"], data["correlations"]
    best = [
        f"{policy}: {cells['truth'].sel(policy=policy, estimator='RLOO').idxmax('reward_model').item()} "
        f"({float(cells['truth_best'].sel(policy=policy, estimator='RLOO').max()):.0%} of the worlds)"
        for policy in POLICIES
    ]

    def of(measure: str, increase: str, method: str) -> str:
        some = within.sel(measure=measure, increase=increase, estimator=method)
        return f"{float(some['mean']):+.2f} [{float(some['low']):+.2f}, {float(some['high']):+.2f}]"

    return (
        "Increases of the expected ground truth, after training, of initial policies (rows) under reward "
        f"models (columns), in bold the best of a row. (a, b) In miniature, means over {scale.worlds} worlds "
        f"(seeds from 0), {scale.prompts} prompts, {scale.updates} updates; policies fitted to labels of "
        "which 60 or 30 % of the digits were drawn anew, and the latter sharpened threefold; reward models "
        "learned from pairs of outputs of each of these policies, or of all outputs alike. Most often the "
        f"best under RLOO: {'; '.join(best)}. (c, d) As published in Tables 10 to 12 of arXiv:2503.15477. "
        "Rank correlations within a policy, in miniature: the variance with the increase of the proxy "
        f"{of('variance', 'proxy', 'RLOO')} under RLOO and {of('variance', 'proxy', 'GRPO')} under GRPO, "
        f"with that of the ground truth {of('variance', 'truth', 'RLOO')} and "
        f"{of('variance', 'truth', 'GRPO')}; {ON_POLICY} with the latter "
        f"{of(ON_POLICY, 'truth', 'RLOO')} and {of(ON_POLICY, 'truth', 'GRPO')}. "
        "Published over the same: +0.87 and -0.43, see published_tables."
    )


EXPERIMENT = Experiment(
    name="policy_by_reward",
    title="Policies by reward models, RLOO and GRPO: in miniature and as published",
    settings=Scale(worlds=4, prompts=100, updates=100, records=2),
    run=Parted(blocks, entries, summary),
    figure=figure,
    caption=caption,
    full=Scale(worlds=40, updates=400, records=2),
)
