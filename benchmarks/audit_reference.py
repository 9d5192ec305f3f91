"""Flows followed anew for ``make audit``: random, adversarial problems of every structure.

SciPy's DOP853 at a tolerance of 1e-13, in NumPy alone: policies, gradients and clocks are written anew here.
A level is what the reference has at a random point of its way, so that no root is searched for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from goodteacher.sim.autoregressive import Sequences, TokenTable, token_function

_TOLERANCE = 1e-13
_EVALUATIONS = 8_000  # of the field, after which a flow is too stiff for the reference
_HIDDEN = 16  # units of the network


class _Case(NamedTuple):
    """A problem in NumPy. Logits are a function of the parameters that comes with its Jacobian."""

    logits: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # [prompts, outputs], [..., parameters]
    start: np.ndarray
    rewards: np.ndarray
    truth: np.ndarray
    weights: np.ndarray
    strength: np.ndarray  # of reverse KL, forward KL and entropy
    reference: np.ndarray  # log-probabilities
    mask: np.ndarray
    features: np.ndarray | None = None


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _flow(case: _Case, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The probabilities, and the velocities of the parameters and of the logits."""
    logits, jacobian = case.logits(parameters)
    log_p = _log_softmax(np.where(case.mask, logits, -np.inf))
    p = np.exp(log_p)
    finite, reference = (np.where(case.mask, x, 0.0) for x in (log_p, case.reference))
    kl, forward, entropy = case.strength
    rewards = case.rewards - kl * (finite - reference) - entropy * finite
    # Relative to the most probable output: its advantage then keeps its digits.
    rewards = rewards - np.take_along_axis(rewards, p.argmax(-1)[:, None], -1)
    pull = p * (rewards - (p * rewards).sum(-1, keepdims=True))
    pull += forward * (np.where(case.mask, np.exp(case.reference), 0.0) - p)
    pull *= case.weights[:, None]
    velocity = np.einsum("xy,xyd->d", pull, jacobian)
    return p, velocity, jacobian @ velocity


class Reference(NamedTuple):
    """Where a flow is at the end of its way, in what time, and the rates of the true expectations there."""

    time: float
    level: np.ndarray
    slope: np.ndarray
    first: np.ndarray  # whether no earlier step had the level


def _followed(case: _Case, way: float, by_time: bool) -> Reference | None:
    """Integrates by the distance that the logits travel or, if ``by_time``, by the time.

    With KL or entropy both: by the distance for a time to go to, and by that.
    """
    calls = 0
    scale = 1.0 / max(float(np.linalg.norm(_flow(case, case.start)[2])), 1e-300)

    def field(_: float, state: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > _EVALUATIONS:
            raise TimeoutError
        velocity, moving = _flow(case, case.start + state[:-1])[1:]
        if by_time:
            return np.append(velocity, 1.0)
        speed = np.linalg.norm(moving)
        return np.append(velocity / speed, np.exp(-state[-1]) / (speed * scale))

    # A displacement of a part in 1e13 of the start, which may be next to nothing.
    least = _TOLERANCE * min(1.0, float(np.abs(case.start).max())) if by_time else _TOLERANCE
    tolerances = np.append(np.full(case.start.shape, least), _TOLERANCE)
    try:
        found = solve_ivp(
            field, (0.0, way), np.zeros(case.start.size + 1), "DOP853", rtol=_TOLERANCE, atol=tolerances
        )
    except TimeoutError:
        return None
    if not found.success:
        return None
    values = np.array([(_flow(case, case.start + s[:-1])[0] * case.truth).sum(-1) for s in found.y.T])
    p, _, moving = _flow(case, case.start + found.y[:-1, -1])
    slope = (p * (case.truth - values[-1][:, None]) * moving).sum(-1)
    taken = way if by_time else scale * float(np.expm1(found.y[-1, -1]))
    if case.strength.any() and not by_time:
        # Near an optimum next to no distance takes long, and the time is known no better than the speed.
        return _followed(case, taken, True)
    first = (values[:-1].max(0) < values[-1] - 1e-6) & (slope > 0)
    return Reference(taken, values[-1], slope, first)


# Structures ------------------------------------------------------------------------


def _linear(features: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return lambda parameters: (features @ parameters, features)


def _case(rng: np.random.Generator, prompts: int, outputs: int, **given: Any) -> _Case:
    """A tabular problem of random rewards and logits, with what is given in their place."""
    shape = (prompts, outputs)
    size = prompts * outputs
    start = rng.choice([1.0, 3.0, 8.0]) * rng.normal(size=size)
    case = _Case(
        logits=_linear(np.eye(size).reshape(*shape, size)),
        start=start,
        rewards=rng.uniform(-1, 1, shape),
        truth=rng.uniform(-1, 1, shape),
        weights=np.full(prompts, 1.0 / prompts),
        strength=np.zeros(3),
        reference=np.zeros(shape),
        mask=np.ones(shape, bool),
    )._replace(**given)
    if rng.uniform() < 0.5:  # what is trained on rises, as a rule
        case = case._replace(truth=case.rewards)
    logits, _ = case.logits(case.start)
    return case._replace(reference=_log_softmax(np.where(case.mask, logits, -np.inf)))


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
    return _case(rng, 1, 5, strength=_strength(rng, [True, False, False]))


def _regularized(rng: np.random.Generator) -> _Case:
    case = _case(rng, 2, 4, strength=_strength(rng, [bool(b) for b in rng.uniform(size=3) > 0.4]))
    return case._replace(reference=_log_softmax(2.0 * rng.normal(size=(2, 4))))


def _features(rng: np.random.Generator, **given: Any) -> _Case:
    features = rng.normal(size=(2, 5, 3))
    start = rng.normal(size=3) * rng.choice([0.3, 2.0])
    return _case(rng, 2, 5, features=features, logits=_linear(features), start=start, **given)


def _regularized_features(rng: np.random.Generator) -> _Case:
    return _features(rng, strength=_strength(rng, [bool(b) for b in rng.uniform(size=3) > 0.4]))


def _saddle(rng: np.random.Generator) -> _Case:
    """Pairs of opposite features with equal rewards, and a start at nearly zero."""
    half = rng.normal(size=(2, 2))
    features = np.concatenate([half, -half, np.zeros((1, 2))])[None]
    pair = rng.uniform(0, 1, 2)
    rewards = np.array([[*pair, *pair, -1.0]])
    start = rng.normal(size=2) * 10.0 ** rng.uniform(-10, -0.5)
    given = {"features": features, "logits": _linear(features), "start": start, "rewards": rewards}
    return _case(rng, 1, 5, **given)


def _network(rng: np.random.Generator) -> _Case:
    """Three logits ``B a`` of two linear layers that start small."""

    def logits(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = parameters[:_HIDDEN], parameters[_HIDDEN:].reshape(3, _HIDDEN)
        jacobian = np.concatenate([b, np.kron(np.eye(3), a[None])], 1)
        return (b @ a)[None], jacobian[None]

    start = rng.normal(size=4 * _HIDDEN) * 10.0 ** rng.uniform(-12, -0.5)
    return _case(rng, 1, 3, logits=logits, start=start)


def _tokens(rng: np.random.Generator) -> _Case:
    """Two tokens of three each, with a table of logits for each prefix."""
    first, second = np.divmod(np.arange(9), 3)

    def logits(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = parameters.reshape(4, 3)
        log_p, p = _log_softmax(rows), np.exp(_log_softmax(rows))
        jacobian = np.zeros((9, 4, 3))
        for y, (a, b) in enumerate(zip(first, second, strict=True)):
            jacobian[y, 0] = np.eye(3)[a] - p[0]
            jacobian[y, 1 + a] = np.eye(3)[b] - p[1 + a]
        return (log_p[0, first] + log_p[1 + first, second])[None], jacobian.reshape(1, 9, 12)

    return _case(rng, 1, 9, logits=logits, start=rng.choice([0.5, 2.0]) * rng.normal(size=12))


def _apply(parameters: dict[str, Any], *_: Any) -> Any:
    return parameters["b"] @ parameters["a"]


_NETWORK, _ = token_function(
    Sequences(1, 3, 1), _apply, {"a": np.zeros(_HIDDEN), "b": np.zeros((3, _HIDDEN))}
)
_TOKENS = TokenTable(Sequences(1, 3, 2))


class _Structure(NamedTuple):
    """How problems are drawn, how far they are followed, and the policy if it is none of the two usual."""

    draw: Callable[[np.random.Generator], _Case]
    by_time: bool = False
    policy: Any = None


STRUCTURES = {
    "tabular": _Structure(_tabular),
    "tabular, prompts": _Structure(_prompts),
    "reverse KL": _Structure(_reverse_kl),
    "KL, forward KL, entropy": _Structure(_regularized),
    "features": _Structure(_features),
    "regularised features": _Structure(_regularized_features),
    "saddle of features": _Structure(_saddle, by_time=True),
    "saddle of a network": _Structure(_network, by_time=True, policy=_NETWORK),
    "token table": _Structure(_tokens, policy=_TOKENS),
}


def _way(rng: np.random.Generator, structure: _Structure, case: _Case) -> float:
    """How far to go: some logits, or some e-foldings and what comes after them."""
    if not structure.by_time:
        return float(rng.choice([1e-6, 1e-2, 1.0]) if rng.uniform() < 0.2 else rng.uniform(0.1, 12.0))
    step = 1e-3 * np.abs(case.start).max()
    velocity = _flow(case, case.start)[1]
    direction = velocity / np.linalg.norm(velocity)
    ahead = _flow(case, case.start + step * direction)[1]
    rate = np.linalg.norm(ahead - velocity) / step
    return float(rng.uniform(0.3, 1.2) * (3.0 - np.log(np.abs(case.start).max())) / rate)


def referenced(
    name: str, count: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[Reference], int]:
    """Problems of a structure, as arrays, where the reference ends; and how many were too stiff for it."""
    structure = STRUCTURES[name]
    cases, references, stiff = [], [], 0
    for _ in range(count):
        case = structure.draw(rng)
        reference = _followed(case, _way(rng, structure, case), structure.by_time)
        if reference is None or not reference.first.any():
            stiff += reference is None
            continue
        arrays = case._asdict()
        del arrays["logits"]  # a function, which goes to no other process
        cases.append(arrays)
        references.append(reference)
    return cases, references, stiff
