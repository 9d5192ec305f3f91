"""The command line: ``goodteacher``, also ``python -m experiments``.

What takes long to import is imported by the command that needs it.
"""

import difflib
import importlib.metadata
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from theory.statements import Report, Statement

Names = Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help_behavior_hint="")]


def run(
    file: Annotated[Positional[Path], arg(metavar="FILE.json")],
    *,
    dynamics: Literal["flow", "ascent"] = "flow",
    gamma: Annotated[float | None, arg(metavar="G", help_behavior_hint="")] = None,
    horizon: Annotated[float | None, arg(metavar="T", help_behavior_hint="")] = None,
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    learning_rate: Annotated[float | None, arg(metavar="R", help_behavior_hint="")] = None,
    optimizer: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None,
    kl: Annotated[float | None, arg(metavar="L", help_behavior_hint="")] = None,
    output: Annotated[Path | None, arg(metavar="OUT.json", help_behavior_hint="")] = None,
    overwrite: bool = False,
    nearest: bool = False,
) -> int:
    """Simulate an instance file: exact policy gradient from its initial policy.
    $ goodteacher run examples/ground_truth.json --gamma 0.9
    $ goodteacher run examples/proxy.json --dynamics ascent
    $ goodteacher run examples/two_prompts.json --kl 0.2

    Args:
        file: The instance.
        dynamics: Gradient flow, or discrete ascent with exact gradients.
        gamma: Find when the expected ground truth reward has risen by G.
        horizon: Flow: when to stop (default: 1e60).
        steps: Ascent: how many updates (default: 50000).
        learning_rate: Ascent: learning rate (default: 0.1), the largest one for backtracking.
        optimizer: Ascent: sgd (default), momentum, adam, normalized, backtracking or npg.
        kl: KL coefficient, instead of the file's own.
        output: Write the result as JSON.
        overwrite: Replace OUT.json if it exists.
        nearest: If features cannot realise the initial probabilities, start from the nearest that they can.
    """
    of_flow = {"horizon": horizon}
    of_ascent = {"steps": steps, "learning-rate": learning_rate, "optimizer": optimizer}
    for name, value in (of_flow if dynamics == "ascent" else of_ascent).items():
        if value is not None:
            raise ValueError(f"--{name} does not apply to --dynamics {dynamics}; leave it out")

    from experiments import simulate
    from experiments.progress import Progress, interruptible
    from sim import ascent, files, flow

    if output is not None:
        files.check_writable(output, overwrite=overwrite)
    instance = files.read_instance(file, nearest=nearest)
    if kl is not None:
        instance = files.from_dictionary({**files.to_dictionary(instance), "kl_coefficient": kl})
    goal = None if gamma is None else simulate.increase(instance, gamma)

    if dynamics == "flow":
        end = flow.HORIZON if horizon is None else horizon
        described = f"gradient flow to time {end:g}"
        with Progress(described):
            outcome = interruptible(lambda: simulate.follow_flow(instance, goal, end))
    else:
        updates = 50_000 if steps is None else steps
        name, rate = optimizer or "sgd", 0.1 if learning_rate is None else learning_rate
        if not 0 < updates < 2**63:
            raise ValueError(f"steps is {updates}; give a whole number from 1 to 2^63 - 1")
        direction, transformation = ascent.optimizer(name, rate)
        described = f"{updates} updates of {name} at learning rate {rate:g}"
        with Progress(described, updates) as progress:
            watched = progress.watch(transformation)
            outcome = interruptible(
                lambda: simulate.follow_ascent(instance, goal, watched, updates, direction)
            )

    result = simulate.report(instance, outcome)
    if output is not None:
        files.write_json(output, result, overwrite=overwrite)
    if gamma is not None:
        described += f", ground truth reward to rise by {gamma:g}"
    print(f"{file}: {described}: {result['status']}")
    _console().print(simulate.table(result, outcome.status))
    return 0


def figures(
    names: Names = (),
    *,
    directory: Annotated[Path, arg(metavar="FOLDER")] = Path("figures"),
) -> int:
    """Regenerate figures as PNG and PDF, with the plotted numbers as CSV.
    $ goodteacher figures
    $ goodteacher figures stalling_law --directory /tmp

    Args:
        names: Which ones, see goodteacher list; all if none is named.
        directory: Where to.
    """
    from experiments.progress import Progress
    from experiments.registry import find_experiment, find_experiments, save

    chosen = [find_experiment(name) for name in dict.fromkeys(names or find_experiments())]
    with Progress("figures:", len(chosen)) as progress:
        for done, experiment in enumerate(chosen):
            progress(done, experiment.name)
            start = time.monotonic()
            paths = save(experiment, directory)
            print(*paths, f"({time.monotonic() - start:.1f} s)", flush=True)
    return 0


def list_() -> int:
    """List the experiments behind the figures, and the statements that can be verified.
    $ goodteacher list
    """
    from experiments.registry import find_experiments
    from theory.statements import registry

    for title, entries in (("experiment", find_experiments()), ("statement", registry())):
        table = _table(title, "title")
        for name, entry in entries.items():
            table.add_row(name, entry.title)
        _console().print(table)
    return 0


def verify(
    names: Names = (),
    *,
    instances: Annotated[int, arg(metavar="N")] = 10_000,
    seed: Annotated[int, arg(metavar="S")] = 0,
    output: Annotated[Path | None, arg(metavar="OUT.json", help_behavior_hint="")] = None,
    overwrite: bool = False,
) -> int:
    """Check statements of theory on random instances, and that false variants of them are caught.
    $ goodteacher verify
    $ goodteacher verify stalling_law --instances 100000 --seed 1

    A statement holds on an instance if its margin is not negative: by how many decades a bound, or the
    tolerance of an identity, is kept. The exit code is 1 if one is violated or a false variant is not caught.

    Args:
        names: Which ones, see goodteacher list; all if none is named.
        instances: How many for each statement.
        seed: Of the instances.
        output: Write the reports as JSON, with the instances of the tightest margins.
        overwrite: Replace OUT.json if it exists.
    """
    from experiments.progress import Progress, interruptible
    from sim import files
    from theory import statements

    if output is not None:
        files.check_writable(output, overwrite=overwrite)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; give a whole number from 0 to 2^63 - 1")
    known = statements.registry()
    chosen = [_statement(name, known) for name in dict.fromkeys(names or known)]

    with Progress("verify", instances * len(chosen)) as progress:

        def check(position: int, statement: "Statement") -> "Report":
            def tell(done: int, total: int) -> None:
                progress(position * total + done, statement.name)

            tell(0, instances)
            return interruptible(lambda: statements.verify(statement, instances, seed, progress=tell))

        reports = [check(*numbered) for numbered in enumerate(chosen)]

    passed = all(report.ok for report in reports)
    if output is not None:
        contents = {"ok": passed, "reports": [report.to_dictionary() for report in reports]}
        files.write_json(output, contents, overwrite=overwrite)
    table = _table("statement", "instances", "violations", "tightest margin", "sabotages caught")
    for report in reports:
        caught = sum(trial.caught for trial in report.sabotages.values())
        counts = (f"{report.instances}", f"{report.violations}", f"{report.tightest_margin:.3g}")
        style = None if report.ok else "bold red"
        table.add_row(report.statement, *counts, f"{caught} of {len(report.sabotages)}", style=style)
    _console().print(table)
    return 0 if passed else 1


COMMANDS = {"run": run, "figures": figures, "list": list_, "verify": verify}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

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
        args=argv,
        prog="goodteacher",
        description="Is this reward a good teacher for this policy? Exact policy gradient, simulated.\n\n"
        "goodteacher COMMAND --help says more; goodteacher --version the version.",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )


def _console() -> Console:
    """Standard output; as wide as need be where it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def _table(*headers: str) -> Table:
    """A table whose first column is text and the others numbers, if there are more than two."""
    table = Table(box=box.SIMPLE_HEAD)
    for position, header in enumerate(headers):
        numbers = position > 0 and len(headers) > 2
        table.add_column(header, justify="right" if numbers else "left")
    return table


def _statement(name: str, known: "Mapping[str, Statement]") -> "Statement":
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(known)}"
        raise ValueError(f"statement {name!r} is unknown; {hint}")
    return known[name]
