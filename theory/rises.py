"""Hitting times that statements observe, each compiled once for as many of them as possible.

An integrator is compiled for a number of problems and of outputs, and for what there is to compute
(a mask, regularisation, features). So the problems of statements on how the ground truth rises are
widened to one number of outputs, those on how one output escapes to one of two.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.batching import widened
from goodteacher.sim.flow import HORIZON, Control, HittingTime, hitting_times, hitting_times_only
from goodteacher.sim.goals import Goal, probability_level, reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.theory.draws import REGULARIZED_OUTPUTS, Task

SHAPE = (2, 16)
"""Prompts and outputs of most statements on how the ground truth rises under a tabular policy."""

_RISE_TOLERANCE = 1e-8
_RISE_WIDTHS = (REGULARIZED_OUTPUTS, SHAPE[1])  # outputs of the problems of a rise
_WIDTHS = (8, 16)  # outputs of the problems of one output that escapes
PATH_TIMES = 8  # at which a path is observed, if the statement has no number of its own


def rise_times(tasks: Task, horizon: ArrayLike = HORIZON) -> HittingTime:
    """When the expected ground truth reward has risen by ``gamma``, to a relative error of 1e-7.

    Problems whose KL coefficient is zero are solved, and followed for ever; the others are integrated.

    Args:
        tasks: a batch of tabular problems of up to sixteen outputs, where there is regularisation of
            :data:`goodteacher.theory.draws.REGULARIZED_OUTPUTS`.
        horizon: the time at which to give up where the flow is integrated, one for all or one for each.

    Raises:
        ValueError: if there are more outputs.
    """
    outputs = tasks.instance.rewards.shape[-1]
    instances, goals = _widened(_RISE_WIDTHS, tasks.instance, _rises(tasks))
    found = hitting_times(eqx.tree_at(lambda i: i.regularizer, instances, None), goals)
    if instances.regularizer is not None:
        few, few_goals, regularized = _regularized(instances, goals)
        if (
            np.asarray(regularized)[:, None, None] & np.asarray(instances.mask)[..., REGULARIZED_OUTPUTS:]
        ).any():
            raise ValueError(
                f"regularised problems have more than {REGULARIZED_OUTPUTS} outputs; give at most so many"
            )
        late = Control(tolerance=_RISE_TOLERANCE, horizon=horizon)
        found = _where(regularized, hitting_times(few, few_goals, late), found)
    return eqx.tree_at(lambda times: times.log_probabilities, found, replace_fn=lambda p: p[..., :outputs])


@jax.jit
def _regularized(instances: Instance, goals: Goal) -> tuple[Instance, Goal, Array]:
    """The first outputs alone, with goals that are met at once where there is no regularisation."""
    assert instances.regularizer is not None
    assert instances.mask is not None
    regularized = instances.regularizer.kl > 0

    def first(leaf: Array) -> Array:
        return leaf[..., :REGULARIZED_OUTPUTS] if leaf.ndim == 3 else leaf

    few, few_goals = jax.tree.map(first, (instances, goals))
    return few, few_goals.lowered(~regularized[:, None]), regularized


@jax.jit
def _where(chosen: Array, these: HittingTime, those: HittingTime) -> HittingTime:
    def pick(this: Array, that: Array) -> Array:
        if this.shape != that.shape:  # log-probabilities of fewer outputs
            missing = [(0, 0)] * (this.ndim - 1) + [(0, that.shape[-1] - this.shape[-1])]
            this = jnp.pad(this, missing, constant_values=-jnp.inf)
        return jnp.where(chosen.reshape(-1, *[1] * (this.ndim - 1)), this, that)

    return jax.tree.map(pick, these, those)


@jax.jit
@jax.vmap
def _rises(task: Task) -> Goal:
    return reward_increase(task.instance, task.gamma)


def escape_times(instances: Instance, goals: Goal, control: Control | None = None) -> Float[Array, " n"]:
    """Hitting times of a batch of tabular problems of one prompt, without regularisation.

    Args:
        instances: a batch. Outputs that do not exist are added, which changes no time.
        goals: one for each.
        control: as for :func:`goodteacher.sim.flow.hitting_times`.

    Raises:
        ValueError: if there are more than sixteen outputs.
    """
    instances, goals = _widened(_WIDTHS, instances, goals)
    return hitting_times_only(instances, goals, control)[0][:, 0]


@jax.jit
@jax.vmap
def first_output_goals(instance: Instance, level: Float[Array, ""]) -> Goal:
    """That the first output has a probability, for a batch of problems and of levels."""
    return probability_level(instance, 0, level)


def _widened(widths: tuple[int, ...], instances: Instance, goals: Goal) -> tuple[Instance, Goal]:
    """With the least number of outputs that will do."""
    outputs = instances.rewards.shape[-1]
    width = min((width for width in widths if width >= outputs), default=None)
    if width is None:
        raise ValueError(f"the problems have {outputs} outputs; give at most {widths[-1]}")
    instances, wider = widened(instances, goals, width)
    assert wider is not None
    return instances, wider
