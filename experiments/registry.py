"""What an experiment is, the registry of all of them, and how their figures are written."""

import contextlib
import difflib
import importlib
import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import experiments
from figures.style import paper

Data = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Experiment:
    """A figure and everything behind it.

    Attributes:
        name: that of its module, of its files, and on the command line.
        title: in a few words.
        settings: a frozen dataclass; its defaults are those of the figure.
        run: computes all numbers, one dataset per panel. Every variable of a dataset has all of its
            dimensions, and carries ``long_name`` and ``units``.
        figure: plots them and computes nothing.
        caption: what is seen, the settings and the source; numbers in it come from the data.
        slow: whether it takes much longer than others, so that it is better started first.
    """

    name: str
    title: str
    settings: Any
    run: Callable[[Any], Data]
    figure: Callable[[Data], Figure]
    caption: Callable[[Data], str]
    slow: bool = False


@cache
def find_experiments() -> Mapping[str, Experiment]:
    """All experiments by name: every module of this package that defines ``EXPERIMENT``."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(experiments.__path__)
        if not (module.ispkg or module.name.startswith("_"))
    )
    modules = [importlib.import_module(f"experiments.{name}") for name in names]
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    return MappingProxyType({experiment.name: experiment for experiment in found})


def find_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        ValueError: if there is none of that name.
    """
    known = find_experiments()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(known)}"
        raise ValueError(f"experiment {name!r} is unknown; {hint}")
    return known[name]


def table(data: Data) -> pd.DataFrame:
    """All numbers of a run as one tidy table: a row per observation, a column per variable.

    The first column names the dataset; cells of variables that it does not have are empty.
    """
    frames = {panel: dataset.to_dataframe().reset_index() for panel, dataset in data.items()}
    return pd.concat(frames, names=["panel"]).reset_index(level="panel").reset_index(drop=True)


def save(experiment: Experiment, directory: str | os.PathLike[str], data: Data | None = None) -> list[Path]:
    """Writes an experiment's figure as PNG and PDF, and its numbers as CSV, all or none.

    The files are the same to the byte when they are written again on the same machine.

    Args:
        experiment: the experiment.
        directory: where to; made if it does not exist. Older files of the same names are replaced.
        data: what ``experiment.run`` returned; it is run with its own settings if not given.

    Returns:
        The paths of the PNG, the PDF and the CSV.

    Raises:
        ValueError: if the directory cannot be written; nothing has been computed then.
    """
    with _workspace(Path(directory)) as workspace:
        if data is None:
            data = experiment.run(experiment.settings)
        files = [workspace / f"{experiment.name}.{suffix}" for suffix in ("png", "pdf", "csv")]
        with paper():
            figure = experiment.figure(data)
            # Without dates and versions, which would differ from one writing to the next.
            figure.savefig(files[0], metadata={"Title": experiment.title, "Software": None})
            figure.savefig(files[1], metadata={"Title": experiment.title, "CreationDate": None})
        table(data).to_csv(files[2], index=False, float_format="%.10g", lineterminator="\n")
        return [file.replace(Path(directory) / file.name) for file in files]


@contextlib.contextmanager
def _workspace(directory: Path) -> Iterator[Path]:
    """A folder inside a directory, for files that are moved there once all are complete."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".unfinished-") as workspace:
            yield Path(workspace)
    except OSError as error:
        raise ValueError(
            f"cannot write to {directory}: {error.strerror or error}; give another folder"
        ) from error
