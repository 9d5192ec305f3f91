"""What foretells teaching? Forecasts from draws of the initial policy beside the gain of held-out truth."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

from goodteacher.experiments.datasets import Data, variable
from goodteacher.experiments.experiment import Arrays, Experiment, Parted
from goodteacher.experiments.miniature.classrooms import ALL, TRUE
from goodteacher.experiments.miniature.forecasts import CANDIDATES, FAMILIES, Trials, parts, tried
from goodteacher.experiments.miniature.lessons import ON_POLICY, Scale
from goodteacher.experiments.miniature.worlds import TUNED
from goodteacher.experiments.statistics import mean_interval, rank_correlation
from goodteacher.figures.style import BLACK, BLUE, GREY, PAGE, RED, letter, paper

RIVALS = ("variance", ON_POLICY, "HAcc")  # that a forecast is to beat
REHEARSAL = "rehearsal"
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
    against = xr.Dataset(
        _means("difference", ("rival", "family"), differences, "of the rank correlations, paired"),
        {"rival": list(RIVALS), "family": list(families)},
        {"forecast": best},
    )
    pooled = ranks.reshape(len(CANDIDATES), -1)
    overall = xr.Dataset(
        {
            **_means("rank_correlation", ("candidate",), pooled, "mean over all worlds"),
            "regret": variable("candidate", regret.mean((1, 2)), "mean regret"),
        },
        {"candidate": list(CANDIDATES)},
    )
    claimed, right = _sure(gains, target)
    chances = norm.cdf(claimed), norm.cdf(claimed / _overconfidence(claimed[tuned], right[tuned]))
    worlds_axis = ("family", "world")
    confidence = xr.Dataset(
        {
            "claimed": variable(
                worlds_axis, chances[0].mean(-1), "probability that the order of two models is right"
            ),
            "corrected": variable(
                worlds_axis, chances[1].mean(-1), "the same, with errors as large as on the tuned families"
            ),
            "right": variable(worlds_axis, right.mean(-1), "share of the orders that are right"),
        },
        {"family": list(families), "world": labels["world"]},
    )
    # What is seen of the training: by a line, by its own updates, by more draws, all outputs.
    seen = {
        f"tangent flow, {settings.draws} draws": forecasts[CANDIDATES.index("tangent flow")],
        f"{REHEARSAL}, {settings.draws} draws": forecasts[CANDIDATES.index(REHEARSAL)],
        f"{REHEARSAL}, {settings.more} draws": every("of_more", 0)[..., PROXIES],
        "all outputs": every("train", 0)[..., PROXIES],
    }
    reached = rank_correlation(np.stack(list(seen.values())), target)
    information = xr.Dataset(
        _means(
            "rank_correlation",
            ("seen", "family"),
            reached,
            "rank correlation with the gain of held-out truth",
        ),
        {"seen": list(seen), "family": list(families)},
    )
    return {
        "worlds": each,
        "overall": overall,
        "differences": against,
        "confidence": confidence,
        "information": information,
    }


def _means(name: str, dimensions: tuple[str, ...], values: np.ndarray, what: str) -> dict[str, xr.Variable]:
    """Means over worlds, the last axis, with their intervals."""
    low, high = mean_interval(np.moveaxis(values, -1, 0))
    return {
        name: variable(dimensions, values.mean(-1), what),
        "low": variable(dimensions, low, "lower end of its 95 % interval over worlds"),
        "high": variable(dimensions, high, "upper end"),
    }


def _sure(gains: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how many standard errors, over prompts, the rehearsal sets two models apart; and if rightly."""
    first, second = np.triu_indices(gains.shape[-2], 1)
    apart = gains[..., first, :] - gains[..., second, :]
    errors = apart.std(-1, ddof=1) / np.sqrt(gains.shape[-1])
    wins = target[..., first] > target[..., second]
    return np.abs(apart.mean(-1)) / errors, wins == (apart.mean(-1) > 0)


def _overconfidence(claimed: np.ndarray, right: np.ndarray) -> float:
    """By what errors are larger than those over prompts, if orders are right as often as is claimed."""
    factors = np.geomspace(0.1, 1000.0, 1001)
    off = norm.cdf(claimed.ravel() / factors[:, None]).mean(-1) - right.mean()
    return float(factors[np.abs(off).argmin()])


def _short(name: str) -> str:
    """In the picture, where the caption says of which pairs accuracies are."""
    return name.replace(" where truth differs", "")


@paper()
def figure(data: Data, settings: Trials) -> Figure:
    """Correlations, regret, and paired differences in each family."""
    overall, against, information = data["overall"], data["differences"], data["information"]
    drawing = Figure(figsize=(PAGE, 5.4))
    (ranks, regret), (panel, lacking) = drawing.subplots(2, 2)
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
    top = 0.6 + 1.33 * len(families)  # with room for legends
    for shift, rival in zip((0.2, 0.0, -0.2), RIVALS, strict=True):
        some = against.sel(rival=rival)
        color = {"variance": GREY, "HAcc": RED}.get(rival, BLUE)
        panel.hlines(heights + shift, some["low"], some["high"], color=color)
        panel.plot(some["difference"], heights + shift, "o", color=color, label=f"over {_short(rival)}")
    panel.vlines(0.0, -0.6, heights[0] + 0.5, color=GREY, lw=0.6)
    panel.set_yticks(heights, [name if name in TUNED else f"{name} *" for name in families])
    panel.set(xlabel="Difference of rank correlations", ylim=(-0.6, top))
    panel.legend(loc="upper left", handlelength=0.8, labelspacing=0.2)
    ranks.set_title("with the gain held out")
    regret.set_title("of choosing by it")
    panel.set_title(f"{best}, paired")
    styles = ((GREY, "o"), (RED, "o"), (RED, "D"), (BLACK, "|"))
    shifts = (-0.24, -0.08, 0.08, 0.24)
    for shift, (color, marker), seen in zip(shifts, styles, information["seen"].values, strict=True):
        some = information.sel(seen=seen)
        lacking.hlines(heights - shift, some["low"], some["high"], color=color, lw=0.9)
        lacking.plot(
            some["rank_correlation"], heights - shift, marker, color=color, ms=3.5, ls="", label=str(seen)
        )
    lacking.set_yticks(heights, [])
    lacking.set(xlabel="Rank correlation", ylim=(-0.6, top))
    lacking.legend(loc="upper left", handlelength=0.8, labelspacing=0.2, ncols=2, columnspacing=0.8)
    lacking.set_title("what is not seen")
    letter((ranks, regret, panel, lacking))
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

    def of_sure(name: str) -> str:
        return f"{100 * float(sure[name].sel(family=unseen).mean()):.0f}"

    def seen(name: str) -> str:
        return f"{float(data['information']['rank_correlation'].sel(seen=name).mean()):.2f}"

    above = against["low"] > 0
    wins = [f"{rival} in {int(above.sel(rival=rival, family=unseen).sum())}" for rival in RIVALS]
    missed = [str(name) for name in settings.families if not bool(above.sel(family=name).all())]
    everywhere = (
        f"over all three at once not in {', '.join(missed)}" if missed else "over all in every family"
    )
    line, few, many, every = data["information"]["seen"].values
    return (
        f"{runs} runs: {len(PROXIES)} reward models, none of them the truth, in {scale.worlds} worlds of "
        f"each of {len(settings.families)} families (seeds from 0). Forecasts from {settings.draws} draws of "
        f"the initial policy at each of {scale.prompts} prompts, and their rank correlation with the gain of "
        "held-out ground truth after training. (a) Means over worlds, with 95 % intervals: "
        f"{', '.join(of(name) for name in (*RIVALS, 'covariance', best))}. (b) What choosing by a forecast "
        f"loses of the gain, as a share of what choosing at random loses. (c) Paired differences of {best}, "
        "which is the best one on the tuned families, in each family (*: held out from that choice). There "
        f"its interval is above zero over {', '.join(wins)} of {len(unseen)}; with the tuned ones, "
        f"{everywhere}. (d) What is not seen, by the means over families: {seen(line)} along the tangent, "
        f"{seen(few)} by rehearsal, {seen(many)} with {settings.more} draws, {seen(every)} if all outputs of "
        "the prompts trained on are known; what is left is that prompts are held out. By the spread over "
        "prompts the rehearsal claims, on held-out families, to order two reward models rightly with "
        f"{of_sure('claimed')} %, with errors as large as on the tuned ones {of_sure('corrected')} %, and "
        f"does in {of_sure('right')} %. The rehearsal is the training itself on the draws alone, with what "
        "was not drawn at the prompt's mean; the tangent flow that of the network linearised about its start "
        "(its exact neural tangent kernel); the natural and the gradient flow are those of each prompt by "
        "itself, as of goodteacher diagnose, to a time that the tuned families chose. "
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
        tuple(FAMILIES),
        Scale(worlds=12, updates=200, records=2),
    ),
)
