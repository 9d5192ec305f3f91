"""The sufficient condition for a fast increase against a plain loop, and what it is worth without a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.flow import hitting_time
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.theory.fast_increase import (
    FAST_INCREASE,
    SHARP_FAST_INCREASE,
    fast_increase,
    fast_increase_time,
    sharp_fast_increase_time,
)


def plainly(rewards, truth, start, kl_coefficient, gamma, prompts):
    """The conditions and the bound of one prompt, output by output."""
    value = sum(p * r for p, r in zip(start, rewards, strict=True))
    level = sum(p * g for p, g in zip(start, truth, strict=True)) + gamma
    good = [y for y in range(len(rewards)) if truth[y] > level and rewards[y] > value]
    rho = (level + 1) / (min(truth[y] for y in good) + 1)
    spread = max(abs(rewards[y] - rewards[z]) for y in good for z in good)
    delta = (1 - rho) * (max(rewards[y] for y in good) - value) - spread
    mass = sum(start[y] for y in good)
    bad = sum(start[y] for y in range(len(rewards)) if rewards[y] > value and y not in good)
    wait = len(good) / ((1 - rho) * delta) * (1 / mass - 1 / rho)
    most_kl = mass * (1 - rho) * delta / (8 * len(good) * (2 * np.log(1 / min(start)) + 1 / (2 * np.exp(1))))
    most_bad = mass**2 * (1 - rho) * delta / (16 * len(good)) * np.exp(-20 * wait)
    holds = delta > 0 and kl_coefficient <= most_kl and bad <= most_bad
    return holds, 4 * prompts * wait, most_kl, most_bad


def plainly_sharp(rewards, truth, start, gamma):
    """The gap and the limits of the sharper form, for one prompt without bad outputs."""
    value = sum(p * r for p, r in zip(start, rewards, strict=True))
    level = sum(p * g for p, g in zip(start, truth, strict=True)) + gamma
    good = [y for y in range(len(rewards)) if truth[y] > level and rewards[y] > value]
    rest = [y for y in range(len(rewards)) if rewards[y] <= value]
    left = 1 - (level + 1) / (min(truth[y] for y in good) + 1)
    spread = max(abs(rewards[y] - rewards[z]) for y in good for z in good)
    gap = max(rewards[y] for y in good) - max(rewards[y] for y in rest) - spread / left
    mass = sum(start[y] for y in good)

    def grown(q):
        return -1 / q + 1 / (1 - q) + 2 * np.log(q / (1 - q))

    wait = len(good) * (grown(1 - left) - grown(mass)) / gap
    most_bad = mass**2 * left**2 * gap / (16 * len(good)) * np.exp(-wait)
    most_kl = 3 / 8 * left * gap / (1 - np.log(min(start[y] for y in good)))
    return gap, most_bad, most_kl


CASES = {
    "two good outputs": ([1.0, 0.9, -1.0, -1.0], [1.0, 0.8, 0.0, -1.0], [0.3, 0.2, 0.2, 0.3], 0.0),
    "with KL": ([1.0, 0.9, -1.0, -1.0], [1.0, 0.8, 0.0, -1.0], [0.3, 0.2, 0.2, 0.3], 1e-4),
    "too much KL": ([1.0, 0.9, -1.0, -1.0], [1.0, 0.8, 0.0, -1.0], [0.3, 0.2, 0.2, 0.3], 1.0),
    "a likely bad output": ([1.0, -1.0, 0.8, -1.0], [1.0, 0.0, -1.0, -1.0], [0.3, 0.2, 0.1, 0.4], 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_conditions_and_bound(case):
    rewards, truth, start, kl_coefficient = CASES[case]
    instance = Instance(
        [rewards, rewards], [truth, truth], start=[start, start], regularizer=Regularizer(kl=kl_coefficient)
    )
    found = fast_increase(instance, 0.2)
    holds, time, most_kl, most_bad = plainly(rewards, truth, start, kl_coefficient, 0.2, 2)
    assert found.holds.tolist() == [holds] * 2
    np.testing.assert_allclose(found.time, time, rtol=1e-12)
    np.testing.assert_allclose(found.largest_kl_coefficient, most_kl, rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.largest_bad_log_probability), most_bad, rtol=1e-9)
    assert holds == (case in ("two good outputs", "with KL"))
    reached = hitting_time(instance, reward_increase(instance, 0.2)).time
    assert (reached <= found.time).all() or not holds


def test_limits_of_the_sharper_form():
    rewards, truth, start = [1.0, 0.95, -0.5, -1.0], [1.0, 0.8, 0.0, -1.0], [0.3, 0.1, 0.3, 0.3]
    found = fast_increase(Instance(rewards, truth, start=start), 0.2)
    gap, most_bad, most_kl = plainly_sharp(rewards, truth, start, 0.2)
    assert found.holds_sharply[0]
    np.testing.assert_allclose(found.gap[0], gap, rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.sharply_largest_bad_log_probability[0]), most_bad, rtol=1e-9)
    np.testing.assert_allclose(found.sharply_largest_kl_coefficient[0], most_kl, rtol=1e-12)


def test_what_does_not_exist_is_not_good():
    rewards = [0.0, 0.0, -1.0]
    instance = Instance(rewards, start=[0.5, 0.0, 0.5], mask=[True, False, True])
    assert fast_increase(instance, 0.2).holds[0]
    assert not fast_increase(instance, 0.2, jnp.array([[True, True, False]])).holds[0]


def test_fewer_outputs_may_be_called_good():
    rewards, truth, start, _ = CASES["two good outputs"]
    instance = Instance(rewards, truth, start=start)
    both = fast_increase(instance, 0.2)
    one = fast_increase(instance, 0.2, jnp.array([[True, False, False, False]]))
    assert both.good_probability == pytest.approx(0.5)
    assert one.good_probability == pytest.approx(0.3)
    # What is left out counts as bad, and a bad output is not good.
    assert one.bad_probability == pytest.approx(0.2)
    assert not one.holds[0]
    assert not fast_increase(instance, 0.2, jnp.array([[True, False, True, False]])).holds[0]


def test_a_likely_bad_output_takes_the_policy_for_ever():
    """Equal rewards, and the bad output twice as likely: without its condition Proposition 4 is false."""
    instance = Instance([1.0, 1.0, -1.0], [1.0, -1.0, -0.5], start=[0.2, 0.4, 0.4])
    found = fast_increase(instance, 0.5)
    assert found.delta > 0
    assert not found.holds[0]
    assert np.isfinite(found.time)
    assert hitting_time(instance, reward_increase(instance, 0.5)).time[0] == np.inf


@pytest.mark.parametrize("statement", [FAST_INCREASE, SHARP_FAST_INCREASE], ids=lambda s: s.name)
def test_every_point_of_the_cube_satisfies_the_conditions(statement):
    corners = np.random.default_rng(0).choice([1e-9, 0.5, 1 - 1e-9], (500, statement.dimension))
    found = jax.vmap(fast_increase)(*statement.build(jnp.asarray(corners)))
    assert (found.holds if statement is FAST_INCREASE else found.holds_sharply).all()


def test_the_number_of_good_outputs_counts():
    """32 good ones of 64, all alike: later than without |Y+|, and within 4 % of the sharp bound."""
    good = np.arange(64) < 32
    start, rewards = np.where(good, 0.01, 0.99) / 32, np.where(good, 1.0, -1.0)
    instance = Instance(rewards, start=start)
    found = fast_increase(instance, 1e-3)
    time = hitting_time(instance, reward_increase(instance, 1e-3)).time[0]
    assert found.holds[0]
    assert found.outputs[0] == 32
    assert fast_increase_time(found, 1, outputs=0.0)[0] < time / 3 < fast_increase_time(found, 1)[0]
    # The rest are not infinitely many: dp/dt has 1/32 + 1/32 for 1/32.
    assert sharp_fast_increase_time(found, 1)[0] == pytest.approx(2.0 * float(time), rel=0.02)


def test_the_sharp_conditions_are_weaker_and_its_bound_is_sooner():
    tasks = FAST_INCREASE.sample(jax.random.key(0), 500)
    found = jax.vmap(fast_increase)(*tasks)
    weights = tasks.instance.prompt_weights
    assert found.holds_sharply.all()
    trained = np.asarray(weights) > 0
    sharp = np.asarray(sharp_fast_increase_time(found, 1.0 / weights))
    assert (sharp[trained] <= 1.07 / 4 * np.asarray(found.time)[trained]).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0, -0.1, np.nan])
def test_gamma_out_of_range(gamma):
    instance = Instance([1.0, -1.0])
    with pytest.raises(ValueError, match="between 0 and 2"):
        fast_increase(instance, gamma)
