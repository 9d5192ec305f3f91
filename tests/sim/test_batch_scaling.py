"""All prompts on the clock of the batch, against the joint field by an independent integrator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import log_softmax

from goodteacher.sim import flow
from goodteacher.sim.batch_scaling import deviation, elapsed, hitting_times, policies
from goodteacher.sim.batching import as_batch
from goodteacher.sim.clocks import Grpo
from goodteacher.sim.goals import reward_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.policies import LinearSoftmax

REWARDS = [[1.0, 0.6, 0.0], [0.2, 0.0, 0.1], [1.0, 0.0, 0.0]]
LEVELS = [0.9, 0.18, 0.95]
STALLED = Instance(
    REWARDS,
    start=[[1e-2, 0.5, 0.49], [0.3, 0.3, 0.4], [0.01, 0.5, 0.49]],
    prompt_weights=[0.5, 0.2, 0.3],
)


def joint(instance, epsilon, until, times=None, variances: float | np.ndarray = 0.0):
    """The field of all prompts, with one scale, and when each reaches its level."""
    rewards, weights = np.asarray(instance.rewards), np.asarray(instance.prompt_weights)
    slope = np.asarray(jax.jacobian(instance.policy.logits)(instance.initial_parameters))
    slope = slope.reshape(*rewards.shape, -1)

    def means(parameters):
        p = np.exp(log_softmax(slope @ parameters, axis=-1))
        return p, (p * rewards).sum(-1)

    def field(time, parameters):
        p, mean = means(parameters)
        seconds = (p * (rewards**2 + variances)).sum(-1)
        scale = np.sqrt((weights * seconds).sum() - (weights * mean).sum() ** 2) + epsilon
        pull = weights[:, None] * p * (rewards - mean[:, None]) / scale
        return np.einsum("xy,xyp->p", pull, slope)

    events = [lambda t, at, x=x: means(at)[1][x] - LEVELS[x] for x in range(len(rewards))]
    start = np.asarray(instance.initial_parameters).ravel()
    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12, "t_eval": times, "events": events}
    found = solve_ivp(field, (0.0, until), start, **options)
    return log_softmax(np.einsum("xyp,pt->txy", slope, found.y), axis=-1), found.t_events


@pytest.mark.parametrize("epsilon", [0.0, 1e-1])
def test_times_and_policies_of_a_batch_with_a_stall(epsilon):
    instances, goals = as_batch((STALLED, reward_level(STALLED, LEVELS)))
    time, status = hitting_times(instances, goals, epsilon)
    assert (np.asarray(status) == 0).all()
    at = np.array([0.0, 0.3, 5.0, 60.0, 300.0])
    there, reached = joint(STALLED, epsilon, 1.1 * float(time.max()), at)
    np.testing.assert_allclose(time[0], np.concatenate(reached), rtol=1e-9)
    np.testing.assert_allclose(policies(instances, at[None], epsilon)[0], there, atol=1e-8)


def test_shared_parameters_and_random_rewards_keep_the_path():
    """The factor is that of the whole gradient. Variances are those of what a verifier says."""
    features = np.random.default_rng(0).normal(size=(2, 3, 4))
    variances = np.array([[0.0, 0.25, 0.1], [0.2, 0.0, 0.1]])
    instance = Instance(
        REWARDS[:2],
        policy=LinearSoftmax(features),
        start=Parameters(np.zeros(4)),
        reward_variances=variances,
    )
    of_gradient = np.array([[2.0]])
    time = np.asarray(elapsed(as_batch(instance), of_gradient, 0.01))[0]
    there, _ = joint(instance, 0.01, time[-1], time, variances)
    np.testing.assert_allclose(flow.policies(as_batch(instance), of_gradient)[0], there, atol=1e-8)


def test_one_prompt_is_grpo_and_others_change_its_clock():
    one = Instance([1.0, 0.0], start=[0.01, 0.99])
    goal = as_batch(reward_level(one, 0.9))
    grpo = flow.hitting_time(one.following(Grpo(epsilon=1e-4)), reward_level(one, 0.9)).time
    np.testing.assert_allclose(hitting_times(as_batch(one), goal, 1e-4)[0][0], grpo, rtol=1e-10)
    # Half the weight is twice the time; beside one that always fails half the variance, while p is small.
    two = Instance([[1.0, 0.0], [0.0, 0.0]], start=[[0.01, 0.99], [0.5, 0.5]])
    time, status = hitting_times(as_batch(two), as_batch(reward_level(two, 0.9)), 1e-4)
    assert np.sqrt(2.0) < float(time[0, 0] / grpo[0]) < 1.9
    assert time[0, 1] == np.inf
    assert status[0, 1] != 0
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    np.testing.assert_allclose(deviation(as_batch(two), np.log(p)[None, None]), np.sqrt(0.45 - 0.45**2))


def test_far_times_and_rewards_without_a_spread():
    """``sigma`` falls like ``s^(-1/2)`` where all prompts learn to the end."""
    one = Instance([1.0, 0.0], start=[0.5, 0.5])
    times = elapsed(as_batch(one), np.array([[1e20, 1e24]]))
    np.testing.assert_allclose(times[0, 1] / times[0, 0], 100.0, rtol=1e-6)
    found = policies(as_batch(one), np.asarray(times))
    np.testing.assert_allclose(found[0, 0, 0, 1] - found[0, 1, 0, 1], np.log(1e4), rtol=1e-6)
    flat = Instance([0.3, 0.3], start=[0.2, 0.8])
    np.testing.assert_allclose(np.exp(policies(as_batch(flat), np.array([[0.0, 7.0]])))[0, 1, 0], [0.2, 0.8])


def test_policies_that_the_gradient_is_not_known_to_have_are_not_known(monkeypatch):
    known = flow.policies

    def up_to_fifty(instances, times):
        return jnp.where((times <= 50.0)[..., None, None], known(instances, times), jnp.nan)

    monkeypatch.setattr(flow, "policies", up_to_fifty)
    instances = as_batch(Instance([[1.0, 0.0], [0.0, 1.0]], start=[[0.2, 0.8], [0.4, 0.6]]))
    found = np.asarray(policies(instances, np.array([[0.1, 1e3]])))
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1]).all()


@pytest.mark.parametrize(
    ("instance", "epsilon", "message"),
    [
        (STALLED, -0.1, "epsilon is -0.1; it must be not negative"),
        (STALLED.following(Grpo()), 0.0, "follow a clock of their own"),
        (Instance([1.0, 0.0], start=[0.5, 0.5], regularizer=Regularizer(kl=0.1)), 0.0, "are regularised"),
    ],
)
def test_bad_input(instance, epsilon, message):
    with pytest.raises(ValueError, match=message):
        policies(as_batch(instance), jnp.ones((1, 1)), epsilon)


@pytest.mark.parametrize("of", [policies, elapsed])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.array([[-1.0]]), "times must be finite and not negative"),
        (np.array([[np.inf]]), "times must be finite and not negative"),
        (np.ones((2, 1)), r"times has shape \[2, 1\]; give a row of times for each of 1 problems"),
    ],
)
def test_bad_times(of, times, message):
    with pytest.raises(ValueError, match=message):
        of(as_batch(STALLED), times)
