"""What an experiment is: settings, a run that computes all numbers, a figure and a caption."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data
from goodteacher.experiments.sweeps import runner
from goodteacher.experiments.sweeps.specification import Specification
from goodteacher.experiments.sweeps.store import StoreError, open_store

S = TypeVar("S")
Tell = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Says nothing of the progress."""


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """A figure and everything behind it.

    Attributes:
        name: that of its module, of its files, and on the command line.
        title: in a few words.
        settings: a frozen dataclass; its defaults are those of the figure.
        run: computes all numbers, one dataset per panel. Every variable of a dataset has all of its
            dimensions, and carries ``long_name`` and ``units``. A :class:`Swept` if a sweep has them.
        figure: plots them and computes nothing.
        caption: what is seen, the settings and the source; numbers in it come from the data.
        slow: whether it takes much longer than others, so that it is better started first.
        full: settings of the large version, if there is one.
    """

    name: str
    title: str
    settings: S
    run: Callable[[S], Data]
    figure: Callable[[Data, S], Figure]
    caption: Callable[[Data, S], str]
    slow: bool = False
    full: S | None = None

    @property
    def sweep(self) -> Specification | None:
        """The sweep that the numbers come from, if they come from one."""
        return self.run.sweep(self.settings) if isinstance(self.run, Swept) else None

    def at_full_size(self) -> "Experiment[S]":
        """The large version: its files and its store have ``_full`` after the name.

        Raises:
            ValueError: if there is none.
        """
        if self.full is None:
            raise ValueError(f"experiment {self.name} has no full version; draw it as it is")
        return replace(self, name=f"{self.name}_full", settings=self.full, full=None)


@dataclass(frozen=True)
class Swept(Generic[S]):
    """A run whose costly numbers are those of a sweep.

    Attributes:
        sweep: which one, from the settings.
        summary: from its results and the settings to the numbers of the experiment.
    """

    sweep: Callable[[S], Specification]
    summary: Callable[[xr.Dataset, S], Data]

    def __call__(self, settings: S) -> Data:
        """Runs it, and keeps nothing of the sweep."""
        with tempfile.TemporaryDirectory() as folder:
            return self.stored(settings, Path(folder) / "store")

    def stored(self, settings: S, store: Path, *, renew: bool = True, tell: Tell = _silent) -> Data:
        """Runs it with the results of the sweep kept: gone on with, or read if complete.

        Chunks of the sweep that are damaged are computed again.

        Args:
            settings: of the experiment.
            store: the folder of the sweep's store.
            renew: compute anew what other settings or another version has stored.
            tell: is told how many chunks of the sweep exist, of how many.

        Raises:
            StoreError: (a ValueError) if the store does not fit and is not to be renewed, is being written
                by another process, or cannot be written.
        """
        specification = self.sweep(settings)
        try:
            runner.run(specification, store, progress=tell, repair=True)
        except StoreError:
            if not renew:
                raise
            runner.run(specification, store, progress=tell, overwrite=True)
        with open_store(store) as swept:
            return self.summary(swept, settings)
