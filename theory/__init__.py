"""Results of theory beside their verification: one module per result or family.

A result is a documented function and a :class:`theory.statements.Statement`, which knows how to draw random
instances, how to measure whether it holds on them, and which false variants of it must be caught.
"""
