"""What the command line says about sweeps, and small results in other formats."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from rich import box
from rich.table import Table

from goodteacher.experiments.sweeps.computation import pilot
from goodteacher.experiments.sweeps.grid import Grid, memory
from goodteacher.experiments.sweeps.runner import Outcome
from goodteacher.experiments.sweeps.store import Store, open_store, size
from goodteacher.sim import files

_MOST_EXPORTED = 10_000_000  # values


def plan_table(grid: Grid, path: Path) -> Table:
    """What a run would do; a short trial tells how long it would take."""
    trial, specification = pilot(grid), grid.specification
    prompts = specification.prompts
    taken = 3 * jax.local_device_count() * grid.points * memory(specification)
    shape = " × ".join(f"{n:,}" for n in specification.shape)
    seconds = trial.compiling + specification.points / trial.rate
    rows = {
        "store": f"{path}, up to {size(specification.bytes)}",
        "points": f"{specification.points:,} = {shape}" + (f" of {prompts} prompts" if prompts > 1 else ""),
        "variables": ", ".join(specification.variables),
        "chunks": f"{len(grid.chunks()):,} of {' × '.join(map(str, grid.chunk))} points",
        "lanes": f"{grid.lanes}",
        "memory": f"about {size(taken)}, besides that of the program",
        "speed": f"{trial.rate:,.0f} points per second in a trial, after {trial.compiling:.1f} s to compile",
        "time": f"about {_duration(seconds)}",
    }
    return _rows(rows)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _rows(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def status_table(statuses: Mapping[str, Mapping[str, int]]) -> Table:
    """How many problems of each measure have which status."""
    names = list(dict.fromkeys(status for counts in statuses.values() for status in counts))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("measure")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for measure, counts in statuses.items():
        table.add_row(measure, *(f"{counts.get(name, 0):,}" for name in names))
    return table


def completeness(outcome: Outcome) -> str:
    """How much of a sweep is there."""
    return f"{outcome.done:,} of {outcome.chunks:,} chunks ({outcome.done / outcome.chunks:.0%})"


def summary(path: Path) -> list[Table]:
    """What ``goodteacher show`` prints.

    Raises:
        ValueError: if there is no store.
    """
    store = Store.find(path)
    with open_store(path) as dataset:
        about, damaged = store.plan["specification"], store.damaged()
        sizes = [dataset.sizes[_dimension(dataset, name)] for name in about["axes"]]
        # The axes come first in every array; the prompts of an instance, if it has several, are not cut.
        shape = next(iter(dataset.data_vars.values())).shape
        parts = zip(shape, store.plan["chunk"], strict=False)
        outcome = Outcome(len(store.done()), int(np.prod([-(-n // c) for n, c in parts])), {})
        axes = Table(box=box.SIMPLE_HEAD)
        for name in ("axis", "values", "first", "last", "along"):
            axes.add_column(name, justify="left" if name in ("axis", "along") else "right")
        for name, count in zip(about["axes"], sizes, strict=True):
            ends = [_plain(dataset[name].values[i]) for i in (0, -1)]
            axes.add_row(name, f"{count:,}", *ends, str(dataset[name].dims[0]))
        measures = Table(box=box.SIMPLE_HEAD)
        for name in ("variable", "what it is", "unit"):
            measures.add_column(name)
        for name, variable in dataset.data_vars.items():
            measures.add_row(str(name), variable.attrs["long_name"], variable.attrs["units"])
        fixed = ", ".join(f"{name} = {value}" for name, value in about["parameters"].items())
        evolving = ", ".join(f"{name} {value}" for name, value in about["dynamics"].items())
        rows = {
            "builder": about["builder"] + (f" with {fixed}" if fixed else ""),
            "dynamics": evolving.removeprefix("name "),
            "complete": completeness(outcome),
            "damaged": f"{len(damaged)} chunks (repair computes them anew)" if damaged else "nothing",
            "made with": f"{dataset.attrs['versions']}; commit {dataset.attrs['git_commit']}; "
            f"{dataset.attrs['devices']}, {dataset.attrs['precision']}",
        }
    # A damaged manifest counts nothing.
    statuses = {} if damaged else store.statuses()
    return [_rows(rows), axes, measures, *([status_table(statuses)] if statuses else [])]


def _dimension(dataset: xr.Dataset, name: str) -> str:
    return str(dataset[name].dims[0])


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.6g}"


def export(path: Path, output: Path, *, overwrite: bool = False) -> None:
    """Writes a small sweep as CSV or netCDF, by the name of the file.

    Raises:
        ValueError: for another format, a sweep that is too large, or a file that cannot be written.
    """
    files.check_writable(output, overwrite=overwrite)
    if output.suffix not in (".csv", ".nc"):
        raise ValueError(f"cannot export to {output}: give a file that ends in .csv or .nc")
    with open_store(path) as dataset:
        values = sum(variable.size for variable in dataset.data_vars.values())
        if values > _MOST_EXPORTED:
            raise ValueError(
                f"{path} holds {values:,} values; up to {_MOST_EXPORTED:,} are exported; select in xarray"
            )
        temporary = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            if output.suffix == ".csv":
                dataset.to_dataframe().reset_index().to_csv(temporary, index=False)
            else:
                dataset.load().to_netcdf(temporary, engine="scipy")
            temporary.replace(output)
        except OSError as error:
            raise ValueError(f"cannot write {output}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
