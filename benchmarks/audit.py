"""``make audit``: hitting times of random, adversarial problems against an independent solver.

The reference is SciPy's DOP853 at a tolerance of 1e-13, in NumPy alone: policies, gradients and clocks are
written anew here. A level is what the reference has at a random point of its way, so that no root is searched
for. Near an optimum, and for prompts of very different speeds, closed forms of two outputs are evaluated with
mpmath; flows that are solved are integrated again in 40 digits and more.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.solved_reference import draw, reference_time
from benchmarks.timing import table
from goodteacher.experiments.workers import cores
from goodteacher.sim.autoregressive import Sequences, TokenTable, token_function
from goodteacher.sim.batching import widened
from goodteacher.sim.control import HORIZON
from goodteacher.sim.flow import LANES, hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status

COUNT = 2_000
SEED = 0
_TOLERANCE = 1e-13
_EVALUATIONS = 8_000  # of the field, after which a flow is too stiff for the reference
_CLAIMED, _CLAIMED_OF_SOLVED = 1e-9, 1e-10
_CONDITION = 32.0  # rounding errors of a level, or of its expectation, that a time is not blamed for
_HIDDEN = 16  # units of the network
_TOGETHER = 32  # problems whose references a process computes at a time


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


class _Reference(NamedTuple):
    """Where a flow is at the end of its way, in what time, and the rates of the true expectations there."""

    time: float
    level: np.ndarray
    slope: np.ndarray
    first: np.ndarray  # whether no earlier step had the level


def _followed(case: _Case, way: float, by_time: bool) -> _Reference | None:
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
    return _Reference(taken, values[-1], slope, first)


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


# Ours ------------------------------------------------------------------------------


def _instances(cases: Sequence[Mapping[str, Any]], policy: Any) -> Instance:
    regularized = any(case["strength"].any() for case in cases)

    def build(case: dict[str, Any], features: Any) -> Instance:
        start, chosen = case["start"], policy
        if features is not None:
            chosen = LinearSoftmax(features)
        elif policy is None:
            start = start.reshape(case["rewards"].shape)
        kl, forward, entropy = case["strength"]
        return Instance(
            case["rewards"],
            case["truth"],
            Parameters(start),
            policy=chosen,
            regularizer=Regularizer(kl, forward, entropy) if regularized else None,
            reference_policy_logits=case["reference"] if regularized else None,
            prompt_weights=case["weights"],
        )

    fields = ("start", "rewards", "truth", "weights", "strength", "reference")
    arrays = {name: np.stack([case[name] for case in cases]) for name in fields}
    features = None if cases[0]["features"] is None else np.stack([case["features"] for case in cases])
    instances = jax.vmap(build, in_axes=(0, None if features is None else 0))(arrays, features)
    mask = np.stack([case["mask"] for case in cases])
    if mask.all():
        return instances
    return eqx.tree_at(lambda i: i.mask, instances, jnp.asarray(mask), is_leaf=lambda leaf: leaf is None)


def _referenced(
    name: str, count: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[_Reference], int]:
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


def _lanes() -> int:
    return LANES if jax.default_backend() == "cpu" else 1 << 14


def _audit(name: str, count: int, rng: np.random.Generator, processes: Executor) -> tuple[Any, ...]:
    structure = STRUCTURES[name]
    began = time.perf_counter()
    counts = [min(_TOGETHER, count - first) for first in range(0, count, _TOGETHER)]
    parts = list(processes.map(_referenced, [name] * len(counts), counts, rng.spawn(len(counts))))
    cases = [case for some, _, _ in parts for case in some]
    references = [reference for _, some, _ in parts for reference in some]
    stiff = sum(part[2] for part in parts)
    levels = np.stack([reference.level for reference in references])
    times = np.array([reference.time for reference in references])[:, None]
    slopes = np.stack([reference.slope for reference in references])
    judged = np.stack([reference.first for reference in references])
    instances = _instances(cases, structure.policy)
    goals = Goal(instances.ground_truth_rewards, jnp.asarray(levels))
    found = hitting_times(instances, goals, lanes=_lanes())
    status = np.asarray(found.status)
    reached = judged & (status == Status.REACHED)
    unknown = judged & np.isin(status, (Status.NOT_CONVERGED, Status.STATIONARY))
    error = np.abs(np.where(reached, np.asarray(found.time), times) / times - 1.0)
    condition = _CONDITION * np.finfo(float).eps / np.abs(np.where(judged, slopes, 1.0) * times)
    wrong = reached & (error > _CLAIMED + condition)
    for index, prompt in np.argwhere(wrong | (judged & ~reached))[:3]:
        print(
            f"  {name}: number {index}, prompt {prompt}: {found.time[index, prompt]:.12g}, "
            f"reference {times[index, 0]:.12g}, {Status(status[index, prompt]).title}"
        )
    return (
        name,
        int(judged.sum()),
        stiff,
        int(unknown.sum()),
        int((judged & ~reached & ~unknown).sum()),
        float(np.median(error[reached])),
        float(np.where(reached & (error > condition), error, 0.0).max()),
        int(wrong.sum()),
        int(found.steps.max()),
        time.perf_counter() - began,
    )


def _near_optimum(count: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Two outputs with KL, down to 1e-9 short of the optimum: ``z' = 2 p (1 - p) (1 - lambda (z - ref))``."""
    began = time.perf_counter()
    strength = 10.0 ** rng.uniform(-1.5, 0.5, count)
    start, reference = rng.normal(size=(2, count)) * 2.0 - np.array([[2.0], [0.0]])
    optimum = reference + 1.0 / strength
    defect = 10.0 ** rng.uniform(-9, -0.5, count)
    level = 1.0 / (1.0 + np.exp(-optimum)) * (1.0 - defect)
    possible = np.log(level / (1.0 - level)) > start + 0.1
    start, reference, strength, level, defect = (
        x[possible] for x in (start, reference, strength, level, defect)
    )

    def exact(start: float, reference: float, strength: float, level: float) -> float:
        optimum = mpmath.mpf(reference) + 1 / mpmath.mpf(strength)
        end = mpmath.log(mpmath.mpf(level) / (1 - mpmath.mpf(level)))

        def slowness(log_defect: mpmath.mpf) -> mpmath.mpf:
            return 2 * mpmath.cosh((optimum - mpmath.exp(-log_defect)) / 2) ** 2 / mpmath.mpf(strength)

        ends = -mpmath.log(optimum - start), -mpmath.log(optimum - end)
        integral: Any = mpmath.quad(slowness, mpmath.linspace(*ends, 12))
        return float(integral)

    with mpmath.workdps(30):
        problems = zip(*(x.tolist() for x in (start, reference, strength, level)), strict=True)
        times = np.array([exact(*problem) for problem in problems])

    def build(start: Any, reference: Any, strength: Any) -> Instance:
        logits = jnp.stack([reference, jnp.zeros(())])
        return Instance(
            [1.0, 0.0],
            start=Parameters(jnp.stack([start, jnp.zeros(())])),
            reference_policy_logits=logits,
            regularizer=Regularizer(strength),
        )

    instances = jax.vmap(build)(start, reference, strength)
    found = hitting_times(instances, Goal(instances.rewards, jnp.asarray(level)[:, None]), lanes=_lanes())
    status, reached = np.asarray(found.status[:, 0]), np.asarray(found.status[:, 0]) == Status.REACHED
    error = np.abs(np.where(reached, np.asarray(found.time[:, 0]), times) / times - 1.0)
    z = np.log(level / (1.0 - level))
    slope = 2.0 * (level * (1.0 - level)) ** 2 * strength * (reference + 1.0 / strength - z)
    condition = _CONDITION * np.finfo(float).eps * level * (1.0 + np.abs(z)) / (slope * times)
    wrong = reached & (error > _CLAIMED + condition)
    unknown = status == Status.NOT_CONVERGED
    return (
        "near an optimum, exact",
        len(times),
        0,
        int(unknown.sum()),
        int((~reached & ~unknown).sum()),
        float(np.median(error[reached])),
        float(np.where(error > condition, error, 0.0).max()),
        int(wrong.sum()),
        int(found.steps.max()),
        time.perf_counter() - began,
    )


def _repeated(problems: Any) -> Any:
    """As many as there is a program for: a power of two, of which the surplus repeats the last."""

    def longer(leaf: Any) -> Any:
        missing = (1 << (len(leaf) - 1).bit_length()) - len(leaf)
        return np.concatenate([leaf, np.repeat(np.asarray(leaf[-1:]), missing, axis=0)])

    return jax.tree.map(longer, problems)


def _solved(count: int, rng: np.random.Generator, processes: Executor) -> tuple[Any, ...]:
    """Tabular problems of up to 64 outputs, as wide as numbers go, in 40 digits."""
    began = time.perf_counter()
    problems = [draw(rng) for _ in range(count)]
    found = processes.map(reference_time, *zip(*problems, strict=True), chunksize=8)
    exact = np.array([float(text) for text in found])
    times, status = np.empty(count), np.empty(count, int)
    sizes = np.array([len(logits) for logits, _, _ in problems])
    build = jax.vmap(lambda r, start: Instance(r, start=Parameters(start)))
    for outputs in np.unique(sizes):
        these = np.flatnonzero(sizes == outputs)
        logits, rewards, levels = (np.stack([problems[i][part] for i in these]) for part in range(3))
        instances = build(rewards[:, None], logits[:, None])
        goals = Goal(instances.rewards, jnp.asarray(levels)[:, None])
        # Filled up as others are, and compiled as many are, however few these.
        filled = widened(instances, goals, 1 << int(outputs - 1).bit_length())
        result = jax.jit(hitting_times)(*_repeated(filled))
        times[these] = result.time[: len(these), 0]
        status[these] = result.status[: len(these), 0]
    judged = (exact > 0) & (exact < HORIZON)
    reached = judged & (status == Status.REACHED)
    unknown = judged & (status == Status.NOT_CONVERGED)
    error = np.abs(np.where(reached, times, 1.0) / np.where(reached, exact, 1.0) - 1.0)
    wrong = (reached & (error > _CLAIMED_OF_SOLVED)) | ((exact >= HORIZON) & (status == Status.REACHED))
    for index in np.flatnonzero(wrong | (judged & ~reached))[:3]:
        print(f"  solved: {problems[index]}: {times[index]:.17g}, reference {exact[index]:.17g}")
    return (
        "solved, in 40 digits",
        int(judged.sum()),
        0,
        int(unknown.sum()),
        int((judged & ~reached & ~unknown).sum()),
        float(np.median(error[reached])),
        float(error.max()),
        int(wrong.sum()),
        0,
        time.perf_counter() - began,
    )


def main(count: int = COUNT, seed: int = SEED) -> None:
    """Prints a table of errors by structure."""
    each = max(count // (len(STRUCTURES) + 2), 1)
    *children, near, solved = np.random.default_rng(seed).spawn(len(STRUCTURES) + 2)
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as processes:
        rows = [_audit(name, each, rng, processes) for name, rng in zip(STRUCTURES, children, strict=True)]
        rows += [_near_optimum(each, near), _solved(each, solved, processes)]
    table(
        f"hitting times against an independent solver, seed {seed}; errors beyond those of rounding a level",
        (
            "structure",
            "times",
            "too stiff",
            "unknown",
            "missed",
            "median error",
            "worst error",
            f"beyond {_CLAIMED:g}, solved {_CLAIMED_OF_SOLVED:g}",
            "most steps",
            "seconds",
        ),
        rows,
    )
    if any(row[4] or row[7] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
