"""``goodteacher metrics``."""

from goodteacher.experiments.commands.options import NOWHERE, InstanceFile, Result
from goodteacher.experiments.text import console


def metrics(source: InstanceFile, *, result: Result = NOWHERE) -> int:
    """Measure a reward before any training: its variance, and how often it ranks outputs rightly.
    $ goodteacher metrics examples/proxy.json

    Acc, HAcc (harm-aware) and their weighted forms compare the best output by ground truth with the others.
    """
    from goodteacher.experiments.compilation import keep_compiled
    from goodteacher.experiments.reports import reward_quality

    keep_compiled()
    result.check()
    report = reward_quality.report(source.read())
    result.write(report)
    console().print(reward_quality.table(report))
    if note := reward_quality.note(report):
        print(note)
    return 0
