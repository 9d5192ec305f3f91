"""What is said of an outlook: a sentence, a table of numbers, and words for the error at each output."""

import math
from typing import NamedTuple

import numpy as np

from goodteacher.experiments.explorer.outlook import Outlook
from goodteacher.experiments.text import digits
from goodteacher.sim.status import Status
from goodteacher.theory.error_kinds import VERDICTS, Category, verdicts

_WAY = 6  # outputs that hold the flow up, of which so many are named


class Reading(NamedTuple):
    """A row of the table.

    Attributes:
        name: of what is read.
        text: its value.
        about: a short explanation.
    """

    name: str
    text: str
    about: str = ""


def time_text(time: float, status: Status) -> str:
    """A hitting time, or why there is none."""
    return digits(time, 6) if status is Status.REACHED else status.title


def headline(of: Outlook) -> str:
    """One sentence on what becomes of learning."""
    share = f"{of.situation.goal:.3g} of the possible increase of the ground truth"
    if of.status is Status.REACHED:
        said = f"Reaches {share} at time {digits(of.time, 6)}"
    else:
        said = f"Does not reach {share} ({of.status.title})"
    if of.status is Status.REACHED and of.status_on_truth is Status.REACHED and of.time_on_truth > 0:
        ratio = of.time / of.time_on_truth
        if 0.995 < ratio < 1.005:
            return f"{said}, as on the ground truth itself."
        faster = "sooner" if ratio < 1 else "later"
        times = digits(1.0 / ratio if ratio < 1 else ratio, 3)
        return f"{said}, {times} times {faster} than on the ground truth itself."
    if of.status_on_truth is Status.REACHED:
        return f"{said}; trained on the ground truth itself it would, at time {digits(of.time_on_truth, 6)}."
    return f"{said}; nor does training on the ground truth itself." if not of.status.reached else f"{said}."


def readings(of: Outlook) -> tuple[Reading, ...]:
    """All numbers of the page."""
    measures = {name: _number(value, 4) for name, value in of.measures.items()}
    bound = "-" if not math.isfinite(of.bound) else f"≥ {digits(of.bound, 5)}"
    return (
        Reading("hitting time", time_text(of.time, of.status), "trained on the proxy"),
        Reading(
            "on the truth", time_text(of.time_on_truth, of.status_on_truth), "trained on the truth itself"
        ),
        Reading("law's time", _law(of), of.law.name),
        Reading("Proposition 3", bound, "no reward rises so much sooner at this variance (arXiv:2503.15477)"),
        Reading(
            "reward variance", measures["proxy_reward_variance"], "of the proxy, under the initial policy"
        ),
        Reading(
            "held up by", way(of), "most probable outputs in turn" + ("" if of.solved else ", from the path")
        ),
        Reading("Acc", measures["acc"], "accuracy of y* against each other output"),
        Reading("HAcc", measures["hacc"], "the same, harm-aware (arXiv:2604.25872)"),
        Reading("on-policy accuracy", measures["on_policy_accuracy"], "over pairs drawn from the policy"),
        Reading(
            "where truth differs",
            measures["on_policy_accuracy_where_truth_differs"],
            "of these, where the truth differs",
        ),
        Reading(
            "uniform, where truth differs",
            measures["uniform_accuracy_where_truth_differs"],
            "accuracy over all pairs of outputs alike, where the truth differs",
        ),
    )


def _law(of: Outlook) -> str:
    if math.isnan(of.law.time):
        return "-"
    error = of.law.error
    about = f"{error:.1%}" if error >= 5e-4 else f"{error:.0e}"
    return f"≈ {digits(of.law.time, 5)}" + ("" if math.isnan(error) else f" (to about {about})")


def way(of: Outlook) -> str:
    """Which outputs hold the flow up, from when on."""
    stops = [
        f"{stop.output}" + (f" from {digits(stop.start, 4)}" if stop.start else "") for stop in of.held[:_WAY]
    ]
    return ", ".join(stops) + (" …" if len(of.held) > _WAY else "")


def _number(value: float, count: int) -> str:
    return digits(value, count) if math.isfinite(value) else "-"


def kind_text(kind: Category) -> str:
    """An error by rule; nothing where there is none."""
    return "" if kind is Category.NONE else kind.title


def effect_text(ratio: float, kind: Category, known: bool) -> str:
    """An error by effect: its verdict, and by what factor it changes the time.

    Args:
        ratio: ``log10`` of the time over that without the error; ``nan`` if both are never.
        kind: by rule.
        known: whether the times are.
    """
    if kind is Category.NONE:
        return ""
    if np.isnan(ratio):
        return "never either way" if known else "unknown"
    verdict = VERDICTS[int(verdicts(np.array(ratio)))]
    if np.isinf(ratio):
        return f"{verdict}: {'out of reach with it' if ratio > 0 else 'in reach by it'}"
    factor = f"{10.0**ratio:.3g}" if abs(ratio) < 100 else f"1e{ratio:+.0f}"
    return f"{verdict}: time × {factor}"
