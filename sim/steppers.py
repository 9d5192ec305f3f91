"""One step of an integration: an explicit method, and one that is stable however stiff the problem is.

The state is a pytree, and the velocity another of its kind. Velocities at the ends of steps are left to
whoever takes the steps, for what is needed there to be compiled once for both.
"""

from collections.abc import Callable
from typing import TypeVar

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

State = TypeVar("State")

EULER_ORDER = 6  # columns of the extrapolation table


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
) -> tuple[State, State, Array]:
    """One step of the linearly implicit Euler method, extrapolated to its limit of short steps.

    Every column is as many Euler steps, and an order more (Deuflhard 1985); all are stable however stiff the
    flow is. What is extrapolated is the change of the state, for a state that hardly changes.

    Returns:
        The new state, the error estimate, and the sum of the rates at which the flow contracts: where it is
        stiff the fastest of them, but for a factor of their number.
    """
    state, unflatten = jax.flatten_util.ravel_pytree(start)

    def flat(change: Array) -> Array:
        return jax.flatten_util.ravel_pytree(field(unflatten(state + change)))[0]

    jacobian = jax.jacfwd(flat)(jnp.zeros_like(state))

    def column(count: Array) -> Array:
        part = step / count
        inverse = jnp.linalg.inv(jnp.eye(state.size) - part * jacobian)

        def euler(index: Array, change: Array) -> Array:
            return jnp.where(index < count, change + inverse @ (part * flat(change)), change)

        return jax.lax.fori_loop(0, EULER_ORDER, euler, jnp.zeros_like(state))

    table = jax.lax.map(column, jnp.arange(1, EULER_ORDER + 1))
    number = np.arange(1.0, EULER_ORDER + 1)
    coarser = table[-1]
    for order in range(1, EULER_ORDER):
        coarser = table[-1]
        ratio = (number[order:] / number[:-order])[:, None]
        table = table[1:] + (table[1:] - table[:-1]) / (ratio - 1.0)
    return unflatten(state + table[-1]), unflatten(table[-1] - coarser), -jnp.trace(jacobian)
