"""The lower bound of Proposition 3 by hand, and the flows that its statement follows."""

import jax
import numpy as np
import pytest

from goodteacher.sim.flow import Status, hitting_time
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Parameters, Probabilities, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.hitting_time_bound import (
    LOWER_BOUND,
    goal_time_lower_bound,
    hitting_time_lower_bound,
    hitting_time_lower_bound_by_odds,
    sharp_hitting_time_lower_bound,
)
from goodteacher.theory.rises import rise_times


def test_by_hand():
    """Two prompts; deviations 1 and 0.01."""
    instance = Instance([[1.0, -1.0], [0.01, -0.01]], start=[[0.5, 0.5]] * 2)
    expected = 2 * 2 * (1 - np.exp(-0.1)) / np.array([1.0, 0.01])
    np.testing.assert_allclose(hitting_time_lower_bound(instance, 0.2), expected, rtol=1e-12)
    sharp = 2 * 2 * (1 - np.exp(-0.2)) / np.array([1.0, 0.01])
    np.testing.assert_allclose(sharp_hitting_time_lower_bound(instance, 0.2), sharp, rtol=1e-12)


def test_by_the_odds_of_the_ground_truth():
    """Least where the rise is about zero; infinite where it is impossible."""
    deviation = 0.01 * np.sqrt(4 * 0.35 * 0.65)

    def bound(rise, gamma=0.6):
        values = [1.0, rise]
        instance = Instance([0.01, -0.01], values, start=[0.35, 0.65])
        return float(hitting_time_lower_bound_by_odds(instance, gamma)[0])

    # V_G(0) = -0.3, so from odds of 7/13 to 13/7.
    assert bound(-1.0) == pytest.approx(2 * (1 - 7 / 13) / deviation)
    assert bound(-1.0) == pytest.approx(4 * 0.6 / 2.6 / deviation)
    for rise in (-0.5, 0.0):
        assert 4 * 0.6 / 2.6 / deviation < bound(rise) < np.inf
    assert bound(0.5) == np.inf


ROTATED = np.array([[0.6, 0.8], [-0.8, 0.6]])


@pytest.mark.parametrize(
    ("options", "applies"),
    [
        ({}, True),
        ({"policy": LinearSoftmax(ROTATED[None]), "start": Parameters([0.0, 0.0])}, True),
        ({"policy": LinearSoftmax(2.0 * ROTATED[None], 2.0), "start": Parameters([0.0, 0.0])}, True),
        ({"policy": LinearSoftmax(1.1 * ROTATED[None]), "start": Parameters([0.0, 0.0])}, False),
        ({"policy": LinearSoftmax([[[1.0], [-1.0]]]), "start": Probabilities([0.5, 0.5])}, False),
        ({"regularizer": Regularizer(kl=0.1)}, True),
        ({"regularizer": Regularizer(kl=0.1), "reference_policy_logits": [0.1, 0.0]}, False),
        ({"regularizer": Regularizer(entropy=0.1)}, False),
        ({"regularizer": Regularizer(forward_kl=0.1)}, False),
    ],
)
def test_of_a_goal_where_the_proposition_applies(options, applies):
    """Its values are shifted and scaled into [-1, 1]."""
    instance = Instance([0.1, -0.1], [7.0, 3.0], **options)
    bound = goal_time_lower_bound(instance, reward_increase(instance, 0.5))
    expected = hitting_time_lower_bound(instance, 0.25) if applies else [np.nan]
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


def test_two_even_outputs_are_the_tightest_known():
    """The ratio to the sharp bound approaches 1 from above as the rise goes to zero."""
    instance = Instance([0.01, -0.01], [1.0, -1.0], start=[0.5, 0.5])
    ratios = [
        float(hitting_time(instance, reward_increase(instance, gamma)).time[0])
        / float(sharp_hitting_time_lower_bound(instance, gamma)[0])
        for gamma in (1e-1, 1e-2, 1e-3)
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert 1.0 < ratios[-1] == pytest.approx(1.0, rel=1e-3)


def test_a_gap_that_is_its_own_rounding_error_does_not_use_up_the_steps():
    """One of these flows comes to stand so close below its level that no step crosses it."""
    tasks = LOWER_BOUND.sample(jax.random.key(1), 200, first=9_900)
    bounds = jax.vmap(hitting_time_lower_bound)(*tasks)
    found = rise_times(tasks, 100.0 * np.where(np.isfinite(bounds), bounds, 0.0).max(-1))
    assert (found.status != Status.NOT_CONVERGED).all()
    assert found.steps.max() < 1_000
