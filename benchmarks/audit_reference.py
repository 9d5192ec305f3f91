"""Flows followed anew for ``make audit``: random, adversarial problems of every structure.

Taylor series of heyoka to the last digit: policies, gradients and regularisers are written anew here, as
expressions. A level is what the reference has at a random point of its way, so that no root is searched for.
"""

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import heyoka as hy  # pyright: ignore[reportMissingImports] - large, and installed by make audit alone
import numpy as np

from goodteacher.sim.autoregressive import Sequences, TokenTable, token_function

_STEPS = 8_000  # after which a flow is too stiff for the reference
_LOOKS, _FEWEST = 200, 20  # along a way, for whether the level was there before
_APART = 1e-6  # by how much not
_STEP, _FAR = 1e-3, 3.0  # of the start, for the rate at which it grows; logits to which it then grows
_HIDDEN = 6  # units of the network


class _Case(NamedTuple):
    """A problem in NumPy. Regularisers are reverse KL, forward KL and entropy."""

    start: np.ndarray
    rewards: np.ndarray
    truth: np.ndarray
    weights: np.ndarray
    strength: np.ndarray
    reference: np.ndarray  # log-probabilities
    mask: np.ndarray
    features: np.ndarray | None = None


class Reference(NamedTuple):
    """Where a flow is at the end of its way, in what time, and the rates of the true expectations there."""

    time: float
    level: np.ndarray
    slope: np.ndarray
    first: np.ndarray  # whether the level was not there before


class _Flow:
    """Flows of one structure. Their state: how far the parameters are from their start, in units.

    Args:
        case: one of them.
        logits: from expressions of the parameters to those of the logits ``[prompts, outputs]``; those of
            features if not given.
        number: the type in which all is computed.
    """

    def __init__(self, case: _Case, logits: Callable[[np.ndarray], np.ndarray] | None, number: type):
        self._number = number
        given = {name: part for name, part in case._asdict().items() if part is not None}
        ends = np.cumsum([part.size for part in given.values()])
        symbols = np.array([hy.par[i] for i in range(ends[-1] + 2)])
        parts = np.split(symbols[:-2], ends[:-1])
        named = {name: part.reshape(given[name].shape) for name, part in zip(given, parts, strict=True)}
        unit, self._scale = symbols[-2:]
        self._moved = np.array(hy.make_vars(*[f"moved{d}" for d in range(case.start.size)]))
        parameters = named["start"] + unit * self._moved
        z = named["features"] @ parameters if logits is None else logits(parameters)
        jacobian = np.array([[[hy.diff(one, d) for d in self._moved] for one in row] for row in z])
        p, pull = _pulled(z, named)
        velocity = pull.ravel() @ jacobian.reshape(-1, case.start.size) / unit**2
        moving = jacobian @ velocity
        self._velocity = velocity
        self._speed = hy.sqrt(hy.sum([one**2 for one in moving.ravel()]))
        everything = [*p.ravel(), *moving.ravel(), *velocity, self._speed]
        self._all = hy.cfunc(everything, list(self._moved), compact_mode=True, fp_type=number)

    @cached_property
    def _by_time(self) -> Any:
        return self._integrator(list(zip(self._moved, self._velocity, strict=True)))

    @cached_property
    def _by_distance(self) -> Any:
        """By the distance that the logits travel; the last state is ``log(1 + time / scale)``."""
        passed = hy.make_vars("passed")
        field = [(one, rate / self._speed) for one, rate in zip(self._moved, self._velocity, strict=True)]
        field.append((passed, hy.exp(-passed) / (self._speed * self._scale)))
        return self._integrator(field)

    def _integrator(self, field: list[Any]) -> Any:
        start = np.zeros(len(field)).astype(self._number)
        return hy.taylor_adaptive(field, start, compact_mode=True, fp_type=self._number)

    def followed(self, case: _Case, way: float, escapes: bool) -> Reference | None:
        """Along a way of so many logits or, if it ``escapes`` from a saddle, for such a share of its time."""
        shape = case.rewards.shape
        unit = float(np.abs(case.start).max()) if escapes else 1.0
        numbers = np.concatenate([part.ravel() for part in case if part is not None] + [[unit, 1.0]])

        def at(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            """Probabilities, velocities of logits, of parameters, and the speed, at many places."""
            pars = np.repeat(numbers[:-1, None], len(moved), 1)
            moved = np.ascontiguousarray(moved.T).astype(self._number)
            found = self._all(moved, pars=pars.astype(self._number)).T.astype(float)
            size = case.rewards.size
            p, moving = (found[:, i : i + size].reshape(-1, *shape) for i in (0, size))
            return p, moving, found[:, 2 * size : -1], found[:, -1]

        def along(flow: Any, ends: np.ndarray) -> np.ndarray:
            """The states there, as far as the flow comes."""
            flow.time, flow.state[:] = self._number(0.0), self._number(0.0)
            flow.pars[:] = numbers[: len(flow.pars)].astype(self._number)
            return flow.propagate_grid(ends.astype(self._number), max_steps=_STEPS)[-1]

        _, _, (velocity,), (speed,) = at(np.zeros((1, case.start.size)))
        if escapes:
            ahead = _STEP * velocity / np.linalg.norm(velocity)
            rate = np.linalg.norm(at(ahead[None])[2][0] - velocity) / _STEP
            ends = np.linspace(0.0, way * (_FAR - np.log(unit)) / rate, _LOOKS)
            places = along(self._by_time, ends)
            time = float(ends[len(places) - 1])
        else:
            numbers[-1] = 1.0 / max(float(speed), 1e-300)
            # It ends earlier where a regularised optimum does.
            *places, passed = along(self._by_distance, np.linspace(0.0, way, _LOOKS)).T
            places, time = np.transpose(places), float(numbers[-1] * np.expm1(passed[-1]))
        if len(places) < _FEWEST:
            return None
        values = (at(places)[0] * case.truth).sum(-1)
        if case.strength.any():
            # Near an optimum next to no distance takes long, and the time is known no better than the speed.
            places = along(self._by_time, np.linspace(0.0, time, _LOOKS))
            if len(places) < _LOOKS:
                return None
            values = np.concatenate([values[:-1], (at(places)[0] * case.truth).sum(-1)])
        (p,), (moving,), _, _ = at(places[-1:])
        level = (p * case.truth).sum(-1)
        slope = (p * (case.truth - level[:, None]) * moving).sum(-1)
        return Reference(time, level, slope, (values[:-1].max(0) < level - _APART) & (slope > 0))


def _pulled(z: np.ndarray, of: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities, and the gradient of the objective with respect to the logits."""
    kl, forward, entropy = of["strength"]
    p, pull = np.empty_like(z), np.empty_like(z)
    for x, (logits, rewards, reference) in enumerate(zip(z, of["rewards"], of["reference"], strict=True)):
        masses = of["mask"][x] * np.array([hy.exp(one) for one in logits])
        p[x] = masses / hy.sum(list(masses))
        for y, (logit, reward, before) in enumerate(zip(logits, rewards, reference, strict=True)):
            # Of differences, which keep their digits where the policy is nearly certain.
            gains = (
                reward - rewards - kl * ((logit - logits) - (before - reference)) - entropy * (logit - logits)
            )
            pull[x, y] = p[x, y] * hy.sum(list(p[x] * gains))
            pull[x, y] += forward * (of["mask"][x, y] * hy.exp(before) - p[x, y])
        pull[x] *= of["weights"][x]
    return p, pull


# Structures ------------------------------------------------------------------------


def _case(rng: np.random.Generator, prompts: int, outputs: int, **given: Any) -> _Case:
    """A tabular problem of random rewards and logits, with what is given in their place."""
    shape = (prompts, outputs)
    case = _Case(
        start=rng.choice([1.0, 3.0, 8.0]) * rng.normal(size=prompts * outputs),
        rewards=rng.uniform(-1, 1, shape),
        truth=rng.uniform(-1, 1, shape),
        weights=np.full(prompts, 1.0 / prompts),
        strength=np.zeros(3),
        reference=np.zeros(shape),
        mask=np.ones(shape, bool),
    )._replace(**given)
    if rng.uniform() < 0.5:  # what is trained on rises, as a rule
        case = case._replace(truth=case.rewards)
    return case


def _at_start(case: _Case) -> _Case:
    """Its reference policy is that of the start."""
    logits = case.start.reshape(case.rewards.shape) if case.features is None else case.features @ case.start
    return case._replace(reference=_log_softmax(logits))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _tabular(rng: np.random.Generator) -> _Case:
    return _case(rng, 1, 6)


def _prompts(rng: np.random.Generator) -> _Case:
    """Unequal weights, one of them zero now and then, and outputs that do not exist."""
    weights = rng.uniform(0.1, 1.0, 3) * (rng.uniform(size=3) > [0.0, 0.1, 0.1])
    mask = rng.uniform(size=(3, 5)) > 0.3
    mask[:, :2] = True
    return _case(rng, 3, 5, weights=weights / weights.sum(), mask=mask)


def _strength(rng: np.random.Generator, which: list[bool]) -> np.ndarray:
    return np.where(which, 10.0 ** rng.uniform(-2.5, 0.3, 3), 0.0)


def _reverse_kl(rng: np.random.Generator) -> _Case:
    return _at_start(_case(rng, 1, 5, strength=_strength(rng, [True, False, False])))


def _regularized(rng: np.random.Generator) -> _Case:
    case = _case(rng, 2, 4, strength=_strength(rng, [bool(b) for b in rng.uniform(size=3) > 0.4]))
    return case._replace(reference=_log_softmax(2.0 * rng.normal(size=(2, 4))))


def _features(rng: np.random.Generator, **given: Any) -> _Case:
    features = rng.normal(size=(2, 5, 3))
    start = rng.normal(size=3) * rng.choice([0.3, 2.0])
    return _case(rng, 2, 5, features=features, start=start, **given)


def _regularized_features(rng: np.random.Generator) -> _Case:
    return _at_start(_features(rng, strength=_strength(rng, [bool(b) for b in rng.uniform(size=3) > 0.4])))


def _saddle(rng: np.random.Generator) -> _Case:
    """Pairs of opposite features with equal rewards, and a start at nearly zero."""
    half = rng.normal(size=(2, 2))
    features = np.concatenate([half, -half, np.zeros((1, 2))])[None]
    pair = rng.uniform(0, 1, 2)
    rewards = np.array([[*pair, *pair, -1.0]])
    start = rng.normal(size=2) * 10.0 ** rng.uniform(-10, -0.5)
    return _case(rng, 1, 5, features=features, start=start, rewards=rewards)


def _network(rng: np.random.Generator) -> _Case:
    """Three logits ``B a`` of two linear layers that start small."""
    return _case(rng, 1, 3, start=rng.normal(size=4 * _HIDDEN) * 10.0 ** rng.uniform(-12, -0.5))


def _tokens(rng: np.random.Generator) -> _Case:
    """Two tokens of three each, with a table of logits for each prefix."""
    return _case(rng, 1, 9, start=rng.choice([0.5, 2.0]) * rng.normal(size=12))


def _of_table(parameters: np.ndarray, prompts: int) -> np.ndarray:
    return parameters.reshape(prompts, -1)


def _of_layers(parameters: np.ndarray) -> np.ndarray:
    return (parameters[_HIDDEN:].reshape(3, _HIDDEN) @ parameters[:_HIDDEN])[None]


def _of_tokens(parameters: np.ndarray) -> np.ndarray:
    rows = parameters.reshape(4, 3)
    log_p = np.array(
        [[one - hy.log(hy.sum([hy.exp(other) for other in row])) for one in row] for row in rows]
    )
    return np.array(
        [[log_p[0, first] + log_p[1 + first, second] for first in range(3) for second in range(3)]]
    )


def _apply(parameters: dict[str, Any], *_: Any) -> Any:
    return parameters["b"] @ parameters["a"]


_NETWORK, _ = token_function(
    Sequences(1, 3, 1), _apply, {"a": np.zeros(_HIDDEN), "b": np.zeros((3, _HIDDEN))}
)
_TOKENS = TokenTable(Sequences(1, 3, 2))


class _Structure(NamedTuple):
    """How problems are drawn, what their logits are (those of features if not given), whether they start at a
    saddle, and the policy if it is none of the two usual."""

    draw: Callable[[np.random.Generator], _Case]
    logits: Callable[[np.ndarray], np.ndarray] | None = None
    escapes: bool = False
    policy: Any = None


_ROW, _TWO, _THREE = (partial(_of_table, prompts=prompts) for prompts in (1, 2, 3))
STRUCTURES = {
    "tabular": _Structure(_tabular, _ROW),
    "tabular, prompts": _Structure(_prompts, _THREE),
    "reverse KL": _Structure(_reverse_kl, _ROW),
    "KL, forward KL, entropy": _Structure(_regularized, _TWO),
    "features": _Structure(_features),
    "regularised features": _Structure(_regularized_features),
    "saddle of features": _Structure(_saddle, escapes=True),
    "saddle of a network": _Structure(_network, _of_layers, escapes=True, policy=_NETWORK),
    "token table": _Structure(_tokens, _of_tokens, policy=_TOKENS),
}


@cache
def _flow_of(name: str) -> _Flow:
    """Compiled once for all problems of a structure."""
    structure = STRUCTURES[name]
    # Near a saddle what cancels in the velocity takes its digits: twice as many are left.
    number = hy.real128 if structure.escapes else float
    return _Flow(structure.draw(np.random.default_rng(0)), structure.logits, number)


def referenced(
    name: str, count: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[Reference], int]:
    """Problems of a structure, as arrays, where the reference ends; and how many were too stiff for it."""
    structure = STRUCTURES[name]
    cases, references, stiff = [], [], 0
    for _ in range(count):
        case = structure.draw(rng)
        if structure.escapes:
            way = rng.uniform(0.3, 1.2)
        else:
            way = rng.choice([1e-6, 1e-2, 1.0]) if rng.uniform() < 0.2 else rng.uniform(0.1, 12.0)
        reference = _flow_of(name).followed(case, float(way), structure.escapes)
        if reference is None or not reference.first.any():
            stiff += reference is None
            continue
        cases.append(case._asdict())
        references.append(reference)
    return cases, references, stiff
