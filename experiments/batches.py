"""Batches of instances followed in discrete ascent and along the gradient flow, as labelled datasets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import xarray as xr

from goodteacher.experiments.instances import BEST, MIDDLING
from goodteacher.sim.ascent import ascend
from goodteacher.sim.flow import Control, HittingTime, hitting_times, trajectory
from goodteacher.sim.goals import Goal, probability_level
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import measure
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.status import Status

LEVEL = 0.9  # the probability of y* that counts as escape
SOLVER = diffrax.Tsit5()  # fewer stages than the default: at the same tolerance, compiled in half the time

Labels = Mapping[str, Sequence[Any] | np.ndarray]

_METRICS = ("expected_ground_truth_reward", "probabilities")
TIME = "learning rate × updates"  # the unit of the gradient flow's time
_DESCRIPTIONS = {
    "expected_reward": "expected ground truth reward",
    "best_probability": "probability of y*",
    "middling_probability": "probability of y_med",
}


def variable(
    dimensions: str | Sequence[str], values: npt.ArrayLike, long_name: str, units: str = "1"
) -> xr.Variable:
    """A variable of a dataset that says what it is."""
    return xr.Variable(dimensions, np.asarray(values), {"long_name": long_name, "units": units})


def listed(numbers: Iterable[float]) -> str:
    """Numbers to three digits as a caption lists them."""
    *most, last = [f"{value:.3g}".replace("e+0", "e").replace("e+", "e") for value in numbers]
    return f"{', '.join(most)} and {last}" if most else last


def batch(build: Callable[..., Instance], *parameters: Any) -> Instance:
    """The instances that a builder makes of the elements of equally long arrays of its parameters."""
    return jax.vmap(build)(*[jnp.asarray(values, float) for values in parameters])


def join(*batches: Instance) -> Instance:
    """Several batches as one."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def escape_goals(instances: Instance) -> Goal:
    """For each instance of a batch, that the probability of ``y*`` reaches :data:`LEVEL`."""
    return jax.vmap(lambda instance: probability_level(instance, BEST, LEVEL))(instances)


def escape(instances: Instance, **control: Any) -> HittingTime:
    """When the probability of ``y*`` reaches :data:`LEVEL` along the flow, for each instance of a batch.

    Args:
        instances: the batch.
        control: of :class:`goodteacher.sim.flow.Control`, but for the solver.

    Raises:
        RuntimeError: if a time could not be computed.
    """
    result = hitting_times(instances, escape_goals(instances), Control(SOLVER, **control))
    if (result.status == Status.NOT_CONVERGED).any():
        raise RuntimeError("a hitting time did not converge; raise max_steps")
    return result


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
    records = jax.vmap(lambda i: ascend(i, transformation, updates, metrics=_METRICS).records)(instances)
    axis = variable("updates", updates, "updates of gradient ascent")
    attributes = {"learning_rate": learning_rate, "end_time": learning_rate * updates[-1]}
    return _dataset(records, labels, axis).assign_attrs(attributes)


def follow_flow(instances: Instance, labels: Labels, times: np.ndarray) -> xr.Dataset:
    """The gradient flow of a batch at given times; a dataset over ``run`` and ``time`` as above."""

    def follow(instance: Instance) -> dict[str, jax.Array]:
        path = trajectory(instance, times, Control(solver=SOLVER))
        return jax.vmap(lambda parameters: measure(instance, parameters, _METRICS))(path)

    axis = variable("time", times, "time of the gradient flow", TIME)
    return _dataset(jax.vmap(follow)(instances), labels, axis)


def escape_dataset(instances: Instance, labels: Labels, **control: Any) -> xr.Dataset:
    """The times of :func:`escape` (``inf`` where never) and the policy then, or where the search ended."""
    result = escape(instances, **control)
    probabilities = jnp.exp(result.log_probabilities)
    values = jax.vmap(expected_reward)(probabilities, instances.ground_truth_rewards)
    dataset = _dataset({"expected_ground_truth_reward": values, "probabilities": probabilities}, labels)
    times = {
        "escape_time": (result.time[:, 0], f"time at which the probability of y* reaches {LEVEL}"),
        "end_time": (result.end, "time at which the search ended"),
    }
    variables = {name: variable("run", time, long_name, TIME) for name, (time, long_name) in times.items()}
    return dataset.assign(variables)


def _dataset(records: Mapping[str, Any], labels: Labels, *axes: xr.Variable) -> xr.Dataset:
    probabilities = np.asarray(records["probabilities"])[..., 0, :]
    values = {
        "expected_reward": np.asarray(records["expected_ground_truth_reward"])[..., 0],
        "best_probability": probabilities[..., BEST],
        "middling_probability": probabilities[..., MIDDLING],
    }
    names = [str(axis.dims[0]) for axis in axes]
    variables = {
        name: variable(["run", *names], value, _DESCRIPTIONS[name]) for name, value in values.items()
    }
    runs = {name: xr.Variable("run", np.asarray(values)) for name, values in labels.items()}
    return xr.Dataset(variables, {**runs, **dict(zip(names, axes, strict=True))})
