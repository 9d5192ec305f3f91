"""Rewards over the standard deviation of the whole batch, which puts all prompts on one clock.

So does TRL's GRPOTrainer with ``scale_rewards = "batch"``: advantages are rewards less the mean of their
group, over what the rewards of all samples of the batch deviate by, plus epsilon. For large groups that is,
with the weights ``w`` of the prompts and the mean ``V`` and variance of the rewards of each (derived for this
project)::

    sigma^2 = sum_x w_x Var_x + sum_x w_x (V_x - sum_z w_z V_z)^2,

and every prompt's gradient is divided by ``sigma + epsilon``. A factor that all have in common leaves the
path of the plain gradient as it is, with shared parameters too. If that is somewhere at the time ``s``, the
other one is there at ``t = integral of (sigma + epsilon) ds``. Prompts now depend on each other: the farther
they are apart in their means, the slower are all of them.

The clock is :class:`goodteacher.sim.clocks.BatchScaled`. Who follows an instance that has it calls the
functions of :mod:`goodteacher.sim.flow`, which call those of this module.

The integrand is expanded in Legendre polynomials of ``asinh(s / unit)``, on panels that are halved until the
expansions end. Times are integrals of polynomials then, and policies at given times are found by their roots.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.polynomial import legendre

from goodteacher.sim import flow
from goodteacher.sim.clocks import BatchScaled, Gradient, batch_deviation
from goodteacher.sim.control import HORIZON, Control, HittingTime
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.status import Status
from goodteacher.sim.validation import AnyArray, is_concrete, rows_of_times

_NODES = 16
_LONGEST = 2.0  # panel at first
_END = 1e-9  # last coefficients of an expansion that ends, over the first
_HALVINGS = 40  # of a panel at most
_ROOT_HALVINGS = 60
_FARTHER = 8.0

_PLACES, _WEIGHTS = legendre.leggauss(_NODES)
_DEGREES = np.arange(_NODES)
# From values at the nodes to coefficients.
_EXPANSION = legendre.legvander(_PLACES, _NODES - 1) * _WEIGHTS[:, None] * (_DEGREES + 0.5)


def deviation(
    instances: Instance, log_p: Float[AnyArray, "batch times prompts outputs"]
) -> Float[np.ndarray, "batch times"]:
    """Standard deviation of the rewards of all samples of a batch of large groups.

    Args:
        instances: the problems.
        log_p: log-probabilities of the policies, several for each problem.
    """
    p, weights = np.exp(np.asarray(log_p)), np.asarray(instances.prompt_weights)[:, None]
    rewards = np.asarray(instances.rewards)[:, None]
    means = (p * rewards).sum(-1)
    variances = (p * (rewards - means[..., None]) ** 2).sum(-1)
    if instances.reward_variances is not None:
        variances += (p * np.asarray(instances.reward_variances)[:, None]).sum(-1)
    return np.asarray(batch_deviation(np.broadcast_to(weights, means.shape), means, variances))


def elapsed(instances: Instance, of_gradient: Float[AnyArray, "batch times"]) -> Float[Array, "batch times"]:
    """When many problems are where the gradient flow is at given times, to a relative 1e-10.

    Args:
        instances: a batch of problems of one shape, as ``jax.vmap`` makes it, that follow
            :class:`goodteacher.sim.clocks.BatchScaled`, with no regularisation.
        of_gradient: times of each problem's gradient flow, in any order.

    Raises:
        ValueError: as for :func:`goodteacher.sim.flow.policies`; for problems that are
            regularised, or traced.
    """
    plain, epsilon = _of_gradient(instances)
    times = np.asarray(rows_of_times(of_gradient, len(instances.rewards)))
    return jax.device_put(_expansions(plain, epsilon, times.max(-1)).elapsed(times))


def hitting_times(
    instances: Instance, goals: Goal, horizons: Float[AnyArray, " batch"], control: Control
) -> HittingTime:
    """When goals are met; as :func:`goodteacher.sim.flow.hitting_times`, which see.

    Args:
        instances: as for :func:`elapsed`.
        goals: one for each.
        horizons: one for each.
        control: how the gradient flow is integrated where it is not solved.
    """
    plain, _ = _of_gradient(instances)
    far = Control(control.solver, control.tolerance, HORIZON, control.max_steps)
    found = flow.hitting_times(plain, goals, far)
    reached = np.asarray(found.status) == Status.REACHED
    times = np.asarray(elapsed(instances, np.where(reached, found.time, 0.0)))
    horizons = np.asarray(horizons)[:, None]
    within, lost = reached & (times <= horizons), reached & np.isnan(times)
    codes = [int(Status.NOT_CONVERGED), int(Status.NOT_REACHED)]
    status = np.select([lost, reached & ~within], codes, np.asarray(found.status))
    late, there = status == Status.NOT_REACHED, np.asarray(found.log_probabilities)
    if late.any():
        there = np.where(late[..., None], policies(instances, horizons)[:, 0], there)
    known = np.where(lost, np.nan, np.where(reached, np.inf, found.time))
    ends = np.where(within, times, np.where(late, horizons, 0.0)).max(-1)
    parts = np.where(within, times, known), status, there, ends
    return HittingTime(*map(jax.device_put, parts), solved=found.solved, steps=found.steps)


def policies(
    instances: Instance, times: Float[AnyArray, "batch times"]
) -> Float[Array, "batch times prompts outputs"]:
    """Where many problems are at given times; as :func:`goodteacher.sim.flow.policies`.

    Args:
        instances: as for :func:`elapsed`.
        times: of each problem, in any order.

    Returns:
        Log-probabilities; ``nan`` where they are not known. At the latest times those of the gradient at its
        horizon, of which no probability differs by more than a number can tell.

    Raises:
        ValueError: as for :func:`elapsed`.
    """
    plain, _ = _of_gradient(instances)
    of_gradient, known = _times_of_gradient(instances, times)
    return jax.device_put(np.where(known[..., None, None], flow.policies(plain, of_gradient), np.nan))


def trajectories(
    instances: Instance, times: Float[AnyArray, "batch times"], control: Control
) -> Float[Array, "batch times ..."]:
    """Parameters along the flows of many problems; as :func:`goodteacher.sim.flow.trajectories`."""
    of_gradient, known = _times_of_gradient(instances, times)
    found = np.asarray(flow.trajectories(instances.following(Gradient()), of_gradient, control))
    known = known.reshape(*known.shape, *(1,) * (found.ndim - 2))
    return jax.device_put(np.where(known, found, np.nan))


def _times_of_gradient(
    instances: Instance, times: Float[AnyArray, "batch times"]
) -> tuple[Float[np.ndarray, "batch times"], Bool[np.ndarray, "batch times"]]:
    """When the gradient flow is where many problems are at given times, and whether that is known."""
    (plain, epsilon), times = (
        _of_gradient(instances),
        np.asarray(rows_of_times(times, len(instances.rewards))),
    )
    last = times.max(-1)
    # No sooner, for no deviation is larger than half the range.
    most = _range(plain) / 2.0 + epsilon
    until = np.minimum(np.where(most > 0, last / np.where(most > 0, most, 1.0), HORIZON), HORIZON)
    while True:
        found = _expansions(plain, epsilon, until)
        short = (found.elapsed(until[:, None])[:, 0] < last) & (until < HORIZON)
        if not short.any():
            of_gradient = found.of_gradient(times)
            return of_gradient, np.isfinite(found.elapsed(of_gradient))
        until = np.where(short, np.minimum(until * _FARTHER, HORIZON), until)


def _of_gradient(instances: Instance) -> tuple[Instance, Float[np.ndarray, " batch"]]:
    """The same problems under the gradient, whose path it is, and their epsilons."""
    assert isinstance(instances.clock, BatchScaled)
    if instances.regularizer is not None:
        raise ValueError(
            "the problem is regularised, which the deviation of a batch does not multiply: the path is not "
            "that of the gradient flow; follow it by ascent, or without regularisation"
        )
    if not is_concrete(*jax.tree.leaves(instances)):
        raise ValueError(
            "the deviation of a batch is followed along the flow of the gradient, of problems that are not "
            "traced, as those of sweeps are; give an estimator that divides by the deviation of each group"
        )
    return instances.following(Gradient()), np.asarray(instances.clock.epsilon)


def _range(instances: Instance) -> Float[np.ndarray, " batch"]:
    """No less than the range of the rewards: those of outputs that do not exist are zero."""
    rewards = np.asarray(instances.rewards).reshape(len(instances.rewards), -1)
    return rewards.max(1) - rewards.min(1)


class _Expansions(NamedTuple):
    """The time as a function of that of the gradient, by panels; those of a problem stand together.

    Attributes:
        unit: of the gradient's time, ``[batch]``.
        first: the number of each problem's first panel, ``[batch]``.
        low, length: of panels of ``asinh(s / unit)``.
        before: the time at the panel's beginning.
        within: Legendre coefficients of the time since then, ``[panels, degrees]``.
    """

    unit: np.ndarray
    first: np.ndarray
    low: np.ndarray
    length: np.ndarray
    before: np.ndarray
    within: np.ndarray

    def elapsed(self, of_gradient: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch n"]:
        """The time at those of the gradient."""
        place = np.arcsinh(of_gradient / self.unit[:, None])
        panel = self._last_below(self.low, place)
        x = 2.0 * (place - self.low[panel]) / self.length[panel] - 1.0
        return self.before[panel] + self._since(panel, x)

    def of_gradient(self, times: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch n"]:
        """The other way; no later than the last panel."""
        panel = self._last_below(self.before, times)
        low, high = np.full(times.shape, -1.0), np.ones(times.shape)
        for _ in range(_ROOT_HALVINGS):
            middle = 0.5 * (low + high)
            beyond = self.before[panel] + self._since(panel, middle) > times
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        place = self.low[panel] + self.length[panel] * (high + 1.0) / 2.0
        return self.unit[:, None] * np.sinh(place)

    def _last_below(self, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The number of the last panel that starts no later, of each problem's own."""
        parts = np.split(starts, self.first[1:])
        found = [np.searchsorted(own, of, side="right") - 1 for own, of in zip(parts, values, strict=True)]
        return self.first[:, None] + np.maximum(np.stack(found), 0)

    def _since(self, panel: np.ndarray, x: np.ndarray) -> np.ndarray:
        return legendre.legval(x, np.moveaxis(self.within[panel], -1, 0), tensor=False)


class _Panels(NamedTuple):
    """Stretches of ``asinh(s / unit)``.

    Attributes:
        owner: the problem of each.
        low, length: where it begins, and how long it is.
    """

    owner: np.ndarray
    low: np.ndarray
    length: np.ndarray

    def these(self, which: np.ndarray) -> "_Panels":
        """Some of them, by a mask or in an order."""
        return _Panels(*(of[which] for of in self))

    def halves(self) -> "_Panels":
        """Two in the place of each."""
        owner, low, length = (np.repeat(of, 2) for of in self)
        length = length / 2.0
        return _Panels(owner, low + np.where(np.arange(len(low)) % 2 == 1, length, 0.0), length)


def _expansions(instances: Instance, epsilon: np.ndarray, until: np.ndarray) -> _Expansions:
    """Of each problem, up to a time of the gradient of its own."""
    size = _range(instances) * np.asarray(instances.prompt_weights).max(1)
    unit = 1.0 / np.where(size > 0, size, 1.0)  # in which logits move by at most about one
    end = np.maximum(np.arcsinh(until / unit), np.finfo(float).tiny)
    count = np.maximum(np.ceil(end / _LONGEST), 1.0).astype(int)
    owner = np.repeat(np.arange(len(unit)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    panels = _Panels(owner, (end / count)[owner] * number, (end / count)[owner])
    done = []
    for halvings in range(_HALVINGS + 1):
        series = _speed(instances, epsilon, unit, panels) @ _EXPANSION
        goes_on = np.abs(series[:, -2:]).max(1) > _END * np.abs(series[:, 0])
        goes_on &= halvings < _HALVINGS
        done.append((panels.these(~goes_on), series[~goes_on]))
        if not goes_on.any():
            break
        panels = panels.these(goes_on).halves()
    panels = _Panels(*map(np.concatenate, zip(*(each for each, _ in done), strict=True)))
    order = np.lexsort((panels.low, panels.owner))
    panels, series = panels.these(order), np.concatenate([each for _, each in done])[order]
    first = np.searchsorted(panels.owner, np.arange(len(unit)))
    spent = np.split(2.0 * series[:, 0], first[1:])
    before = np.concatenate([np.cumsum(own) - own for own in spent])
    within = legendre.legint(series, lbnd=-1, axis=1)
    return _Expansions(unit, first, panels.low, panels.length, before, within)


def _speed(instances: Instance, epsilon: np.ndarray, unit: np.ndarray, panels: _Panels) -> np.ndarray:
    """The derivative of the time by the place in a panel, from -1 to 1, at its nodes."""
    owner, low, length = panels
    place = low[:, None] + length[:, None] * (_PLACES + 1.0) / 2.0
    own: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[owner], instances)
    log_p = flow.policies(own, unit[owner, None] * np.sinh(place))
    scale = deviation(own, log_p) + epsilon[owner, None]
    return scale * unit[owner, None] * np.cosh(place) * length[:, None] / 2.0
