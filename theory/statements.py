"""What a statement of theory is, the registry of them, and the driver that verifies one on many instances."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from goodteacher import theory
from goodteacher.sim.files import to_dictionary
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown
from goodteacher.sim.validation import strongly_typed
from goodteacher.theory import draws as sources
from goodteacher.theory import findings
from goodteacher.theory.draws import Source
from goodteacher.theory.formulas import Formula, changed

CHUNK = 2_000
_ROUNDING = 1e-14  # decades within which two sides are equal
_WIDTH = 256  # coordinates made at a time: one compilation then serves all statements
_NEAR = 4  # one in so many instances is drawn near the tightest that is known
_FARTHEST, _NEAREST = 0.1, 1e-6  # how far from it, in the unit cube
_MOVED = 0.5  # share of its coordinates that are moved
_EDGE = 1e-9  # from the faces of the cube, where logarithms may end
_OFF = 0.01  # relative change of a number of an identity that must be noticed
LEAST_INFORMATIVE = 0.2
"""Share of instances on which a statement must be able to fail."""


class Sides(NamedTuple):
    """What is claimed to be smaller, and what is claimed to be larger, or an error and its tolerance.

    Attributes:
        smaller: of a bound the smaller side, of an identity the error.
        larger: the larger side; the tolerance.
        informative: whether the claim could have failed here. It could not where a side is only known to be
            beyond something: a time that was not waited for, or that never comes.
    """

    smaller: Float[Array, "*batch"]
    larger: Float[Array, "*batch"]
    informative: Bool[Array, "*batch"] | bool = True

    @property
    def margin(self) -> Float[Array, "*batch"]:
        """Decades from the smaller side to the larger one: how clearly the claim holds.

        Negative where it is violated, ``nan`` where a side has no value, ``inf`` where the smaller side is
        not positive. Sides that are equal up to rounding count as equal, for some bounds are attained.
        """
        trivial = self.smaller <= 0
        decades = jnp.log10(self.larger / jnp.where(trivial, 1.0, self.smaller))
        decades = jnp.where(jnp.abs(decades) <= _ROUNDING, 0.0, decades)
        return jnp.where(trivial & ~jnp.isnan(self.larger), jnp.inf, decades)

    def tightest(self, axis: int | None = None) -> "Sides":
        """The two sides where the margin is smallest, along an axis or of all."""
        parts = jnp.broadcast_arrays(*self)
        if axis is None:
            parts, axis = [part.ravel() for part in parts], 0
        at = jnp.expand_dims(Sides(*parts).margin.argmin(axis), axis)
        return Sides(*(jnp.take_along_axis(part, at, axis).squeeze(axis) for part in parts))


def all_of(sides: Iterable[Sides]) -> Sides:
    """Several claims as one, with a leading axis."""
    return Sides(*(jnp.stack(jnp.broadcast_arrays(*part)) for part in zip(*sides, strict=True)))


Judge = Callable[[Any], Sides]
_Change = Callable[[Any], Any]


class Judgement(NamedTuple):
    """What a judge finds on a batch, ``[n]`` each: the two sides, the margin between them, and whether they
    say anything: not where the smaller side is not positive or the larger one infinite, nor where the judge
    says so."""

    sides: Sides
    margin: Float[Array, " n"]
    informative: Bool[Array, " n"]


@dataclass(frozen=True, eq=False)
class Dropped:
    """A sabotage that drops an assumption: other instances are observed.

    Attributes:
        change: from an instance to one that violates the assumption. Traceable.
        judge: of what is then observed; that of the statement if not given.
    """

    change: _Change
    judge: Judge | None = None


@dataclass(frozen=True, eq=False)
class Statement:
    """A bound, an identity or a rate, with what it takes to check it.

    Attributes:
        name: by which it is asked for.
        title: in a few words.
        citation: where it is stated and proved.
        formula: in plain text.
        draw: from a source of random numbers to one instance that satisfies the assumptions, a pytree of
            arrays: a :class:`goodteacher.sim.instance.Instance`, or a named tuple with one in its field
            ``instance``. Traceable: it is compiled and vmapped.
        judge: from one observation to the two sides: those of a bound, or the error of an identity and its
            tolerance. A side that could not be evaluated is ``nan``, which counts as a violation. Traceable:
            it is vmapped, and compiled together with those of the sabotages. With constants and exponents
            it is a :class:`goodteacher.theory.formulas.Formula`.
        sabotages: false variants by description: other judges of the same observations (a term dropped), or
            an assumption dropped. A check that does not catch them checks nothing. Those with another
            number in the formula need not be written, see :attr:`edges`.
        observe: from a batch of instances to a batch of observations, pytrees with a leading axis: the
            costly part, done once for the statement and its sabotages. Not compiled as a whole, so that what
            it calls (the integrator above all) is compiled once for all who call it. By default an instance
            itself is judged.
        bound: whether it is an inequality, not an identity: then the margin says how tight it is.
        smooth: whether the margin has a derivative, which a search for the tightest instance then follows.
            It needs an ``observe`` that is traceable.
        assumptions: what it holds for, in plain text.
    """

    name: str
    title: str
    citation: str
    formula: str
    draw: Callable[[Source], Any]
    judge: Judge
    sabotages: Mapping[str, Judge | Dropped]
    observe: Callable[[Any], Any] = lambda batch: batch
    bound: bool = False
    smooth: bool = False
    assumptions: str = ""

    @functools.cached_property
    def dimension(self) -> int:
        """How many numbers make an instance."""
        return sources.dimension(self.draw)

    @partial(jax.jit, static_argnames="self")
    def build(self, points: Float[Array, "n at_least_dimension"]) -> Any:
        """The instances at points of the unit cube, as a batch; surplus coordinates are left out."""
        return strongly_typed(jax.vmap(lambda point: self.draw(Source(point)))(points))

    def margin(self, batch: Any) -> Float[Array, " n"]:
        """How clearly the statement holds on each of a batch of instances, see :attr:`Sides.margin`."""
        return self.claim(batch).margin

    def claim(self, batch: Any) -> Judgement:
        """The two sides on each of a batch of instances."""
        return _judge((self.judge,), self.observe(batch))[0]

    def judgements(self, batch: Any, change: _Change | None = None) -> Mapping[Judge, Judgement]:
        """What its judge and those of its sabotages find on a batch of instances, observed once.

        Args:
            batch: of instances.
            change: of every instance, see :class:`Dropped`.
        """
        different = tuple(dict.fromkeys([self.judge, *(judge for _, judge in self.trials.values())]))
        observed = self.observe(batch if change is None else _changed(change, batch))
        return dict(zip(different, _judge(different, observed), strict=True))

    @functools.cached_property
    def edges(self) -> Mapping[str, Formula]:
        """Sabotages by description, made of the formula's numbers: each replaced by the nearest false values.

        In a bound these are values that a search has seen refuted by 5 % (``make tightest``), but for numbers
        of which none is known, see :class:`goodteacher.theory.formulas.Formula`; in an identity they are 1 %
        off.

        Raises:
            ValueError: for a bound of whose numbers nothing is known.
        """
        formula = self.judge
        if not isinstance(formula, Formula):
            return {}
        if not self.bound:
            false = {
                name: [float(changed(number, off)) for off in (_OFF, -_OFF)]
                for name, number in formula.numbers.items()
            }
        else:
            false = findings.known()[self.name].false if self.name in findings.known() else {}
            if set(false) != set(formula.numbers):
                what = ", ".join(sorted(false)) or "nothing"
                raise ValueError(
                    f"{findings.FOUND.name} knows {what} of {self.name}, whose numbers are "
                    f"{', '.join(sorted(formula.numbers))}; run make tightest"
                )
        return {
            f"{name} {value:.4g} for {formula.numbers[name]:.4g}": formula.altered(**{name: value})
            for name, values in false.items()
            for value in values
        }

    @functools.cached_property
    def trials(self) -> Mapping[str, tuple[_Change | None, Judge]]:
        """For every sabotage and every edge, how the instances are changed, and its judge."""

        def trial(sabotage: Judge | Dropped) -> tuple[_Change | None, Judge]:
            if isinstance(sabotage, Dropped):
                return sabotage.change, sabotage.judge or self.judge
            return None, sabotage

        return {name: trial(sabotage) for name, sabotage in [*self.sabotages.items(), *self.edges.items()]}

    def sample(self, key: Array, n: int, first: ArrayLike = 0) -> Any:
        """Instances ``first`` to ``first + n - 1`` of the infinite sequence that a key stands for.

        Every fourth one is near the tightest that is known, if there is one; the others are anywhere.

        Args:
            key: a random key.
            n: how many.
            first: position in the sequence; what stands there does not depend on ``n``.

        Returns:
            A batch: the pytree of an instance with a leading axis.

        Raises:
            ValueError: if what is known is not of this statement.
        """
        points = self._points(key, n, first)
        if self.name not in findings.known():
            return self.build(points)
        return self.build(self._near(points, findings.known()[self.name].point, key, first))

    def sample_near(self, tightest: Float[np.ndarray, " dimension"], key: Array, n: int) -> Any:
        """A sample with every fourth instance near another point of the unit cube than is known."""
        return self.build(self._near(self._points(key, n, 0), tightest, key, 0))

    def _near(self, points: Array, tightest: np.ndarray, key: Array, first: ArrayLike) -> Array:
        if tightest.shape != (self.dimension,):
            raise ValueError(
                f"{findings.FOUND.name} holds a point of {tightest.size} numbers for {self.name}, "
                f"which takes {self.dimension}; run make tightest"
            )
        wide = np.pad(tightest, (0, points.shape[1] - tightest.size))
        return _with_near(points, self._points(jax.random.fold_in(key, 1), len(points), first), wide, first)

    def points(self, key: Array, n: int, first: ArrayLike = 0) -> Float[Array, "n dimension"]:
        """Points of the unit cube, none of them near another on purpose. Args as for :meth:`sample`."""
        return self._points(key, n, first)[:, : self.dimension]

    def _points(self, key: Array, n: int, first: ArrayLike) -> Float[Array, "n width"]:
        return _uniform(key, n, -(-self.dimension // _WIDTH) * _WIDTH, first)


@partial(jax.jit, static_argnames="judges")
def _judge(judges: tuple[Judge, ...], observed: Any) -> list[Judgement]:
    """All at once: what they have in common is compiled once."""

    def every(one: Any) -> list[Judgement]:
        return [_judgement(sides) for sides in _sides(judges, one)]

    return jax.vmap(every)(observed)


def _judgement(sides: Sides) -> Judgement:
    sides = Sides(*jnp.broadcast_arrays(*sides))
    possible = ~((sides.smaller <= 0) | jnp.isinf(sides.larger))
    return Judgement(sides, sides.margin, jnp.asarray(sides.informative) & possible)


def _sides(judges: Sequence[Judge], one: Any) -> list[Sides]:
    """Formulas that differ in their numbers alone are traced once."""
    found: dict[Judge, Sides] = {}
    alike: dict[Any, list[Formula]] = {}
    for judge in judges:
        if isinstance(judge, Formula):
            alike.setdefault(judge.root, []).append(judge)
        else:
            found[judge] = judge(one)
    for formulas in alike.values():
        if len(formulas) == 1:
            found[formulas[0]] = formulas[0](one)
            continue
        numbers = {name: jnp.asarray([f.numbers[name] for f in formulas]) for name in formulas[0].numbers}
        sides = jax.vmap(lambda n, f=formulas[0]: Sides(*jnp.broadcast_arrays(*f.sides(one, n))))(numbers)
        found |= {f: Sides(*(jnp.asarray(part)[i] for part in sides)) for i, f in enumerate(formulas)}
    return [found[judge] for judge in judges]


@partial(jax.jit, static_argnames="change")
def _changed(change: _Change, batch: Any) -> Any:
    return strongly_typed(jax.vmap(change)(batch))


@partial(jax.jit, static_argnames=("n", "width"))
def _uniform(key: Array, n: int, width: int, first: ArrayLike) -> Float[Array, "n width"]:
    """Random points of the unit cube. Coordinates do not depend on how many more there are."""

    def point(index: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), (width,))

    return jax.vmap(point)(jnp.arange(n) + first)


@jax.jit
def _with_near(points: Array, others: Array, tightest: Array, first: ArrayLike) -> Array:
    """Every fourth point replaced by one near the tightest."""
    step = jax.scipy.special.ndtri(jnp.clip(points, 1e-9, 1.0 - 1e-9))
    spread = jnp.exp(jnp.log(_NEAREST) + others[:, :1] * jnp.log(_FARTHEST / _NEAREST))
    near = tightest + jnp.where(jnp.roll(others, 1, axis=1) < _MOVED, spread * step, 0.0)
    near = jnp.clip(near, _EDGE, 1.0 - _EDGE)
    at = jnp.arange(len(points)) + first
    return jnp.where((at % _NEAR == _NEAR - 1)[:, None], near, points)


@functools.cache
def find_statements() -> Mapping[str, Statement]:
    """All statements by name: the tuples ``STATEMENTS`` of the modules of :mod:`goodteacher.theory`, in
    their order.

    Raises:
        ValueError: if two have one name.
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(theory.__path__))
    found = [importlib.import_module(f"{theory.__name__}.{name}") for name in modules]
    return collect([s for module in found for s in getattr(module, "STATEMENTS", ())])


def find_statement(name: str) -> Statement:
    """A statement by name.

    Raises:
        ValueError: if there is none of that name.
    """
    known = find_statements()
    if name not in known:
        raise unknown("statement", name, known)
    return known[name]


def collect(statements: list[Statement]) -> Mapping[str, Statement]:
    """Statements by name.

    Raises:
        ValueError: if two have one name.
    """
    named: dict[str, Statement] = {}
    for statement in statements:
        if statement.name in named:
            raise ValueError(f"two statements are named {statement.name!r}; rename one")
        named[statement.name] = statement
    return MappingProxyType(named)


@dataclass(frozen=True)
class Trial:
    """How a sabotage fared: violations found among so many instances."""

    violations: int
    instances: int

    @property
    def caught(self) -> bool:
        """Whether the check noticed it."""
        return self.violations > 0


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found.

    Attributes:
        statement: its name.
        instances: how many were examined.
        seed: of the sequence of instances.
        informative: on which share of them the statement could have failed.
        violations: how many margins were not positive or zero.
        tightest_margin: the smallest; ``nan`` if one was.
        tightest_sides: the smaller and the larger side there.
        tightest_index: the instance of that margin: its position in the sequence.
        tightest: that instance itself.
        sabotages: for each, how it fared.
    """

    statement: str
    instances: int
    seed: int
    informative: float
    violations: int
    tightest_margin: float
    tightest_sides: tuple[float, float]
    tightest_index: int
    tightest: Any
    sabotages: Mapping[str, Trial]

    @property
    def ok(self) -> bool:
        """No violation, enough instances that say something, and every sabotage caught."""
        return (
            self.violations == 0
            and self.informative >= LEAST_INFORMATIVE
            and all(trial.caught for trial in self.sabotages.values())
        )

    def to_dictionary(self) -> dict[str, Any]:
        """Plain values for a JSON file; instances in the format of instance files, see :func:`plain`."""
        return {
            "statement": self.statement,
            "ok": self.ok,
            "instances": self.instances,
            "seed": self.seed,
            "informative": self.informative,
            "violations": self.violations,
            "tightest_margin": plain(self.tightest_margin),
            "tightest_sides": plain(self.tightest_sides),
            "tightest_index": self.tightest_index,
            "tightest_instance": plain(self.tightest),
            "sabotages": {
                description: {
                    "caught": trial.caught,
                    "violations": trial.violations,
                    "instances": trial.instances,
                }
                for description, trial in self.sabotages.items()
            },
        }


def problem(drawn: Any) -> Instance:
    """The problem of policy gradient in what a statement draws.

    Raises:
        ValueError: if there is none.
    """
    found = drawn if isinstance(drawn, Instance) else getattr(drawn, "instance", None)
    if not isinstance(found, Instance):
        raise ValueError("the statement is not about a problem of policy gradient; there is none to write")
    return found


def plain(value: Any) -> Any:
    """A pytree as strict JSON holds it.

    A :class:`goodteacher.sim.instance.Instance` as the contents of an instance file, which ``goodteacher
    run`` takes;
    named tuples and dataclasses as objects; arrays as lists; non-finite numbers as ``"nan"``, ``"inf"`` and
    ``"-inf"``.
    """
    if isinstance(value, Instance):
        return to_dictionary(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return plain(np.asarray(value).tolist())


def verify(
    statement: Statement | str,
    instances: int = 10_000,
    seed: int = 0,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Checks a statement, and that its sabotages are caught, on random instances.

    Memory is bounded by the chunk, and one compilation serves all of them. The instances depend on the seed
    alone, not on the chunk. A sabotage is tried chunk by chunk until it is caught.

    Args:
        statement: what to check, or its name.
        instances: on how many.
        seed: of their sequence.
        chunk: how many at a time.
        progress: called with the instances done and all of them, after every chunk.

    Raises:
        ValueError: if the number of instances or the chunk is not positive, or for an unknown name.
    """
    if isinstance(statement, str):
        statement = find_statement(statement)
    for name, value in {"instances": instances, "chunk": chunk}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    key = jax.random.key(seed)
    size = min(chunk, instances)

    trials = dict.fromkeys(statement.trials, Trial(0, 0))
    violations, informative = 0, 0
    least, index, tightest, ends = np.inf, -1, None, (np.nan, np.nan)
    for first in range(0, instances, size):
        # The last chunk is as large as the others, so that it is not compiled again; its surplus is cut off.
        batch = statement.sample(key, size, first)
        done = min(first + size, instances)
        found: dict[_Change | None, Mapping[Judge, Judgement]] = {None: statement.judgements(batch)}
        claim = jax.tree.map(np.asarray, found[None][statement.judge])
        margins = claim.margin[: done - first]
        violations += _violations(margins)
        telling = claim.informative if statement.bound else claim.sides.informative
        informative += int(telling[: done - first].sum())
        here = int(margins.argmin())  # the first nan, if there is one
        if index < 0 or not (margins[here] >= least or np.isnan(least)):
            least, index = float(margins[here]), first + here
            tightest = instance_of(batch, here)
            ends = float(claim.sides.smaller[here]), float(claim.sides.larger[here])
        for name, (change, judge) in statement.trials.items():
            if not trials[name].caught:
                if change not in found:
                    found[change] = statement.judgements(batch, change)
                wrong = found[change][judge].margin
                trials[name] = Trial(_violations(np.asarray(wrong)[: done - first]), done)
        if progress is not None:
            progress(done, instances)
    return Report(
        statement=statement.name,
        instances=instances,
        seed=seed,
        informative=informative / instances,
        violations=violations,
        tightest_margin=least,
        tightest_sides=ends,
        tightest_index=index,
        tightest=tightest,
        sabotages=trials,
    )


def instance_of(batch: Any, index: int) -> Any:
    """One of a batch of instances. By way of NumPy: slices of arrays of JAX are compiled one by one."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), batch)


def _violations(margins: np.ndarray) -> int:
    return int((~(margins >= 0)).sum())  # nan is one
