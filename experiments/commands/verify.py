"""``goodteacher verify``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from goodteacher.experiments.commands.options import NOWHERE, Names, Result, optional
from goodteacher.experiments.text import console


def verify(
    names: Names = (),
    *,
    instances: Annotated[int | None, optional("N")] = None,
    seed: Annotated[int, arg(metavar="S")] = 0,
    adversarial: bool = False,
    directory: Annotated[Path | None, optional("FOLDER")] = None,
    result: Result = NOWHERE,
) -> int:
    """Check statements of theory on random instances, and that false variants of them are caught.
    $ goodteacher verify
    $ goodteacher verify stalling_law --instances 100000 --seed 1
    $ goodteacher verify --adversarial gradient_bound_sharp

    A statement holds on an instance if its margin is not negative: by how many decades a bound, or the
    tolerance of an identity, is kept. The exit code is 1 if one is violated or a false variant is not caught.
    The JSON has the instances of the tightest margins.

    Args:
        names: Which ones, see goodteacher list; all if none is named (with --adversarial, all bounds).
        instances: How many for each statement (default: 10000, with --adversarial 100000).
        seed: Of the instances.
        adversarial: Search for the instance with the smallest margin, instead of drawing all at random.
        directory: Adversarial: where to write the instances found, each as NAME.json (default: tightest).
    """
    if directory is not None and not adversarial:
        raise ValueError("--directory does not apply without --adversarial; leave it out")

    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import verification

    compile_quickly()
    keep_compiled()
    result.check()
    chosen = verification.choose(names, bounds=adversarial)
    each = verification.EVALUATIONS if adversarial else verification.INSTANCES
    each = each if instances is None else instances
    with Progress("verify", each * len(chosen)) as progress:
        if adversarial:
            folder = directory or Path("tightest")
            overwrite = result.overwrite
            reports = interruptible(
                lambda: verification.search(chosen, each, seed, progress, folder, overwrite=overwrite)
            )
            table = verification.search_table(reports, folder)
        else:
            reports = interruptible(lambda: verification.check(chosen, each, seed, progress))
            table = verification.table(reports)
    contents = verification.contents(reports)
    result.write(contents)
    console().print(table)
    for sentence in verification.violations(reports):
        print(sentence)
    return 0 if contents["ok"] else 1
