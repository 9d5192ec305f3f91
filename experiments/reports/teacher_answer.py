"""What ``goodteacher diagnose`` says: whether rewards are good teachers for the policy that drew rollouts."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from rich import box
from rich.table import Table

from goodteacher.experiments.followed import told
from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.teaching import GradientFlow
from goodteacher.experiments.rollouts.verdicts import RARE, Verdict
from goodteacher.experiments.text import digits, numbers_table
from goodteacher.theory.closed_forms import one_good_output_time

_WORST, _SLIGHT = 10, 1e-3  # prompts that are listed, and the least that one of them gains
_ROUNDING = 1e-9  # of the way that the ground truth goes: a fall that is none
_GOOD, _PARTLY = 0.5, 0.2  # shares of the prompts that can be learned
_INTERVALS = (
    *("within_variance", "between_variance", "covariance", "accuracy", "accuracy_where_truth_differs"),
    "harm_aware_accuracy",
)


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def report(data: xr.Dataset, rollouts: Rollouts) -> dict[str, Any]:
    """What the output file holds."""
    return {
        "prompts": len(rollouts.prompts),
        "draws": int(data.attrs["draws"]),
        "skipped": dict(rollouts.skipped),
        "recognised": {**rollouts.recognised, "notes": list(rollouts.notes)},
        "answer": answer(data),
        "rewards": {name: _of_reward(data.sel(reward=name)) for name in data.reward.values.tolist()},
    }


def _of_reward(of: xr.Dataset) -> dict[str, Any]:
    def interval(name: str) -> dict[str, Any] | None:
        value, low, high = (_plain(of[name + end]) for end in ("", "_low", "_high"))
        return None if value is None else {"value": value, "low": low, "high": high}

    rank = _plain(of["rank"])
    return {
        **{name: interval(name) for name in _INTERVALS},
        "share_with_spread": {str(int(g)): _plain(of.share_with_spread.sel(group=g)) for g in of.group},
        "verdicts": _counts(of),
        "median_time": _plain(_median(of, "hitting_time")),
        "median_time_on_truth": _plain(_median(of, "hitting_time_on_truth")),
        "peak": peak(of),
        "rank": None if rank is None else int(rank),
        "beats_next": _plain(of["beats_next"]),
    }


def _counts(of: xr.Dataset) -> dict[str, int]:
    """Numbers of prompts by verdict; the rare ones only if there are any."""
    counts = {str(name): int(n) for name, n in zip(of.verdict.values, of.verdicts.values, strict=True)}
    for verdict in RARE:
        if not counts[verdict.title]:
            del counts[verdict.title]
    return counts


def _learnable(of: xr.Dataset) -> np.ndarray:
    """Prompts on which the ground truth can rise."""
    return ~np.isnan(of.truth_at_start.values) & (of.truth_of_best.values > of.truth_at_start.values)


def _median(of: xr.Dataset, name: str) -> float:
    """Over the prompts on which the ground truth can rise; ``inf`` if half of them never get there."""
    if name not in of or not np.isfinite(of["rank"]):
        return np.nan
    times = of[name].values[_learnable(of)]
    return float(np.median(np.where(np.isnan(times), np.inf, times))) if times.size else np.nan


def peak(of: xr.Dataset) -> dict[str, float] | None:
    """Where the ground truth of the data set is largest, if it falls from there by the budget."""
    if "truth_along" not in of:
        return None
    along = of.truth_along.values
    if np.isnan(along).any():
        return None
    at = int(along.argmax())
    if along[at] - along[-1] <= _ROUNDING * np.ptp(along):
        return None
    return {
        "time": float(of.time.values[at]) * float(of.attrs["budget"]),
        "kl": float(of.kl_along.values[at]),
        "truth": float(along[at]),
    }


def ranked(data: xr.Dataset) -> list[str]:
    """Names of the rewards, the best teacher first, then those without a rank as they stand."""
    order = np.argsort(data["rank"].values, kind="stable")  # nan last
    return [str(name) for name in data.reward.values[order]]


def leading(data: xr.Dataset) -> str:
    """The name of the best of the rewards that are followed, of which there is at least one."""
    followed = data.reward.values[np.isfinite(data.kl_along.values).all(1)]
    return next(name for name in ranked(data) if name in followed)


# In words -------------------------------------------------------------------------------


def answer(data: xr.Dataset) -> str:
    """One sentence."""
    names = ranked(data)
    best = data.sel(reward=names[0])
    if "truth_at_start" not in data:
        flat = 1.0 - float(best.share_with_spread.values[0])
        worth = int((best.prompt_verdict.values != Verdict.NO_SIGNAL).sum())
        which = f"of {names[0]} " if len(names) > 1 else ""
        return (
            f"Without a ground truth nobody can say what is taught: {which}{worth} of "
            f"{data.sizes['prompt']} prompts have a signal, and {_percent(flat)} of the "
            f"groups of {int(data.group[0])} are flat."
        )
    can = _learnable(best)
    learned = int((best.prompt_verdict.values[can] == Verdict.LEARNS).sum())
    share = learned / max(int(can.sum()), 1)
    start = float(np.nanmean(best.truth_at_start))
    verdict = "a good" if share >= _GOOD else "a middling" if share >= _PARTLY else "a poor"
    end = _with_interval(best, "ground_truth_at_budget", 3)
    said = (
        f"takes the mean ground truth from {digits(start, 3)} to {end} "
        f"by time {digits(best.attrs['budget'], 3)}, and the policy learns {learned} "
        f"of the {int(can.sum())} prompts on which it can rise"
    )
    if not can.any():
        return "Nothing can be learned from these prompts: the ground truth is the same on all draws of each."
    followed = int(np.isfinite(data["rank"].values).sum())
    if followed == 0:
        return "What becomes of this policy is not known under any reward: see what the draws cannot tell."
    if followed == 1:
        return f"{names[0]} is {verdict} teacher for this policy: it {said}."
    beats = _percent(float(best["beats_next"]))
    return (
        f"Of {followed} rewards {names[0]} teaches this policy best (better than {names[1]} with a "
        f"probability of {beats}), and is {verdict} teacher: it {said}."
    )


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g} %"


def recognised(rollouts: Rollouts, otherwise: str = "") -> str:
    """What was read, and which column was taken for what.

    Args:
        rollouts: what was read.
        otherwise: how people name columns themselves, said where some were recognised.
    """
    columns = rollouts.recognised.get("columns", {})
    taken = [
        f"{', '.join(value) if isinstance(value, list) else value} as {what}"
        for what, value in columns.items()
        if value
    ]
    hint = f" ({otherwise})" if otherwise else ""
    named = f": {'; '.join(taken)}{hint}" if taken else ""
    lines = [f"Read as {rollouts.recognised['format']}{named}."]
    if rollouts.skipped:
        said = "; ".join(f"{count} {reason}" for reason, count in rollouts.skipped.items())
        lines.append(f"Rows left out: {said}.")
        lines += [f"  {place}" for place in rollouts.places]
    lines += rollouts.notes
    return "\n".join(lines)


def limits(data: xr.Dataset) -> list[str]:
    """What the draws cannot tell, and of which prompts the estimator's mean is not known."""
    said = [sentence[0].upper() + sentence[1:] for sentence in _not_followed(data)]
    if "truth_at_start" in data:
        unseen = (data.prompt_verdict.values == Verdict.UNSEEN).any(0)
        if unseen.any():
            chance = float(np.median(data.unseen_probability.values[unseen]))
            later = ""
            if data.attrs["estimator"] == GradientFlow().title:
                time = float(one_good_output_time(chance, data.attrs["goal"], 1.0))
                later = (
                    f"; one that rare, better by 1 on the rewards' scale, takes a time of {digits(time, 3)}"
                )
            said.append(
                f"{int(unseen.sum())} prompts showed no better output: it may have a probability of up to "
                f"{digits(chance, 3)} (95 % confidence, the median of these prompts){later}."
            )
        could = int(np.isfinite(data.truth_at_start.values).sum())
    else:
        said.append("Without a ground truth it is not known what a reward teaches: only how far it leads.")
        could = data.sizes["prompt"]
    if data.attrs["followed"]:
        said += _frontier(data)
        if data.attrs["followed"] < could:
            said.append(f"The way along training is of {data.attrs['followed']} prompts drawn at random.")
        said.append("Times are of the model policy of what was drawn, not updates of a large network.")
    guessed = [
        int(g)
        for g, of in zip(data.group.values, data.share_is_extrapolated.values.T, strict=True)
        if of.any()
    ]
    if guessed:
        said.append(
            f"Groups of {', '.join(map(str, guessed))} are larger than the draws of a prompt: extrapolated "
            "(*) for rewards of two values, unknown for others."
        )
    return said


def _frontier(data: xr.Dataset) -> list[str]:
    """Where the frontier of truth against KL ends first."""
    ends = {
        str(name): float(data.tau.values[np.isfinite(row)].max(initial=-np.inf))
        for name, row, along in zip(
            data.reward.values, data.kl_tilted.values, data.kl_along.values, strict=True
        )
        if np.isfinite(along).any()
    }
    first = min(ends, key=lambda name: ends[name])
    of = "truth" if "truth_tilted" in data else "reward"
    if np.isinf(ends[first]):
        said = f"The median prompt has fewer than three draws ({first}): there is no frontier of {of}"
        return [f"{said} against KL."]
    if ends[first] < float(data.tau[-1]):
        return [
            f"Beyond tau = {digits(ends[first], 3)} ({first}) a tilted policy rests on fewer than three "
            f"draws of the median prompt: the frontier of {of} against KL ends there."
        ]
    return []


def _not_followed(data: xr.Dataset) -> list[str]:
    said = []
    if "reward_not_followed" in data:
        reasons = zip(data.reward.values, data.reward_not_followed.values, strict=True)
        said += [f"the flow of {name} is not known: its rewards {why}." for name, why in reasons if why]
    if "not_followed" in data:
        unknown = {x: str(why) for x, why in enumerate(data.not_followed.values) if why}
        said += told(unknown, [str(name) for name in data.prompt.values])
    known = data.get("not_followed", xr.zeros_like(data.prompt, dtype=object)).values.astype(bool)
    given = ~data.get("reward_not_followed", xr.zeros_like(data.reward, dtype=object)).values.astype(bool)
    lost = (data.prompt_verdict.values[given] == Verdict.NOT_KNOWN).any(0) & ~known
    if lost.any():
        count = int(lost.sum())
        said.append(f"{count} prompts are not known: the steps ran out, or rounding errors decide.")
    return said


# Tables -------------------------------------------------------------------------------------


def rewards_table(data: xr.Dataset) -> Table:
    """A row for each reward, the best teacher first."""
    truth = "truth_at_start" in data
    group = int(data.group.values[min(2, data.sizes["group"] - 1)])
    headers = ["variance within", "variance between", f"flat groups of {group}"]
    if truth:
        headers = [
            *("rank", "beats next", "ground truth at budget", "median time", "median time on truth"),
            *("peak at KL", *headers, "covariance"),
            *("accuracy", "accuracy where truth differs", "harm-aware accuracy"),
        ]
    elif "reward_along" in data:
        headers += ["reward at the start", f"at time {digits(data.attrs['budget'], 3)}", "KL then"]
    rows = numbers_table("reward", *headers)
    for name in ranked(data):
        of = data.sel(reward=name)
        spread = float(of.share_with_spread.sel(group=group))
        mark = "*" if bool(of.share_is_extrapolated.sel(group=group)) else ""
        flat = "-" if np.isnan(spread) else f"{_percent(1.0 - spread)}{mark}"
        cells = [_with_interval(of, "within_variance"), _with_interval(of, "between_variance"), flat]
        if truth:
            place, beats, highest = _plain(of["rank"]), _plain(of["beats_next"]), peak(of)
            cells = [
                "-" if place is None else f"{place:.0f}",
                "-" if beats is None else f"{beats:.2f}",
                _with_interval(of, "ground_truth_at_budget"),
                _time(_median(of, "hitting_time")),
                _time(_median(of, "hitting_time_on_truth")),
                "-" if highest is None else digits(highest["kl"], 3),
                *cells,
                *(_with_interval(of, each) for each in _INTERVALS[2:]),
            ]
        elif "reward_along" in data:
            along = of.reward_along.values
            start = 0.0 if abs(along[0]) < _ROUNDING * np.ptp(along) else along[0]
            ends = start, along[-1], of.kl_along.values[-1]
            cells += ["-" if np.isnan(end) else digits(float(end), 3) for end in ends]
        rows.add_row(name, *cells)
    return rows


def _with_interval(of: xr.Dataset, name: str, places: int = 2) -> str:
    """A value with its interval, where it has one."""
    value, low, high = (float(of[name + end]) for end in ("", "_low", "_high"))
    if np.isnan(value) or np.isnan(low):
        return "-" if np.isnan(value) else digits(value, 3)
    return f"{digits(value, 3)} [{digits(low, places)}, {digits(high, places)}]"


def _time(value: float) -> str:
    return "-" if np.isnan(value) else "never" if np.isinf(value) else digits(value, 3)


def verdicts_table(data: xr.Dataset) -> Table:
    """A row for each verdict, a column for each reward; without a ground truth there is only one."""
    names, truth = ranked(data), "truth_at_start" in data
    rows = numbers_table("verdict", *names)
    for verdict in Verdict if truth else (Verdict.NO_SIGNAL,):
        counts = [int(data.verdicts.sel(reward=name, verdict=verdict.title)) for name in names]
        if any(counts) or verdict not in RARE:
            shares = [f"{count} ({_percent(count / data.sizes['prompt'])})" for count in counts]
            rows.add_row(verdict.title, *shares)
    return rows


def groups_table(data: xr.Dataset) -> Table:
    """Share of groups with spread by size; of the best reward also at the budget, and what that costs."""
    rows = numbers_table("groups with spread", *(f"G = {int(g)}" for g in data.group.values))
    for name in ranked(data):
        of = data.sel(reward=name)
        shares = [
            "-" if np.isnan(share) else f"{_percent(share)}{'*' if guessed else ''}"
            for share, guessed in zip(
                of.share_with_spread.values, of.share_is_extrapolated.values, strict=True
            )
        ]
        rows.add_row(name, *shares)
    best = data.sel(reward=ranked(data)[0])
    many = ["-" if np.isnan(of) else digits(of, 3) for of in best.generations.values]
    rows.add_section()
    rows.add_row(f"groups drawn for each one kept ({ranked(data)[0]})", *many)
    if "spread_along" in data:
        first = leading(data)
        last = data.spread_along.sel(reward=first).isel(time=-1).values
        rows.add_row(f"with spread at the budget, of the model policy ({first})", *map(_percent, last))
    return rows


def gains(data: xr.Dataset, name: str) -> np.ndarray:
    """What fixing each prompt would gain: the ground truth at the budget, trained on the truth instead."""
    of = data.sel(reward=name)
    return np.nan_to_num(of.truth_at_budget_on_truth.values - of.truth_at_budget.values)


def prompts_table(data: xr.Dataset) -> Table | None:
    """The ten prompts that matter most, or without a ground truth those that teach most; if there are any."""
    return _most_to_gain(data) if "truth_at_start" in data else _most_signal(data)


def _most_signal(data: xr.Dataset) -> Table | None:
    """By the variance of the first reward: what training on a prompt changes at first."""
    name = ranked(data)[0]
    of, group = data.sel(reward=name), int(data.group[0])
    variance = of.reward_variance.values
    first = np.argsort(-variance, kind="stable")[:_WORST]
    first = first[variance[first] > 0]
    if not first.size:
        return None
    rows = numbers_table(
        "prompt", "draws", "mean of the scaled reward", "its variance", f"flat groups of {group}"
    )
    rows.title, rows.title_justify = f"Prompts worth training on with {name}", "left"
    for prompt in first:
        its = of.isel(prompt=prompt)
        spread = float(its.spread.sel(group=group))
        rows.add_row(
            str(its.prompt.item()),
            f"{int(its.draws)}",
            digits(float(its.mean_reward), 3),
            digits(float(its.reward_variance), 3),
            "-" if np.isnan(spread) else _percent(1.0 - spread),
        )
    return rows


def _most_to_gain(data: xr.Dataset) -> Table | None:
    """Under the best reward, with the output that holds each prompt up."""
    name = ranked(data)[0]
    of, gain = data.sel(reward=name), gains(data, name)
    worst = np.argsort(-gain, kind="stable")[:_WORST]
    worst = worst[gain[worst] > _SLIGHT]
    if not worst.size:
        return None
    rows = Table(box=box.SIMPLE_HEAD, title=f"Prompts that matter most under {name}", title_justify="left")
    for header in ("prompt", "verdict"):
        rows.add_column(header)
    answers = "held_by_answer" in of
    holding = ["held by draw", *(["its answer"] if answers else []), "its reward", "its truth"]
    for header in ("fixing it gains", *holding, "time", "on truth"):
        rows.add_column(header, justify="right")
    for prompt in worst:
        its = of.isel(prompt=prompt)
        cells = ["-"] * len(holding)
        if (draw := int(its.held_by)) >= 0:
            numbers = digits(float(its.held_by_reward), 3), digits(float(its.held_by_truth), 3)
            cells = [f"{draw}", *([str(its.held_by_answer.item())] if answers else []), *numbers]
        rows.add_row(
            str(its.prompt.item()),
            Verdict(int(its.prompt_verdict)).title,
            f"+{digits(float(gain[prompt]), 3)}",
            *cells,
            _time(float(its.hitting_time)),
            _time(float(its.hitting_time_on_truth)),
        )
    return rows


def frame(data: xr.Dataset) -> pd.DataFrame:
    """A row for each prompt: what is known of it, and under each reward, as in ``hitting_time:judge``."""
    each = {str(name): under(data, name) for name in data.reward.values}
    shared = [name for name, of in data.data_vars.items() if of.dims == ("prompt",)]
    parts = [of.drop(columns=shared).add_suffix(f":{name}") for name, of in each.items()]
    return pd.concat([next(iter(each.values()))[shared], *parts], axis=1).reset_index()


def under(data: xr.Dataset, name: str) -> pd.DataFrame:
    """By prompt, everything that is known of it under a reward."""
    of = data.sel(reward=name)
    chosen = of[[name for name, its in of.data_vars.items() if its.dims == ("prompt",)]]
    flat = chosen.drop_vars("reward").to_dataframe().rename(columns=lambda name: name.removeprefix("prompt_"))
    flat["verdict"] = [Verdict(int(code)).title for code in flat["verdict"]]
    for group in of.group.values:
        flat[f"share_with_spread_{int(group)}"] = of.spread.sel(group=group).values
    return flat
