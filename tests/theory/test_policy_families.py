"""Families of initial policies: their members, bounds and errors. The bounds themselves are statements."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance
from goodteacher.theory.policy_families import (
    Family,
    largest_kl_coefficient,
    praise,
    right_teacher_time,
    sharp_wrong_teacher_time,
    wrong_teacher_time,
)

FIELDS = {
    "ground_truth_rewards": [-1.0, 0.9, -0.5, 0.7, 0.2],
    "value": -0.3,
    "gamma": 0.4,
    "likely": 1,
    "rare": 3,
    "T": 100.0,
    "c": 0.05,
}


def family(**changes):
    return Family(**{**FIELDS, **changes})


members = jax.jit(jax.vmap(Family.member, in_axes=(None, 0)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"T": 1.0},
        {"T": 1e9, "value": -0.29, "c": 0.36},
        # All others are worse than the value: the likely output must make up for it.
        {"ground_truth_rewards": [-1.0, 0.9, -0.8, 0.7, -0.9]},
        # All others are equal: the value alone decides what the likely output gets.
        {"ground_truth_rewards": [-1.0, 0.9, -1.0, 0.7, -1.0]},
        {"ground_truth_rewards": [-1.0, 0.9, 1.0, 0.7, 0.95]},
    ],
)
@pytest.mark.parametrize("exchange", [False, True])
def test_members_are_in_the_family(changes, exchange):
    of = family(**changes)
    of = of.exchanged if exchange else of
    count = len(FIELDS["ground_truth_rewards"])
    positions = np.exp(np.random.default_rng(0).uniform(np.log(1e-6), np.log(1 - 1e-6), (500, count)))
    p = np.asarray(members(of, jnp.asarray(positions)))
    likely, rare = int(of.likely), int(of.rare)
    assert p.min() > 0
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(p @ np.asarray(of.ground_truth_rewards), of.value, atol=1e-14)
    assert p[:, likely].min() >= float(of.c)
    assert p[:, rare].max() <= float(of.T) ** -2
    # They differ, and come close to the bounds that they may.
    assert p[:, rare].max() > 2 * p[:, rare].min()
    assert len(np.unique(p[:, likely].round(12))) > 1


def test_a_family_of_three_outputs():
    of = Family([1.0, 0.8, -1.0], value=-0.5, gamma=0.1, likely=0, rare=1, T=10.0, c=0.2)
    p = np.asarray(of.member(jnp.array([0.3, 0.5, 0.7])))
    rare = 0.5 * 10.0**-2
    likely = (0.5 - 1.8 * rare) / 2
    np.testing.assert_allclose(p, [likely, rare, 1 - rare - likely], rtol=1e-14)


def test_how_sharp_the_wrong_teacher_s_bound_is():
    """Two good outputs, the likely one negligible, and a bad one: at best 1.3645 times, for pi(y_b) = 3/7."""
    ratios = []
    for rare in (0.35, 3 / 7, 0.5):
        instance = Instance([-1.0, 1.0, -1.0], [1.0, 1.0, -1.0], start=[1e-6, rare, 1 - 1e-6 - rare])
        one = family(
            ground_truth_rewards=[1.0, 1.0, -1.0],
            value=2 * rare - 1,
            gamma=1e-4,
            likely=0,
            rare=1,
            T=rare**-0.5,
            c=1e-7,
        )
        time = hitting_time(instance, reward_increase(instance, 1e-4)).time[0]
        ratios.append(float(time / sharp_wrong_teacher_time(one)))
    assert ratios[1] == pytest.approx(1 / (8 * (3 / 7) ** 1.5 * (4 / 7) ** 2), rel=1e-3)
    assert ratios[1] == min(ratios)


def test_bounds_are_the_theorem_s():
    of = family()
    rho = (-0.3 + 0.4 + 1) / (0.9 + 1)
    assert float(of.rho) == pytest.approx(rho)
    assert float(of.exchanged.rho) == pytest.approx(1.1 / 1.7)
    upper = 2 * 3 / (1 - rho) ** 3 * (1 / 0.05 - 1 / rho)
    assert float(right_teacher_time(of, 3)) == pytest.approx(upper, rel=1e-13)
    lower = 3 / np.sqrt(2) * (1 - np.exp(-0.2)) * 100
    assert float(wrong_teacher_time(of, 3)) == pytest.approx(lower, rel=1e-13)
    p = jnp.array([0.4, 0.1, 0.2, 1e-5, 0.29999])
    coefficient = 0.05 * (1 - rho) ** 3 / (16 * (1 / (2 * np.e) + 2 * np.log(1e5)))
    assert float(largest_kl_coefficient(of, p)) == pytest.approx(coefficient, rel=1e-13)
    np.testing.assert_array_equal(praise(of.likely, 5), [-1, 1, -1, -1, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": 0.5}, "T is 0.5; give a finite number of at least 1"),
        ({"T": np.inf}, "T is inf"),
        ({"T": np.nan}, "T is nan"),
        ({"c": 0.0}, "c is 0.0; a probability"),
        ({"c": 1.0}, "c is 1.0; a probability"),
        ({"gamma": 0.0}, "gamma is 0.0; an increase"),
        ({"gamma": 2.0}, "gamma is 2.0; an increase"),
        ({"gamma": np.nan}, "gamma is nan"),
        ({"likely": 3}, "likely is 3 and rare is 3; give two different outputs of 0 to 4"),
        ({"rare": 5}, "likely is 1 and rare is 5"),
        ({"ground_truth_rewards": [0.5, -0.5]}, "ground_truth_rewards has 2 outputs"),
        ({"ground_truth_rewards": [-1.0, 1.1, 0.0, 0.7, 0.2]}, "give numbers in [-1, 1]"),
        ({"rare": 4, "gamma": 0.6}, "rare output 4 has ground truth reward 0.2, which must exceed value"),
        ({"likely": 2}, "likely output 2 has ground truth reward -0.5, which must exceed value + gamma"),
        ({"value": -1.0}, "value is -1, but no policy that gives output 1 a probability of at least c"),
        ({"value": -0.95}, "give a value between -0.905 and 0.3"),
        ({"value": np.nan}, "must exceed value + gamma = nan"),
        ({"c": 0.8, "gamma": 0.5}, "lower c: with this gamma it leaves no value at all"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        family(**changes)


def test_the_least_value_is_not_had_and_any_above_it_is():
    least = -1 + 0.05 * 1.9
    with pytest.raises(ValueError, match="value is"):
        family(value=least)
    p = family(value=least + 1e-9).member(jnp.full(5, 0.5))
    assert float(p.min()) > 0
    assert replace(family(), value=least + 1e-3).value > least
