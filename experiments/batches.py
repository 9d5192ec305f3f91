"""Batches of instances followed in discrete ascent and along the gradient flow, as labelled datasets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float

from goodteacher.experiments.datasets import TIME, variable
from goodteacher.experiments.instances import BEST, MIDDLING
from goodteacher.sim.ascent import ascend
from goodteacher.sim.flow import Control, HittingTime, hitting_times, policies
from goodteacher.sim.goals import Goal, probability_level, reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.sim.status import Status

LEVEL = 0.9  # the probability of y* that counts as escape

Labels = Mapping[str, Sequence[Any] | np.ndarray]

_METRICS = ("expected_ground_truth_reward", "probabilities")
_DESCRIPTIONS = {
    "expected_reward": "expected ground truth reward",
    "best_probability": "probability of y*",
    "middling_probability": "probability of y_med",
}


def batch(build: Callable[..., Instance], *parameters: Any) -> Instance:
    """The instances that a builder makes of the elements of equally long arrays of its parameters."""
    return jax.jit(jax.vmap(build))(*[np.asarray(values, float) for values in parameters])


def join(*batches: Instance) -> Instance:
    """Several batches as one."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


def taught(instance: Instance, rewards: Float[np.ndarray, "models outputs"]) -> Instance:
    """A batch: a problem of one prompt with each of many reward models."""
    same = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(rewards), *leaf.shape)), instance)
    return eqx.tree_at(lambda i: i.rewards, same, rewards[:, None])


# Hitting times and paths -----------------------------------------------------------


def hits(
    instances: Instance, goals: Callable[[Instance], Goal], control: Control | None = None
) -> HittingTime:
    """Hitting times of a batch of any size, as NumPy arrays.

    Args:
        instances: the batch.
        goals: from a batch to a goal for each; compiled by whoever writes it.
        control: of the flow.

    Raises:
        RuntimeError: if a time could not be computed.
    """
    result = jax.device_get(hitting_times(instances, goals(instances), control))
    if (result.status == Status.NOT_CONVERGED).any():
        raise RuntimeError("a hitting time did not converge; raise max_steps")
    return result


def rises(instances: Instance, gamma: float, control: Control | None = None) -> Float[np.ndarray, " batch"]:
    """When the expected ground truth reward has risen by gamma, of a batch of one prompt; as :func:`hits`."""
    return np.asarray(hits(instances, lambda every: _increases(every, gamma), control).time)[:, 0]


def escapes(instances: Instance, control: Control | None = None) -> HittingTime:
    """When the probability of ``y*`` reaches :data:`LEVEL` along the flow; as :func:`hits`."""
    return hits(instances, escape_goals, control)


@jax.jit
@jax.vmap
def escape_goals(instance: Instance) -> Goal:
    """For each instance of a batch, that the probability of ``y*`` reaches :data:`LEVEL`."""
    return probability_level(instance, BEST, LEVEL)


@jax.jit
def _increases(instances: Instance, gamma: float) -> Goal:
    return jax.vmap(lambda instance: reward_increase(instance, gamma))(instances)


def paths(instances: Instance, times: np.ndarray) -> Float[np.ndarray, "batch times prompts outputs"]:
    """Log-probabilities along the gradient flow of a batch, at given times."""
    return np.asarray(policies(instances, np.broadcast_to(times, (len(instances.rewards), len(times)))))


# Labelled ----------------------------------------------------------------------------


def recorded_updates(last: int) -> np.ndarray:
    """Update counts up to ``last`` to record at: 100 linearly spaced and about as many logarithmically."""
    spaced = np.concatenate([np.linspace(0, last, 101), np.geomspace(1, last, 101)])
    return np.unique(spaced.round().astype(int))


def follow_ascent(
    instances: Instance, labels: Labels, learning_rate: float, updates: np.ndarray
) -> xr.Dataset:
    """Plain gradient ascent of a batch with exact gradients, recorded after given numbers of updates.

    Returns:
        A dataset over ``run`` (with the labels) and ``updates`` of the expected ground truth reward and
        the probabilities of ``y*`` and ``y_med``.
    """
    transformation = optax.sgd(learning_rate)
    ascent = jax.vmap(lambda i: ascend(i, transformation, updates, metrics=_METRICS).records)(instances)
    value, probabilities = (np.asarray(ascent[name]) for name in _METRICS)
    axis = variable("updates", updates, "updates of gradient ascent")
    return _dataset(value, probabilities, labels, axis)


def follow_flow(instances: Instance, labels: Labels, times: np.ndarray) -> xr.Dataset:
    """The gradient flow of a batch at given times; a dataset over ``run`` and ``time`` as above."""
    probabilities = np.exp(paths(instances, times))
    value = (probabilities * np.asarray(instances.ground_truth_rewards)[:, None]).sum(-1)
    return _dataset(value, probabilities, labels, variable("time", times, "time of the gradient flow", TIME))


def escape_dataset(instances: Instance, labels: Labels, control: Control | None = None) -> xr.Dataset:
    """The times of :func:`escapes` (``inf`` where never) and the policy then, or where the search ended."""
    result = escapes(instances, control)
    probabilities = np.exp(result.log_probabilities)
    value = (probabilities * np.asarray(instances.ground_truth_rewards)).sum(-1)
    times = {
        "escape_time": (result.time[:, 0], f"time at which the probability of y* reaches {LEVEL}"),
        "end_time": (result.end, "time at which the search ended"),
    }
    variables = {name: variable("run", time, long_name, TIME) for name, (time, long_name) in times.items()}
    return _dataset(value, probabilities, labels).assign(variables)


def _dataset(value: np.ndarray, probabilities: np.ndarray, labels: Labels, *axes: xr.Variable) -> xr.Dataset:
    """Of batches of one prompt: ``[run, ..., prompt]`` and ``[run, ..., prompt, output]``."""
    values = {
        "expected_reward": value[..., 0],
        "best_probability": probabilities[..., 0, BEST],
        "middling_probability": probabilities[..., 0, MIDDLING],
    }
    names = [str(axis.dims[0]) for axis in axes]
    variables = {
        name: variable(["run", *names], value, _DESCRIPTIONS[name]) for name, value in values.items()
    }
    runs = {name: xr.Variable("run", np.asarray(values)) for name, values in labels.items()}
    return xr.Dataset(variables, {**runs, **dict(zip(names, axes, strict=True))})
