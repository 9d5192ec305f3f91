"""``goodteacher errors``."""

from typing import Annotated

from goodteacher.experiments.commands.options import NOWHERE, InstanceFile, Result, given, optional
from goodteacher.experiments.text import console


def errors(
    source: InstanceFile,
    *,
    gamma: Annotated[float | None, optional("G")] = None,
    low: Annotated[float | None, optional("X")] = None,
    high: Annotated[float | None, optional("X")] = None,
    negligible: Annotated[float | None, optional("P")] = None,
    result: Result = NOWHERE,
) -> int:
    """Say of every error of a proxy reward whether it is harmful, benign or beneficial.
    $ goodteacher errors examples/proxy.json --gamma 0.9
    $ goodteacher errors examples/errors.json

    By rule, and by what it does: the hitting time on the proxy over that with this one error corrected.

    Args:
        gamma: Goal: the expected ground truth reward rises by G (default: nine tenths of what is possible).
        low: Ground truth reward from 0 (worst) to 1 (y*) below which an output is low (default: 0.25).
        high: Proxy reward from 0 (initial mean) to 1 (y*) from which on it is high (default: 0.95).
        negligible: Initial probability over that of y* up to which an error does not matter (default: 0.3).
    """
    from goodteacher.experiments.compilation import keep_compiled
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import error_table
    from goodteacher.experiments.reports.simulation import on_the_way
    from goodteacher.theory.error_kinds import Thresholds

    keep_compiled()
    result.check()
    thresholds = Thresholds(**given(low=low, high=high, negligible=negligible))
    instance = source.read()
    with Progress("errors"):
        report = interruptible(lambda: error_table.report(instance, gamma, thresholds))
    result.write(report)
    console().print(error_table.table(report))
    if way := on_the_way(report):
        print(way)
    print(error_table.summary(report))
    return 0
