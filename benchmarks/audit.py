"""``make audit``: hitting times of random, adversarial problems against an independent solver.

The reference is :mod:`benchmarks.audit_reference`. Near an optimum closed forms of two outputs are evaluated
with mpmath; flows that are solved are integrated again in 40 digits and more.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from benchmarks.audit_reference import STRUCTURES, referenced
from benchmarks.solved_reference import draw, reference_time
from benchmarks.timing import table
from goodteacher.experiments.workers import cores
from goodteacher.sim.batching import filled
from goodteacher.sim.control import HORIZON
from goodteacher.sim.flow import LANES, hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status

COUNT = 2_000
SEED = 0
_CLAIMED, _CLAIMED_OF_SOLVED = 1e-9, 1e-10
_CONDITION = 32.0  # rounding errors of a level, or of its expectation, that a time is not blamed for
_TOGETHER = 32  # problems whose references a process computes at a time


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


def _lanes() -> int:
    return LANES if jax.default_backend() == "cpu" else 1 << 14


def _audit(name: str, count: int, rng: np.random.Generator, processes: Executor) -> tuple[Any, ...]:
    structure = STRUCTURES[name]
    began = time.perf_counter()
    counts = [min(_TOGETHER, count - first) for first in range(0, count, _TOGETHER)]
    parts = list(processes.map(referenced, [name] * len(counts), counts, rng.spawn(len(counts))))
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
    for index, prompt in np.argwhere(wrong | (judged & ~reached & ~unknown))[:3]:
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


def _two_outputs(start: float, reference: float, strength: float, level: float) -> float:
    """Of ``z' = 2 p (1 - p) (1 - lambda (z - reference))``, to a level of ``p``, in 30 digits."""
    with mpmath.workdps(30):
        slowed = mpmath.mpf(float(strength))
        optimum = mpmath.mpf(float(reference)) + 1 / slowed
        end = mpmath.log(mpmath.mpf(float(level)) / (1 - mpmath.mpf(float(level))))

        def slowness(log_defect: mpmath.mpf) -> mpmath.mpf:
            return 2 * mpmath.cosh((optimum - mpmath.exp(-log_defect)) / 2) ** 2 / slowed

        ends = -mpmath.log(optimum - float(start)), -mpmath.log(optimum - end)
        integral: Any = mpmath.quad(slowness, mpmath.linspace(*ends, 12))
        return float(integral)


def _near_optimum(count: int, rng: np.random.Generator, processes: Executor) -> tuple[Any, ...]:
    """Two outputs with KL, down to 1e-9 short of the optimum."""
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

    times = np.array(list(processes.map(_two_outputs, start, reference, strength, level, chunksize=8)))

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


def _solved(count: int, rng: np.random.Generator, processes: Executor) -> tuple[Any, ...]:
    """Tabular problems of up to 64 outputs, as wide as numbers go, in 40 digits."""
    began = time.perf_counter()
    problems = [draw(rng) for _ in range(count)]
    found = processes.map(reference_time, *zip(*problems, strict=True), chunksize=8)
    exact = np.array([float(text) for text in found])
    times, status = np.empty(count), np.empty(count, int)
    sizes = np.array([len(logits) for logits, _, _ in problems])
    build = jax.vmap(lambda r, start: Instance(r, start=Parameters(start)))
    compiled = jax.jit(hitting_times)  # as of many, however few these are
    for outputs in np.unique(sizes):
        these = np.flatnonzero(sizes == outputs)
        logits, rewards, levels = (np.stack([problems[i][part] for i in these]) for part in range(3))
        instances = build(rewards[:, None], logits[:, None])
        goals = Goal(instances.rewards, jnp.asarray(levels)[:, None])
        result = filled(lambda i, g, _: compiled(i, g), instances, goals, levels)
        times[these], status[these] = result.time[:, 0], result.status[:, 0]
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
        audits = [partial(_audit, name, each, rng) for name, rng in zip(STRUCTURES, children, strict=True)]
        rows = []
        for audit in [*audits, partial(_near_optimum, each, near), partial(_solved, each, solved)]:
            rows.append(audit(processes))
            # Each as it comes: all of them take long.
            print(f"{rows[-1][0]}: worst error {rows[-1][6]:.2g}", flush=True)
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
