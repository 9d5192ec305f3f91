"""The theory on networks: what is looked at, on problems whose answer is known, and what must be noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.experiments.miniature.carried_over import (
    FORECASTS,
    KINDS,
    MODELS,
    Looks,
    agreement,
    first_times,
    look,
)
from goodteacher.experiments.miniature.classrooms import TRUE, classrooms, teach
from goodteacher.experiments.miniature.lessons import Scale
from goodteacher.experiments.miniature.networks import Networks, Tables, Tangent
from goodteacher.experiments.miniature.training import problem
from goodteacher.experiments.miniature.worlds import HELD_OUT, TRAIN, Family, world
from goodteacher.sim.objective import gradient

SCALE = Scale(worlds=2, prompts=10, updates=200, records=40)


@pytest.fixture(scope="module")
def found():
    return look(Looks(("network", "table"), SCALE), "0-2")


def test_bounds_hold_on_networks_and_half_of_the_sharp_one_does_not(found):
    assert found["gradient"].shape[:4] == (2, 2, 2, len(MODELS) + 1)
    assert (found["gradient"] >= 1.0).all()
    assert (found["time"] >= 1.0).all()
    published, sharp = np.moveaxis(found["gradient"][:, 1], 1, 0)
    assert (sharp <= published).all()
    # Sabotage: on tables less than twice the norm is left.
    assert 0.5 * sharp.min() < 1.0


def test_the_tabular_flow_foretells_tables_and_not_networks(found):
    foretold, seen = found["foretold"], found["seen"][:, :, None]
    assert foretold.shape == (2, 2, len(FORECASTS), SCALE.prompts)
    ranks, ratios = agreement(foretold, seen)
    tabular, own, linear = np.moveaxis(ranks, 2, 0)
    assert (tabular[:, 1] > 0.95).all()
    np.testing.assert_allclose(ratios[:, 1], 1.0, atol=0.05)
    # A table is linear and shares nothing.
    np.testing.assert_allclose(foretold[:, 1, 1:], np.broadcast_to(seen[:, 1], (2, 2, SCALE.prompts)))
    assert linear[:, 0].mean() > max(tabular[:, 0].mean(), own[:, 0].mean())
    # Sabotage: forecasts of other prompts.
    assert (agreement(np.roll(foretold, 1, -1), seen)[0][:, 1, 0] < 0.7).all()


def test_kinds_are_corrected_and_made_alone(found):
    assert found["corrected"].shape == found["alone"].shape == (2, 2, len(MODELS), len(KINDS))
    # On tables negligible outputs do nothing to the end of a training; hacked ones do.
    table = found["alone"][:, 1]
    assert np.abs(table[..., KINDS.index("benign II")]).max() < 0.05
    assert table[:, :-1, KINDS.index("harmful I")].min() > 0.05


def test_levels_are_reached_between_two_records_or_not_at_all():
    along = np.array([[0.0, 0.2, 0.6, 0.5], [0.0, -0.1, 0.0, 0.1], [0.3, 0.4, 0.5, 0.6]])
    times = np.array([0.0, 1.0, 2.0, 4.0])
    np.testing.assert_allclose(first_times(times, along, np.array([0.4, 0.4, 0.4])), [1.5, np.inf, 1.0])


def test_tables_start_at_the_network_and_learn_nothing_of_other_prompts():
    course = SCALE.course()
    shared, apart = (
        classrooms(Family(policy=policy), course, range(2), (TRUE,)) for policy in (Networks(), Tables())
    )
    np.testing.assert_allclose(shared.rewards, apart.rewards, atol=1e-12)
    first = jax.vmap(lambda images, at: Networks().policy(images, TRAIN).logits(at))(
        shared.images, shared.start
    )
    np.testing.assert_allclose(jax.nn.log_softmax(first), apart.start[:, TRAIN], atol=1e-12)
    taught = teach(Family(policy=Tables()), course, apart, ("expected_ground_truth_reward",), ())
    truth = taught.train["expected_ground_truth_reward"]
    assert (np.diff(truth) > 0).all()
    np.testing.assert_array_equal(np.diff(taught.held_out["expected_ground_truth_reward"]), 0.0)
    np.testing.assert_array_equal(taught.parameters[:, :, -1, HELD_OUT], apart.start[:, None, HELD_OUT])


@pytest.mark.parametrize("tokens", [1, 2])
def test_without_other_prompts_a_prompt_moves_by_its_own_features(tokens):
    kind, images = Networks(tokens, 3), jnp.asarray(world(0, 2).images)
    start = kind.network(images[TRAIN]).initial(
        jnp.asarray(np.random.default_rng(0).standard_normal(kind.network(images[TRAIN]).size))
    )
    rewards = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 100)))

    def velocity(images, rewards):
        """Of the logits, along the gradient of the linearised policy, and without what prompts share."""
        policy = kind.policy(images, TRAIN)
        tangent = Tangent(policy, start, jax.nn.log_softmax(policy.logits(start)))
        alone = kind.alone(images, TRAIN, start)
        moved = []
        for of, at in ((tangent, jnp.zeros_like(start)), (alone, jnp.zeros((len(rewards), 100)))):
            moved.append(of.pushforward(at, gradient(problem(of, at, rewards, rewards), at)))
        return moved

    one = velocity(images[:, :1], rewards[:1])
    np.testing.assert_allclose(one[0], one[1], atol=1e-12)
    both = velocity(images, rewards)
    np.testing.assert_allclose(both[1][0], 0.5 * one[1][0], atol=1e-12)
    assert np.abs(both[0] - both[1]).max() > 1e-3
