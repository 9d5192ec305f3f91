"""The command line: ``goodteacher``, also ``python -m experiments``.

What takes long to import is imported by the command that needs it.
"""

import contextlib
import difflib
import importlib.metadata
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich import box
from rich.table import Table
from tyro.conf import Positional, arg

from goodteacher.experiments.commands.sweeping import plot, show, sweep
from goodteacher.experiments.text import console

if TYPE_CHECKING:
    from goodteacher.experiments.registry import Experiment
    from goodteacher.theory.adversary import Finding
    from goodteacher.theory.statements import Report, Statement

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

    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import simulation as simulate
    from goodteacher.sim import ascent, files, flow

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
    console().print(simulate.table(result, outcome.status))
    return 0


def metrics(
    file: Annotated[Positional[Path], arg(metavar="FILE.json")],
    *,
    output: Annotated[Path | None, arg(metavar="OUT.json", help_behavior_hint="")] = None,
    overwrite: bool = False,
    nearest: bool = False,
) -> int:
    """Measure a reward before any training: its variance, and how often it ranks outputs rightly.
    $ goodteacher metrics examples/proxy.json

    Acc, HAcc (harm-aware) and their weighted forms compare the best output by ground truth with the others.

    Args:
        file: The instance.
        output: Write the result as JSON.
        overwrite: Replace OUT.json if it exists.
        nearest: If features cannot realise the initial probabilities, start from the nearest that they can.
    """
    from goodteacher.experiments.reports import reward_quality as measures
    from goodteacher.sim import files

    if output is not None:
        files.check_writable(output, overwrite=overwrite)
    result = measures.report(files.read_instance(file, nearest=nearest))
    if output is not None:
        files.write_json(output, result, overwrite=overwrite)
    console().print(measures.table(result))
    if note := measures.note(result):
        print(note)
    return 0


def errors(
    file: Annotated[Positional[Path], arg(metavar="FILE.json")],
    *,
    gamma: Annotated[float | None, arg(metavar="G", help_behavior_hint="")] = None,
    low: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None,
    high: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None,
    negligible: Annotated[float | None, arg(metavar="P", help_behavior_hint="")] = None,
    output: Annotated[Path | None, arg(metavar="OUT.json", help_behavior_hint="")] = None,
    overwrite: bool = False,
    nearest: bool = False,
) -> int:
    """Say of every error of a proxy reward whether it is harmful, benign or beneficial.
    $ goodteacher errors examples/proxy.json --gamma 0.9
    $ goodteacher errors examples/errors.json

    By rule, and by what it does: the hitting time on the proxy over that with this one error corrected.

    Args:
        file: The instance.
        gamma: Goal: the expected ground truth reward rises by G (default: nine tenths of what is possible).
        low: Ground truth reward from 0 (worst) to 1 (y*) below which an output is low (default: 0.25).
        high: Proxy reward from 0 (initial mean) to 1 (y*) from which on it is high (default: 0.95).
        negligible: Initial probability over that of y* up to which an error does not matter (default: 0.3).
        output: Write the result as JSON.
        overwrite: Replace OUT.json if it exists.
        nearest: If features cannot realise the initial probabilities, start from the nearest that they can.
    """
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import error_table as errors
    from goodteacher.sim import files
    from goodteacher.theory.error_kinds import Thresholds

    if output is not None:
        files.check_writable(output, overwrite=overwrite)
    given = {"low": low, "high": high, "negligible": negligible}
    thresholds = Thresholds(**{name: value for name, value in given.items() if value is not None})
    instance = files.read_instance(file, nearest=nearest)
    with Progress("errors"):
        result = interruptible(lambda: errors.report(instance, gamma, thresholds))
    if output is not None:
        files.write_json(output, result, overwrite=overwrite)
    console().print(errors.table(result))
    print(errors.summary(result))
    return 0


def figures(
    names: Names = (),
    *,
    directory: Annotated[Path, arg(metavar="FOLDER")] = Path("figures"),
    stores: Annotated[Path, arg(metavar="FOLDER")] = Path("build/sweeps"),
    full: bool = False,
    overwrite: bool = False,
) -> int:
    """Regenerate figures as PNG and PDF, with the plotted numbers as CSV.
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
    from goodteacher.experiments.progress import Progress
    from goodteacher.experiments.registry import find_experiment, find_experiments

    if overwrite and not full:
        raise ValueError("--overwrite does not apply without --full; leave it out")
    every = [name for name, one in find_experiments().items() if not full or one.full is not None]
    experiments = [find_experiment(name) for name in dict.fromkeys(names or every)]
    if full:
        for experiment in [experiment.at_full_size() for experiment in experiments]:
            print(_draw_full(experiment, directory, stores, overwrite), flush=True)
        return 0
    chosen = [experiment.name for experiment in sorted(experiments, key=lambda e: not e.slow)]
    with Progress("figures:", len(chosen)) as progress, _workers(len(chosen)) as each:
        progress(0)
        for done, line in enumerate(each(partial(_draw, directory, stores), chosen), 1):
            progress(done)
            print(line, flush=True)
    return 0


def _draw(directory: Path, stores: Path, name: str) -> str:
    """Writes the files of an experiment; a line that says which, where from, and how long that took."""
    from goodteacher.experiments.registry import find_experiment, save

    experiment, start = find_experiment(name), time.monotonic()
    return _drawn(experiment, save(experiment, directory, stores=stores), stores, start)


def _draw_full(experiment: "Experiment", directory: Path, stores: Path, overwrite: bool) -> str:
    """The same for a large version, with the progress of its sweep; of every core and device."""
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.registry import compute, save
    from goodteacher.experiments.sweeps import processes, runner
    from goodteacher.sim.files import make_folder

    make_folder(directory)
    processes.use_all_cores()
    runner.keep_compiled()
    start = time.monotonic()
    try:
        with Progress(experiment.name, 100) as progress:

            def tell(done: int, chunks: int) -> None:
                progress(100 * done // chunks, f"{done} of {chunks} chunks")

            data = interruptible(lambda: compute(experiment, stores, renew=overwrite, tell=tell))
    except KeyboardInterrupt:
        store = stores / experiment.name
        print(f"what is complete is safe in {store}; run the same command again to go on", file=sys.stderr)
        raise
    return _drawn(experiment, save(experiment, directory, data), stores, start)


def _drawn(experiment: "Experiment", paths: Sequence[Path], stores: Path, start: float) -> str:
    origin = f" from {stores / experiment.name}" if experiment.sweep else ""
    return f"{' '.join(map(str, paths))}{origin} ({time.monotonic() - start:.1f} s)"


@contextlib.contextmanager
def _workers(tasks: int) -> Iterator[Callable[[Callable[[str], str], Sequence[str]], Iterator[str]]]:
    """A ``map`` in as many processes as there are cores: compiling, which is most of the work, uses one.

    In this process if there is a single task or core, or an accelerator, which is not shared.
    """
    import jax

    count = min(tasks, os.cpu_count() or 1)
    if count == 1 or jax.default_backend() != "cpu":
        yield map
        return
    # Not a fork, which would share the locks of JAX's threads.
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        yield partial(pool.imap_unordered, chunksize=1)


def list_() -> int:
    """List the experiments behind the figures, and the statements that can be verified.
    $ goodteacher list
    """
    from goodteacher.experiments.registry import find_experiments
    from goodteacher.theory.statements import registry

    for title, entries in (("experiment", find_experiments()), ("statement", registry())):
        table = _table(title, "title")
        for name, entry in entries.items():
            table.add_row(name, entry.title)
        console().print(table)
    return 0


def verify(
    names: Names = (),
    *,
    instances: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    seed: Annotated[int, arg(metavar="S")] = 0,
    adversarial: bool = False,
    directory: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None,
    output: Annotated[Path | None, arg(metavar="OUT.json", help_behavior_hint="")] = None,
    overwrite: bool = False,
) -> int:
    """Check statements of theory on random instances, and that false variants of them are caught.
    $ goodteacher verify
    $ goodteacher verify stalling_law --instances 100000 --seed 1
    $ goodteacher verify --adversarial gradient_variance_bound

    A statement holds on an instance if its margin is not negative: by how many decades a bound, or the
    tolerance of an identity, is kept. The exit code is 1 if one is violated or a false variant is not caught.

    Args:
        names: Which ones, see goodteacher list; all if none is named (with --adversarial, all bounds).
        instances: How many for each statement (default: 10000, with --adversarial 100000).
        seed: Of the instances.
        adversarial: Search for the instance with the smallest margin, instead of drawing all at random.
        directory: Adversarial: where to write the instances found, each as NAME.json (default: tightest).
        output: Write the reports as JSON, with the instances of the tightest margins.
        overwrite: Replace files that exist.
    """
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.sim import files
    from goodteacher.theory import adversary, statements

    if directory is not None and not adversarial:
        raise ValueError("--directory does not apply without --adversarial; leave it out")
    if output is not None:
        files.check_writable(output, overwrite=overwrite)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; give a whole number from 0 to 2^63 - 1")
    known = statements.registry()
    every = [name for name, statement in known.items() if statement.bound or not adversarial]
    chosen = [_statement(name, known) for name in dict.fromkeys(names or every)]
    each = instances if instances is not None else 100_000 if adversarial else 10_000
    folder = directory or Path("tightest")
    if adversarial:
        files.make_folder(folder)
        for statement in chosen:
            files.check_writable(folder / f"{statement.name}.json", overwrite=overwrite)
    examine = adversary.search if adversarial else statements.verify

    with Progress("verify", each * len(chosen)) as progress:

        def check(position: int, statement: "Statement") -> "Report | Finding":
            def tell(done: int, total: int) -> None:
                progress(position * total + done, statement.name)

            tell(0, each)
            report = interruptible(lambda: examine(statement, each, seed, progress=tell))
            if isinstance(report, adversary.Finding):
                path = folder / f"{statement.name}.json"
                files.write_instance(statements.problem(report.instance), path, overwrite=overwrite)
            return report

        reports = [check(*numbered) for numbered in enumerate(chosen)]

    passed = all(report.ok for report in reports)
    if output is not None:
        contents = {"ok": passed, "reports": [report.to_dictionary() for report in reports]}
        files.write_json(output, contents, overwrite=overwrite)
    if adversarial:
        table = _table("statement", "instances", "smallest margin", "factor", "instance found")
        table.columns[-1].justify = "left"
    else:
        table = _table("statement", "instances", "violations", "tightest margin", "sabotages caught")
    for report in reports:
        if isinstance(report, adversary.Finding):
            counts = (f"{report.evaluations}", f"{report.tightest_margin:.4g}", f"{report.factor:.4g}")
            gamma = getattr(report.instance, "gamma", None)
            last = f"{folder / report.statement}.json" + (f" --gamma {gamma}" if gamma is not None else "")
        else:
            caught = sum(trial.caught for trial in report.sabotages.values())
            counts = (f"{report.instances}", f"{report.violations}", f"{report.tightest_margin:.3g}")
            last = f"{caught} of {len(report.sabotages)}"
        table.add_row(report.statement, *counts, last, style=None if report.ok else "bold red")
    console().print(table)
    for report in reports:
        if not report.tightest_margin >= 0:
            print(_violation(report))
    return 0 if passed else 1


COMMANDS = {
    "run": run,
    "errors": errors,
    "metrics": metrics,
    "sweep": sweep,
    "show": show,
    "plot": plot,
    "figures": figures,
    "list": list_,
    "verify": verify,
}


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


def _table(*headers: str) -> Table:
    """A table whose first column is text and the others numbers, if there are more than two."""
    table = Table(box=box.SIMPLE_HEAD)
    for position, header in enumerate(headers):
        numbers = position > 0 and len(headers) > 2
        table.add_column(header, justify="right" if numbers else "left")
    return table


def _violation(report: "Report | Finding") -> str:
    """The instance that violates a statement most, the two sides there, and the difference."""
    smaller, larger = report.tightest_sides
    contents = report.to_dictionary()
    return (
        f"{report.statement} is violated: {smaller!r} should be at most {larger!r}, and exceeds it by "
        f"{smaller - larger:.3g}, on the instance\n{json.dumps(contents['tightest_instance'])}"
    )


def _statement(name: str, known: "Mapping[str, Statement]") -> "Statement":
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(known)}"
        raise ValueError(f"statement {name!r} is unknown; {hint}")
    return known[name]
