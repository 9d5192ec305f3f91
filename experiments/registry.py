"""What an experiment is, the registry of all of them, and how their figures are written."""

import contextlib
import importlib
import math
import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments import gallery
from goodteacher.experiments.sweeps import runner
from goodteacher.experiments.sweeps.specification import Specification
from goodteacher.experiments.sweeps.store import StoreError, open_store
from goodteacher.figures.style import paper
from goodteacher.sim.names import unknown

Data = Mapping[str, xr.Dataset]
Tell = Callable[[int, int], None]

STORES = Path("build/sweeps")  # of the sweeps behind figures
_MOST_ROWS = 20_000  # of a dataset, as CSV


def _silent(done: int, total: int) -> None:
    """Says nothing of the progress."""


@dataclass(frozen=True)
class Experiment:
    """A figure and everything behind it.

    Attributes:
        name: that of its module, of its files, and on the command line.
        title: in a few words.
        settings: a frozen dataclass; its defaults are those of the figure.
        run: computes all numbers, one dataset per panel, from the settings, and from the results of the
            sweep if there is one. Every variable of a dataset has all of its dimensions, and carries
            ``long_name`` and ``units``.
        figure: plots them and computes nothing.
        caption: what is seen, the settings and the source; numbers in it come from the data.
        slow: whether it takes much longer than others, so that it is better started first.
        sweep: from settings to the sweep that the numbers come from, if they come from one.
        full: settings of the large version, if there is one.
    """

    name: str
    title: str
    settings: Any
    run: Callable[..., Data]
    figure: Callable[[Data], Figure]
    caption: Callable[[Data], str]
    slow: bool = False
    sweep: Callable[[Any], Specification] | None = None
    full: Any = None

    def at_full_size(self) -> "Experiment":
        """The large version: its files and its store have ``_full`` after the name.

        Raises:
            ValueError: if there is none.
        """
        if self.full is None:
            raise ValueError(f"experiment {self.name} has no full version; draw it as it is")
        return replace(self, name=f"{self.name}_full", settings=self.full, full=None)


@cache
def find_experiments() -> Mapping[str, Experiment]:
    """All experiments by name: every module of the gallery that defines ``EXPERIMENT``."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(gallery.__path__)
        if not (module.ispkg or module.name.startswith("_"))
    )
    modules = [importlib.import_module(f"{gallery.__name__}.{name}") for name in names]
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    return MappingProxyType({experiment.name: experiment for experiment in found})


def find_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        ValueError: if there is none of that name.
    """
    known = find_experiments()
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def compute(
    experiment: Experiment, stores: Path = STORES, *, renew: bool = True, tell: Tell = _silent
) -> Data:
    """Runs an experiment; if its numbers come from a sweep, that is gone on with, or read if complete.

    Chunks of the sweep that are damaged are computed again.

    Args:
        experiment: the experiment.
        stores: the folder of the sweeps' stores, each of the experiment's name.
        renew: compute anew what other settings or another version has stored.
        tell: is told how many chunks of the sweep exist, of how many.

    Raises:
        StoreError: (a ValueError) if the store does not fit and is not to be renewed, is being written by
            another process, or cannot be written.
    """
    if experiment.sweep is None:
        return experiment.run(experiment.settings)
    specification, store = experiment.sweep(experiment.settings), stores / experiment.name
    try:
        runner.run(specification, store, progress=tell, repair=True)
    except StoreError:
        if not renew:
            raise
        runner.run(specification, store, progress=tell, overwrite=True)
    with open_store(store) as swept:
        return experiment.run(experiment.settings, swept)


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


def save(
    experiment: Experiment,
    directory: str | os.PathLike[str],
    data: Data | None = None,
    **control: Any,
) -> list[Path]:
    """Writes an experiment's figure as PNG and PDF, and its numbers as CSV, all or none.

    The files are the same to the byte when they are written again on the same machine.

    Args:
        experiment: the experiment.
        directory: where to; made if it does not exist. Older files of the same names are replaced.
        data: what ``experiment.run`` returned; computed with the experiment's own settings if not given.
        control: then as for :func:`compute`.

    Returns:
        The paths of the PNG, the PDF and the CSV.

    Raises:
        ValueError: if the directory cannot be written; nothing has been computed then. As :func:`compute`.
    """
    with _workspace(Path(directory)) as workspace:
        if data is None:
            data = compute(experiment, **control)
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
