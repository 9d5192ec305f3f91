"""``goodteacher list``."""

from goodteacher.experiments.text import console


def list_() -> int:
    """List the experiments behind the figures, and the statements that can be verified.
    $ goodteacher list
    """
    from goodteacher.experiments.reports.contents import tables

    for table in tables():
        console().print(table)
    return 0
