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
    """Hitting times ``[n]`` of problems of one prompt; those side by side wait for the last of them."""
    starts, rewards = np.asarray(instances.initial_parameters)[:, 0], np.asarray(instances.rewards)[:, 0]
    levels = np.asarray(goals.level)[:, 0]
    lanes, (count, outputs) = flow.batch_size, starts.shape
    found = np.empty(count)
    for first in range(0, count, lanes):
        chosen = np.minimum(np.arange(first, first + lanes), count - 1)
        flow.set_time(0.0)
        flow.reset_cooldowns()
        flow.state[:] = (starts[chosen] - starts[chosen].max(1, keepdims=True)).T
        flow.pars[:outputs], flow.pars[outputs] = rewards[chosen].T, levels[chosen]
        left = np.full(lanes, np.inf)
        while left.any():
            flow.step(left)
            for lane, (outcome, _) in enumerate(flow.step_res):
                if outcome != hy.taylor_outcome.success:
                    left[lane] = 0.0
        found[chosen] = flow.time
    return found
