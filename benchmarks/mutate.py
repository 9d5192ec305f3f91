"""``make mutate``: alters formulas and code one place at a time, and prints what nothing notices.

Three kinds of mutants. Numbers: each constant and exponent of every formula, larger and smaller, on the same
observations as ``verify``. Theory: operators, comparisons, minima and maxima, and constants in the functions
of the modules of statements (not in how instances are drawn). Lines: those of :mod:`benchmarks.mutants` in
``sim``.

Of a module of theory the instances of its statements are observed once. A mutant takes the place of its
function, and the statements that call it and their sabotages are judged anew on these observations, operation
by operation, so that nothing is compiled: a tenth of a second. What is not noticed so is drawn, traced and
observed anew: some seconds. What is still not noticed, and every line of ``sim``, runs in a copy of the
checkout, through tests and through ``verify``. What came out is kept in
``build/mutation.json`` by a digest of the mutant and of all files that what runs depends on, so that a later
call goes on where this one stops.
"""

import ast
import contextlib
import copy
import hashlib
import importlib
import inspect
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.mutants import EXPLAINED, LINES
from benchmarks.timing import table
from goodteacher.experiments.compilation import keep_compiled
from goodteacher.sim.validation import strongly_typed
from goodteacher.theory import findings
from goodteacher.theory.formulas import Formula, changed
from goodteacher.theory.statements import Judge, Statement, find_statements

MINUTES = 5.0
_ROOT = Path(__file__).parents[1]
_COPY, _KEPT = _ROOT / "build/mutated", _ROOT / "build/mutation.json"
_COPIED = ("goodteacher", "sim", "theory", "experiments", "figures/style.py", "figures/__init__.py", "tests")
_WEAKER = "the claim implies it: weaker on every instance"
_SAME = 1e-9  # decades
_CLEARED = 16  # mutants after which programs are given back: a process has room for only so many
_SHARES = (0.1, -0.1)  # by which numbers are altered in magnitude, besides the values known to be false
_INSTANCES, _VERIFIED = 2_000, 10_000
_PATIENCE = 400.0  # seconds after which a run counts as stopped: what never ends is noticed


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


# Numbers -----------------------------------------------------------------------


def numbers(statement: Statement, instances: int = _INSTANCES) -> list[tuple[str, int, str]]:
    """For every alteration of a number: what it is, how many instances refute it, and why none need to.

    Where one is not refuted by so few, nor has a reason: by as many as ``verify`` draws.
    """
    formula = statement.judge
    assert isinstance(formula, Formula)
    altered = {
        f"{name} {value:.4g} for {number:.4g}": formula.altered(**{name: value})
        for name, number in formula.numbers.items()
        for value in (float(changed(number, share)) for share in _SHARES)
    }
    tried = replace(statement, sabotages=altered)
    every = {**altered, **tried.edges}
    judged = tried.judgements(tried.sample(jax.random.key(0), instances))
    margins = {of: np.asarray(judged[judge].margin) for of, judge in every.items()}
    counts = {of: int((~(of_one >= 0)).sum()) for of, of_one in margins.items()}
    claimed = np.asarray(judged[statement.judge].margin)

    def reason(of: str) -> str:
        name = of.split()[0]
        if (margins[of] >= claimed - _SAME).all():
            return _WEAKER
        if name in formula.unrefuted:
            return formula.unrefuted[name]
        known = findings.known().get(statement.name)
        if known is None or not known.false.get(name):
            return ""
        values = " and ".join(f"{value:.4g}" for value in known.false[name])
        return f"in the slack of a bound that is loose by {known.factor:.3g}: false from {values} on"

    found = [(of, count, reason(of)) for of, count in counts.items()]
    if instances < _VERIFIED and any(not count and not why for _, count, why in found):
        return numbers(statement, _VERIFIED)
    return found


# Code of theory ----------------------------------------------------------------

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
    """Of one module: public functions that compute, by one node of their bodies at a time."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    statements = _statements_of(path.stem)
    checks = []
    tests = _ROOT / "tests/theory" / f"test_{path.stem}.py"
    if tests.exists():
        checks.append(("-m", "pytest", "-q", "-x", "-n", "0", f"tests/theory/{tests.name}"))
    if statements:
        checks.append(("-m", "goodteacher", "verify", *statements, "--instances", str(_INSTANCES)))
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
            continue
        for site, (node, alter, what) in enumerate(_sites(function)):
            original = dict(vars(node))  # not of its children: these are sites, too
            alter(node)
            source = ast.unparse(tree)
            vars(node).update(original)
            name = f"theory/{path.name}::{function.name} {site}: {what}"
            yield Mutant(name, f"theory/{path.name}", source, tuple(checks), function.name)


def _statements_of(module: str) -> list[str]:
    found = importlib.import_module(f"goodteacher.theory.{module}")
    return [statement.name for statement in getattr(found, "STATEMENTS", ())]


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


# In place ----------------------------------------------------------------------


class Observed:
    """A statement, and what was observed of instances of it, once.

    Args:
        statement: the statement, as it is.
        instances: how many.
        trials: whether its sabotages are to be caught when it :meth:`notices`.

    Raises:
        ValueError: if the statement is violated as it is.
    """

    def __init__(self, statement: Statement, instances: int = _INSTANCES, *, trials: bool = True):
        jax.clear_caches()
        self.statement = statement
        self._instances = instances
        self._found: dict[Any, Any] = {}
        with _called() as self._called:
            violations = self.violations(statement.judge)
        if violations:
            raise ValueError(f"{statement.name} is violated as it is; mend it first")
        # Not all need be, on so few instances.
        self._caught = {
            of: (change, judge)
            for of, (change, judge) in (statement.trials.items() if trials else ())
            if self.violations(judge, change)
        }

    def calls(self, function: Callable[..., Any]) -> bool:
        """Whether the function is called as instances are drawn, observed and judged."""
        return inspect.unwrap(function).__code__ in self._called

    def anew(self) -> "Observed":
        """The same, with nothing observed yet."""
        other = copy.copy(self)
        other._found = {}
        return other

    def _of(self, change: Callable[[Any], Any] | None) -> Any:
        if change not in self._found:
            batch = self.statement.sample(jax.random.key(0), self._instances)
            batch = batch if change is None else jax.vmap(change)(batch)
            self._found[change] = jax.block_until_ready(self.statement.observe(strongly_typed(batch)))
        return self._found[change]

    def violations(self, judge: Judge, change: Callable[[Any], Any] | None = None) -> int:
        """Of the claim of a judge. Not compiled as a whole: functions that it calls may have been altered."""
        margin = np.asarray(jax.vmap(lambda one: judge(one).margin)(self._of(change)))
        return int((~(margin >= 0)).sum())

    def notices(self) -> str:
        """Why the statement does not pass as it did; nothing if it does."""
        try:
            violated = self.violations(self.statement.judge)
            if violated:
                return f"{self.statement.name}: {violated} violated"
            for of, (change, judge) in self._caught.items():
                if not self.violations(judge, change):
                    return f"{self.statement.name}: passes with {of}"
        except Exception as error:  # what an altered function may raise is anything
            return f"{self.statement.name}: {type(error).__name__}"
        return ""


@contextlib.contextmanager
def _called() -> Iterator[set[CodeType]]:
    """The code of all functions that are called meanwhile."""
    found: set[CodeType] = set()
    sys.setprofile(lambda frame, *_: found.add(frame.f_code))
    try:
        yield found
    finally:
        sys.setprofile(None)


@contextlib.contextmanager
def in_place(mutant: Mutant) -> Iterator[None]:
    """The mutant's code is that of its function, for all who hold it."""
    module = importlib.import_module(f"goodteacher.theory.{Path(mutant.path).stem}")
    (node,) = [
        n
        for n in ast.parse(mutant.source).body
        if isinstance(n, ast.FunctionDef) and n.name == mutant.function
    ]
    node.decorator_list = []
    made: dict[str, Any] = {}
    exec(compile(ast.Module([node], []), mutant.path, "exec"), vars(module), made)
    function = inspect.unwrap(getattr(module, mutant.function))
    original = function.__code__
    function.__code__ = made[mutant.function].__code__
    try:
        yield
    finally:
        function.__code__ = original


def noticed_in_place(mutant: Mutant) -> str:
    """What the statements of the mutant's module that call its function say of it; nothing if all pass.

    First of what was observed before. What was compiled does not know the mutant, so that then everything is
    drawn, traced and observed anew.
    """
    module = importlib.import_module(f"goodteacher.theory.{Path(mutant.path).stem}")
    function = getattr(module, mutant.function)
    every = [_observed(name) for name in _statements_of(Path(mutant.path).stem)]
    calling = [observed for observed in every if observed.calls(function)]
    with in_place(mutant):
        what = next(filter(None, (observed.notices() for observed in calling)), "")
        if what:
            return what
        jax.clear_caches()
        what = next(filter(None, (observed.anew().notices() for observed in calling)), "")
    jax.clear_caches()
    return what


@lru_cache(maxsize=16)
def _observed(name: str) -> Observed:
    """Of the statements of a module or two: what was observed takes memory."""
    return Observed(find_statements()[name])


# Lines of sim ------------------------------------------------------------------


def line_mutants() -> Iterator[Mutant]:
    """Those of :data:`benchmarks.mutants.LINES`.

    Raises:
        ValueError: if a line is not where it is said to be, once.
    """
    for line in LINES:
        text = (_ROOT / line.path).read_text(encoding="utf-8")
        if text.count(line.old) != 1:
            raise ValueError(f"{line.path} has {line.old!r} {text.count(line.old)} times; mend mutants.py")
        checks = tuple(("-m", "pytest", "-q", "-x", "-n", "0", f"tests/sim/{t}.py") for t in line.tests)
        name = f"{line.path}: {line.old.strip()!r} -> {line.new.strip()!r}"
        yield Mutant(name, line.path, text.replace(line.old, line.new), checks)


# Running -----------------------------------------------------------------------


def digest(mutant: Mutant) -> str:
    """Of a mutant, what runs it, and all files of the house that these import."""
    files = {mutant.path, *(part for check in mutant.checks for part in check if part.endswith(".py"))}
    return _digest([mutant.name, mutant.source, mutant.checks], files)


def _digest(what: list[Any], files: Iterable[str]) -> str:
    files = list(files)
    found = hashlib.sha256(json.dumps(what).encode())
    for path in sorted(set().union(*map(_needed, files))):
        found.update((_ROOT / path).read_bytes())
    if any(path.startswith("theory/") for path in files):
        found.update((_ROOT / "theory/tightest.json").read_bytes())
    return found.hexdigest()[:24]


@cache
def _needed(path: str) -> frozenset[str]:
    """A file and what it imports of the house, and these in turn."""
    found, open_ = set(), [path]
    while open_:
        one = open_.pop()
        if one in found:
            continue
        found.add(one)
        for node in ast.walk(ast.parse((_ROOT / one).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("goodteacher"):
                base = "/".join((node.module or "").split(".")[1:])
                names = [f"{base}.py", *(f"{base}/{alias.name}.py" for alias in node.names)]
                open_ += [name for name in names if (_ROOT / name).is_file()]
    return frozenset(found)


def run(mutant: Mutant) -> str:
    """What noticed the mutant; nothing if it survived."""
    target = _COPY / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        for check in mutant.checks:
            try:
                done = subprocess.run(
                    [sys.executable, *check], cwd=_COPY, capture_output=True, timeout=_PATIENCE, check=False
                )
            except subprocess.TimeoutExpired:
                return "no end"
            if done.returncode:
                return check[-1] if check[-1].endswith(".py") else " ".join(check[1:3])
    finally:
        target.write_text(original, encoding="utf-8")
    return ""


def _make_copy() -> None:
    """What was compiled there stays, with pytest's cache."""
    for name in (*_COPIED, "pyproject.toml"):
        old = _COPY / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    _COPY.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        source, target = _ROOT / name, _COPY / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copy(_ROOT / "pyproject.toml", _COPY)


def every_mutant() -> list[Mutant]:
    """Of code, module by module."""
    modules = sorted((_ROOT / "theory").glob("[!_]*.py"))
    of_theory = [mutant for path in modules if _statements_of(path.stem) for mutant in theory_mutants(path)]
    return [*of_theory, *line_mutants()]


def kept() -> dict[str, Any]:
    """What came out so far, by digest."""
    return json.loads(_KEPT.read_text(encoding="utf-8")) if _KEPT.exists() else {}


def main(minutes: float = MINUTES) -> int:
    """Runs for about so many minutes, prints what is known by then; 1 if a mutant survives unexplained."""
    keep_compiled()
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60.0 * minutes
    results = kept()

    def known(key: str, find: Callable[[], Any]) -> Any:
        if key not in results and time.monotonic() < end:
            results[key] = find()
            _KEPT.write_text(json.dumps(results, indent=0), encoding="utf-8")
        return results.get(key)

    survivors, rows, waiting = [], [], 0
    for name, statement in find_statements().items():
        if isinstance(statement.judge, Formula):
            path = "/".join(statement.judge.law.__module__.split(".")[1:]) + ".py"
            key = _digest([name, _SHARES, _INSTANCES], [path])
            found = known(key, partial(numbers, statement))
            if found is None:
                waiting += 1
                continue
            blind = [(f"{name}: {what}", why) for what, count, why in found if not count]
            rows.append((name, len(found), len(found) - len(blind), len(blind)))
            survivors += [pair for pair in blind if pair[1] != _WEAKER]
    table("Numbers of formulas", ("statement", "altered", "refuted", "not refuted"), rows)
    print(f"{waiting} statements not run yet")

    mutants = every_mutant()
    digests = [digest(mutant) for mutant in mutants]
    for number, (mutant, key) in enumerate(zip(mutants, digests, strict=True)):
        if mutant.function and key not in results:
            if number % _CLEARED == 0:
                jax.clear_caches()
            what = known(f"{key} in place", partial(noticed_in_place, mutant))
            if what:
                results[key] = what
    _make_copy()
    order = list(zip(mutants, digests, strict=True))
    random.Random(0).shuffle(order)  # a slice is spread over all of it
    for mutant, key in order:
        known(key, partial(run, mutant))
    counts: dict[str, list[int]] = {}
    for mutant, key in zip(mutants, digests, strict=True):
        row = counts.setdefault(mutant.path, [0, 0, 0, 0])
        row[0] += 1
        row[1 if key not in results else 2 if results[key] else 3] += 1
        if results.get(key) == "":
            survivors.append((mutant.name, EXPLAINED.get(mutant.name, "")))
    rows = [(path, *row) for path, row in sorted(counts.items())]
    table("Code", ("file", "mutants", "not run yet", "killed", "survived"), rows)

    unexplained = [name for name, why in survivors if not why]
    print(f"\nSurvivors with a reason: {len(survivors) - len(unexplained)}")
    for name, why in survivors:
        if why:
            print(f"  {name}\n    {why}")
    print(f"Survivors without: {len(unexplained)}")
    for name in unexplained:
        print(f"  {name}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
