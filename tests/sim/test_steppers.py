"""Steps of a pendulum and of a stiff decay: errors go with their order, and error estimates with them."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.steppers import AMPLIFICATION, EULER_ORDER, extrapolated_euler_step, runge_kutta_step

START = {"angle": jnp.array([1.0]), "speed": jnp.array([0.5])}


def pendulum(state: Any) -> Any:
    return {"angle": state["speed"], "speed": -jnp.sin(state["angle"])}


def flat(state: Any) -> np.ndarray:
    return np.concatenate(jax.tree.leaves(state))


def exact(time: float) -> np.ndarray:
    """By many steps of the method of the highest order."""
    state = START
    for _ in range(16):
        state = of_high_order(state, jnp.array(time / 16))
    return flat(state)


@jax.jit
def of_high_order(state: Any, step: jax.Array) -> Any:
    return runge_kutta_step(diffrax.Dopri8(), pendulum, state, pendulum(state), step)[0]


def errors(step: float, solver: diffrax.AbstractERK | None) -> tuple[float, float]:
    """The error of a step, and its estimate."""
    if solver is None:
        end, error = extrapolated_euler_step(pendulum, START, jnp.array(step))
        estimate = flat(error)
    else:
        end, error, rest = runge_kutta_step(solver, pendulum, START, pendulum(START), jnp.array(step))
        estimate = flat(error) + rest * flat(pendulum(end))
    return float(np.abs(flat(end) - exact(step)).max()), float(np.abs(estimate).max())


@pytest.mark.parametrize(
    ("solver", "order", "step"),
    [(diffrax.Tsit5(), 5, 0.2), (diffrax.Dopri8(), 8, 0.6), (None, EULER_ORDER, 0.3)],
)
def test_a_step_of_half_the_length_has_an_error_less_by_its_order(solver, order, step):
    (error, estimate), (half_error, half_estimate) = errors(step, solver), errors(step / 2, solver)
    assert order + 0.3 < np.log2(error / half_error) < order + 2.0
    # The estimate is that of a method of less order, and so no less than the error.
    assert order - 1.3 < np.log2(estimate / half_estimate) < order + 1.5
    assert error < estimate


def test_a_decay_that_is_stiff_is_followed_by_the_implicit_method_alone():
    state, step = jnp.array([1.0, 1.0]), jnp.array(0.1)
    rates = jnp.array([1.0, 1e6])

    def decay(state: Any) -> Any:
        return -rates * state

    end, _ = extrapolated_euler_step(decay, state, step)
    assert float(end[0]) == pytest.approx(np.exp(-0.1), abs=1e-9)
    assert abs(float(end[1])) < 1e-3
    end, _, _ = runge_kutta_step(diffrax.Dopri8(), decay, state, decay(state), step)
    assert abs(float(end[1])) > 1e20


def test_extrapolation_multiplies_errors_of_the_velocity_by_no_more_than_it_says():
    """At rest, where errors of no pattern are all that moves a stiff flow."""
    size = 1e-9

    def rests(state: Any) -> Any:
        return -state + size * jax.lax.stop_gradient(jnp.sin(1e12 * state))

    starts = np.random.default_rng(0).uniform(-size, size, 500)
    ends = jax.vmap(lambda start: extrapolated_euler_step(rests, start[None], jnp.array(1e6))[0])(starts)
    assert 5.0 < np.abs(ends).max() / size < AMPLIFICATION < 25.0
