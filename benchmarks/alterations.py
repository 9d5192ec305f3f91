"""What ``make mutate`` alters in code, one place at a time.

Theory: operators, comparisons, minima and maxima, powers and constants in the public functions of the modules
of statements and in what these call (not in how instances are drawn). Lines: those of
:mod:`benchmarks.mutants` in ``sim``.
"""

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.mutants import LINES

ROOT = Path(__file__).parents[1]
PYTEST = ("-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider")
"""Arguments of the command that tests, but for which."""


class Mutant(NamedTuple):
    """Altered code.

    Attributes:
        name: the place and the alteration.
        path: of the file.
        source: its altered text.
        checks: arguments of the commands that are to fail, tried in turn.
        function: in which the alteration is, if it can take its place in this process.
    """

    name: str
    path: str
    source: str
    checks: tuple[tuple[str, ...], ...]
    function: str = ""


_OPERATORS: Mapping[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
_COMPARISONS: Mapping[type, type] = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Gt, ast.GtE: ast.Lt}
_CALLS = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "argmax": "argmin"}
_CALLS |= {"any": "all", "all": "any"}
_FACTOR = 1.1


def theory_mutants(path: Path) -> Iterator[Mutant]:
    """Of one module: public functions and what they call of it, by one node of their bodies at a time."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    checks = []
    tests = ROOT / "tests/theory" / f"test_{path.stem}.py"
    if tests.exists():
        checks.append((*PYTEST, f"tests/theory/{tests.name}"))
    for function in _computing(tree):
        for site, (node, alter, what) in enumerate(_sites(function)):
            original = dict(vars(node))  # not of its children: these are sites, too
            alter(node)
            source = ast.unparse(tree)
            vars(node).update(original)
            name = f"theory/{path.name}::{function.name} {site}: {what}"
            yield Mutant(name, f"theory/{path.name}", source, tuple(checks), function.name)


def _computing(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """The public functions of a module and what they call of it: not how instances are drawn and judged."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    computing = {name for name in functions if not name.startswith("_")}
    open_ = list(computing)
    while open_:
        nodes = ast.walk(functions[open_.pop()])
        called = {node.id for node in nodes if isinstance(node, ast.Name)} & set(functions) - computing
        computing |= called
        open_ += called
    return (node for name, node in functions.items() if name in computing)


def _sites(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None], str]]:
    """Nodes of the body of a function, how each is altered, and in words."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    raising = {id(n) for s in body for r in ast.walk(s) if isinstance(r, ast.Raise) for n in ast.walk(r)}
    for statement in body:
        for node in ast.walk(statement):
            if id(node) in raising:
                continue
            where = f"{ast.unparse(node)[:60]!r}" if isinstance(node, ast.expr) else ""
            match node:
                case ast.BinOp() if type(node.op) in _OPERATORS:
                    yield node, _set("op", _OPERATORS[type(node.op)]()), f"{where} with the other operator"
                case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(power))):
                    yield node.right, _set("value", power + 1), f"{where} to the power {power + 1}"
                case ast.Compare() if type(node.ops[0]) in _COMPARISONS:
                    other = _COMPARISONS[type(node.ops[0])]()
                    yield node, _set("ops", [other, *node.ops[1:]]), f"{where} the other way round"
                case ast.Attribute() if node.attr in _CALLS:
                    yield node, _set("attr", _CALLS[node.attr]), f"{where} with {_CALLS[node.attr]}"
                case ast.Constant(value=float(number)) if 0 < abs(number) < np.inf:
                    yield node, _set("value", number * _FACTOR), f"{number} times {_FACTOR}"
                case ast.UnaryOp(op=ast.USub(), operand=operand) if not _whole(operand):
                    yield node, _set("op", ast.UAdd()), f"{where} without its sign"


def _whole(node: ast.expr) -> bool:
    """A whole number: with a sign it counts axes or entries from the end, often to the same one."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def _set(field: str, value: object) -> Callable[[ast.AST], None]:
    return lambda node: setattr(node, field, value)


def line_mutants() -> Iterator[Mutant]:
    """Those of :data:`benchmarks.mutants.LINES`.

    Raises:
        ValueError: if a line is not where it is said to be, once.
    """
    for line in LINES:
        text = (ROOT / line.path).read_text(encoding="utf-8")
        if text.count(line.old) != 1:
            raise ValueError(f"{line.path} has {line.old!r} {text.count(line.old)} times; mend mutants.py")
        checks = tuple((*PYTEST, f"tests/sim/{t}.py") for t in line.tests)
        name = f"{line.path}: {line.old.strip()!r} -> {line.new.strip()!r}"
        yield Mutant(name, line.path, text.replace(line.old, line.new), checks)


def every_mutant() -> list[Mutant]:
    """Of code, module by module."""
    of_theory = [mutant for path in modules() for mutant in theory_mutants(path)]
    return [*of_theory, *line_mutants()]


def modules() -> list[Path]:
    """Those of theory that have statements."""
    return [path for path in sorted((ROOT / "theory").glob("[!_]*.py")) if statements_of(path.stem)]


def statements_of(module: str) -> list[str]:
    """The names of the statements of a module of theory."""
    found = importlib.import_module(f"goodteacher.theory.{module}")
    return [statement.name for statement in getattr(found, "STATEMENTS", ())]
