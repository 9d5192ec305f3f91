"""Clocks: what estimators multiply the gradient by, and flows whose time is told by them."""

import itertools
import math

import equinox as eqx
import jax
import numpy as np
import pytest

import goodteacher as gt
from goodteacher.sim import quadrature
from goodteacher.sim.clocks import (
    Clocked,
    ColdStart,
    DynamicSampling,
    Enumerated,
    Gradient,
    Grpo,
    MaxRl,
    MeanSubtracted,
    PassAtK,
    moments,
    see,
)
from goodteacher.sim.control import HittingTime
from goodteacher.sim.crossings import trained_crossing
from goodteacher.sim.files import from_dictionary, to_dictionary
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import lines
from goodteacher.sim.objective import gradient
from goodteacher.sim.status import Status

LARGE = (Grpo(), Grpo(epsilon=1e-3), MaxRl())
FINITE = (Grpo(64), PassAtK(16), DynamicSampling(Grpo(8, bessel=False)))


def rate(clock, success):
    """``m`` of two outputs of rewards 1 and 0."""
    p = np.array([[success, 1.0 - success]])
    seen = see(np.array([[1.0, 0.0]]), None, None)
    return float(clock.rate(moments(seen, p, np.array([[1.0 - success, -success]]), -1))[0])


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_drifts_of_independent_calculations(p, group):
    """Of ``shared/cases/14-grpo-maxrl-flow``: Bernoulli sums that were done elsewhere."""
    drift = {
        (0.01, 2): (0.0099, 0.006999367273734167, 0.0099),
        (0.01, 4): (0.017101816395632238, 0.014807652740734914, 0.029403989999999994),
        (0.01, 8): (0.02582773621084275, 0.02415287705060238, 0.06725530557207988),
        (0.1, 2): (0.09000000000000001, 0.06363061157940152, 0.09000000000000001),
        (0.1, 4): (0.1521253495985832, 0.13171863737029962, 0.24390000000000003),
        (0.1, 8): (0.20949201468964582, 0.19591201486084905, 0.46953279000000014),
        (0.5, 2): (0.25, 0.17675169883167086, 0.25),
        (0.5, 4): (0.4040063509461097, 0.34981415057863186, 0.4375),
        (0.5, 8): (0.46391398740233325, 0.4338650005924644, 0.49609375),
    }[p, group]
    clocks = Grpo(group, bessel=False), Grpo(group, 1e-4), MaxRl(group)
    np.testing.assert_allclose([rate(c, p) * p * (1 - p) for c in clocks], drift, rtol=1e-13)


def test_rare_successes():
    """Finite groups see the limit ``p = 0`` exactly: one good sample among bad ones."""
    for p in (1e-300, 1e-30):
        np.testing.assert_allclose(rate(Grpo(8, bessel=False), p), math.sqrt(7.0), rtol=1e-14)
        np.testing.assert_allclose(rate(MaxRl(8), p), 7.0, rtol=1e-14)
        again = DynamicSampling(Grpo(8, bessel=False))
        np.testing.assert_allclose(rate(again, p) * 8.0 * p, math.sqrt(7.0), rtol=1e-13)
        np.testing.assert_allclose(rate(Grpo(), p), p**-0.5, rtol=1e-14)


def follow(instance, clock):
    """An instance with a clock as it stands, enumerated or not."""
    return eqx.tree_at(lambda i: i.clock, instance, clock, is_leaf=lambda leaf: leaf is None)


def by_sampling_all(instance, clock, group, again):
    """The mean update, by every ordered group there is."""
    p = np.asarray(instance.probabilities(instance.initial_parameters))[0]
    r = np.asarray(instance.rewards)[0]
    total, spread = np.zeros(len(r)), 0.0
    for drawn in itertools.product(range(len(r)), repeat=group):
        got, chance = r[list(drawn)], math.prod(p[y] for y in drawn)
        if len(set(got)) == 1:
            continue
        spread += chance
        weights = (got - got.mean()) / float(clock.scale(*np.array([[got.mean()], [got.std()]]))[0])
        for y, weight in zip(drawn, weights, strict=True):
            total[y] += chance * weight / group
    return total / (spread if again else 1.0)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("clock", [Grpo(4, 0.1), MaxRl(3), Grpo(3, bessel=False)], ids=lambda c: c.title)
def test_enumeration(clock, again):
    for rewards in ([1.0, 0.0, 0.0], [1.0, 0.3, 0.1]):
        instance = Instance([rewards], start=[[0.2, 0.3, 0.5]])
        expected = by_sampling_all(instance, clock, int(clock.group), again)
        whole = follow(instance, Enumerated(clock, again=again))
        found = [gradient(whole, whole.initial_parameters)[0]]
        known = instance.following(DynamicSampling(clock) if again else clock)
        found.append(gradient(known, known.initial_parameters)[0])
        np.testing.assert_allclose(found, [expected] * 2, atol=1e-15)
        assert isinstance(known.clock, Enumerated) == (rewards[1] > 0)


def escape(q):
    """The integral of ``(q (1 - q))^(-3/2) / 2``."""
    return (2.0 * q - 1.0) / math.sqrt(q * (1.0 - q))


@pytest.mark.parametrize("p", [1e-2, 1e-30])
def test_closed_forms_of_two_outputs(p):
    instance = Instance([[1.0, 0.0]], start=[[p, 1.0 - p]])
    goal = gt.probability_level(instance, 0, 0.7)

    def time(clock):
        return float(gt.hitting_time(instance.following(clock), goal).time[0])

    log_odds = math.log(0.7 / 0.3) - math.log(p / (1.0 - p))
    np.testing.assert_allclose(time(Grpo()), escape(0.7) - escape(p), rtol=1e-13)
    likelihood = 0.5 * (log_odds + 1.0 / 0.3 - 1.0 / (1.0 - p))
    np.testing.assert_allclose(time(MaxRl()), likelihood, rtol=1e-13)
    np.testing.assert_allclose(time(ColdStart(1.0)), likelihood, rtol=1e-13)
    np.testing.assert_allclose(time(MeanSubtracted(4)), time(Gradient()) * 4.0 / 3.0, rtol=1e-12)


def times(outputs, clock, two):
    """Hitting times of random problems, some with stalls."""
    rng = np.random.default_rng(0)
    shape = (outputs, 60)
    logits = rng.normal(size=shape) * rng.choice([0.5, 2.0, 5.0], shape[1])
    rewards = rng.uniform(0.0, 1.0, shape)
    if two:
        rewards = np.where(np.arange(outputs)[:, None] > 0, (rewards > 0.5) * 1.0, 1.0)
        rewards[-1] = 0.0
    level = 0.9 * rewards.max(0) + (0.0 if two else 0.1 * np.sort(rewards, 0)[-2])
    seen = see(rewards.T, None, None)
    seen = seen._replace(**{name: getattr(seen, name).T for name in ("rewards", "upper", "lower")})
    clock = jax.tree.map(lambda leaf: np.full(shape[1], float(leaf)), clock)
    with np.errstate(all="ignore"):
        flow = lines(logits, rewards)._replace(clocked=Clocked(clock, seen))
        found = trained_crossing(flow, rewards - level, np.ones(shape[1], bool))
        return quadrature.time(flow, found.position)[found.found]


@pytest.mark.parametrize(
    ("outputs", "clock", "two"),
    [(8, clock, False) for clock in LARGE] + [(6, clock, True) for clock in FINITE],
)
def test_twice_as_many_panels_change_nothing(outputs, clock, two, monkeypatch):
    found = times(outputs, clock, two)
    monkeypatch.setattr(quadrature, "_LONGEST", 2.5)
    monkeypatch.setattr(quadrature, "_STEEPEST", 20.0)
    np.testing.assert_allclose(found, times(outputs, clock, two), rtol=5e-11)


def test_longer_panels_are_caught(monkeypatch):
    found = times(8, Grpo(), False)
    monkeypatch.setattr(quadrature, "_LONGEST", 20.0)
    monkeypatch.setattr(quadrature, "_STEEPEST", 200.0)
    assert np.abs(times(8, Grpo(), False) / found - 1.0).max() > 5e-11


def test_policies_are_there_at_their_times():
    instance = Instance(
        [[1.0, 0.6, 0.0], [0.2, 0.9, 0.5]],
        start=[[1e-3, 0.9, 0.099], [0.5, 0.3, 0.2]],
        clock=Grpo(epsilon=0.01),
    )
    goal = gt.reward_level(instance, 0.8, instance.rewards)
    found = gt.hitting_time(instance, goal)
    for prompt, time in enumerate(np.asarray(found.time)):
        there = gt.trajectory(instance, [time])[0]
        np.testing.assert_allclose(
            instance.log_probabilities(there)[prompt], found.log_probabilities[prompt], atol=1e-10
        )


def test_outputs_that_share_a_feature_scatter():
    """Two outputs with one feature are one whose reward is random: seen twice, the same."""
    e = np.eye(3)
    apart = gt.LinearSoftmax([[e[0], e[1], e[1], e[2]]])
    alike = gt.LinearSoftmax([[e[0], e[1], e[2]]])
    four = Instance([[1.0, 0.8, 0.2, 0.0]], start=gt.Parameters([0.0, 2.0, 1.0]), policy=apart, clock=Grpo())
    three = Instance(
        [[1.0, 0.5, 0.0]],
        start=gt.Parameters([0.0, 2.0 + math.log(2.0), 1.0]),
        policy=alike,
        reward_variances=[[0.0, 0.09, 0.0]],
        clock=Grpo(),
    )
    late = np.exp(gt.final_policy(four, gt.Control(horizon=1.0))[0][0])
    once = four.following(Gradient())
    assert np.abs(np.exp(gt.final_policy(once, gt.Control(horizon=1.0))[0][0]) - late).max() > 0.01
    # The merged output moves twice as fast for its mass: compare the fields, not the flows.
    rates = []
    for one in (four, three):
        plain = eqx.tree_at(lambda i: i.clock, one, None)
        start = one.initial_parameters
        rates.append(gradient(one, start) / gradient(plain, start))
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-13)


BAD = {
    "group is 1; give a whole number": lambda: Grpo(1),
    "group is 2.5; give a whole number": lambda: MaxRl(2.5),
    "epsilon is -1.0; it must be not negative": lambda: Grpo(4, -1.0),
    "power is -1.0; it must be not negative": lambda: ColdStart(-1.0),
    "k is 0.5; give at least 1": lambda: PassAtK(0.5),
    r"rewards\[0\] hold -0.5, and MaxRL": lambda: Instance([[1.0, -0.5]], clock=MaxRl()),
    "take more than two values, of which pass at 4": lambda: Instance([[1.0, 0.5, 0.0]], clock=PassAtK(4)),
    "38608020 different groups": lambda: Instance([list(np.linspace(0, 1, 30))], clock=Grpo(8)),
    r"reward_variances\[0\]\[1\] is -1": lambda: Instance([[1.0, 0.0]], reward_variances=[[0.0, -1.0]]),
    r"rewards\[0\] have variances that are not": lambda: Instance(
        [[1.0, 0.5]], reward_variances=[[0.1, 0.1]], clock=Grpo(4)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_verifier_in_an_instance_file():
    data = {
        "initial_policy_probabilities": [[0.1, 0.2, 0.7]],
        "ground_truth_rewards": [[1, 1, 0]],
        "true_positive_rate": 0.9,
        "false_positive_rate": 0.2,
    }
    instance = from_dictionary(data)
    np.testing.assert_allclose(instance.rewards, [[0.9, 0.9, 0.2]])
    assert instance.reward_variances is not None
    np.testing.assert_allclose(instance.reward_variances, [[0.09, 0.09, 0.16]])
    again = from_dictionary(to_dictionary(instance))
    np.testing.assert_array_equal(again.reward_variances, instance.reward_variances)
    for change, message in (
        ({"true_positive_rate": 1.2}, "true_positive_rate is 1.2; give a probability"),
        ({"false_positive_rate": -0.2}, "false_positive_rate is -0.2; it must be not negative"),
        ({"ground_truth_rewards": [[1, 0.5, 0]]}, r"ground_truth_rewards\[0\]\[1\] is 0.5, and a verifier"),
        ({"rewards": [[1, 1, 0]]}, "rewards and true_positive_rate are both given"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dictionary(data | change)
    del data["true_positive_rate"]
    with pytest.raises(ValueError, match="is missing; give both"):
        from_dictionary(data)


@pytest.mark.parametrize(
    ("clock", "rewards"),
    [
        (MaxRl(), [1.0, 0.0, -0.5]),
        (MaxRl(4), [1.0, -0.5, -0.5]),
        (ColdStart(0.5), [1.0, 0.0, -0.5]),
        (Grpo(8), [1.0, 0.0, 0.5]),
    ],
)
def test_rewards_that_are_traced_and_have_no_such_clock_have_no_times(clock, rewards):
    """Known rewards are refused; of these it is known too late."""

    @jax.jit
    def follow(rewards: jax.Array) -> tuple[HittingTime, jax.Array]:
        instance = Instance(rewards, start=[0.2, 0.5, 0.3]).following(clock)
        goal = gt.probability_level(instance, 0, 0.9)
        return gt.hitting_time(instance, goal), gt.final_policy(instance, gt.Control(horizon=5.0))[0]

    found, policy = follow(np.array(rewards))
    assert found.status[0] == Status.NOT_CONVERGED
    assert np.isnan(found.time[0])
    assert np.isnan(policy).all()
    found, policy = follow(np.array([1.0, 0.0, 0.0]))
    assert found.status[0] == Status.REACHED
    np.testing.assert_allclose(np.exp(policy).sum(), 1.0, rtol=1e-12)
