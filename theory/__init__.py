"""Results of theory beside their verification: one module per result or family.

A result is a documented function and a :class:`goodteacher.theory.statements.Statement`, which knows how to
draw random instances, how to measure whether it holds on them, and which false variants of it must be caught.
"""

if __name__ != "goodteacher.theory":
    raise ImportError(
        f"{__name__} was imported from a checkout, which would load everything twice; "
        "import goodteacher.theory instead, or names from goodteacher"
    )
