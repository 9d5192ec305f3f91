"""What foretells teaching? Forecasts from draws of the initial policy beside the gain of held-out truth."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import ALL, TRUE
from goodteacher.experiments.miniature.forecasts import CANDIDATES, Trials, parts, tried
from goodteacher.experiments.miniature.lessons import ON_POLICY, Scale
from goodteacher.experiments.miniature.worlds import TUNED
from goodteacher.experiments.statistics import mean_interval, rank_correlation
from goodteacher.figures.style import BLUE, GREY, PAGE, RED, letter, paper

RIVALS = ("variance", ON_POLICY, "HAcc")  # that a forecast is to beat
_RESAMPLED = 400
PROXIES = np.array([k for k, name in enumerate(ALL) if name != TRUE])


def summary(found: Mapping[str, Arrays], settings: Trials) -> Data:
    """Rank correlations and regrets of every candidate, and differences with their intervals."""
    families, worlds = settings.families, settings.scale.worlds
    of = {
        family: [arrays for part, arrays in found.items() if part.rsplit(".", 1)[0] == family]
        for family in families
    }

    def every(name: str, axis: int) -> np.ndarray:
        return np.stack([np.concatenate([each[name] for each in of[family]], axis) for family in families])

    # The truth itself is no proxy to choose.
    forecasts = every("forecasts", 1).swapaxes(0, 1)[..., PROXIES]
    gains, target = every("gains", 0)[..., PROXIES, :], every("held_out", 0)[..., PROXIES]
    ranks = rank_correlation(forecasts, target)  # candidates, families, worlds
    chosen = np.take_along_axis(target[None], forecasts.argmax(-1)[..., None], -1)[..., 0]
    regret = (target.max(-1) - chosen) / (target.max(-1) - target.mean(-1))
    dimensions = ("candidate", "family", "world")
    labels = {
        "candidate": list(CANDIDATES),
        "family": list(families),
        "world": variable("world", np.arange(worlds), "seed"),
    }
    each = xr.Dataset(
        {
            "rank_correlation": variable(
                dimensions, ranks, "rank correlation with the gain of held-out truth"
            ),
            "regret": variable(
                dimensions, regret, "what choosing by it loses, over what choosing at random does"
            ),
        },
        labels,
    )
    tuned = [family in TUNED for family in families]
    best = CANDIDATES[int(ranks[:, tuned].mean((1, 2)).argmax())]
    differences = ranks[[CANDIDATES.index(best)]] - ranks[[CANDIDATES.index(name) for name in RIVALS]]
    low, high = mean_interval(np.moveaxis(differences, -1, 0))
    against = xr.Dataset(
        {
            "difference": variable(
                ("rival", "family"), differences.mean(-1), "of the rank correlations, paired"
            ),
            "low": variable(("rival", "family"), low, "lower end of its 95 % interval over worlds"),
            "high": variable(("rival", "family"), high, "upper end"),
        },
        {"rival": list(RIVALS), "family": list(families)},
        {"forecast": best},
    )
    low, high = mean_interval(np.moveaxis(ranks.reshape(len(CANDIDATES), -1), -1, 0))
    overall = xr.Dataset(
        {
            "rank_correlation": variable("candidate", ranks.mean((1, 2)), "mean over all worlds"),
            "low": variable("candidate", low, "lower end of its 95 % interval"),
            "high": variable("candidate", high, "upper end"),
            "regret": variable("candidate", regret.mean((1, 2)), "mean regret"),
        },
        {"candidate": list(CANDIDATES)},
    )
    claimed, right = _sure(gains, target)
    worlds_axis = ("family", "world")
    confidence = xr.Dataset(
        {
            "claimed": variable(
                worlds_axis, claimed, "probability that the order of two reward models is right"
            ),
            "right": variable(worlds_axis, right, "share of the orders that are right"),
        },
        {"family": list(families), "world": labels["world"]},
    )
    return {"worlds": each, "overall": overall, "differences": against, "confidence": confidence}


def _sure(gains: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How sure the tangent flow is of the order of two models, by drawing prompts anew; and how right."""
    prompts = gains.shape[-1]
    counts = np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), _RESAMPLED)
    means = gains @ counts.T / prompts  # families, worlds, models, resampled
    first, second = np.triu_indices(gains.shape[-2], 1)
    ahead = (means[..., first, :] > means[..., second, :]).mean(-1)
    wins = target[..., first] > target[..., second]
    return np.maximum(ahead, 1 - ahead).mean(-1), (wins == (ahead > 0.5)).mean(-1)


def _short(name: str) -> str:
    """In the picture, where the caption says of which pairs accuracies are."""
    return name.replace(" where truth differs", "")


@paper()
def figure(data: Data, settings: Trials) -> Figure:
    """Correlations, regret, and paired differences in each family."""
    overall, against = data["overall"], data["differences"]
    drawing = Figure(figsize=(PAGE, 3.0))
    ranks, regret, panel = drawing.subplots(1, 3, width_ratios=(1, 0.7, 1.1))
    places = np.arange(overall.sizes["candidate"])[::-1]
    best = against.attrs["forecast"]
    colors = [RED if name == best else BLUE for name in overall["candidate"].values]
    ranks.hlines(places, overall["low"], overall["high"], colors=colors)
    ranks.scatter(overall["rank_correlation"], places, c=colors, s=14, zorder=3)
    regret.barh(places, overall["regret"], color=colors, height=0.55)
    ranks.set_yticks(places, [_short(str(name)) for name in overall["candidate"].values])
    regret.set_yticks(places, [])
    ranks.axvline(0.0, color=GREY, lw=0.6)
    ranks.set(xlabel="Rank correlation")
    regret.set(xlabel="Regret (at random: 1)")
    families = [str(name) for name in against["family"].values]
    heights = np.arange(len(families))[::-1]
    for shift, rival in zip((0.2, 0.0, -0.2), RIVALS, strict=True):
        some = against.sel(rival=rival)
        color = {"variance": GREY, "HAcc": RED}.get(rival, BLUE)
        panel.hlines(heights + shift, some["low"], some["high"], color=color)
        panel.plot(some["difference"], heights + shift, "o", color=color, label=f"over {_short(rival)}")
    panel.axvline(0.0, color=GREY, lw=0.6)
    panel.set_yticks(heights, [name if name in TUNED else f"{name} *" for name in families])
    panel.set(xlabel="Difference of rank correlations", ylim=(-0.6, heights[0] + 1.6))
    panel.legend(loc="upper left", handlelength=0.8, labelspacing=0.2)
    ranks.set_title("with the gain held out")
    regret.set_title("of choosing by it")
    panel.set_title(f"{best}, paired")
    letter((ranks, regret, panel))
    return drawing


def caption(data: Data, settings: Trials) -> str:
    """What is seen, settings and source."""
    overall, against, sure = data["overall"], data["differences"], data["confidence"]
    best, scale = against.attrs["forecast"], settings.scale
    unseen = [name for name in settings.families if name not in TUNED]
    runs = len(settings.families) * scale.worlds * len(PROXIES)

    def of(name: str) -> str:
        some = overall.sel(candidate=name)
        return f"{name} {float(some['rank_correlation']):.2f}"

    wins = [
        f"{rival} in {int((against['low'].sel(rival=rival, family=unseen) > 0).sum())} of {len(unseen)}"
        for rival in RIVALS
    ]
    return (
        f"{runs} runs: {len(PROXIES)} reward models, none of them the truth, in {scale.worlds} worlds of "
        f"each of {len(settings.families)} families (seeds from 0). Forecasts from {settings.draws} draws of "
        f"the initial policy at each of {scale.prompts} prompts, and their rank correlation with the gain of "
        "held-out ground truth after training. (a) Means over worlds, with 95 % intervals: "
        f"{', '.join(of(name) for name in (*RIVALS, 'covariance', best))}. (b) What choosing by a forecast "
        f"loses of the gain, as a share of what choosing at random loses. (c) Paired differences of {best}, "
        "which is the best one on the tuned families, in each family (*: held out from that choice). There "
        f"its interval is above zero over {', '.join(wins)}. By drawing prompts anew the tangent flow claims "
        f"to order two reward models rightly with {100 * float(sure['claimed'].mean()):.0f} %, and does in "
        f"{100 * float(sure['right'].mean()):.0f} %. The tangent flow is that of the network linearised "
        "about its start (its exact neural tangent kernel), the natural and the gradient flow are those of "
        "each prompt by itself, as of goodteacher diagnose, to a time that the tuned families chose. "
        "Accuracies are over pairs on which the truth differs; HAcc: arXiv:2604.25872, Section 4."
    )


EXPERIMENT = Experiment(
    name="what_foretells",
    title="What foretells, before any training, how much a reward model teaches",
    settings=Trials(),
    run=Parted(parts, tried, summary),
    figure=figure,
    caption=caption,
    full=Trials(
        ("close", "tokens", "noisy", "by digit", "steps, sharp", "binary, tokens", "wide, near"),
        Scale(worlds=8, updates=200, records=2),
    ),
)
