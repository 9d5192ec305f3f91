"""The registry of all experiments, how their numbers are computed, and how their figures are written."""

import contextlib
import importlib
import os
import pkgutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from goodteacher.experiments import gallery
from goodteacher.experiments.datasets import Data, table
from goodteacher.experiments.experiment import Experiment, Parted, Swept
from goodteacher.figures.style import paper
from goodteacher.sim.names import unknown

STORES = Path("build/sweeps")  # of the sweeps behind figures


@cache
def find_experiments() -> Mapping[str, Experiment[Any]]:
    """All experiments by name: every module of the gallery that defines ``EXPERIMENT``."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(gallery.__path__)
        if not (module.ispkg or module.name.startswith("_"))
    )
    modules = [importlib.import_module(f"{gallery.__name__}.{name}") for name in names]
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    return MappingProxyType({experiment.name: experiment for experiment in found})


def find_experiment(name: str) -> Experiment[Any]:
    """An experiment by name.

    Raises:
        ValueError: if there is none of that name.
    """
    known = find_experiments()
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def compute(experiment: Experiment[Any], stores: Path = STORES, **control: Any) -> Data:
    """Runs an experiment with its own settings; if its costly numbers can be kept, with these kept.

    Args:
        experiment: the experiment.
        stores: the folder of the stores, each of the experiment's name.
        control: of them, as for :meth:`goodteacher.experiments.experiment.Swept.stored`, which also says
            what is raised.
    """
    run, settings = experiment.run, experiment.settings
    if isinstance(run, Swept | Parted):
        return run.stored(settings, stores / experiment.name, **control)
    return run(settings)


def save(
    experiment: Experiment[Any],
    directory: str | os.PathLike[str],
    data: Data | None = None,
    **control: Any,
) -> list[Path]:
    """Writes an experiment's figure as PNG and PDF, its numbers as CSV and its caption, all or none.

    The files are the same to the byte when they are written again on the same machine.

    Args:
        experiment: the experiment.
        directory: where to; made if it does not exist. Older files of the same names are replaced.
        data: what ``experiment.run`` returned; computed with the experiment's own settings if not given.
        control: then as for :func:`compute`.

    Returns:
        The paths of the PNG, the PDF, the CSV and the text of the caption.

    Raises:
        ValueError: if the directory cannot be written; nothing has been computed then. As :func:`compute`.
    """
    with _workspace(Path(directory)) as workspace:
        if data is None:
            data = compute(experiment, **control)
        files = [workspace / f"{experiment.name}.{suffix}" for suffix in ("png", "pdf", "csv", "txt")]
        with paper():
            figure = experiment.figure(data, experiment.settings)
            # Without dates and versions, which would differ from one writing to the next.
            figure.savefig(files[0], metadata={"Title": experiment.title, "Software": None})
            figure.savefig(files[1], metadata={"Title": experiment.title, "CreationDate": None})
        table(data).to_csv(files[2], index=False, float_format="%.10g", lineterminator="\n")
        files[3].write_text(f"{experiment.caption(data, experiment.settings)}\n", encoding="utf-8")
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
