"""One step of an integration: an explicit method, and one that is stable however stiff the problem is.

The state is a pytree, and the velocity another of its kind. Velocities at the ends of steps are left to
whoever takes the steps, for what is needed there to be compiled once for both.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

State = TypeVar("State")

_EULER_STEPS = (1, 2, 3, 5, 8, 13)  # in each column of the extrapolation table
EULER_ORDER = len(_EULER_STEPS)
AMPLIFICATION = sum(  # of rounding errors by it: 24, of columns of 1 to 6 steps 302
    abs(math.prod(own / (own - other) for other in _EULER_STEPS if other != own)) for own in _EULER_STEPS
)


def runge_kutta_step(
    solver: diffrax.AbstractAdaptiveSolver,
    field: Callable[[State], State],
    start: State,
    slope: State,
    step: Array,
) -> tuple[State, State, Array]:
    """One step of an explicit method: the new state, the error estimate, and the share of the velocity at
    the end that is still to be added to it.

    The coefficients are diffrax's. The stages are a loop at run time, so that the field is compiled once.
    """
    assert isinstance(solver, diffrax.AbstractERK)
    tableau = solver.tableau
    assert isinstance(tableau, diffrax.ButcherTableau)
    stages = len(tableau.b_sol) - tableau.fsal  # the last may be at the end itself
    rows = np.zeros((stages, stages))
    for number, row in enumerate(tableau.a_lower[: stages - 1], 1):
        rows[number, : len(row)] = row

    def combine(coefficients: ArrayLike, slopes: State) -> State:
        return jax.tree.map(lambda leaf: step * jnp.tensordot(coefficients, leaf, 1), slopes)

    def move(coefficients: ArrayLike, slopes: State) -> State:
        return jax.tree.map(jnp.add, start, combine(coefficients, slopes))

    def stage(index: Array, slopes: State) -> State:
        slope = field(move(jnp.asarray(rows)[index], slopes))
        return jax.tree.map(lambda all, new: all.at[index].set(new), slopes, slope)

    slopes = jax.tree.map(lambda leaf: jnp.zeros((stages, *leaf.shape), leaf.dtype).at[0].set(leaf), slope)
    slopes = jax.lax.fori_loop(1, stages, stage, slopes)
    end, error = move(tableau.b_sol[:stages], slopes), combine(tableau.b_error[:stages], slopes)
    return end, error, step * tableau.b_error[stages:].sum()


def extrapolated_euler_step(
    field: Callable[[State], State], start: State, step: Array
) -> tuple[State, State]:
    """One step of the linearly implicit Euler method, extrapolated to its limit of short steps.

    Every column is as many Euler steps, and an order more (Deuflhard 1985); all are stable however stiff the
    flow is. What is extrapolated is the change of the state, for a state that hardly changes.
    """
    state, unflatten = jax.flatten_util.ravel_pytree(start)

    def flat(change: Array) -> Array:
        return jax.flatten_util.ravel_pytree(field(unflatten(state + change)))[0]

    jacobian = jax.jacfwd(flat)(jnp.zeros_like(state))

    def column(count: Array) -> Array:
        part = step / count
        inverse = jnp.linalg.inv(jnp.eye(state.size) - part * jacobian)

        def euler(index: Array, change: Array) -> Array:
            return change + inverse @ (part * flat(change))

        return jax.lax.fori_loop(0, count, euler, jnp.zeros_like(state))

    table = jax.lax.map(column, jnp.asarray(_EULER_STEPS))
    number = np.array(_EULER_STEPS, float)
    coarser = table[-1]
    for order in range(1, EULER_ORDER):
        coarser = table[-1]
        ratio = (number[order:] / number[:-order])[:, None]
        table = table[1:] + (table[1:] - table[:-1]) / (ratio - 1.0)
    return unflatten(state + table[-1]), unflatten(table[-1] - coarser)
