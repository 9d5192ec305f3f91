"""The numbers that arXiv:2503.15477 reports (Tables 1 to 12), as facts, and what they say when looked at
again.

``good_teacher_tables.csv`` has a row for each policy, reward model and method;
``good_teacher_correlations.csv``
one for each measure and experiment. Rewards are on the scale of that paper: mean 0 and standard deviation 1
over outputs of the initial policy.
"""

from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from goodteacher.experiments.statistics import rank_correlation

MEASURES = (
    "Reward Variance",
    "On-Policy Acc.",
    "Off-Policy Acc.",
    "On- & Off-Policy Acc.",
    "Reward Variance & Acc.",
)


@cache
def _read(name: str) -> pd.DataFrame:
    with (resources.files("goodteacher.experiments.miniature") / f"good_teacher_{name}.csv").open(
        encoding="utf-8"
    ) as file:
        return pd.read_csv(file)


def mixes() -> pd.DataFrame:
    """Variance and accuracies of five mixes, the perfect but flat model and the truth (Tables 1, 3, 5, 7)."""
    rows = _read("tables")
    return rows.loc[rows["reward_increase_G"].isna()].reset_index(drop=True)


def matrix() -> pd.DataFrame:
    """Policies by reward models with what training gained (Tables 10 to 12)."""
    rows = _read("tables")
    return rows.loc[rows["reward_increase_G"].notna()].reset_index(drop=True)


def correlations() -> pd.DataFrame:
    """Of measures with the increase of both rewards (Tables 2, 4, 6, 8, 9)."""
    return _read("correlations").copy()


MEASURED = ("reward_variance", "on_policy_acc", "off_policy_acc")
INCREASES = ("reward_increase_RM", "reward_increase_G")


def within_policies() -> pd.DataFrame:
    """Rank correlations of measures and increases over the four reward models of each policy and method.

    Returns:
        A row for each policy and method, a column for each pair.
    """
    found = []
    for key, rows in matrix().groupby(["method", "initial_policy"], sort=False):
        method, policy = np.asarray(key).tolist()
        pairs = {
            (measure, increase): float(rank_correlation(rows[measure], rows[increase]))
            for measure in MEASURED
            for increase in INCREASES
        }
        found.append({"method": method, "initial_policy": policy, **pairs})
    return pd.DataFrame(found)


def pooled_ranks(measure: str, increase: str) -> float:
    """The correlation of ranks within each policy and method, over all rows."""
    groups = matrix().groupby(["method", "initial_policy"])
    first, second = (groups[name].rank().to_numpy(float) for name in (measure, increase))
    return float(np.corrcoef(first, second)[0, 1])
