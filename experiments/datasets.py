"""Labelled datasets: what makes them, how captions list their numbers, and all of them as one table."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

Data = Mapping[str, xr.Dataset]

TIME = "learning rate × updates"  # the unit of the gradient flow's time
_MOST_ROWS = 20_000  # of a dataset, in a table


def variable(
    dimensions: str | Sequence[str], values: npt.ArrayLike, long_name: str, units: str = "1"
) -> xr.Variable:
    """A variable of a dataset that says what it is."""
    return xr.Variable(dimensions, np.asarray(values), {"long_name": long_name, "units": units})


def listed(numbers: Iterable[float]) -> str:
    """Numbers to three digits as a caption lists them."""
    *most, last = [f"{value:.3g}".replace("e+0", "e").replace("e+", "e") for value in numbers]
    return f"{', '.join(most)} and {last}" if most else last


def table(data: Data) -> pd.DataFrame:
    """All numbers of a run as one tidy table: a row per observation, a column per variable.

    The first column names the dataset; cells of variables that it does not have are empty. A dataset of more
    than 20,000 rows is left out: it is in the store of its sweep.
    """
    frames = {
        panel: dataset.to_dataframe().reset_index()
        for panel, dataset in data.items()
        if math.prod(dataset.sizes.values()) <= _MOST_ROWS
    }
    return pd.concat(frames, names=["panel"]).reset_index(level="panel").reset_index(drop=True)
