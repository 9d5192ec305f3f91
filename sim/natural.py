"""The natural gradient flow of tabular policies, ``pi_t`` proportional to ``pi exp(t r)``, in closed form.

All is NumPy, of prompts one by one: the weight of a prompt does not count (Kakade 2001).
"""

import numpy as np
from jaxtyping import Float

from goodteacher.sim.estimates import first_crossing, tilt
from goodteacher.sim.goals import Goal, is_possible
from goodteacher.sim.instance import Instance
from goodteacher.sim.policies import Tabular
from goodteacher.sim.solved import Found
from goodteacher.sim.status import Status
from goodteacher.sim.validation import is_concrete

_BLOCK = 1024  # problems at a time
# Of time times the spread of the rewards, on which a first crossing is looked for.
_GRID = np.concatenate([[0.0], np.geomspace(1e-2, 1e7, 120)])

Problems = Float[np.ndarray, "n outputs"]


def times(
    log_p: Problems, rewards: Problems, values: Problems, increase: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """When expectations have risen by an increase; ``inf`` if never.

    Found where the sign changes on a fine logarithmic grid.

    Args:
        log_p: of the initial policies; ``-inf`` where there is no output.
        rewards: that are followed.
        values: whose expectation is to rise.
        increase: by how much.
    """
    parts = [
        _times(*(of[first : first + _BLOCK] for of in (log_p, rewards, values, increase)))
        for first in range(0, len(log_p), _BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _times(log_p: Problems, rewards: Problems, values: Problems, increase: np.ndarray) -> np.ndarray:
    exists = np.isfinite(log_p)
    p = np.exp(log_p)
    start = (p * values).sum(1)
    above = np.where(exists, p * (values - (start + increase)[:, None]), 0.0)
    high = np.where(exists, rewards, -np.inf).max(1, keepdims=True)
    low = np.where(exists, rewards, np.inf).min(1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    below_best = np.where(exists, (rewards - high) / spread, 0.0)

    def beyond(which: np.ndarray, tau: np.ndarray) -> np.ndarray:
        return np.einsum("xy,xy->x", above[which], np.exp(below_best[which] * tau[:, None]))

    return first_crossing(beyond, len(log_p), _GRID) / spread[:, 0]


def policies(
    log_p: Problems, rewards: Problems, times: Float[np.ndarray, "n times"]
) -> Float[np.ndarray, "n times outputs"]:
    """Log-probabilities at times of each problem."""
    looks = times.shape[1]
    log_p, rewards = (np.repeat(of, looks, axis=0) for of in (log_p, rewards))
    return tilt(log_p, rewards, times.ravel()).log_probabilities.reshape(*times.shape, -1)


# Of instances ------------------------------------------------------------------------------


def check(instances: Instance) -> None:
    """Refuses what has no closed form.

    Raises:
        ValueError: saying why.
    """
    if not isinstance(instances.policy, Tabular) or instances.regularizer is not None:
        raise ValueError(
            "the natural gradient is followed in closed form, of tabular policies without regularisation; "
            "follow another by ascent, with the optimiser npg"
        )
    if not is_concrete(*(of for of in (instances.rewards, instances.initial_parameters))):
        raise ValueError(
            "the natural gradient is followed in closed form, of problems that are not traced; in sweeps "
            "follow it by ascent, with the optimiser npg"
        )


def _starts(instances: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and rewards, ``[n prompts, outputs]``."""
    logits, rewards = np.asarray(instances.initial_parameters), np.asarray(instances.rewards)
    if instances.mask is not None:
        logits = np.where(np.asarray(instances.mask), logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return log_p.reshape(-1, log_p.shape[-1]), rewards.reshape(-1, rewards.shape[-1])


def hitting_times(instances: Instance, goals: Goal, horizons: Float[np.ndarray, " n"]) -> Found:
    """When goals are met; as :func:`goodteacher.sim.solved.hitting_times`, of a batch."""
    shape = instances.rewards.shape
    log_p, rewards = _starts(instances)
    values, level = np.asarray(goals.values).reshape(log_p.shape), np.asarray(goals.level).ravel()
    start = (np.exp(log_p) * values).sum(-1)
    increase = level - start if goals.increase is None else np.asarray(goals.increase).ravel()
    possible = np.asarray(is_possible(instances, goals)).ravel()
    exists = np.isfinite(log_p)
    top, low = np.where(exists, rewards, -np.inf).max(-1), np.where(exists, rewards, np.inf).min(-1)
    signal, met = top > low, increase <= 0
    found = np.where(met, 0.0, np.where(possible & signal, times(log_p, rewards, values, increase), np.inf))
    horizon = np.repeat(horizons, shape[1])
    reached = found <= horizon
    best = (rewards == top[:, None]) & exists
    limit = np.where(best, np.exp(log_p - np.where(best, log_p, -np.inf).max(-1, keepdims=True)), 0.0)
    rests = (limit / limit.sum(-1, keepdims=True) * values).sum(-1) < level
    never = ~reached & np.isinf(found) & rests
    status = np.select(
        [reached, ~possible, ~signal, never],
        [int(s) for s in (Status.REACHED, Status.OUT_OF_REACH, Status.NO_SIGNAL, Status.OPTIMUM)],
        int(Status.NOT_REACHED),
    )
    until = np.where(reached, found, horizon)
    there = policies(log_p, rewards, until[:, None]).reshape(shape)
    time = np.where(reached, found, np.inf).reshape(shape[:2])
    return Found(time, status.reshape(shape[:2]), there, until.reshape(shape[:2]).max(-1))


def policies_at(
    instances: Instance, times: Float[np.ndarray, "n times"]
) -> Float[np.ndarray, "n times prompts outputs"]:
    """Log-probabilities at times of each problem of a batch."""
    count, prompts, outputs = instances.rewards.shape
    each = np.repeat(times, prompts, axis=0)
    found = policies(*_starts(instances), each).reshape(count, prompts, -1, outputs)
    return np.moveaxis(found, 1, 2)


def trajectories(
    instances: Instance, times: Float[np.ndarray, "n times"]
) -> Float[np.ndarray, "n times prompts outputs"]:
    """Logits at times of each problem; the natural gradient changes no prompt's mean logit."""
    rewards, start = np.asarray(instances.rewards), np.asarray(instances.initial_parameters)
    exists = np.ones(rewards.shape, bool) if instances.mask is None else np.asarray(instances.mask)
    centred = np.where(exists, rewards - rewards.mean(-1, keepdims=True, where=exists), 0.0)
    return start[:, None] + times[:, :, None, None] * centred[:, None]
