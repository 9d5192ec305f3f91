"""The command line: ``goodteacher``, also ``python -m goodteacher``.

A command is a module that says what it takes and what its help says, and calls what does it: a report or a
sweep. What takes long to import is imported when the command runs.
"""

import importlib.metadata
import os
import sys
from collections.abc import Sequence

import tyro

from goodteacher.experiments.commands.diagnose import diagnose
from goodteacher.experiments.commands.draw import figures
from goodteacher.experiments.commands.errors import errors
from goodteacher.experiments.commands.explore import explore
from goodteacher.experiments.commands.listing import list_
from goodteacher.experiments.commands.plot import plot
from goodteacher.experiments.commands.reward_metrics import metrics
from goodteacher.experiments.commands.run import run
from goodteacher.experiments.commands.show import show
from goodteacher.experiments.commands.sweep import sweep
from goodteacher.experiments.commands.teach_in_miniature import miniature
from goodteacher.experiments.commands.verify import verify

COMMANDS = {
    "diagnose": diagnose,
    "run": run,
    "errors": errors,
    "metrics": metrics,
    "explore": explore,
    "sweep": sweep,
    "show": show,
    "plot": plot,
    "miniature": miniature,
    "figures": figures,
    "list": list_,
    "verify": verify,
}

STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; without a command, the help is printed.

    Args:
        argv: without the program's name; that of the process if not given.

    Returns:
        The exit code: 0 if all is well, 1 if ``verify`` found something, 2 if the input is bad. On Ctrl-C the
        process ends with 130.

    Raises:
        SystemExit: as :mod:`argparse` does, after help (0) and bad usage (2).
    """
    try:
        try:
            return _dispatch(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except ValueError as error:
        print("goodteacher: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Nobody reads any more; nor is what is still buffered to be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("goodteacher: interrupted", file=sys.stderr, flush=True)
        # Not an orderly exit, which compiled code that still runs in a thread would hold up.
        os._exit(130)


def _dispatch(argv: Sequence[str]) -> int:
    if list(argv) == ["--version"]:
        print(f"goodteacher {importlib.metadata.version('goodteacher')}")
        return 0
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=list(argv) or ["--help"],
        prog="goodteacher",
        description="Is this reward a good teacher for this policy? Exact policy gradient, simulated.\n\n"
        "goodteacher COMMAND --help says more; goodteacher --version the version.",
        config=STYLE,
    )
