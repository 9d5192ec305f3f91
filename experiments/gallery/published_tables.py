"""The published tables of policies and reward models, looked at again (arXiv:2503.15477)."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.miniature.published import (
    INCREASES,
    MEASURED,
    matrix,
    pooled_ranks,
    within_policies,
)
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import BLUE, GREY, MARKERS, PAGE, RED, letter, paper

_NAMES = {
    "reward_variance": "variance",
    "on_policy_acc": "on-policy accuracy",
    "off_policy_acc": "off-policy accuracy",
}
_OF = {"reward_increase_RM": "proxy", "reward_increase_G": "ground truth"}
_LOOKS = {"proxy": BLUE, "ground truth": RED}


@dataclass(frozen=True)
class Settings:
    """Nothing to choose: the numbers are published."""


def run(settings: Settings) -> Data:
    """The rows, and the rank correlations within policies."""
    rows, within = matrix(), within_policies()
    row = np.arange(len(rows))
    groups = rows["method"] + ", " + rows["initial_policy"]
    table = {
        name: variable("row", rows[name].to_numpy(), f"published {name.replace('_', ' ')}")
        for name in (*INCREASES, *MEASURED)
    }
    table["group"] = variable("row", groups.to_numpy(str), "method and initial policy")
    table["reward_model"] = variable("row", rows["reward_model"].to_numpy(str), "reward model")
    of = np.array([[within[measure, increase] for increase in INCREASES] for measure in MEASURED])
    low, high = mean_interval(np.moveaxis(of, -1, 0))
    pooled = [[pooled_ranks(measure, increase) for increase in INCREASES] for measure in MEASURED]
    dimensions = ("measure", "increase")
    correlations = {
        "mean": variable(dimensions, of.mean(-1), "rank correlation within a policy, mean"),
        "pooled": variable(dimensions, pooled, "correlation of the ranks within policies"),
        "low": variable(dimensions, low, "lower end of the 95 % interval of the mean over policies"),
        "high": variable(dimensions, high, "upper end"),
    }
    labels = {"measure": list(_NAMES.values()), "increase": list(_OF.values())}
    each = xr.Dataset(
        {
            "rank_correlation": variable(
                (*dimensions, "policy"), of, "rank correlation over the four reward models of a policy"
            )
        },
        {
            **labels,
            "policy": [f"{m}, {p}" for m, p in zip(within["method"], within["initial_policy"], strict=True)],
        },
    )
    return {
        "rows": xr.Dataset(table, {"row": variable("row", row, "row of Tables 10 to 12")}),
        "correlations": xr.Dataset(correlations, labels),
        "policies": each,
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Increases against the variance, policy by policy, and the correlations."""
    rows, correlations, each = data["rows"], data["correlations"], data["policies"]
    drawing = Figure(figsize=(PAGE, 2.7))
    axes = drawing.subplots(1, 3, width_ratios=(1, 1, 1.25))
    for ax, (name, of) in zip(axes, _OF.items(), strict=False):
        for marker, group in zip(MARKERS, dict.fromkeys(rows["group"].values), strict=True):
            some = rows.isel(row=np.flatnonzero(rows["group"].values == group))
            some = some.isel(row=np.argsort(some["reward_variance"].values))
            grpo = group.startswith("GRPO")
            ax.plot(
                some["reward_variance"], some[name], color=_LOOKS[of], marker=marker, lw=0.7, ms=3.5,
                mfc="white" if grpo else _LOOKS[of],
            )  # fmt: skip
        ax.set(xlabel="Reward variance of the initial policy", ylabel=f"Increase of the {of} reward")
        ax.set_title(f"the {of}")
    panel, places = axes[2], np.arange(correlations.sizes["measure"])[::-1]
    for shift, of in zip((0.14, -0.14), _OF.values(), strict=True):
        some, color = correlations.sel(increase=of), _LOOKS[of]
        panel.hlines(places + shift, some["low"], some["high"], color=color, lw=1.3)
        panel.plot(some["mean"], places + shift, "o", color=color, label=of)
        for place, values in zip(places, each["rank_correlation"].sel(increase=of).values, strict=True):
            panel.plot(values, np.full(len(values), place + shift), "|", color=color, alpha=0.35, ms=5)
    panel.axvline(0.0, color=GREY, lw=0.6)
    panel.set_yticks(places, [str(name).replace(" ", "\n") for name in correlations["measure"].values])
    panel.set(xlim=(-1.05, 1.05), ylim=(-0.5, places[0] + 0.75), xlabel="Rank correlation within a policy")
    panel.legend(loc="upper left", ncols=2, handlelength=0.8, columnspacing=0.8, handletextpad=0.3)
    panel.set_title("with the increase of")
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, and the source."""
    mean, rows = data["correlations"]["mean"], data["rows"].sizes["row"]

    def of(measure: str, increase: str) -> str:
        at = {"measure": measure, "increase": increase}
        low, high = (float(data["correlations"][end].sel(at)) for end in ("low", "high"))
        return f"{float(mean.sel(at)):+.2f} [{low:+.2f}, {high:+.2f}]"

    return (
        f"The {rows} rows of Tables 10 to 12 of arXiv:2503.15477, looked at again: four reward models for "
        f"each of {data['policies'].sizes['policy']} initial policies and methods (hollow: GRPO). (a, b) "
        "Lines join the reward models of one policy. (c) Rank correlations within a policy, their means and "
        "95 % intervals over policies. The variance goes with the increase of the proxy, "
        f"{of('variance', 'proxy')}, and against that of the ground truth, {of('variance', 'ground truth')}; "
        f"on-policy accuracy with the latter, {of('on-policy accuracy', 'ground truth')}. The policies share "
        "their four reward models, so that the intervals are too narrow if those are seen as drawn."
    )


EXPERIMENT = Experiment(
    name="published_tables",
    title="In the published tables variance teaches the proxy, not the truth",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
