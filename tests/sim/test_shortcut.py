"""The shortcut for goals that are easily met against the way from breakpoint to breakpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim import quadrature, shortcut, solved
from goodteacher.sim.clocks import Clocked, Grpo, MaxRl, PassAtK, see
from goodteacher.sim.crossings import trained_crossing
from goodteacher.sim.flow import hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.lines import lines
from goodteacher.sim.status import Status

MANY = 800
NODES = solved._SHORTCUTS


def problems(outputs):
    """Flows, and distances from levels of different difficulty; some logits are wide apart."""
    rng = np.random.default_rng(outputs)
    logits = rng.normal(size=(outputs, MANY)) * rng.choice([0.3, 2.0, 2.0, 8.0, 60.0], MANY)
    rewards = rng.uniform(-1.0, 1.0, (outputs, MANY))
    rewards[:, ::7] = np.round(rewards[:, ::7], 1)  # ties, and near ones
    rewards[0, ::11] = rewards[1, ::11] + 1e-12
    flow = lines(logits, rewards)
    value = (np.exp(flow.logits - flow.normalizer) * rewards).sum(0)
    share = rng.choice([1e-3, 0.1, 0.5, 0.9, 1 - 1e-6], MANY)
    return flow, rewards - value - share * (rewards.max(0) - value)


def clocked(flow, clock):
    """What a clock sees of flows; of rewards above zero, as some want them."""
    seen = see(flow.rewards.T + 2.0, None, None)
    clock = jax.tree.map(lambda leaf: np.full(seen.gap.shape, leaf), clock)
    return Clocked(clock, jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, -1), seen))


def compared(outputs, nodes, clock=None):
    """Where the shortcut is certain, and by how much its times and masses there are off."""
    with np.errstate(all="ignore"):
        flow, distance = problems(outputs)
        flow = flow._replace(clocked=clock and clocked(flow, clock))
        sought = (np.exp(flow.logits - flow.normalizer) * distance).sum(0) < 0
        found = trained_crossing(flow, distance, sought)
        exact = quadrature.time(flow, found.position)
        met = shortcut.shortcut(flow, distance, nodes)
        certain = met.certain & found.found
        time = np.abs(met.time / exact - 1.0)[certain]
        return certain, time, np.abs(met.log_masses - found.log_masses)[:, certain]


@pytest.mark.parametrize("outputs", [2, 3, 8, 40])
@pytest.mark.parametrize("nodes", NODES)
def test_where_it_is_certain_it_is_right(outputs, nodes):
    certain, time, masses = compared(outputs, nodes)
    assert certain.mean() > 0.3
    assert time.max() < 1e-11
    assert masses.max() < 1e-9


@pytest.mark.parametrize("clock", [Grpo(), MaxRl(), PassAtK(4)])
@pytest.mark.parametrize("nodes", NODES)
def test_under_a_clock_too(clock, nodes):
    outputs = 2 if isinstance(clock, PassAtK) else 8
    certain, time, masses = compared(outputs, nodes, clock)
    assert certain.mean() > 0.3
    assert time.max() < 5e-11
    assert masses.max() < 1e-9


def test_more_nodes_do_more():
    few, more = (compared(8, nodes)[0].mean() for nodes in NODES)
    assert more > few + 0.05


@pytest.mark.parametrize("dropped", [("_MOST_TAIL", "_MOST_MISS"), ("_CLOSE",)], ids="-".join)
def test_without_its_checks_it_is_wrong(dropped, monkeypatch):
    """One check of the integral, or that of the goal's place, has to hold: else times are off."""
    for name in dropped:
        monkeypatch.setattr(shortcut, name, np.inf)
    _, time, _ = compared(8, NODES[0])
    assert time.max() > 1e-10


def test_without_that_of_what_is_foreseen_too(monkeypatch):
    """One of 400,000 random problems, in which the others agree by chance: 5e-10 off."""
    logits = [0.160466, 1.718822, -3.964441, -1.463124, 1.471743, 2.763664, 2.060582, -0.530612]
    rewards = [0.228895, -0.720457, -0.468772, 0.689915, -0.518839, 0.206287, 0.320462, -0.880079]
    flow = lines(*(np.array(each)[:, None] for each in (logits, rewards)))
    distance = flow.rewards - 0.336681
    exact = quadrature.time(flow, trained_crossing(flow, distance, np.ones(1, bool)).position)

    def met():
        with np.errstate(all="ignore"):
            found = [shortcut.shortcut(flow, distance, nodes) for nodes in NODES]
        return [abs(its.time[0] / exact[0] - 1.0) for its in found if its.certain[0]]

    assert max(met(), default=0.0) < 1e-11
    monkeypatch.setattr(shortcut, "_MOST_STEP", np.inf)
    assert max(met(), default=0.0) > 1e-10


def test_a_goal_too_far_away_is_left_to_others():
    flow = lines(np.zeros((2, 2)), np.array([[0.0, 0.0], [-1.0, -1.0]]))
    distance = flow.rewards + np.array([1e-2, 1e-60])  # near, and where z is above 50
    with np.errstate(all="ignore"):
        met = shortcut.shortcut(flow, distance, NODES[-1])
    assert met.certain.tolist() == [True, False]


def test_what_is_foreseen_is_exact_for_polynomials():
    way = shortcut.way_rule(12)
    places = np.concatenate([np.zeros(3), way.place])
    values, slopes = places**3 - 2.0 * places, 3.0 * places**2 - 2.0
    for i in range(4, len(way.place)):
        before = i + 3 - np.arange(1, 4)
        foreseen = way.values[i] @ values[before] + way.slopes[i] @ slopes[before]
        np.testing.assert_allclose(foreseen, values[i + 3], atol=1e-12)
    assert way.weight.sum() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def batch():
    """More problems than are solved side by side: easy, hard, met, out of reach, tiny, of other rewards."""
    rng = np.random.default_rng(3)
    n, outputs = solved._MANY + 40, 4
    logits = rng.normal(size=(n, 1, outputs)) * rng.choice([1.0, 20.0], (n, 1, 1))
    rewards, others = rng.uniform(-1.0, 1.0, (2, n, 1, outputs))
    # One whose expectation has risen above the level, and fallen again, when the shortcut finds it there.
    logits[5, 0] = [1.113612, 1.965754, -0.877954, -0.738102]
    rewards[5, 0], others[5, 0] = [
        [-0.683928, -0.84243, -0.005151, 0.6619],
        [-0.038295, -0.399098, -0.271826, -0.418922],
    ]
    instances = jax.vmap(lambda r, start: Instance(r, start=Parameters(start)))(
        jnp.asarray(rewards), jnp.asarray(logits)
    )
    values = np.where(np.arange(n)[:, None, None] % 5 == 0, others, rewards)
    value = (np.asarray(jax.nn.softmax(logits)) * values).sum(-1)
    share = rng.choice([-0.1, 1e-6, 0.3, 0.9, 1.1], (n, 1))
    levels = value + share * (values.max(-1) - value)
    levels[5] = -0.290851
    return instances, jax.vmap(Goal)(jnp.asarray(values), jnp.asarray(levels))


def test_many_at_once_are_as_few_by_themselves(batch):
    """Compiled and not: no shortcut is taken for so few that nothing is gained."""

    def by_parts(size: int) -> dict[str, np.ndarray]:
        parts = [slice(first, first + size) for first in range(0, len(batch[1].level), size)]
        found = [hitting_times(*jax.tree.map(lambda leaf, part=part: leaf[part], batch)) for part in parts]
        return {name: np.concatenate([np.asarray(getattr(of, name)) for of in found]) for name in names}

    names = ("time", "status", "log_probabilities", "end")
    few, several, many = by_parts(solved._SEVERAL), by_parts(500), jax.jit(hitting_times)(*batch)
    for name in names:
        for found in (several[name], getattr(many, name)):
            np.testing.assert_allclose(found, few[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert not np.array_equal(several["time"], few["time"])  # other ways to the same
    assert set(few["status"].ravel().tolist()) >= {int(Status.REACHED), int(Status.OUT_OF_REACH)}


def test_derivatives_of_many_are_those_of_each(batch):
    instances, goals = batch
    few = slice(0, 4)

    def total(logits, part):
        its, goal = jax.tree.map(lambda leaf: leaf[part], (instances, goals))
        its = jax.vmap(lambda r, start: Instance(r, start=Parameters(start)))(its.rewards, logits[part])
        found = hitting_times(its, goal)
        return jnp.where(found.status == Status.REACHED, jnp.log1p(found.time), 0.0)[:4].sum()

    start = instances.initial_parameters
    many, alone = (
        jax.jvp(lambda logits, part=part: total(logits, part), (start,), (jnp.cos(start),))[1]
        for part in (slice(None), few)
    )
    assert np.abs(alone) > 1e-3
    np.testing.assert_allclose(many, alone, rtol=1e-7)
