"""Mutants of theory that are judged in this process.

Of a module of theory the instances of its statements are observed once. A mutant takes the place of its
function, and the statements that call it and their sabotages are judged anew on these observations, operation
by operation, so that nothing is compiled: a tenth of a second. What is not noticed so is drawn, traced and
observed anew: some seconds.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

import jax
import numpy as np

from benchmarks.alterations import Mutant, statements_of, theory_mutants
from benchmarks.kept import digest_in_place, digest_of
from goodteacher.experiments.compilation import keep_compiled
from goodteacher.sim.validation import strongly_typed
from goodteacher.theory import findings
from goodteacher.theory.formulas import Formula, changed
from goodteacher.theory.statements import Judge, Statement, find_statements

WEAKER = "the claim implies it: weaker on every instance"
SLACK = "in the slack of a bound that is loose by"
_SAME = 1e-9  # decades
_CLEARED = 16  # mutants after which programs are given back: a process has room for only so many
_SHARES = (0.1, -0.1)  # by which numbers are altered in magnitude, besides the values known to be false
_INSTANCES, _VERIFIED = 2_000, 10_000


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
            return WEAKER
        if name in formula.unrefuted:
            return formula.unrefuted[name]
        known = findings.known().get(statement.name)
        if known is None or not known.false.get(name):
            return ""
        values = " and ".join(f"{value:.4g}" for value in known.false[name])
        return f"{SLACK} {known.factor:.3g}: false from {values} on"

    found = [(of, count, reason(of)) for of, count in counts.items()]
    if instances < _VERIFIED and any(not count and not why for _, count, why in found):
        return numbers(statement, _VERIFIED)
    return found


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
    every = [_observed(name) for name in statements_of(Path(mutant.path).stem)]
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


def key_of_numbers(statement: Statement) -> str:
    """Of the numbers of a formula, and what they are judged by."""
    assert isinstance(statement.judge, Formula)
    path = "/".join(statement.judge.law.__module__.split(".")[1:]) + ".py"
    return digest_of([statement.name, _SHARES, _INSTANCES], [path])


def judge_module(path: Path, known: frozenset[str], end: float) -> dict[str, Any]:
    """Numbers and code of a module of statements, on their instances: what is not known, until a time.

    Args:
        path: of the module.
        known: keys of what is known.
        end: seconds since the epoch.
    """
    keep_compiled()
    found: dict[str, Any] = {}
    for name in statements_of(path.stem):
        statement = find_statements()[name]
        if isinstance(statement.judge, Formula) and time.time() < end:
            key = key_of_numbers(statement)
            if key not in known:
                found[key] = numbers(statement)
    for number, mutant in enumerate(theory_mutants(path)):
        key = digest_in_place(mutant)
        if key not in known and time.time() < end:
            if number % _CLEARED == 0:
                jax.clear_caches()
            found[key] = noticed_in_place(mutant)
    return found
