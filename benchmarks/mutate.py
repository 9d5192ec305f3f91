"""``make mutate``: alters formulas and code one place at a time, and prints what nothing notices.

Three kinds of mutants. Numbers: each constant and exponent of every formula, larger and smaller, on the same
observations as ``verify``. Theory: operators, comparisons, minima and maxima, powers and constants in the
public functions of the modules of statements and in what these call (not in how instances are drawn). Lines:
those of :mod:`benchmarks.mutants` in ``sim``.

Of a module of theory the instances of its statements are observed once. A mutant takes the place of its
function, and the statements that call it and their sabotages are judged anew on these observations, operation
by operation, so that nothing is compiled: a tenth of a second. What is not noticed so is drawn, traced and
observed anew: some seconds. What is still not noticed, and every line of ``sim``, runs in a copy of the
checkout through the tests of its module, which have to pass unaltered; the test that noticed it before
(``noticed.json``) is tried first. What came out is kept in ``build/mutation.json`` by a digest of the mutant
and of all files that what runs depends on, so that a later call goes on where this one stops.
"""

import ast
import contextlib
import copy
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
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
_COPIES, _KEPT = _ROOT / "build/mutated", _ROOT / "build/mutation.json"
NOTICED = _ROOT / "benchmarks/noticed.json"
_COPIED = ("goodteacher", "sim", "theory", "experiments", "figures/style.py", "figures/__init__.py", "tests")
_WEAKER = "the claim implies it: weaker on every instance"
_SAME = 1e-9  # decades
_CLEARED = 16  # mutants after which programs are given back: a process has room for only so many
_SHARES = (0.1, -0.1)  # by which numbers are altered in magnitude, besides the values known to be false
_INSTANCES, _VERIFIED = 2_000, 10_000
_PATIENCE = 120.0  # seconds beyond twice what a check takes of the code as it is: what never ends is noticed
_PYTEST = ("-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider")


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
    """Of one module: public functions and what they call of it, by one node of their bodies at a time."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    checks = []
    tests = _ROOT / "tests/theory" / f"test_{path.stem}.py"
    if tests.exists():
        checks.append((*_PYTEST, f"tests/theory/{tests.name}"))
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
        checks = tuple((*_PYTEST, f"tests/sim/{t}.py") for t in line.tests)
        name = f"{line.path}: {line.old.strip()!r} -> {line.new.strip()!r}"
        yield Mutant(name, line.path, text.replace(line.old, line.new), checks)


# Running -----------------------------------------------------------------------


def digest(mutant: Mutant) -> str:
    """Of a mutant, what runs it, and all files of the house that these import."""
    return _digest([mutant.name, mutant.source, mutant.checks], {mutant.path, *_files(mutant.checks)})


def digest_in_place(mutant: Mutant) -> str:
    """Of a mutant and what its module imports."""
    return _digest(["in place", mutant.name, mutant.source], [mutant.path])


def _files(checks: Iterable[tuple[str, ...]]) -> set[str]:
    return {part for check in checks for part in check if part.endswith(".py")}


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


class Ended(NamedTuple):
    """How a check ended.

    Attributes:
        failed: whether what it runs failed, or did not end.
        by: what failed: a test where one can be named.
        seconds: that it took.
    """

    failed: bool
    by: str
    seconds: float


def ended(check: tuple[str, ...], copied: Path, patience: float) -> Ended:
    """Runs a check in a copy of the checkout."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *check],
            cwd=copied,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(True, "no end", patience)
    named = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    by = named[0].split(" ", 1)[1].split(" - ")[0] if named else " ".join(check[1:3])
    return Ended(done.returncode != 0, by, time.monotonic() - start)


def run(mutant: Mutant, copied: Path, patience: Mapping[tuple[str, ...], float], likely: str = "") -> str:
    """What noticed the mutant; nothing if it survived.

    Args:
        mutant: the mutant.
        copied: a copy of the checkout, in which nothing else runs.
        patience: seconds after which a check counts as failed, for each.
        likely: the test that noticed it before, which is tried first.
    """
    target = copied / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        if "::" in likely:
            check = (*_PYTEST, likely)
            first = ended(check, copied, max(patience.values()))
            if first.failed and first.by.startswith(likely):  # it is still there, and failed
                return first.by
        for check in mutant.checks:
            found = ended(check, copied, patience[check])
            if found.failed:
                return found.by
    finally:
        target.write_text(original, encoding="utf-8")
    return ""


def _make_copies() -> list[Path]:
    """One for each core. What was compiled there stays, and is shared."""
    copies = [_COPIES / str(number) for number in range(os.cpu_count() or 1)]
    for copied in copies:
        copied.mkdir(parents=True, exist_ok=True)
        for name in (*_COPIED, "pyproject.toml"):
            source, target = _ROOT / name, copied / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        compiled = copied / ".pytest_cache"
        if copied != copies[0] and not compiled.exists():
            (copies[0] / ".pytest_cache").mkdir(exist_ok=True)
            compiled.symlink_to(copies[0] / ".pytest_cache")
    return copies


def every_mutant() -> list[Mutant]:
    """Of code, module by module."""
    of_theory = [mutant for path in _modules() for mutant in theory_mutants(path)]
    return [*of_theory, *line_mutants()]


def _modules() -> list[Path]:
    return [path for path in sorted((_ROOT / "theory").glob("[!_]*.py")) if _statements_of(path.stem)]


class Results:
    """What came out so far, by digest; written down with each result. Of many threads.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path = _KEPT):
        self._path = path
        self._lock = threading.Lock()
        self.found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def add(self, **found: Any) -> None:
        """Adds what was found, by key."""
        with self._lock:
            self.found |= found
            partial_path = self._path.with_suffix(".part")
            partial_path.write_text(json.dumps(self.found, indent=0), encoding="utf-8")
            partial_path.replace(self._path)


def _key_of_numbers(statement: Statement) -> str:
    assert isinstance(statement.judge, Formula)
    path = "/".join(statement.judge.law.__module__.split(".")[1:]) + ".py"
    return _digest([statement.name, _SHARES, _INSTANCES], [path])


def judge_module(path: Path, known: frozenset[str], end: float) -> dict[str, Any]:
    """Numbers and code of a module of statements, on their instances: what is not known, until a time.

    Args:
        path: of the module.
        known: keys of what is known.
        end: seconds since the epoch.
    """
    keep_compiled()
    found: dict[str, Any] = {}
    for name in _statements_of(path.stem):
        statement = find_statements()[name]
        if isinstance(statement.judge, Formula) and time.time() < end:
            key = _key_of_numbers(statement)
            if key not in known:
                found[key] = numbers(statement)
    for number, mutant in enumerate(theory_mutants(path)):
        key = digest_in_place(mutant)
        if key not in known and time.time() < end:
            if number % _CLEARED == 0:
                jax.clear_caches()
            found[key] = noticed_in_place(mutant)
    return found


def _judge_modules(results: Results, end: float) -> None:
    """Module by module, each in a process of its own: a process has room for only so many programs."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawned, max_tasks_per_child=1) as pool:
        open_ = [pool.submit(judge_module, path, frozenset(results.found), end) for path in _modules()]
        for one in as_completed(open_):
            results.add(**one.result())


def _run_checks(mutants: Mapping[str, Mutant], results: Results, end: float) -> None:
    """In copies of the checkout, one for each core: of the code as it is, then of each mutant, by its key."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copied in _make_copies():
        copies.put(copied)

    def with_copy(job: Callable[[Path], None]) -> None:
        if time.time() < end:
            copied = copies.get()
            try:
                job(copied)
            finally:
                copies.put(copied)

    def as_it_is(check: tuple[str, ...], copied: Path) -> None:
        plain = ended(check, copied, 60.0 * _PATIENCE)
        if plain.failed:
            raise ValueError(f"{' '.join(check)} fails with nothing altered: {plain.by}; mend it first")
        results.add(**{_key_of_check(check): plain.seconds})

    noticed = _noticed()

    def altered(key: str, copied: Path) -> None:
        mutant = mutants[key]
        keys = {check: _key_of_check(check) for check in mutant.checks}
        if results.found.keys() >= set(keys.values()):
            patience = {check: _PATIENCE + 2.0 * results.found[of] for check, of in keys.items()}
            results.add(**{key: run(mutant, copied, patience, noticed.get(mutant.name, ""))})

    waiting = [
        key for key in mutants if key not in results.found and not results.found.get(f"{key} in place")
    ]
    random.Random(0).shuffle(waiting)  # a slice is spread over all of it
    checks = {check: None for key in waiting for check in mutants[key].checks}
    plain = [check for check in checks if _key_of_check(check) not in results.found]
    with ThreadPoolExecutor(copies.qsize()) as pool:
        list(pool.map(with_copy, [partial(as_it_is, check) for check in plain]))
        list(pool.map(with_copy, [partial(altered, key) for key in waiting]))


def _noticed() -> dict[str, str]:
    """By the name of a mutant the test that noticed it last."""
    return json.loads(NOTICED.read_text(encoding="utf-8")) if NOTICED.exists() else {}


def _key_of_check(check: tuple[str, ...]) -> str:
    files = _files([check]) or {f"theory/{path.name}" for path in _modules()}
    return _digest(["as it is", check], files)


def main(minutes: float = MINUTES) -> int:
    """Runs for about so many minutes, prints what is known by then; 1 if a mutant survives unexplained."""
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    end = time.time() + 60.0 * minutes
    results = Results()
    mutants = {digest(mutant): mutant for mutant in every_mutant()}
    _judge_modules(results, end)
    _run_checks(mutants, results, end)
    return report(mutants, results.found)


def report(mutants: Mapping[str, Mutant], found: Mapping[str, Any]) -> int:
    """Prints tables and survivors, and writes down what noticed what; 1 if a mutant survives unexplained."""
    survivors, rows, waiting = [], [], 0
    for name, statement in find_statements().items():
        if isinstance(statement.judge, Formula):
            numbered = found.get(_key_of_numbers(statement))
            if numbered is None:
                waiting += 1
                continue
            blind = [(f"{name}: {what}", why) for what, count, why in numbered if not count]
            rows.append((name, len(numbered), len(numbered) - len(blind), len(blind)))
            survivors += [pair for pair in blind if pair[1] != _WEAKER]
    table("Numbers of formulas", ("statement", "altered", "refuted", "not refuted"), rows)
    print(f"{waiting} statements not run yet")

    counts: dict[str, list[int]] = {}
    by = {key: found.get(digest_in_place(one)) or found.get(key) for key, one in mutants.items()}
    for key, mutant in mutants.items():
        row = counts.setdefault(mutant.path, [0, 0, 0, 0])
        row[0] += 1
        row[1 if by[key] is None else 2 if by[key] else 3] += 1
        if by[key] == "":
            survivors.append((mutant.name, EXPLAINED.get(mutant.name, "")))
    rows = [(path, *row) for path, row in sorted(counts.items())]
    table("Code", ("file", "mutants", "not run yet", "killed", "survived"), rows)

    before = _noticed()
    known = {one.name: by[key] for key, one in mutants.items()}
    last = {name: before.get(name, "") if by_now is None else by_now for name, by_now in known.items()}
    lines = {name: test for name, test in sorted(last.items()) if "::" in test}
    NOTICED.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

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
