"""``goodteacher explore``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from goodteacher.experiments.commands.options import optional


def explore(
    file: Annotated[Positional[Path | None], optional("[FILE]")] = None,
    *,
    port: Annotated[int, arg(metavar="PORT")] = 5007,
    no_browser: bool = False,
) -> int:
    """Play with a problem on a page in the browser: move a reward, and see what becomes of learning.
    $ goodteacher explore
    $ goodteacher explore examples/errors.json
    $ goodteacher explore rollouts.csv --port 8000 --no-browser

    The page is served on this machine alone, and needs no network; Ctrl-C ends it. It is made with Panel and
    Bokeh: pip install 'goodteacher[explorer]'.

    Args:
        file: An instance file, or rollouts as for goodteacher diagnose, to start from.
        port: On the loopback interface; 0 for any that is free.
        no_browser: Do not open the browser.
    """
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled

    compile_quickly()
    keep_compiled()

    from goodteacher.experiments.explorer.server import serve
    from goodteacher.experiments.explorer.starting_points import read_problems

    serve(None if file is None else read_problems(file), port, browse=not no_browser)
    return 0
