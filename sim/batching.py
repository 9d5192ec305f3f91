"""Batches of problems, filled up to few sizes for one compiled program to serve many of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

from goodteacher.sim.clocks import Enumerated
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.policies import Tabular
from goodteacher.sim.validation import AnyArray, beside, is_concrete, namespace

_LARGE = 1 << 12  # problems, up to which their number is filled up to a power of two
_FEW = 8, 64, 512  # to which fewer problems are filled up: compiling takes longer than computing
_LEAST = 8  # outputs of few problems


def as_batch(tree: Any) -> Any:
    """A batch of one problem."""
    return jax.tree.map(lambda leaf: namespace(leaf).asarray(leaf)[None], tree)


def only(batch: Any) -> Any:
    """The problem of a batch of one."""
    return jax.tree.map(lambda leaf: jax.device_put(namespace(leaf).asarray(leaf)[0]), batch)


def filled(run: Callable[..., Any], instances: Instance, goals: Goal | None, times: AnyArray) -> Any:
    """A function of a batch, compiled once for many sizes.

    Surplus problems repeat the last, with goals that are met at once; surplus outputs do not exist.

    Args:
        run: of instances, goals and times, to arrays whose first axis is the batch. Outputs are the last
            axis of those of three axes or more.
        instances: a batch of problems.
        goals: one for each, or none.
        times: of each problem one, or a row of them.
    """
    problems, count = (instances, goals, times), len(times)
    if not is_concrete(*jax.tree.leaves(problems)):
        return run(*problems)
    size, outputs = min(_power(count), -(-count // _LARGE) * _LARGE), instances.rewards.shape[-1]
    # An estimator whose groups are enumerated would have more of them.
    narrow = not isinstance(instances.policy, Tabular) or isinstance(instances.clock, Enumerated)
    if not narrow and size <= _FEW[-1]:
        size = next(few for few in _FEW if few >= count)
        instances, goals = widened(instances, goals, max(_power(outputs), _LEAST))
    if size > count:
        instances, goals, times = jax.tree.map(partial(_extended, size=size), (instances, goals, times))
        if goals is not None:
            goals = goals.lowered((np.arange(size) >= count)[:, None])
    found = run(instances, goals, times)

    def wanted(leaf: Any) -> Any:
        within = beside(leaf).asarray(leaf)[:count]
        return jax.device_put(within[..., :outputs] if within.ndim >= 3 else within)

    return jax.tree.map(wanted, found)


def widened(instance: Instance, goal: Goal | None, outputs: int) -> tuple[Instance, Goal | None]:
    """The same problems of a tabular policy, concrete, with a mask and further outputs that do not exist.

    Args:
        instance: a problem, or a batch.
        goal: one for each, or none.
        outputs: how many there are to be, at least as many as there are.
    """
    missing = outputs - instance.rewards.shape[-1]

    def wider(values: AnyArray, fill: float = 0.0) -> Any:
        around = [(0, 0)] * (values.ndim - 1) + [(0, missing)]
        return np.pad(np.asarray(values), around, constant_values=fill)

    exists = np.ones(instance.rewards.shape, bool) if instance.mask is None else instance.mask
    instance = eqx.tree_at(
        lambda i: (
            i.mask,
            i.rewards,
            i.ground_truth_rewards,
            i.reward_variances,
            i.initial_parameters,
            i.reference_log_probabilities,
        ),
        instance,
        (
            wider(exists),
            wider(instance.rewards),
            wider(instance.ground_truth_rewards),
            None if instance.reward_variances is None else wider(instance.reward_variances),
            wider(instance.initial_parameters),
            wider(instance.reference_log_probabilities, -np.inf),
        ),
        is_leaf=lambda leaf: leaf is None,
    )
    return instance, goal and eqx.tree_at(lambda g: g.values, goal, wider(goal.values))


def _power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()


def _extended(leaf: AnyArray, size: int) -> AnyArray:
    xp = beside(leaf)
    whole = xp.asarray(leaf)
    return xp.concatenate([whole, xp.repeat(whole[-1:], size - len(whole), axis=0)])
