"""``goodteacher plot``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from goodteacher.experiments.commands.options import optional


def plot(
    store: Annotated[Positional[Path], arg(metavar="STORE")],
    *,
    x: Annotated[str, arg(metavar="AXIS")],
    y: Annotated[str, arg(metavar="AXIS|MEASURE")],
    color: Annotated[str | None, optional("MEASURE|AXIS")] = None,
    facet: Annotated[str | None, optional("AXIS")] = None,
    log: Annotated[tuple[str, ...], optional("[NAME ...]")] = (),
    contours: Annotated[int, arg(metavar="N")] = 0,
    output: Annotated[Path | None, optional("OUT.png")] = None,
    overwrite: bool = False,
) -> int:
    """Draw a sweep: a heat map over two axes, or lines over one.
    $ goodteacher plot DIR --x initial_probability --y middling_reward --color hitting_time --log hitting_time
    $ goodteacher plot DIR --x initial_probability --y hitting_time --color middling_reward

    Lines are medians over the remaining axes, their bands go from the lower to the upper quartile; heat maps
    show medians too.

    Args:
        store: The folder of a sweep.
        x: The horizontal axis.
        y: The vertical one: an axis for a heat map, a measure for lines.
        color: Of a heat map, a measure; of lines, an axis.
        facet: An axis with a panel for each of its values.
        log: What to draw on logarithmic scales: any of the names above.
        contours: How many contour lines to draw on a heat map.
        output: A file that ends in .png or .pdf (default: the name of the store, .png).
        overwrite: Replace it if it exists.
    """
    from goodteacher.experiments.sweeps import plotting
    from goodteacher.sim import files

    path = output or Path(f"{store.resolve().name}.png")
    files.check_writable(path, overwrite=overwrite)
    plotting.plot(store, path, x=x, y=y, color=color, facet=facet, log=log, contours=contours)
    print(path)
    return 0
