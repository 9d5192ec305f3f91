"""Flows that start next to a stationary point, and leave it exponentially."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jaxtyping import Array
from sim_strategies import stack

from goodteacher.sim.autoregressive import Sequences, token_function
from goodteacher.sim.flow import Control, final_policies, final_policy, hitting_time, hitting_times
from goodteacher.sim.goals import Goal, reward_level
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.optima import converged
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status

DIGITS = 40


def network(parameters: dict[str, Array], *_: Array) -> Array:
    """Logits of difference ``a b``."""
    return jnp.array([0.5, -0.5]) * parameters["a"] * parameters["b"]


TWO_LAYERS, PARAMETERS = token_function(Sequences(1, 2, 1), network, {"a": 1.0, "b": 1.0})


def two_layers(start: float) -> Instance:
    """Two parameters that start alike, for rewards 1 and 0."""
    return Instance([1.0, 0.0], start=Parameters(start * PARAMETERS), policy=TWO_LAYERS)


def time_of_two_layers(start: float) -> Any:
    """Until the good output has 0.9: the log-odds ``z = a b`` have ``z' = 2 z p (1 - p)``."""

    def slowness(log_z: mpmath.mpf) -> mpmath.mpf:
        return mpmath.cosh(mpmath.exp(log_z) / 2) ** 2 * 2

    return mpmath.quad(slowness, mpmath.linspace(2 * mpmath.log(start), mpmath.log(mpmath.log(9)), 60))


def opposite_features(start: float) -> Instance:
    """Features 1, -1 and 0 with rewards 1, 1 and -1: no parameter pulls one way more than the other."""
    return Instance(
        [1.0, 1.0, -1.0], start=Parameters([start]), policy=LinearSoftmax([[[1.0], [-1.0], [0.0]]])
    )


def time_of_opposite_features(start: float) -> Any:
    """Until the expected reward is 0.9."""

    def slowness(log_theta: mpmath.mpf) -> mpmath.mpf:
        theta = mpmath.exp(log_theta)
        return (1 + 2 * mpmath.cosh(theta)) ** 2 / (4 * mpmath.sinh(theta)) * theta

    end = mpmath.acosh(mpmath.mpf(19) / 2)
    return mpmath.quad(slowness, mpmath.linspace(mpmath.log(start), mpmath.log(end), 30))


def three_directions() -> Instance:
    """Features that cancel but for rounding: an exact saddle, if their sum were exact."""
    angles = 2 * np.pi * np.arange(3) / 3
    features = [*np.stack([np.cos(angles), np.sin(angles)], 1).tolist(), [0.0, 0.0]]
    return Instance([1.0, 1.0, 1.0, -1.0], policy=LinearSoftmax([features]))


STARTS = (1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-16, 1e-20)


def test_a_network_leaves_a_saddle_when_it_should():
    """However small the start is: its gradient is exact to a relative rounding error."""
    instances = stack(*map(two_layers, STARTS))
    goals = jax.vmap(partial(reward_level, level=0.9))(instances)
    found = hitting_times(instances, goals)
    with mpmath.workdps(DIGITS):
        exact = np.array([float(time_of_two_layers(start)) for start in STARTS])
    assert f"{exact[2]:.2f}" == "58.31"
    np.testing.assert_array_equal(found.status[:, 0], Status.REACHED)
    np.testing.assert_allclose(found.time[:, 0], exact, rtol=1e-10)
    assert (found.steps < 300).all()
    # The policy at that time: a part in 1e10 of the time is 1e-10 * 187 of the logits or less.
    log_p, end = final_policies(instances, Control(horizon=exact))
    np.testing.assert_allclose(jnp.exp(log_p[:, 0, 0]), 0.9, rtol=1e-9)
    np.testing.assert_array_equal(end, exact)


def test_a_network_that_slows_down_at_first_leaves_a_saddle_all_the_same():
    """With ``a = 1`` and ``b = -0.9`` times next to nothing the speed falls until both are positive."""
    sizes = np.array([1e-3, 1e-6, 1e-9, 1e-12])
    starts = jax.vmap(
        lambda size: Instance([1.0, 0.0], start=Parameters(size * jnp.array([1.0, -0.9])), policy=TWO_LAYERS)
    )(sizes)
    found = hitting_times(starts, jax.vmap(partial(reward_level, level=0.9))(starts))
    np.testing.assert_array_equal(found.status[:, 0], Status.REACHED)
    # (a + b) grows like exp(t / 4), and (a - b) falls so: the start is left when (a + b) / 2 is of order one.
    passed = np.diff(found.time[:, 0])
    np.testing.assert_allclose(passed, 4 * np.log(1e3), rtol=1e-5)
    _, end = final_policies(starts, Control(horizon=found.time[:, 0]))
    np.testing.assert_array_equal(end, found.time[:, 0])


def test_the_slower_of_two_ways_out_of_a_saddle_is_followed_as_well():
    """Where the goal depends on it; one that make audit found to be off by 1.04e-9, of steps' errors."""
    first = [-1.742747469637732, -0.6235628866559214]
    second = [0.39755078813503536, -1.1340033532029414]
    features = np.array([first, second, [-x for x in first], [-x for x in second], [0.0, 0.0]])
    high, middle = 0.21860692091254974, 0.09680242415020479
    rewards = np.array([high, middle, high, middle, -1.0])
    instance = Instance(
        rewards,
        start=Parameters([1.0954700923173505e-07, -3.0498772683956555e-07]),
        policy=LinearSoftmax(features[None]),
    )
    found = hitting_time(instance, reward_level(instance, 0.21615800785940859))
    assert float(found.time[0]) == pytest.approx(179.23476458934132, rel=7e-10)  # by heyoka, in 33 digits


def test_features_leave_a_saddle_when_they_should_or_it_is_said_that_it_is_unknown():
    """The gradient is a difference of terms of order one: at 1e-9 it is known to 1e-7 of itself."""
    instances = stack(*map(opposite_features, STARTS))
    goals = jax.vmap(partial(reward_level, level=0.9))(instances)
    found = hitting_times(instances, goals)
    times, status = found.time[:, 0], np.asarray(found.status[:, 0])
    reached = status == Status.REACHED
    assert reached[:4].all()
    assert np.isin(status[~reached], (Status.NOT_CONVERGED, Status.STATIONARY)).all()
    with mpmath.workdps(DIGITS):
        exact = np.array([float(time_of_opposite_features(start)) for start in STARTS])
    assert f"{exact[6]:.1f}" == "73.6"
    np.testing.assert_allclose(times[reached], exact[reached], rtol=1e-9)
    assert (found.steps < 200).all()
    # Neither is the policy.
    log_p, end = final_policies(instances, Control(horizon=exact))
    value = jnp.exp(log_p[:, 0]) @ jnp.array([1.0, 1.0, -1.0])
    np.testing.assert_allclose(value[reached], 0.9, rtol=1e-8)
    np.testing.assert_array_equal(end == exact, reached)


@pytest.mark.parametrize("instance", [opposite_features(0.0), three_directions(), two_layers(0.0)])
def test_a_flow_does_not_leave_an_exact_saddle_by_rounding(instance):
    found = hitting_time(instance, reward_level(instance, 0.9))
    assert np.isinf(found.time[0])
    assert found.status[0] == Status.STATIONARY
    assert found.steps == 0
    log_p, _ = final_policy(instance)
    start = instance.log_probabilities(instance.initial_parameters)
    np.testing.assert_array_equal(log_p, start)


def test_a_saddle_that_is_left_slowly_is_no_optimum():
    # An estimate of the velocity's rounding error that happened to cancel: all steps were refused until they
    # ran out, and the flow was said to rest. By heyoka in 33 digits it has the level at 56.6.
    half = np.array([[-0.55032711, -0.60168901], [0.46896231, 1.35874768]])
    features = np.concatenate([half, -half, np.zeros((1, 2))])[None]
    rewards = [[0.82743347, 0.89234371, 0.82743347, 0.89234371, -1.0]]
    start = Parameters(np.array([-2.84017715e-10, 1.06641636e-10]))
    instance = Instance(rewards, start=start, policy=LinearSoftmax(features))
    found = hitting_time(instance, reward_level(instance, 0.499027))
    assert found.status[0] == Status.NOT_CONVERGED
    assert found.steps < 1_000
    few = hitting_time(
        opposite_features(1e-10), reward_level(opposite_features(1e-10), 0.5), Control(max_steps=3)
    )
    assert few.status[0] == Status.NOT_CONVERGED
    # Nor with more features than eigenvalues are computed for.
    wide = Instance(
        [1.0, 1.0, -1.0],
        start=Parameters(np.append(1e-10, np.zeros(199))),
        policy=LinearSoftmax(np.pad([[[1.0], [-1.0], [0.0]]], [(0, 0), (0, 0), (0, 199)])),
    )
    few = hitting_time(wide, reward_level(wide, 0.5), Control(max_steps=3))
    assert few.status[0] == Status.NOT_CONVERGED


def test_a_stationary_point_that_is_left_in_some_direction_is_no_optimum():
    """What make audit found once in 5,445 times: a flow so close that rounding hid where it went."""
    instance = opposite_features(0.0)
    assert not converged(instance, reward_level(instance, 0.9), instance.initial_parameters)
    # The other way round it is one.
    turned = Instance([-1.0, -1.0, 1.0], start=Parameters([0.0]), policy=instance.policy)
    value = float(jnp.exp(turned.log_probabilities(turned.initial_parameters))[0] @ turned.rewards[0])
    assert converged(turned, reward_level(turned, value + 0.1), turned.initial_parameters)


def test_a_flow_that_comes_to_a_saddle_does_not_leave_it_by_rounding():
    """Two features in balance stay so: nothing tells the first output from the second but rounding errors."""
    features = [[[1.0, 0.3], [-1.0, 0.3], [0.1, -0.7], [-0.1, -0.7]]]
    instance = Instance([1.0, 1.0, 0.0, 0.0], start=Parameters([0.0, -1.0]), policy=LinearSoftmax(features))
    found = hitting_time(instance, Goal(jnp.array([[1.0, 0.0, 0.0, 0.0]]), jnp.array([0.9])))
    assert found.status[0] != Status.REACHED


def test_short_times_are_as_exact_as_long_ones():
    """A time of 1e-9 units is no smaller than the tolerance of a longer one."""
    instance = opposite_features(1.0)
    value = float(jnp.exp(instance.log_probabilities(instance.initial_parameters))[0] @ instance.rewards[0])
    level = value + 1e-6
    found = hitting_time(instance, reward_level(instance, level))
    with mpmath.workdps(DIGITS):
        end = mpmath.acosh((1 + mpmath.mpf(level)) / (1 - mpmath.mpf(level)) / 2)

        def slowness(theta: Any) -> Any:
            return (1 + 2 * mpmath.cosh(theta)) ** 2 / (4 * mpmath.sinh(theta))

        exact: Any = mpmath.quad(slowness, [1, end])
    np.testing.assert_allclose(found.time[0], float(exact), rtol=1e-9)
