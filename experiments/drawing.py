"""Draws experiments side by side, and says which files, where from and how long that took."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from goodteacher.experiments import registry
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.progress import Progress, interruptible
from goodteacher.experiments.sweeps import processes
from goodteacher.experiments.workers import workers
from goodteacher.sim.files import make_folder


def draw(names: Sequence[str], directory: Path, stores: Path) -> Iterator[str]:
    """Draws experiments side by side, slow ones first.

    Args:
        names: which; all if none is named.
        directory: where to.
        stores: the folder of the sweeps behind them.

    Yields:
        A line for each, once it is drawn.

    Raises:
        ValueError: for a name that is not known, or if a folder cannot be written.
    """
    experiments = _chosen(names, list(registry.find_experiments()))
    slow_first = sorted(experiments, key=lambda experiment: not experiment.slow)
    with Progress("figures:", len(experiments)) as progress, workers(len(experiments)) as each:
        progress(0)
        lines = each(partial(_draw_one, directory, stores), [experiment.name for experiment in slow_first])
        for done, line in enumerate(lines, 1):
            progress(done)
            yield line


def draw_full(names: Sequence[str], directory: Path, stores: Path, *, renew: bool) -> Iterator[str]:
    """Draws large versions one after the other, each with all cores and devices. Otherwise as :func:`draw`.

    Args:
        names: which; all that have a large version if none is named.
        directory, stores: as for :func:`draw`.
        renew: discard what another version of this program has stored.
    """
    every = [name for name, experiment in registry.find_experiments().items() if experiment.full is not None]
    experiments = [experiment.at_full_size() for experiment in _chosen(names, every)]
    processes.use_all_cores()
    for experiment in experiments:
        yield _draw_kept(experiment, directory, stores, renew)


def _chosen(names: Sequence[str], every: Sequence[str]) -> list[Experiment]:
    return [registry.find_experiment(name) for name in dict.fromkeys(names or every)]


def _draw_one(directory: Path, stores: Path, name: str) -> str:
    experiment, start = registry.find_experiment(name), time.monotonic()
    return _line(experiment, registry.save(experiment, directory, stores=stores), stores, start)


def _draw_kept(experiment: Experiment, directory: Path, stores: Path, renew: bool) -> str:
    make_folder(directory)
    start = time.monotonic()
    try:
        with Progress(experiment.name, 100) as progress:

            def tell(done: int, chunks: int) -> None:
                progress(100 * done // chunks, f"{done} of {chunks} parts")

            data = interruptible(lambda: registry.compute(experiment, stores, renew=renew, tell=tell))
    except KeyboardInterrupt:
        store = stores / experiment.name
        print(f"what is complete is safe in {store}; run the same command again to go on", file=sys.stderr)
        raise
    return _line(experiment, registry.save(experiment, directory, data), stores, start)


def _line(experiment: Experiment, paths: Sequence[Path], stores: Path, start: float) -> str:
    origin = f" from {stores / experiment.name}" if experiment.kept else ""
    return f"{' '.join(map(str, paths))}{origin} ({time.monotonic() - start:.1f} s)"
