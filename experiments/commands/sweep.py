"""``goodteacher sweep``."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from goodteacher.experiments.commands.options import Texts, optional
from goodteacher.experiments.text import console


def sweep(
    what: Annotated[Positional[str], arg(metavar="SPEC.toml|BUILDER")],
    *,
    store: Annotated[Path, arg(metavar="DIR")],
    axis: Annotated[Texts, optional("NAME=VALUES")] = (),
    measure: Annotated[Texts, optional("MEASURE")] = (),
    zip: Annotated[Texts, optional("NAME,NAME")] = (),
    set: Annotated[Texts, optional("NAME=VALUE")] = (),
    dynamics: Annotated[str | None, optional("NAME")] = None,
    option: Annotated[Texts, optional("NAME=VALUE")] = (),
    chunk: Annotated[int | None, optional("N")] = None,
    lanes: Annotated[int | None, optional("N")] = None,
    distributed: Annotated[str | None, optional("HOST:PORT,I,N")] = None,
    dry_run: bool = False,
    repair: bool = False,
    overwrite: bool = False,
) -> int:
    """Measure instances over a grid of parameters, into a store that xarray opens.
    $ goodteacher sweep random --axis seed=range:0:1000 --measure increase_time:0.1 --store DIR
    $ goodteacher sweep SPEC.toml --store DIR

    Stopped at any moment, the same command goes on where it was. The exit code is 0 if every problem is
    accounted for.

    Args:
        what: A file, or a builder: beneficial_errors, feature_similarity, random, random_teacher,
            slow_teacher, fast_teacher, policy_family, file:FILE.json for an instance file, or rollouts:FILE.
        store: The folder of the results.
        axis: Values of a parameter: linspace:FIRST:LAST:COUNT, logspace:EXPONENT:EXPONENT:COUNT,
            range:FIRST:END, or a,b,c; once for each axis.
        measure: hitting_time:LEVEL, increase_time:GAMMA, share_time:SHARE, probability_time:OUTPUT:LEVEL;
            probability:OUTPUT, expected_reward, ground_truth, variance, uniform_accuracy, on_policy_accuracy
            (both also with _where_truth_differs behind), kl or entropy, of the initial policy, or with :TIME
            or :final of the one then; once for each.
        zip: Axes that vary together.
        set: Value of a parameter that is no axis.
        dynamics: flow (default), ascent, or samples: reinforce, baseline, rloo, mean_subtracted, grpo, maxrl.
        option: Of the dynamics: horizon, tolerance, max_steps, and what the flow follows: estimator, preset,
            group, epsilon, population, power, k, dynamic_sampling; steps, learning_rate, optimizer; of
            samples seed, and preset, group, epsilon, population, dynamic_sampling as of the flow.
        chunk: Points that are computed and written at once (default: by the size of a problem).
        lanes: Problems under way at a time on a device (default: by the device and the number of outputs).
        distributed: Share the work with other processes on one file system: auto under Slurm and the like; or
            where the first process listens, the number of this one from 0 on, and how many there are.
        dry_run: Say what would be done and how long it would take, and write nothing.
        repair: Compute chunks again that are damaged.
        overwrite: Discard what the store holds.
    """
    from goodteacher.experiments.compilation import keep_compiled
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.sweeps import processes, runner, specification
    from goodteacher.experiments.sweeps import summaries as reports

    given = {"axis": axis, "measure": measure, "zip": zip, "set": set, "dynamics": dynamics, "option": option}
    if what.endswith(".toml"):
        for name, value in given.items():
            if value:
                raise ValueError(f"--{name} does not apply to a file; write it into {what}")
        contents = specification.read(what)
    else:
        contents = specification.from_texts(
            what, axis, measure, parameters=set, zip=zip, dynamics=dynamics or "flow", options=option
        )
    sizes = {"chunk": contents.pop("chunk", None), "lanes": contents.pop("lanes", None)}
    sizes |= {name: value for name, value in {"chunk": chunk, "lanes": lanes}.items() if value is not None}
    processes.use_all_cores()
    keep_compiled()
    if distributed is not None:
        processes.start(distributed)
    chosen = specification.specify(**contents)
    grid = runner.plan(chosen, store, **sizes, overwrite=overwrite)
    if dry_run:
        with Progress("trial"):
            console().print(interruptible(lambda: reports.plan_table(grid, store)))
        return 0
    try:
        with Progress("sweep", len(grid.chunks())) as progress:

            def tell(done: int, total: int) -> None:
                progress(done, f"{done} of {total} chunks")

            control = {**sizes, "repair": repair, "overwrite": overwrite, "progress": tell}
            outcome = interruptible(lambda: runner.run(chosen, store, **control, apart=processes.end))
    except KeyboardInterrupt:
        print(f"what is complete is safe in {store}; run the same command again to go on", file=sys.stderr)
        raise
    if processes.is_first():
        print(f"{store}: {reports.completeness(outcome)}, {chosen.points:,} points")
        console().print(reports.status_table(outcome.statuses))
        if not chosen.builder.has_truth:
            print(f"There is no ground truth in {chosen.builder.name.removeprefix('rollouts:')}.")
    return 0 if outcome.complete(chosen) else 1
