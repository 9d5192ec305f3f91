"""``goodteacher list``."""

from goodteacher.experiments.text import console, titles


def list_() -> int:
    """List the experiments behind the figures, and the statements that can be verified.
    $ goodteacher list
    """
    from goodteacher.experiments.registry import find_experiments
    from goodteacher.theory.statements import find_statements

    console().print(titles("experiment", find_experiments()))
    console().print(titles("statement", find_statements()))
    return 0
