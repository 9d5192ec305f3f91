"""Sampling and learning from samples, against loops in NumPy and many samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sim_strategies import beneficial_errors, random_data, stack

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn
from goodteacher.sim.objective import gradient
from goodteacher.sim.sampling import ESTIMATORS, estimator, inverse_cdf, logit_estimate, sampled_gradient

RATE = 0.1
GROUP = 4


def test_inverse_cdf_gives_each_output_its_share():
    """On an even grid of N numbers each output is met N times its probability, to within one."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(7, 0.3), 50)
    probabilities[:, 3] = 0.0
    probabilities /= probabilities.sum(-1, keepdims=True)
    grid = (np.arange(4000) + 0.5) / 4000
    samples = np.asarray(inverse_cdf(jnp.asarray(probabilities), jnp.broadcast_to(grid, (50, 4000))))
    counts = np.stack([(samples == output).sum(-1) for output in range(7)], -1)
    assert np.abs(counts - 4000 * probabilities).max() <= 1.0 + 1e-9
    assert np.abs(counts[:, ::-1] - 4000 * probabilities).max() > 100


def test_an_output_of_probability_zero_is_never_sampled():
    probabilities = jnp.array([[0.0, 0.1, 0.0, 0.2, 0.7, 0.0]])
    ends = jnp.array([[0.0, 0.11, 0.31, 1.0 - 2.0**-52]])
    np.testing.assert_array_equal(inverse_cdf(probabilities, ends), [[1, 3, 4, 4]])
    # Ten tenths sum to a little less than one.
    tenths = jnp.array([[0.1] * 10 + [0.0]])
    assert inverse_cdf(tenths, jnp.array([[1.0 - 2.0**-53]])) == 9


@pytest.mark.parametrize("group", [3, 5, 7])
def test_equal_rewards_weigh_nothing(group):
    """Their mean need not be what they are; nothing may be made of the difference."""
    rewards = jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (200, 1)) * np.ones(group))
    assert (rewards.mean(-1) != rewards[:, 0]).any()
    weights = estimator("grpo", group).weigh(rewards, jnp.zeros_like(rewards))
    np.testing.assert_array_equal(weights, np.zeros((200, group)))


def plain_weights(name, rewards, value):
    """The weight of each sample of one prompt, one at a time."""
    weights = []
    for i, reward in enumerate(rewards):
        others = [r for j, r in enumerate(rewards) if j != i]
        spread = np.std(rewards)
        weights.append(
            {
                "reinforce": reward,
                "baseline": reward - value,
                "rloo": reward - np.mean(others),
                "grpo": (reward - np.mean(rewards)) / spread if spread > 1e-12 else 0.0,
                "grpo_unscaled": reward - np.mean(rewards),
            }[name]
        )
    return weights


def plain_estimate(data, logits, samples, name):
    """Straight from the definition: the mean of weighted scores, prompt by prompt and sample by sample."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    reference = data["reference_policy_logits"]
    log_reference = reference - np.log(np.exp(reference).sum(-1, keepdims=True))
    rewards = (
        data["rewards"]
        - data["kl_coefficient"] * (log_p - log_reference)
        - data["entropy_coefficient"] * log_p
    )
    shares = data["prompt_weights"] / data["prompt_weights"].sum()
    p, estimate = np.exp(log_p), np.zeros_like(logits)
    for x, group in enumerate(samples):
        weights = plain_weights(name, rewards[x][group], p[x] @ rewards[x])
        for y, weight in zip(group, weights, strict=True):
            estimate[x] += shares[x] * weight * (np.eye(logits.shape[1])[y] - p[x]) / len(group)
        forward = data["forward_kl_coefficient"]
        estimate[x] += shares[x] * forward * (np.exp(log_reference[x]) - p[x])
    return estimate


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimate_is_its_definition(name):
    data = random_data(0, regularized=True)
    instance, logits = from_dictionary(data), data["initial_policy_weights"]
    samples = np.array([[0, 1, 1, 4], [2, 2, 2, 2], [3, 0, 3, 2]])
    found = logit_estimate(instance, jnp.asarray(logits), jnp.asarray(samples), estimator(name, GROUP))
    np.testing.assert_allclose(found, plain_estimate(data, logits, samples, name), rtol=1e-11, atol=1e-15)
    other = plain_estimate(data, logits, samples[:, ::-1] // 2, name)
    assert np.abs(found - other).max() > 1e-2


@pytest.mark.parametrize("features", [False, True])
def test_many_samples_agree_with_the_exact_gradient(features):
    """Within five standard errors in every parameter, with masks and KL; GRPO's mean is not the gradient."""
    instance = from_dictionary(random_data(1, scale=1.0, features=features, masked=True, regularized=True))
    parameters = instance.initial_parameters
    uniforms = jax.random.uniform(jax.random.key(2), (100_000, 3, GROUP))

    @jax.jit
    def deviations(uniforms):
        """In standard errors, by estimator."""
        exact, found = gradient(instance, parameters), {}
        for name in ESTIMATORS:
            estimates = jax.vmap(lambda u, e=ESTIMATORS[name]: sampled_gradient(instance, parameters, u, e))(
                uniforms
            )
            error = estimates.std(0) / jnp.sqrt(len(uniforms))
            found[name] = jnp.where(error > 0, jnp.abs(estimates.mean(0) - exact) / error, 0.0).max()
        return found

    found = deviations(uniforms)
    assert all(found[name] < 5 for name in ("reinforce", "baseline", "rloo"))
    assert all(found[name] > 20 for name in ("grpo", "grpo_unscaled"))


@pytest.mark.parametrize("prompts", [1, 3])
def test_learning_is_the_plain_loop(prompts):
    """Update by update with the same random numbers, whatever is recorded and however they are blocked."""
    data = {k: v[:prompts] if np.ndim(v) else v for k, v in random_data(3, regularized=True).items()}
    instance, key, count = from_dictionary(data), jax.random.key(0), 50
    length = 64 // (prompts * GROUP)
    blocks = [jax.random.uniform(jax.random.fold_in(key, k), (length, prompts, GROUP)) for k in range(13)]
    uniforms = np.concatenate(blocks)[:count]
    theta, path = np.array(data["initial_policy_weights"]), []
    for numbers in uniforms:
        path.append(theta)
        p = np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)
        samples = np.stack([np.searchsorted(np.cumsum(row), u) for row, u in zip(p, numbers, strict=True)])
        theta = theta + RATE * plain_estimate(data, theta, samples, "rloo")
    path.append(theta)

    for records in ([0, 7, 7, 33, count], [count]):
        found = learn(instance, key, "rloo", GROUP, optax.sgd(RATE), records, metrics=("probabilities",))
        np.testing.assert_allclose(found.parameters, theta, rtol=1e-10)
        for row, at in zip(found.records["probabilities"], records, strict=True):
            np.testing.assert_allclose(row, instance.probabilities(jnp.asarray(path[at])), rtol=1e-10)
    assert np.abs(np.asarray(found.parameters) - path[-2]).max() > 1e-3


UPDATES = np.array([1, 3, 10, 30, 60, 100, 150, 200, 300, 400])  # ten counts
SEEDS = 2_000


def published_runs():
    """The six runs of one sample per update: three starts, trained on the ground truth and on the proxy."""
    low = [0.45, 0.40, 0.35]
    starts = np.array([[0.5 - rest, 0.5, rest / 3, rest / 3, rest / 3] for rest in low])
    truth, proxy = np.array([1.0, 0.8, -1.0, -1.0, -1.0]), np.array([1.0, -1.0, -1.0, -1.0, -1.0])
    return np.concatenate([starts, starts]), np.repeat([truth, proxy], 3, axis=0), truth


def plain_reinforce(starts, rewards, truth, rng, tilt=0.0):
    """An independent simulation in NumPy, sampling by the Gumbel trick.

    Returns:
        ``[runs, counts, seeds]``: the expected ground truth reward.
    """
    theta = np.repeat(np.log(starts)[:, None], SEEDS, 1)
    rows, columns = np.indices((len(starts), SEEDS))
    values = []
    for update in range(1, UPDATES[-1] + 1):
        p = np.exp(theta)
        p /= p.sum(-1, keepdims=True)
        drawn = (theta + rng.gumbel(size=theta.shape)).argmax(-1)
        reward = rewards[rows, drawn] + tilt
        step = -p
        step[rows, columns, drawn] += 1.0
        theta += RATE * reward[..., None] * step
        if update in UPDATES:
            p = np.exp(theta)
            values.append((p / p.sum(-1, keepdims=True)) @ truth)
    return np.stack(values, 1)


def test_published_runs_agree_with_an_independent_simulation():
    """Means over 2000 seeds at ten update counts up to 400, to within four standard errors, in all six runs.

    Rewards that are 0.5 higher have the same exact gradient, and the noise of sampling alone tells it apart.
    """
    starts, rewards, truth = published_runs()
    runs = stack(*[Instance(r, truth, start=start) for start, r in zip(starts, rewards, strict=True)])
    transformation, metrics = optax.sgd(RATE), ("expected_ground_truth_reward",)

    def one(instance, key):
        found = learn(instance, key, "reinforce", 1, transformation, UPDATES, metrics=metrics)
        return found.records["expected_ground_truth_reward"][:, 0]

    keys = jax.random.split(jax.random.key(0), (6, SEEDS))
    ours = np.asarray(jax.vmap(jax.vmap(one, in_axes=(None, 0)))(runs, keys)).transpose(0, 2, 1)

    def apart(theirs):
        error = np.sqrt((ours.var(-1, ddof=1) + theirs.var(-1, ddof=1)) / SEEDS)
        return np.abs(ours.mean(-1) - theirs.mean(-1)) / error

    rng = np.random.default_rng(0)
    deviation = apart(plain_reinforce(starts, rewards, truth, rng))
    assert deviation.shape == (6, 10)
    assert deviation.max() < 4
    assert (deviation**2).mean() < 2  # one standard error each, and those of a run are correlated
    assert apart(plain_reinforce(starts, rewards, truth, rng, tilt=0.5)).max() > 4


def test_any_optimizer_learns_and_seeds_differ():
    instance = beneficial_errors(0.15)
    keys = jax.random.split(jax.random.key(0), 20)
    adam = optax.adam(0.01)
    learned = jax.vmap(lambda key: learn(instance, key, "grpo", GROUP, adam, 500).parameters)(keys)
    value = jax.vmap(instance.probabilities)(learned)[:, 0] @ instance.rewards[0]
    assert (value > 0.6).all()
    assert np.unique(value).size == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "ppo"}, "estimator 'ppo' is unknown; known are reinforce, baseline, rloo"),
        ({"estimator": "rloo", "group": 1}, "group is 1; rloo needs at least 2 samples"),
        ({"group": 0}, "group is 0; reinforce needs at least 1 samples"),
        ({"updates": []}, "updates is"),
        ({"updates": [3, 2]}, "updates must be ascending"),
        ({"updates": np.array([0.5])}, "give whole numbers"),
        ({"metrics": ("speed",)}, "metric 'speed' is unknown"),
    ],
)
def test_bad_input_is_refused_in_plain_words(changes, message):
    arguments = {"estimator": "reinforce", "group": 1, "updates": 3, "metrics": ()} | changes
    metrics = arguments.pop("metrics")
    with pytest.raises(ValueError, match=message):
        learn(
            beneficial_errors(),
            jax.random.key(0),
            arguments["estimator"],
            arguments["group"],
            optax.sgd(RATE),
            arguments["updates"],
            metrics=metrics,
        )
