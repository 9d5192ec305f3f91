"""Forecasts from draws: what was not drawn, and a rehearsal that must notice a bad teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.experiments.miniature.classrooms import NOISY, TRUE, classrooms, increases, teach
from goodteacher.experiments.miniature.forecasts import Draws, draw, known, rehearse
from goodteacher.experiments.miniature.lessons import Scale
from goodteacher.experiments.miniature.training import problem
from goodteacher.experiments.miniature.worlds import TRAIN, Family
from goodteacher.sim.metrics import on_policy_accuracy_where_truth_differs

FAMILY, COURSE = Family(), Scale(worlds=2, prompts=12, updates=60, records=4).course()
_TRUTH = "expected_ground_truth_reward"


@pytest.fixture(scope="module")
def room():
    """The truth, the same with noise, and the truth of each prompt told of other outputs."""
    made = classrooms(FAMILY, COURSE, range(2), (TRUE, NOISY))
    permuted = made.rewards[:, :1, ..., np.random.default_rng(0).permutation(100)]
    return made._replace(rewards=jnp.concatenate([made.rewards, permuted], 1))


@pytest.fixture(scope="module")
def log_p(room):
    of_world = jax.vmap(lambda images, at: FAMILY.policy.policy(images, TRAIN).logits(at))
    return np.asarray(jax.nn.log_softmax(of_world(room.images, room.start)))


def test_what_was_not_drawn_counts_as_the_mean():
    with np.errstate(divide="ignore"):
        draws = Draws(np.array([[0, 0, 2, 2]]), np.log([[0.5, 0.0, 0.5]]))
    np.testing.assert_allclose(known(np.array([[1.0, 9.0, 2.0]]), draws), [[1.0, 1.5, 2.0]])


def test_who_has_all_outputs_rehearses_the_training_itself(room, log_p):
    every = [Draws(np.zeros((12, 1), int), of) for of in log_p]
    taught = increases(teach(FAMILY, COURSE, room, (_TRUTH,), ()).train[_TRUTH])[..., -1]
    np.testing.assert_allclose(rehearse(FAMILY, COURSE, room, every).mean(-1), taught, atol=1e-9)


def test_a_permuted_reward_model_is_noticed(room, log_p):
    # By accuracy, by training, and by a rehearsal on draws.
    taught = increases(teach(FAMILY, COURSE, room, (_TRUTH,), ()).train[_TRUTH])[..., -1]
    draws = [draw(of, 16, seed) for seed, of in enumerate(log_p)]
    gains = rehearse(FAMILY, COURSE, room, draws).mean(-1)
    for gained in (taught, gains):
        assert (gained[:, 0] > 0.5).all()
        assert (gained[:, 2] < 0.5 * gained[:, 0]).all()
    policy = FAMILY.policy.policy(room.images[0], TRAIN)
    right, wrong = (
        on_policy_accuracy_where_truth_differs(
            problem(policy, room.start[0], room.rewards[0, model, TRAIN], room.truth[0, TRAIN]), room.start[0]
        ).mean()
        for model in (0, 2)
    )
    assert right == 1.0
    assert wrong < 0.7


def test_a_rehearsal_feels_no_constant_and_no_reward_that_was_not_drawn(room, log_p):
    draws = [draw(of, 8, seed) for seed, of in enumerate(log_p)]
    gains = rehearse(FAMILY, COURSE, room, draws)
    np.testing.assert_allclose(
        rehearse(FAMILY, COURSE, room._replace(rewards=room.rewards + 3.0), draws), gains, atol=1e-9
    )
    unseen = ~np.isfinite(np.stack([each.log_shares for each in draws]))
    noise = np.random.default_rng(1).standard_normal(unseen.shape) * unseen
    other = room._replace(
        rewards=room.rewards.at[:, :, TRAIN].add(noise[:, None]), truth=room.truth.at[:, TRAIN].add(noise)
    )
    np.testing.assert_allclose(rehearse(FAMILY, COURSE, other, draws), gains, atol=1e-12)
    # Sabotage: of what was drawn it feels them.
    seen = np.random.default_rng(1).standard_normal(unseen.shape) * ~unseen
    other = room._replace(rewards=room.rewards.at[:, :, TRAIN].add(seen[:, None]))
    assert np.abs(rehearse(FAMILY, COURSE, other, draws) - gains).max() > 0.1
