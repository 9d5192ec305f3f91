"""What an experiment is: settings, a run that computes all numbers, a figure and a caption."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data
from goodteacher.experiments.sweeps import runner
from goodteacher.experiments.sweeps.provenance import binding, code_digest, provenance, versions
from goodteacher.experiments.sweeps.specification import Specification
from goodteacher.experiments.sweeps.store import StoreError, open_store

S = TypeVar("S")
Arrays = Mapping[str, np.ndarray]
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
            dimensions, and carries ``long_name`` and ``units``. A :class:`Swept` if a sweep has them, a
            :class:`Parted` if they come
            in parts.
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

    @property
    def kept(self) -> bool:
        """Whether its costly numbers are kept in a store."""
        return isinstance(self.run, Swept | Parted)

    def at_full_size(self) -> "Experiment[S]":
        """The large version: its files and its store have ``_full`` after the name.

        Raises:
            ValueError: if there is none.
        """
        if self.full is None:
            raise ValueError(f"experiment {self.name} has no full version; draw it as it is")
        return replace(self, name=f"{self.name}_full", settings=self.full, full=None)


@dataclass(frozen=True)
class Parted(Generic[S]):
    """A run whose costly numbers come in parts, each of which is kept as a file once it is complete.

    Attributes:
        parts: their names, from the settings; whose representation says all that they depend on.
        compute: the arrays of a part.
        summary: from those of all parts to the numbers of the experiment.
    """

    parts: Callable[[S], Sequence[str]]
    compute: Callable[[S, str], Arrays]
    summary: Callable[[Mapping[str, Arrays], S], Data]

    def __call__(self, settings: S) -> Data:
        """Runs it, and keeps nothing."""
        return self.summary({part: self.compute(settings, part) for part in self.parts(settings)}, settings)

    def stored(self, settings: S, store: Path, *, renew: bool = True, tell: Tell = _silent) -> Data:
        """Runs it with its parts kept: those that are there are read.

        Args:
            settings: of the experiment.
            store: the folder of the parts.
            renew: discard what other settings or another version has stored.
            tell: is told how many parts exist, of how many.

        Raises:
            StoreError: (a ValueError) if the folder holds what is not to be renewed, or cannot be written.
        """
        mark = self._mark(settings)
        files = {part: store / f"{part}.{mark}.npz" for part in self.parts(settings)}
        try:
            store.mkdir(parents=True, exist_ok=True)
            others = [file for file in store.glob("*.npz") if not file.name.endswith(f".{mark}.npz")]
            if others and not renew:
                raise StoreError(
                    f"{store} holds {others[0].name} of other settings or another version of this program; "
                    "give another folder, or discard what it holds"
                )
            for file in others:
                file.unlink()
            found = {}
            for done, (part, file) in enumerate(files.items()):
                tell(done, len(files))
                if not file.exists():
                    arrays = self.compute(settings, part)
                    unfinished = file.with_suffix(".unfinished")
                    with unfinished.open("wb") as stream:
                        np.savez(stream, allow_pickle=False, **arrays)
                    unfinished.replace(file)
                with np.load(file) as arrays:
                    found[part] = dict(arrays)
            tell(len(files), len(files))
        except OSError as error:
            raise StoreError(
                f"cannot write to {store}: {error.strerror or error}; give another folder"
            ) from error
        return self.summary(found, settings)

    def _mark(self, settings: S) -> str:
        """Of all that decides the numbers."""
        decides = binding({**provenance(), "code_digest": code_digest(self.compute.__module__)})
        decides |= versions("scikit-learn", "scipy")  # which parts may use, and sweeps do not
        return hashlib.sha256(repr((settings, sorted(decides.items()))).encode()).hexdigest()[:12]


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
