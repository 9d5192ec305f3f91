"""Hitting times as one would find them with heyoka: Taylor series, some problems side by side."""

from typing import Any

import heyoka as hy  # pyright: ignore[reportMissingImports] - large, and installed by make bench alone
import numpy as np

from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance


def integrator(outputs: int, tolerance: float) -> Any:
    """The gradient flow of a tabular policy, up to where the expected reward has its level."""
    logits = hy.make_vars(*[f"logit{y}" for y in range(outputs)])
    masses = [hy.exp(logit) for logit in logits]
    total = hy.sum(masses)
    value = hy.sum([hy.par[y] * mass for y, mass in enumerate(masses)]) / total
    flow = [
        (logit, mass / total * (hy.par[y] - value))
        for y, (logit, mass) in enumerate(zip(logits, masses, strict=True))
    ]
    lanes = hy.recommended_simd_size()
    return hy.taylor_adaptive_batch(
        flow,
        np.zeros((outputs, lanes)),
        pars=np.zeros((outputs + 1, lanes)),
        t_events=[hy.t_event_batch(value - hy.par[outputs])],
        tol=tolerance,
    )


def hitting_times(flow: Any, instances: Instance, goals: Goal) -> np.ndarray:
    """Hitting times ``[n]`` of problems of one prompt; a lane that has finished one takes the next."""
    starts, rewards = np.asarray(instances.initial_parameters)[:, 0], np.asarray(instances.rewards)[:, 0]
    levels = np.asarray(goals.level)[:, 0]
    lanes, (count, outputs) = flow.batch_size, starts.shape
    starts = starts - starts.max(1, keepdims=True)
    found, owners, times = np.empty(count), np.full(lanes, -1), np.zeros(lanes)
    left, handed_out = np.full(lanes, np.inf), 0

    def take(lane: int) -> None:
        nonlocal handed_out
        owners[lane] = handed_out if handed_out < count else -1
        chosen = min(handed_out, count - 1)
        handed_out += 1
        flow.state[:, lane] = starts[chosen]
        flow.pars[:outputs, lane], flow.pars[outputs, lane] = rewards[chosen], levels[chosen]
        times[:] = flow.time
        times[lane] = 0.0
        flow.set_time(times)
        flow.reset_cooldowns(lane)

    for lane in range(lanes):
        take(lane)
    while (owners >= 0).any():
        flow.step(left)
        for lane, (outcome, _) in enumerate(flow.step_res):
            if outcome != hy.taylor_outcome.success:
                if owners[lane] >= 0:
                    found[owners[lane]] = flow.time[lane]
                take(lane)
    return found
