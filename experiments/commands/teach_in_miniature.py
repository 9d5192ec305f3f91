"""``goodteacher miniature``."""

from typing import Annotated

from tyro.conf import arg

from goodteacher.experiments.commands.options import Names
from goodteacher.experiments.text import console

_Count = Annotated[int, arg(metavar="N")]


def miniature(names: Names = (), *, worlds: _Count = 4, prompts: _Count = 200, updates: _Count = 200) -> int:
    """Regenerate the papers' tables at a size at which every expectation is a sum, beside the published ones.
    $ goodteacher miniature
    $ goodteacher miniature training --worlds 8 --prompts 100
    $ goodteacher miniature harm credit theory

    Policies over a hundred answers to pairs of handwritten digits are trained on reward models that learned
    from
    preferences. Needs scikit-learn, which brings the digits: pip install 'goodteacher[miniature]'.

    Args:
        names: Which tables: training, settings, policies, harm, credit, theory; all if none is named.
        worlds: How many, of seeds from 0 on.
        prompts: To train on, and as many held out.
        updates: Of a policy on a reward, in the same time.
    """
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.miniature import tables
    from goodteacher.experiments.miniature.digits import digits
    from goodteacher.experiments.miniature.lessons import Scale
    from goodteacher.experiments.progress import Progress, interruptible

    compile_quickly()
    keep_compiled()
    scale = Scale(worlds=worlds, prompts=prompts, updates=updates)
    chosen = {name: tables.find_table(name) for name in names or tables.TABLES}
    digits()
    for name, table in chosen.items():
        with Progress(name, 100) as progress:

            def tell(done: int, total: int, progress: Progress = progress) -> None:
                progress(100 * done // total)

            shown = interruptible(lambda table=table, tell=tell: list(table(scale, tell)))
        for each in shown:
            console().print(each)
    return 0
