"""``goodteacher show``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from goodteacher.experiments.commands.options import optional
from goodteacher.experiments.text import console


def show(
    store: Annotated[Positional[Path], arg(metavar="STORE")],
    *,
    export: Annotated[Path | None, optional("OUT.csv|OUT.nc")] = None,
    overwrite: bool = False,
) -> int:
    """Say what is in the store of a sweep, how complete it is, and where it comes from.
    $ goodteacher show DIR
    $ goodteacher show DIR --export results.csv

    Args:
        store: The folder of a sweep.
        export: Write a small sweep as CSV or netCDF too.
        overwrite: Replace the file if it exists.
    """
    from goodteacher.experiments.sweeps import summaries as reports

    if export is not None:
        reports.export(store, export, overwrite=overwrite)
    for table in reports.summary(store):
        console().print(table)
    return 0
