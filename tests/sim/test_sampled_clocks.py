"""Sampled estimators with the settings of clocks: on average they are the clocks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from goodteacher.sim.clocks import BatchScaled, DynamicSampling, Grpo, MaxRl, MeanSubtracted
from goodteacher.sim.instance import Instance, verified
from goodteacher.sim.learning import learn
from goodteacher.sim.objective import gradient
from goodteacher.sim.sampling import (
    logit_estimate,
    redrawn,
    sampled_gradient,
    seen_rewards,
    weighing,
    weighing_batch,
)

GROUP = 3
TWO = Instance([[1.0, 0.0, 1.0]], start=[[0.2, 0.5, 0.3]])
THREE = Instance([[1.0, 0.3, 0.0]], start=[[0.2, 0.5, 0.3]])
CLOCKS = {
    "trl": Grpo(GROUP, 1e-4),
    "epsilon": Grpo(GROUP, 0.3),
    "population": Grpo(GROUP, 0.0, bessel=False),
    "mean": MeanSubtracted(GROUP),
    "maxrl": MaxRl(GROUP),
}


@jax.jit
@jax.vmap
def _drawn(key):
    return jax.random.uniform(key, (2, 1, GROUP))


def _enumerated(instance, clock):
    """The mean over all ordered groups, of those with a spread if others are drawn again."""
    again = isinstance(clock, DynamicSampling)
    rule = weighing(clock.of if again else clock)
    groups = np.array(list(itertools.product(range(3), repeat=GROUP)))[:, None]
    logits = instance.initial_parameters
    estimates = jax.vmap(lambda samples: logit_estimate(instance, logits, samples, rule))(groups)
    p = np.asarray(instance.probabilities(logits))[0]
    chances = p[groups[:, 0]].prod(-1)
    rewards = np.asarray(instance.rewards)[0][groups[:, 0]]
    kept = np.where((rewards != rewards[:, :1]).any(1), chances, 0.0) if again else chances
    return np.einsum("g,gxy->xy", kept, estimates) / kept.sum()


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("instance", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("again", [False, True])
def test_mean_over_all_groups_is_the_clock(name, instance, again):
    clock = DynamicSampling(CLOCKS[name]) if again else CLOCKS[name]
    exact = gradient(instance.following(clock), instance.initial_parameters)
    np.testing.assert_allclose(_enumerated(instance, clock), exact, rtol=1e-12, atol=1e-15)
    other = Grpo(GROUP, 0.03)
    apart = np.abs(_enumerated(instance, DynamicSampling(other) if again else other) / exact - 1.0)
    assert apart.max() > 0.01


def _within(values, exact, sigmas=5.0):
    error = np.asarray(values).std(0) / np.sqrt(len(values))
    return (np.abs(np.asarray(values).mean(0) - exact) <= sigmas * error + 1e-15).all()


def test_a_verifier_that_errs_and_groups_that_are_drawn_again():
    truth = [[1.0, 0.0, 0.0]]
    rewards, variances = verified(truth, 0.8, 0.1)
    noisy = Instance(rewards, truth, [[0.2, 0.5, 0.3]], reward_variances=variances)
    start, keys = noisy.initial_parameters, jax.random.split(jax.random.key(0), 100_000)
    draws = _drawn(keys)
    for clock in (Grpo(GROUP, 1e-4), MaxRl(GROUP)):
        rule = weighing(clock)
        found = jax.jit(jax.vmap(lambda u, r=rule: sampled_gradient(noisy, start, u[0], r, u[1])))(draws)
        exact = np.asarray(gradient(noisy.following(clock), start))
        assert _within(found, exact)
        assert not _within(found, 1.1 * exact)
        without = np.asarray(
            gradient(Instance(rewards, truth, [[0.2, 0.5, 0.3]]).following(MeanSubtracted()), start)
        )
        assert not _within(found, without)

    again = jax.jit(jax.vmap(lambda key, u: redrawn(noisy, start, key, u)))(keys, draws)
    rule = weighing(Grpo(GROUP, 1e-4))
    found = jax.jit(jax.vmap(lambda u: sampled_gradient(noisy, start, u[0], rule, u[1])))(again)
    assert (np.abs(found).sum((1, 2)) > 0).all()
    exact = np.asarray(gradient(noisy.following(DynamicSampling(Grpo(GROUP, 1e-4))), start))
    assert _within(found, exact)
    assert not _within(found, exact / 1.1)


def test_random_rewards_have_their_moments():
    instance = Instance([[0.3, 2.0, -1.0]], start=[[0.2, 0.5, 0.3]], reward_variances=[[0.21, 0.5, 0.0]])
    noise = (np.arange(30_000) + 0.5) / 30_000
    for output, (mean, variance) in enumerate([(0.3, 0.21), (2.0, 0.5), (-1.0, 0.0)]):
        samples = np.full((1, len(noise)), output)
        seen = np.asarray(seen_rewards(instance, jnp.asarray(samples), jnp.asarray(noise)[None]))[0]
        np.testing.assert_allclose([seen.mean(), seen.var()], [mean, variance], atol=2e-4)
        assert (output == 0) == (set(np.unique(seen)) == {0.0, 1.0})
    assert np.isfinite(seen_rewards(instance, jnp.asarray([[1]]), jnp.zeros((1, 1)))).all()


def test_max_rl_weighs_nothing_where_the_mean_is_not_positive():
    rule = weighing(MaxRl(2))
    rewards = jnp.asarray([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.5], [2.0, -1.0]])
    np.testing.assert_allclose(rule.weigh(rewards, rewards), [[1, -1], [0, 0], [0, 0], [3, -3]])


def test_learners_take_clocks():
    truth = [[1.0, 0.0, 0.0]]
    rewards, variances = verified(truth, 0.9, 0.1)
    noisy = Instance(rewards, truth, [[0.2, 0.5, 0.3]], reward_variances=variances)
    asked = ("expected_ground_truth_reward",)

    def learned(clock):
        def one(key):
            return learn(noisy, key, clock, None, optax.sgd(0.2), 60, metrics=asked).records[asked[0]][-1, 0]

        return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(1), 40)))

    plain, again = learned(Grpo(4, 1e-4)), learned(DynamicSampling(Grpo(4, 1e-4)))
    assert 0.5 < plain.mean() < again.mean()
    assert len(np.unique(plain)) == 40


def test_a_batch_is_divided_by_the_deviation_of_all_its_samples():
    weights, rewards = jnp.asarray([0.5, 0.5]), jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.5, 2.0]])
    found = weighing_batch(BatchScaled(0.1), weights).weigh(rewards, rewards)
    centred = np.asarray(rewards) - np.asarray(rewards).mean(1, keepdims=True)
    np.testing.assert_allclose(found, centred / (np.asarray(rewards).std(ddof=1) + 0.1), rtol=1e-14)
    none = weighing_batch(BatchScaled(), weights).weigh(jnp.ones((2, 3)), rewards)
    np.testing.assert_array_equal(none, np.zeros((2, 3)))


def test_large_groups_of_a_batch_follow_its_flow():
    problem = Instance(
        [[1.0, 0.0, 0.4], [0.9, 0.8, 1.0]],
        start=[[0.1, 0.6, 0.3], [0.5, 0.3, 0.2]],
        prompt_weights=[0.7, 0.3],
    )
    size = 200_000
    draws = jax.random.uniform(jax.random.key(0), (2, size))
    rule = weighing_batch(BatchScaled(0.05, size), problem.prompt_weights)
    found = np.asarray(sampled_gradient(problem, problem.initial_parameters, draws, rule))
    exact, other = (
        np.asarray(gradient(problem.following(clock), problem.initial_parameters))
        for clock in (BatchScaled(0.05), Grpo(epsilon=0.05))
    )
    np.testing.assert_allclose(found, exact, atol=2e-3)
    assert np.abs(found - other).max() > 0.02


def test_learners_divide_by_the_batch():
    problem = Instance([[1.0, 0.0], [0.1, 0.0]], start=[[0.2, 0.8], [0.5, 0.5]])

    def learned(clock):
        found = learn(
            problem, jax.random.key(0), clock, None, optax.sgd(0.2), 40, metrics=("expected_proxy_reward",)
        )
        return np.asarray(found.records["expected_proxy_reward"])[-1]

    batch, group = learned(BatchScaled(1e-4, 8)), learned(Grpo(8, 1e-4))
    np.testing.assert_array_equal(batch, learned(BatchScaled(1e-4, 8)))
    assert batch[1] < group[1]  # whose rewards spread less


@pytest.mark.parametrize(
    ("clock", "group", "message"),
    [
        (Grpo(), None, "group of GRPO, large groups is inf; give one"),
        (BatchScaled(), None, "large groups, scaled by the batch is inf; give one"),
        (Grpo(4), 8, "group is 8, and that of GRPO, groups of 4 is 4; leave one out"),
        ("grpo", None, "group is missing; give the number of samples"),
    ],
)
def test_bad_input(clock, group, message):
    with pytest.raises(ValueError, match=message):
        learn(TWO, jax.random.key(0), clock, group, optax.sgd(0.1), 1)
