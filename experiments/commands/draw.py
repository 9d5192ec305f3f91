"""``goodteacher figures``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from goodteacher.experiments.commands.options import Names


def figures(
    names: Names = (),
    *,
    directory: Annotated[Path, arg(metavar="FOLDER")] = Path("figures"),
    stores: Annotated[Path, arg(metavar="FOLDER")] = Path("build/sweeps"),
    full: bool = False,
    overwrite: bool = False,
) -> int:
    """Regenerate figures as PNG and PDF, with the plotted numbers as CSV and the caption.
    $ goodteacher figures
    $ goodteacher figures stalling_law --directory /tmp
    $ goodteacher figures phase_diagram --full

    The numbers of some figures are kept in stores, as of goodteacher sweep. Full versions, NAME_full, go on
    where they were if stopped, and draw what is complete at once.

    Args:
        names: Which ones, see goodteacher list; all if none is named (with --full, all that have one).
        directory: Where to.
        stores: Where the results of sweeps are kept, in a folder for each figure.
        full: The large versions.
        overwrite: With --full, discard what another version of this program has stored.
    """
    if overwrite and not full:
        raise ValueError("--overwrite does not apply without --full; leave it out")

    from goodteacher.experiments import drawing
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled

    compile_quickly()
    keep_compiled()
    if full:
        lines = drawing.draw_full(names, directory, stores, renew=overwrite)
    else:
        lines = drawing.draw(names, directory, stores)
    for line in lines:
        print(line, flush=True)
    return 0
