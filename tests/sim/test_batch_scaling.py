"""All prompts on the clock of the batch, against the joint field by an independent integrator."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from scipy.special import log_softmax

from goodteacher.sim import batch_scaling, flow
from goodteacher.sim.ascent import ascend
from goodteacher.sim.batch_scaling import deviation, elapsed
from goodteacher.sim.batching import as_batch
from goodteacher.sim.clocks import BatchScaled, Grpo
from goodteacher.sim.control import Control
from goodteacher.sim.flow import hitting_time, hitting_times, policies
from goodteacher.sim.goals import reward_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.itineraries import itineraries
from goodteacher.sim.objective import gradient
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status

REWARDS = [[1.0, 0.6, 0.0], [0.2, 0.0, 0.1], [1.0, 0.0, 0.0]]
LEVELS = [0.9, 0.18, 0.95]
STALLED = Instance(
    REWARDS,
    start=[[1e-2, 0.5, 0.49], [0.3, 0.3, 0.4], [0.01, 0.5, 0.49]],
    prompt_weights=[0.5, 0.2, 0.3],
)


def of_batch(instance, epsilon=0.0):
    return instance.following(BatchScaled(epsilon))


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
    instances, goals = as_batch((of_batch(STALLED, epsilon), reward_level(STALLED, LEVELS)))
    found = hitting_times(instances, goals)
    time = found.time
    assert (np.asarray(found.status) == Status.REACHED).all()
    assert found.end[0] == time.max()
    np.testing.assert_allclose((np.exp(found.log_probabilities[0]) * REWARDS).sum(-1), LEVELS, rtol=1e-10)
    at = np.array([0.0, 0.3, 5.0, 60.0, 300.0])
    there, reached = joint(STALLED, epsilon, 1.1 * float(time.max()), at)
    np.testing.assert_allclose(time[0], np.concatenate(reached), rtol=1e-9)
    np.testing.assert_allclose(policies(instances, at[None])[0], there, atol=1e-8)


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
    time = np.asarray(elapsed(as_batch(of_batch(instance, 0.01)), of_gradient))[0]
    there, _ = joint(instance, 0.01, time[-1], time, variances)
    np.testing.assert_allclose(flow.policies(as_batch(instance), of_gradient)[0], there, atol=1e-8)


def test_one_prompt_is_grpo_and_others_change_its_clock():
    one = Instance([1.0, 0.0], start=[0.01, 0.99])
    grpo = flow.hitting_time(one.following(Grpo(epsilon=1e-4)), reward_level(one, 0.9)).time
    joint = hitting_time(of_batch(one, 1e-4), reward_level(one, 0.9)).time
    np.testing.assert_allclose(joint, grpo, rtol=1e-10)
    # Half the weight is twice the time; beside one that always fails half the variance, while p is small.
    two = Instance([[1.0, 0.0], [0.0, 0.0]], start=[[0.01, 0.99], [0.5, 0.5]])
    found = hitting_time(of_batch(two, 1e-4), reward_level(two, 0.9))
    assert np.sqrt(2.0) < float(found.time[0] / grpo[0]) < 1.9
    assert found.time[1] == np.inf
    assert found.status[1] == Status.OUT_OF_REACH
    assert found.end == found.time[0]
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    np.testing.assert_allclose(deviation(as_batch(two), np.log(p)[None, None]), np.sqrt(0.45 - 0.45**2))


def test_far_times_and_rewards_without_a_spread():
    """``sigma`` falls like ``s^(-1/2)`` where all prompts learn to the end."""
    one = of_batch(Instance([1.0, 0.0], start=[0.5, 0.5]))
    times = elapsed(as_batch(one), np.array([[1e20, 1e24]]))
    np.testing.assert_allclose(times[0, 1] / times[0, 0], 100.0, rtol=1e-6)
    found = policies(as_batch(one), np.asarray(times))
    np.testing.assert_allclose(found[0, 0, 0, 1] - found[0, 1, 0, 1], np.log(1e4), rtol=1e-6)
    flat = of_batch(Instance([0.3, 0.3], start=[0.2, 0.8]))
    np.testing.assert_allclose(np.exp(policies(as_batch(flat), np.array([[0.0, 7.0]])))[0, 1, 0], [0.2, 0.8])


def test_policies_that_the_gradient_is_not_known_to_have_are_not_known(monkeypatch):
    known = flow.policies

    def up_to_fifty(instances, times):
        return jnp.where((times <= 50.0)[..., None, None], known(instances, times), jnp.nan)

    monkeypatch.setattr(flow, "policies", up_to_fifty)
    instance = of_batch(Instance([[1.0, 0.0], [0.0, 1.0]], start=[[0.2, 0.8], [0.4, 0.6]]))
    found = np.asarray(batch_scaling.policies(as_batch(instance), np.array([[0.1, 1e3]])))
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1]).all()


def test_horizons_trajectories_and_itineraries_are_of_the_batch():
    instance, goal = of_batch(STALLED, 1e-4), reward_level(STALLED, LEVELS)
    whole = hitting_time(instance, goal)
    horizon = float(np.sort(whole.time)[1]) * 1.01
    found = hitting_time(instance, goal, Control(horizon=horizon))
    late = int(whole.time.argmax())
    assert found.status.tolist() == [int(x == late) for x in range(3)]
    assert found.time[late] == np.inf
    assert found.end == horizon
    last, end = flow.final_policy(instance, Control(horizon=horizon))
    assert end == horizon
    np.testing.assert_allclose(found.log_probabilities[late], last[late], rtol=1e-12)
    times = np.array([0.0, float(whole.time[late])])
    logits = flow.trajectory(instance, times)
    np.testing.assert_allclose(logits[0], instance.initial_parameters)
    np.testing.assert_allclose(log_softmax(logits[1], -1)[late], whole.log_probabilities[late], atol=1e-9)
    # A stop ends where the two outputs are equally likely.
    stops = itineraries(instance)[late].stops
    at = np.array([[stops[1].start]])
    p = np.exp(policies(as_batch(instance), at))[0, 0, late]
    assert stops[1].start < times[1]
    np.testing.assert_allclose(p[stops[0].output], p[stops[1].output], rtol=1e-6)


def test_small_updates_with_exact_gradients_follow_the_flow():
    """With what is divided by recomputed at every update; and where nothing differs, nothing moves."""
    instance = of_batch(STALLED, 0.05)
    rate, updates = 1e-3, 2000
    learned = ascend(instance, optax.sgd(rate), updates).parameters
    there = policies(as_batch(instance), np.array([[rate * updates]]))[0, 0]
    np.testing.assert_allclose(log_softmax(learned, -1), there, atol=2e-4)
    assert np.abs(log_softmax(learned, -1) - log_softmax(instance.initial_parameters, -1)).max() > 0.3
    flat = of_batch(Instance([0.3, 0.3], start=[0.2, 0.8]))
    assert (gradient(flat, flat.initial_parameters) == 0).all()


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [(Regularizer(kl=0.1), "the problem is regularised"), (None, "of problems that are not traced")],
)
def test_bad_input(regularizer, message):
    instance = of_batch(Instance([1.0, 0.0], start=[0.5, 0.5], regularizer=regularizer))

    def found(rewards):
        changed = eqx.tree_at(lambda i: i.rewards, instance, rewards)
        return policies(as_batch(changed), np.ones((1, 1)))

    with pytest.raises(ValueError, match=message):
        (jax.jit(found) if regularizer is None else found)(instance.rewards)
    with pytest.raises(ValueError, match=r"epsilon is -0\.1; it must be not negative"):
        BatchScaled(-0.1)


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
        of(as_batch(of_batch(STALLED)), times)
