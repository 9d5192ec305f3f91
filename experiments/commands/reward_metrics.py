"""``goodteacher metrics``."""

from goodteacher.experiments.commands.options import (
    NO_TRUTH,
    NOWHERE,
    SCREENFUL,
    InstanceFile,
    Result,
    Rows,
    print_rest,
)
from goodteacher.experiments.text import print_table


def metrics(source: InstanceFile, *, rows: Rows = SCREENFUL, result: Result = NOWHERE) -> int:
    """Measure a reward before any training: its variance, and how often it ranks outputs rightly.
    $ goodteacher metrics examples/proxy.json

    Acc, HAcc (harm-aware) and their weighted forms compare the best output by ground truth with the others.

    Args:
        rows: Prompts to print at most (default: 20).
    """
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.reports import reward_quality

    compile_quickly()
    keep_compiled()
    result.check()
    instance, has_truth, names = source.read()
    report = reward_quality.report(instance, has_truth=has_truth) | names
    result.write(report)
    print_table(reward_quality.table(report, rows))
    print_rest(len(report["status"]), rows)
    if note := reward_quality.note(report) if has_truth else NO_TRUTH:
        print(note)
    return 0
