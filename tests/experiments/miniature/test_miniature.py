"""The miniature: worlds, reward models, training that is exact, and what is said of the published tables."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from goodteacher.experiments.miniature import digits as of_digits
from goodteacher.experiments.miniature import published
from goodteacher.experiments.miniature.lessons import Scale, crossings
from goodteacher.experiments.miniature.networks import SplitTable, Tangent, network
from goodteacher.experiments.miniature.preferences import flattened, normalised
from goodteacher.experiments.miniature.training import problem, sampled, train
from goodteacher.experiments.miniature.worlds import TRAIN, all_met, close, partly_met, world
from goodteacher.sim.metrics import product_accuracy
from goodteacher.sim.objective import gradient
from goodteacher.sim.policies import Policy
from goodteacher.sim.sampling import ESTIMATORS

PROMPTS = 4


@pytest.fixture(scope="module")
def small():
    """A problem of a few prompts, whose initial policy is random."""
    made = world(0, PROMPTS)
    net = network(jnp.asarray(made.images[TRAIN]), 2, 3)
    start = net.initial(jnp.asarray(np.random.default_rng(0).standard_normal(net.size)))
    truth = jnp.asarray(close(made.answers[TRAIN]))
    return problem(net, start, truth, truth)


def test_worlds_are_numbered_and_their_splits_share_no_image():
    first, again, other = (world(seed, 30) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    of_splits = [{image.tobytes() for image in split.reshape(-1, 64)} for split in first.images]
    assert not of_splits[0] & of_splits[1] | of_splits[1] & of_splits[2] | of_splits[0] & of_splits[2]


@pytest.mark.parametrize(("seed", "prompts", "says"), [(-1, 5, "seed is -1"), (0, 1, "prompts is 1")])
def test_bad_worlds_are_refused(seed, prompts, says):
    with pytest.raises(ValueError, match=says):
        world(seed, prompts)


def test_without_scikit_learn_it_is_said_how_to_install_it(monkeypatch):
    of_digits.digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'goodteacher\[miniature\]'"):
        of_digits.digits()
    of_digits.digits.cache_clear()


def test_truths_are_highest_at_the_answer():
    answers = np.array([7, 42, 99])
    for truth in (close, all_met, partly_met):
        graded = truth(answers)
        np.testing.assert_array_equal(graded.argmax(-1), answers)
        np.testing.assert_array_equal(graded.max(-1), 1.0)
    assert partly_met(np.array([42]))[0, 47] == 0.5
    assert all_met(np.array([42]))[0, 47] == 0.0


def test_jacobian_norms_are_those_of_the_jacobian(small):
    norms = small.policy.jacobian_norms(small.initial_parameters)
    jacobian = jax.jacrev(small.policy.next_token_logits)(small.initial_parameters)
    np.testing.assert_allclose(norms, np.linalg.norm(jacobian, 2, axis=(-2, -1)), rtol=1e-9)


def test_the_tangent_has_the_kernel_of_the_network(small):
    start = small.initial_parameters
    tangent = Tangent(small.policy, start, small.reference_log_probabilities)
    straight = problem(tangent, jnp.zeros_like(start), small.rewards, small.rewards)
    np.testing.assert_allclose(
        gradient(straight, jnp.zeros_like(start)), gradient(small, start), rtol=1e-9, atol=1e-12
    )
    assert isinstance(tangent, Policy)


def test_the_flat_model_ranks_perfectly_and_hardly_varies(small):
    truth = jnp.stack([small.rewards] * 3)
    policy = jnp.exp(small.reference_log_probabilities)
    scaled = normalised(truth, policy, 1)
    assert abs(float((policy * scaled[1]).sum(-1).mean())) < 1e-12
    assert abs(float((policy * scaled[1] ** 2).sum(-1).mean()) - 1.0) < 1e-12
    flat = flattened(scaled)
    np.testing.assert_array_equal(product_accuracy(flat[0], truth[0], jnp.ones_like(policy)), 1.0)
    np.testing.assert_allclose(flat[0, 1], 0.001 * scaled[0, 1])


def _mean_of_learners(small, estimator, updates=(5,), group=4, learners=512):
    """Final reward of sampled runs: mean and standard error."""

    @jax.jit
    @jax.vmap
    def learned(key):
        at = train(small, optax.sgd(0.02), updates, sampled(ESTIMATORS[estimator], group, key))[0]
        return (small.probabilities(at) * small.rewards).sum(-1).mean()

    values = np.asarray(learned(jax.random.split(jax.random.key(0), learners)))
    return values.mean(), values.std() / learners**0.5


def _exact(small, updates=(5,)):
    at = jax.jit(lambda instance: train(instance, optax.sgd(0.02), updates))(small)[0]
    return [
        float((small.probabilities(of) * small.rewards).sum(-1).mean())
        for of in (small.initial_parameters, at)
    ]


def test_sampled_runs_agree_with_exact_ones_in_the_mean(small):
    # Of one step the mean over learners is exact; of a few small ones nearly so.
    mean, error = _mean_of_learners(small, "rloo")
    start, exact = _exact(small)
    assert exact - start > 10 * error
    assert abs(mean - exact) < 4 * error


def test_an_estimator_of_another_mean_is_caught(small):
    # GRPO divides by the deviation: sampled, it follows its own clock and not the gradient's.
    mean, error = _mean_of_learners(small, "grpo")
    start, exact = _exact(small)
    assert abs(mean - exact) > 4 * error
    assert mean > start


def test_the_kl_term_pulls_to_its_optimum_and_a_wrong_sign_is_seen():
    strength = 0.5
    truth = jnp.asarray(close(world(0, 2).answers[TRAIN]))
    start = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 100)))
    kept = problem(SplitTable(TRAIN), start, truth, truth, kl=strength)
    at = jax.jit(lambda instance: train(instance, optax.sgd(10.0), [4000]))(kept)[0]
    reference, found = kept.reference_log_probabilities, kept.log_probabilities(at)
    optimum, other = (jax.nn.log_softmax(reference + sign * truth / strength) for sign in (1.0, -1.0))
    np.testing.assert_allclose(jnp.exp(found), jnp.exp(optimum), atol=1e-4)
    assert np.abs(jnp.exp(found) - jnp.exp(other)).max() > 0.01
    # A term that pushes away would end at one output.
    assert float(jnp.exp(found).max()) < 0.5


def test_crossings_are_where_a_lead_ends_for_good():
    counts = [0, 10, 20, 30]
    leads = np.array([[0, 2, 1, -1], [0, -1, -2, -1], [0, 1, 2, 3], [0, 1, -1, 1]])
    np.testing.assert_allclose(crossings(counts, leads), [25.0, 0.0, np.inf, np.inf])


def test_the_published_tables_say_of_the_variance_what_is_claimed():
    assert (len(published.mixes()), len(published.matrix())) == (28, 36)
    within = published.within_policies()
    assert len(within) == 9
    means = [within["reward_variance", increase].mean() for increase in published.INCREASES]
    np.testing.assert_allclose(means, [0.867, -0.426], atol=5e-4)


def test_bad_scales_are_refused():
    with pytest.raises(ValueError, match=r"worlds is 1; give at least 2"):
        Scale(worlds=1)
