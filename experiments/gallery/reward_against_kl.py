"""Reward against KL along training: over-optimisation in miniature (arXiv:2503.15477, Figures 4 to 12)."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import increases
from goodteacher.experiments.miniature.lessons import TIME, Scale, blocks, joined
from goodteacher.experiments.miniature.overoptimisation import COEFFICIENTS, LONGER, MODELS, paths
from goodteacher.figures.style import BLACK, BLUE, DASHED, GREEN, ORANGE, PAGE, RED, letter, paper

_LOOKS = dict(zip(MODELS, (BLUE, GREEN, RED, ORANGE, BLACK), strict=True))


def summary(parts: Mapping[str, Arrays], scale: Scale) -> Data:
    """Means over worlds along the runs, and where the truth is highest."""
    runs = joined(parts)
    axes = ("kl_coefficient", "model", "update")
    labels = {
        "kl_coefficient": variable("kl_coefficient", COEFFICIENTS, "KL coefficient"),
        "model": list(MODELS),
    }
    rises = {name: increases(runs[name]) for name in ("proxy", "truth", "held_out")}
    lost = rises["held_out"].max(-1) - rises["held_out"][..., -1]
    means = {
        "kl": variable(axes, runs["kl"].mean(0), "KL to the initial policy", "nats"),
        "proxy": variable(axes, rises["proxy"].mean(0), "increase of the proxy"),
        "truth": variable(axes, rises["truth"].mean(0), "increase of the ground truth"),
        "held_out": variable(
            axes, rises["held_out"].mean(0), "increase of the ground truth on held-out prompts"
        ),
    }
    return {
        "paths": xr.Dataset(
            means, {**labels, "update": variable("update", scale.course().counts, "updates")}
        ),
        "peaks": xr.Dataset(
            {
                "lost": variable(
                    axes[:2], lost.mean(0), "held-out ground truth lost after its peak, mean over worlds"
                )
            },
            labels,
        ),
    }


@paper()
def figure(data: Data, scale: Scale) -> Figure:
    """Proxy dashed, truth solid; a panel for each coefficient, and the KL against updates."""
    of = data["paths"]
    drawing = Figure(figsize=(PAGE, 2.7))
    axes = drawing.subplots(1, 3)
    for ax, coefficient in zip(axes, COEFFICIENTS, strict=False):
        some = of.sel(kl_coefficient=coefficient)
        for model, color in _LOOKS.items():
            at = np.sqrt(np.maximum(some["kl"].sel(model=model), 0.0))
            ax.plot(at, some["proxy"].sel(model=model), color=color, ls=DASHED, lw=0.9)
            ax.plot(at, some["held_out"].sel(model=model), color=color, label=model)
        ax.set(xlabel="$\\sqrt{\\rm KL}$ to the initial policy", ylabel="Increase of the reward")
        ax.set_title(f"KL coefficient {coefficient:g}")
    axes[1].sharey(axes[0])
    for coefficient, style in zip(COEFFICIENTS, ("-", DASHED), strict=True):
        for model, color in _LOOKS.items():
            axes[2].plot(
                of["update"], of["kl"].sel(kl_coefficient=coefficient, model=model), color=color, ls=style
            )
    axes[2].set(xlabel="Updates", ylabel="KL to the initial policy, nats", xlim=(0, of["update"][-1]))
    axes[2].set_title(f"dashed: coefficient {COEFFICIENTS[1]:g}")
    axes[0].legend(loc="upper left", handlelength=1.2, labelspacing=0.2, fontsize="small")
    axes[0].set_ylim(top=1.2 * axes[0].get_ylim()[1])
    letter(axes)
    return drawing


def caption(data: Data, scale: Scale) -> str:
    """What is seen, settings and source."""
    of, lost = data["paths"], data["peaks"]["lost"]

    def end(model: str, coefficient: float) -> str:
        some = of.sel(model=model, kl_coefficient=coefficient).isel(update=-1)
        return f"{float(some['proxy']):.2f}, {float(some['held_out']):.2f} at {float(some['kl']):.1f} nats"

    worst = str(lost.sel(kl_coefficient=COEFFICIENTS[0]).idxmax("model").item())
    return (
        "Increases of the proxy (dashed) and of held-out ground truth (solid) against the KL to the initial "
        f"policy along {scale.updates} updates of exact RLOO (learning rate "
        f"{LONGER * TIME / scale.updates:g}) on {scale.prompts} prompts, means over {scale.worlds} worlds "
        f"(seeds from 0). (a) Without a KL term: {MODELS[0]} ends at {end(MODELS[0], 0.0)}, {MODELS[2]} at "
        f"{end(MODELS[2], 0.0)}, {MODELS[-1]} at {end(MODELS[-1], 0.0)}. The most is lost after the peak on "
        f"{worst}: {float(lost.sel(model=worst, kl_coefficient=0.0)):.3f}. (b) With one of "
        f"{COEFFICIENTS[1]:g}: {MODELS[0]} {end(MODELS[0], COEFFICIENTS[1])}, {MODELS[2]} "
        f"{end(MODELS[2], COEFFICIENTS[1])}. The same policy costs the flat model less KL for a like truth. "
        "(c) The KL against updates. After Figures 4, 6, 8, 10 and 12 of arXiv:2503.15477."
    )


EXPERIMENT = Experiment(
    name="reward_against_kl",
    title="Reward against KL: over-optimisation in miniature",
    settings=Scale(worlds=4, prompts=100),
    run=Parted(blocks, paths, summary),
    figure=figure,
    caption=caption,
    full=Scale(worlds=40, updates=400, records=21),
)
