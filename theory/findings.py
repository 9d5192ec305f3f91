"""What a search has found of every bound: where it is tightest, and which values of its numbers are false."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FOUND = Path(__file__).with_name("tightest.json")
"""What ``make tightest`` writes."""


class Known(NamedTuple):
    """Of one bound.

    Attributes:
        point: of the unit cube, where it is tightest.
        factor: between its two sides there.
        false: for each number of its formula the nearest values that a dozen instances refute by 5 %.
    """

    point: Float[np.ndarray, " dimension"]
    factor: float
    false: Mapping[str, list[float]]


@cache
def known() -> Mapping[str, Known]:
    """By the name of the statement."""
    reports = json.loads(FOUND.read_text(encoding="utf-8"))["reports"]
    return MappingProxyType(
        {
            report["statement"]: Known(
                np.asarray(report["point"]), float(report["factor"]), report.get("false", {})
            )
            for report in reports
        }
    )
