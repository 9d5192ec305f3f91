"""What ``goodteacher list`` shows."""

from rich.table import Table

from goodteacher.experiments import registry
from goodteacher.experiments.text import numbers_table
from goodteacher.theory import statements


def tables() -> list[Table]:
    """The experiments behind the figures, and the statements that can be verified, with their titles."""
    shown = []
    for kind, entries in (("experiment", registry.find_experiments()), ("statement", statements.registry())):
        table = numbers_table(kind)
        table.add_column("title")
        for name, entry in entries.items():
            table.add_row(name, entry.title)
        shown.append(table)
    return shown
