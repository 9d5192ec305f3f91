"""Does the theory carry over to networks? Bounds, times and kinds of errors along real training."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.carried_over import (
    BOUNDS,
    FORECASTS,
    GAMMA,
    KINDS,
    MODELS,
    POLICIES,
    SHARE,
    Looks,
    agreement,
    look,
)
from goodteacher.experiments.miniature.lessons import Scale, blocks, joined
from goodteacher.experiments.statistics import mean_interval
from goodteacher.figures.style import BLACK, BLUE, DASHED, GREY, ORANGE, PAGE, RED, letter, paper

_COLORS = dict(zip(POLICIES, (RED, ORANGE, BLUE), strict=True))
_LEARNED, _BIASED = MODELS[:-1], MODELS[-1]
_NEGLIGIBLE = KINDS[3]
NETWORK, TABLE = next(iter(POLICIES)), list(POLICIES)[-1]


def summary(parts: Mapping[str, Arrays], looks: Looks) -> Data:
    """Least factors of the bounds, times foretold and seen, and effects of errors by kind."""
    found, scale = joined(parts), looks.scale
    policies = {"policy": list(looks.policies)}
    worlds = {"world": variable("world", np.arange(scale.worlds), "seed")}
    factors = xr.Dataset(
        {
            "factor": variable(
                ("policy", "bound", "update"),
                found["gradient"].min((0, 3)),
                "bound on the gradient's norm over it, the least over prompts, reward models and worlds",
            )
        },
        {
            **policies,
            "bound": list(BOUNDS[:2]),
            "update": variable("update", scale.course().counts, "updates"),
        },
    )
    rises = xr.Dataset(
        {
            "factor": variable(
                ("policy", "bound"),
                found["time"].min((0, 3)),
                f"time of the first rise by {GAMMA:g} over its bound, the least over models and worlds",
            )
        },
        {**policies, "bound": list(BOUNDS[2:])},
    )
    prompts = {"prompt": variable("prompt", np.arange(scale.prompts), "prompt")}
    axes = ("world", "policy", "forecast", "prompt")
    seen = np.broadcast_to(found["seen"][:, :, None], found["foretold"].shape)
    times = xr.Dataset(
        {
            "foretold": variable(
                axes, found["foretold"], "foretold time of a rise by half of what is possible"
            ),
            "seen": variable(axes, seen, "time in training, on the prompt's own clock"),
        },
        {**worlds, **policies, "forecast": list(FORECASTS), **prompts},
    )
    ranks, ratios = agreement(found["foretold"], found["seen"][:, :, None])
    low, high = mean_interval(ranks)
    axes = ("policy", "forecast")
    agreed = xr.Dataset(
        {
            "rank_correlation": variable(
                axes, np.nanmean(ranks, 0), "of times foretold and seen, over prompts"
            ),
            "low": variable(axes, low, "lower end of its 95 % interval over worlds"),
            "high": variable(axes, high, "upper end"),
            "ratio": variable(axes, np.nanmean(ratios, 0), "median of times seen over those foretold"),
        },
        {**policies, "forecast": list(FORECASTS)},
    )
    axes = ("policy", "model", "kind")
    effects = {
        "share": variable(axes, found["share"].mean(0), "probability that the initial policy gives them")
    }
    for name, title in {
        "corrected": "ground truth gained by correcting the errors",
        "alone": "ground truth lost by these errors alone",
    }.items():
        low, high = mean_interval(found[name])
        effects[name] = variable(axes, found[name].mean(0), f"{title}, mean over worlds")
        effects[f"{name}_low"] = variable(axes, low, "lower end of its 95 % interval")
        effects[f"{name}_high"] = variable(axes, high, "upper end")
    kinds = xr.Dataset(effects, {**policies, "model": list(MODELS), "kind": list(KINDS)})
    return {"bounds": factors, "rises": rises, "times": times, "agreement": agreed, "kinds": kinds}


@paper()
def figure(data: Data, looks: Looks) -> Figure:
    """Bounds along training, times foretold and seen, and what errors do by their kinds."""
    drawing = Figure(figsize=(PAGE, 5.4))
    axes = drawing.subplots(2, 2)
    bounds, times, kinds = data["bounds"], data["times"], data["kinds"]
    colors = {policy: _COLORS[policy] for policy in looks.policies}
    for policy, color in colors.items():
        for bound, style in zip(BOUNDS[:2], (DASHED, "-"), strict=True):
            some = bounds["factor"].sel(policy=policy, bound=bound)
            label = policy if style == "-" else None
            axes[0, 0].plot(bounds["update"], some, color=color, ls=style, label=label)
    axes[0, 0].axhline(1.0, color=GREY, lw=0.6)
    axes[0, 0].set(xlabel="Updates", ylabel="Bound over gradient norm", yscale="log", ylim=(0.7, None))
    axes[0, 0].legend(loc="center right", handlelength=1.2, labelspacing=0.2)
    axes[0, 0].set_title("Proposition 2 (dashed), and the sharp one")
    for policy, forecast, color, marker in (
        (NETWORK, FORECASTS[0], RED, "o"),
        (NETWORK, FORECASTS[-1], BLACK, "D"),
        (TABLE, FORECASTS[0], BLUE, "o"),
    ):
        some = times.sel(policy=policy, forecast=forecast)
        axes[0, 1].plot(
            some["foretold"].values.ravel(), some["seen"].values.ravel(), marker,
            color=color, ms=2.2, alpha=0.5, mew=0, label=f"{policy}, {forecast}",
        )  # fmt: skip
    axes[0, 1].plot([1e-2, 1e3], [1e-2, 1e3], color=GREY, lw=0.6)
    axes[0, 1].set(xscale="log", yscale="log", xlabel="Time foretold", ylabel="Time seen")
    axes[0, 1].legend(loc="upper left", handlelength=0.6, labelspacing=0.2, markerscale=1.6)
    axes[0, 1].set_ylim(1e-2, 3e4)
    axes[0, 1].set_title("half of the way on the truth")
    places = np.arange(len(KINDS))[::-1]
    for ax, name, title in zip(
        axes[1],
        ("corrected", "alone"),
        ("gained by correcting errors", "lost by these errors alone"),
        strict=True,
    ):
        for shift, (policy, color) in zip((0.24, 0.0, -0.24), colors.items(), strict=False):
            for model in MODELS:
                some = kinds.sel(policy=policy, model=model)
                at = places + shift + 0.07 * (MODELS.index(model) - 1)
                ax.hlines(at, some[f"{name}_low"], some[f"{name}_high"], color=color, lw=0.8)
                ax.plot(
                    some[name], at, "o" if model in _LEARNED else "D", color=color, ms=3,
                    mfc=color if model in _LEARNED else "white",
                )  # fmt: skip
        ax.axvline(0.0, color=GREY, lw=0.6)
        ax.set_yticks(places, KINDS if ax is axes[1, 0] else [])
        ax.set(xlabel="Ground truth")
        ax.set_title(title)
    letter(axes.flat)
    return drawing


def caption(data: Data, looks: Looks) -> str:
    """What is seen, settings and source."""
    bounds, rises, agreed, kinds = (data[name] for name in ("bounds", "rises", "agreement", "kinds"))
    scale = looks.scale

    def least(policy: str) -> str:
        some = bounds["factor"].sel(policy=policy).min("update").values
        return f"{some[0]:.1f} and {some[1]:.2f} ({policy})"

    def soonest(policy: str) -> str:
        some = rises["factor"].sel(policy=policy).values
        return f"{some[0]:.2g} and {some[1]:.2g}"

    def of(policy: str, forecast: str) -> str:
        some = agreed.sel(policy=policy, forecast=forecast)
        low, high = float(some["low"]), float(some["high"])
        return f"{float(some['rank_correlation']):.2f} [{low:.2f}, {high:.2f}]"

    def effect(policy: str, kind: str, name: str) -> str:
        some = kinds.sel(policy=policy, kind=kind)
        means = [f"{float(some[name].sel(model=model)):+.2f}" for model in MODELS]
        return f"{', '.join(means)} ({policy})"

    flow, own, linear = FORECASTS
    beneficial = KINDS[-1]
    return (
        "Policies that are a network over the images, and tables that start at the same policy and share "
        f"nothing, in {scale.worlds} worlds (seeds from 0), {scale.prompts} prompts, {scale.updates} updates "
        f"of exact RLOO; tables with {scale.prompts} times the learning rate. (a) Bounds on the gradient of "
        "each prompt with the measured Jacobian, over its norm (arXiv:2503.15477, Proposition 2, and the "
        f"sharp one): at least {'; '.join(least(policy) for policy in looks.policies)}. The first rise by "
        f"{GAMMA:g} over the times of Theorem 4 and of its sharp form: at least {soonest(NETWORK)} "
        f"(network), {soonest(TABLE)} (table). (b) When prompts have gone {SHARE:.0%} of the way on the "
        f"truth. Tabular flow: rank correlation {of(TABLE, flow)} on tables, {of(NETWORK, flow)} on "
        "networks, which are there after "
        f"{float(agreed['ratio'].sel(policy=NETWORK, forecast=flow)):.3f} of its time in the median; by the "
        f"network's features without what prompts do to each other {of(NETWORK, own)}; with it, by the "
        f"flow of the linearised network, {of(NETWORK, linear)}. (c) Final ground truth gained if all "
        "errors of a kind, by rule and prompt by prompt, are corrected, and (d) lost if only these are "
        f"made; filled: reward models that learned, {' and '.join(_LEARNED)}; hollow: {_BIASED}; colours as "
        "in (a). What is beneficial by rule (arXiv:2604.25872, Section 3) gains, if corrected, "
        f"{effect(NETWORK, beneficial, 'corrected')} and {effect(TABLE, beneficial, 'corrected')}, and "
        f"loses alone {effect(NETWORK, beneficial, 'alone')} and {effect(TABLE, beneficial, 'alone')}, in "
        "the order of these reward models. What is negligible (benign II) loses alone "
        f"{effect(NETWORK, _NEGLIGIBLE, 'alone')} and {effect(TABLE, _NEGLIGIBLE, 'alone')}."
    )


EXPERIMENT = Experiment(
    name="theory_on_networks",
    title="The theory on networks: bounds hold, times need what prompts share, kinds do not add up",
    settings=Looks((NETWORK, TABLE), Scale(worlds=2, prompts=40, updates=100, records=12)),
    run=Parted(lambda looks: blocks(looks.scale), look, summary),
    figure=figure,
    caption=caption,
    full=Looks(),
)
