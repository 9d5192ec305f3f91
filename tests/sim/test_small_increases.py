"""Increases far below a rounding error of the expectation, from the closed form of two outputs."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from sim_strategies import stack

from goodteacher.sim.autoregressive import Sequences, token_function
from goodteacher.sim.flow import hitting_time, hitting_times
from goodteacher.sim.goals import Goal, reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax

GAMMAS = 10.0 ** -np.arange(1, 16)
LOGITS = np.log([0.3, 0.7])


def exact(gamma: float, difference: mpmath.mpf) -> mpmath.mpf:
    """The time of an increase by ``gamma`` with rewards 1 and -1.

    ``4 t`` is the change of ``F(p) = -1 / p + 1 / (1 - p) + 2 ln(p / (1 - p))``.
    """
    start = 1 / (1 + mpmath.exp(-difference))

    def antiderivative(p: mpmath.mpf) -> mpmath.mpf:
        return -1 / p + 1 / (1 - p) + 2 * mpmath.log(p / (1 - p))

    return (antiderivative(start + mpmath.mpf(gamma) / 2) - antiderivative(start)) / 4


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_small_increases_take_the_time_of_the_closed_form(offset):
    """Whatever constant is added to all logits."""
    logits = LOGITS + offset
    instance = Instance([1.0, -1.0], start=Parameters(logits))
    goals = jax.vmap(lambda gamma: reward_increase(instance, gamma))(GAMMAS)
    found = hitting_times(stack(*[instance] * len(GAMMAS)), goals)
    with mpmath.workdps(60):
        difference = mpmath.mpf(logits[0]) - mpmath.mpf(logits[1])
        times = [float(exact(gamma, difference)) for gamma in GAMMAS]
    np.testing.assert_allclose(found.time[:, 0], times, rtol=1e-10)


def test_derivative_of_the_time_of_a_small_increase():
    """By the increase, and by a logit: the time is a function of both logits' difference."""

    @jax.jit
    def time(gamma, logit):
        instance = Instance([1.0, -1.0], start=Parameters(jnp.stack([logit, LOGITS[1]])))
        return hitting_time(instance, reward_increase(instance, gamma)).time[0]

    with mpmath.workdps(60):
        difference = mpmath.mpf(LOGITS[0]) - mpmath.mpf(LOGITS[1])
    for gamma in (1e-2, 1e-8, 1e-14):
        by_gamma, by_logit = jax.grad(time, argnums=(0, 1))(gamma, LOGITS[0])
        with mpmath.workdps(60):
            slopes = (
                mpmath.diff(lambda g: exact(g, difference), mpmath.mpf(gamma)),
                mpmath.diff(lambda d, g=gamma: exact(g, d), difference),
            )
        np.testing.assert_allclose([by_gamma, by_logit], [*map(float, slopes)], rtol=1e-9)


@pytest.mark.parametrize("kind", ["features", "network"])
def test_small_increases_of_shared_parameters(kind):
    """Logits of difference ``a``, and of difference ``a b``, from where the level itself is rounded away."""
    if kind == "features":
        policy, start = LinearSoftmax([[[0.5], [-0.5]]]), jnp.array([0.7])
    else:

        def network(parameters, *_):
            return jnp.array([0.5, -0.5]) * parameters["a"] * parameters["b"]

        policy, start = token_function(Sequences(1, 2, 1), network, {"a": 0.7, "b": 1.0})
    instance = Instance([1.0, -1.0], start=Parameters(start), policy=policy)
    # To first order, the increase over its rate: the difference of logits z has z' = |dz|^2 2 p (1 - p).
    p = 1 / (1 + np.exp(-0.7))
    size = 1.0 if kind == "features" else 1.0 + 0.7**2
    rate = size * (2 * p * (1 - p)) ** 2
    for gamma in (1e-11, 1e-14):
        found = hitting_time(instance, reward_increase(instance, gamma))
        np.testing.assert_allclose(found.time[0], gamma / rate, rtol=1e-10)


def test_an_increase_and_its_level_are_one_goal():
    instance = Instance([1.0, 0.2, -1.0], [0.5, 1.0, -1.0], start=[0.2, 0.5, 0.3])
    goal = reward_increase(instance, 0.2)
    assert goal.increase is not None
    level = Goal(goal.values, goal.level)
    assert level.increase is None
    found = hitting_time(instance, goal).time, hitting_time(instance, level).time
    np.testing.assert_allclose(*found, rtol=1e-12)
    for one in (goal, level):
        assert hitting_time(instance, one.lowered(jnp.array([True]))).time == 0
