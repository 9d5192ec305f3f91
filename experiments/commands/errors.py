"""``goodteacher errors``."""

from typing import Annotated

from goodteacher.experiments.commands.options import (
    GRADIENT,
    NOWHERE,
    Estimator,
    InstanceFile,
    Result,
    at_most_one,
    given,
    optional,
    print_rest,
)
from goodteacher.experiments.text import print_table


def errors(
    source: InstanceFile,
    *,
    gamma: Annotated[float | None, optional("G")] = None,
    goal: Annotated[float | None, optional("SHARE")] = None,
    low: Annotated[float | None, optional("X")] = None,
    high: Annotated[float | None, optional("X")] = None,
    negligible: Annotated[float | None, optional("P")] = None,
    followed: Estimator = GRADIENT,
    rows: Annotated[int | None, optional("N")] = None,
    result: Result = NOWHERE,
) -> int:
    """Say of every error of a proxy reward whether it is harmful, benign or beneficial.
    $ goodteacher errors examples/proxy.json --gamma 0.9
    $ goodteacher errors examples/errors.json
    $ goodteacher errors examples/errors.json --estimator grpo
    $ goodteacher errors rollouts.csv --reward reward_model --rows 5

    By rule, and by what it does: the hitting time on the proxy over that with this one error corrected. The
    reward of rollouts is put on the scale of their ground truth first.

    Args:
        gamma: Goal: the expected ground truth reward rises by G.
        goal: Instead: it covers this share of what is possible on each prompt (default: 0.9).
        low: Ground truth reward from 0 (worst) to 1 (y*) below which an output is low (default: 0.25).
        high: Proxy reward from 0 (initial mean) to 1 (y*) from which on it is high (default: 0.95).
        negligible: Initial probability over that of y* up to which an error does not matter (default: 0.3).
        rows: Prompts to print, the most harmful first (default: as many as fit a screen).
    """
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.followed import follow, told
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import error_table
    from goodteacher.experiments.reports.simulation import on_the_way
    from goodteacher.theory.error_kinds import Thresholds

    compile_quickly()
    keep_compiled()
    result.check()
    at_most_one(gamma=gamma, goal=goal)
    thresholds = Thresholds(**given(low=low, high=high, negligible=negligible))
    clock = followed.clock()
    problem, has_truth, names = source.read(like_truth=True)
    if not has_truth:
        raise source.without_truth("errors are what differs from it")
    followable = follow(problem, clock, also=problem.ground_truth_rewards)
    with Progress("errors", 100) as progress:

        def tell(done: int, total: int) -> None:
            progress(100 * done // total)

        report = interruptible(
            lambda: error_table.report(problem, gamma, thresholds, goal, tell, followed=followable)
        )
    report |= names
    result.write(report)
    if followed != GRADIENT:
        print(f"under {clock.title}:")
    chosen = error_table.shown(report, rows)
    print_table(error_table.table(report, chosen), keys=2)
    if way := on_the_way(report, list(chosen)):
        print(way)
    if more := error_table.unprinted(report, chosen):
        print(f"{more} more outputs: --rows {len(chosen)} prints them too")
    print_rest(len(report["status"]), len(chosen))
    print(error_table.summary(report))
    for line in told(followable.unknown, names.get("prompt_names")):
        print(line)
    return 0
