"""The statements on draws see every estimator; their exact sides by plain loops and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim import estimates, natural
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draw_estimates import (
    TILT,
    UNBIASED,
    WHOLE,
    Population,
    flow_and_optimum,
    spread_probability,
    tilted,
)

POLICY, REWARDS = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 1.0])
TRUTH = np.array([0.0, 0.5, 1.0])


def test_expectations_by_a_plain_loop():
    """Of three draws, each estimator by its definition."""
    by_hand = dict.fromkeys(("variance", "covariance", "right", "spread", "best"), 0.0)
    for drawn in itertools.product(range(3), repeat=3):
        chance = POLICY[list(drawn)].prod()
        r, g = REWARDS[list(drawn)], TRUTH[list(drawn)]
        pairs = list(itertools.combinations(range(3), 2))
        right = [np.sign(r[i] - r[j]) == np.sign(g[i] - g[j]) for i, j in pairs]
        by_hand["variance"] += chance * r.var(ddof=1)
        by_hand["covariance"] += chance * np.cov(r, g)[0, 1]
        by_hand["right"] += chance * np.mean(right)
        by_hand["spread"] += chance * (len(set(r)) > 1)
        by_hand["best"] += chance * g[r == r.max()].mean()
    one = Population(Instance(REWARDS, TRUTH, start=POLICY), jnp.asarray(3))
    found = UNBIASED.observe(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)).estimates
    for name, value in by_hand.items():
        # Groups of two, three and four: that of all draws is the second.
        assert found[name].ravel()[found[name].size // 2] == pytest.approx(value, abs=1e-14), name


def test_groups_with_a_spread():
    for group in (1, 2, 5):
        flat = 0.7**group + 0.3**group
        found = spread_probability(jnp.asarray(POLICY), jnp.asarray(REWARDS), group)
        assert float(found) == pytest.approx(1.0 - flat, abs=1e-15)


def test_a_tilt_by_hand():
    """Three draws of one output and one of a better one, whose odds are multiplied by three."""
    log_p, rewards, truth = jnp.log(jnp.array([0.75, 0.25])), jnp.array([0.0, 1.0]), jnp.array([1.0, -1.0])
    found = tilted(log_p, rewards, truth, jnp.array([3, 1]), jnp.log(3.0))
    expected = {
        "reward": 0.5,
        "truth": 0.0,
        "divergence": 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25),
        "effective size": 1.0 / (0.25 / 3 + 0.25),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=1e-15)
    both = flow_and_optimum(log_p, rewards, jnp.log(3.0))
    np.testing.assert_allclose(both, np.log(np.full((2, 2), 0.5)), atol=1e-15)


def slightly_off(function):
    return lambda *arguments: function(*arguments) * (1.0 + 1e-9)


def with_one_off(function, field):
    def changed(*arguments):
        found = function(*arguments)
        return found._replace(**{field: getattr(found, field) * (1.0 + 1e-9)})

    return changed


ALTERED = {
    **{
        name: (estimates, name, slightly_off(getattr(estimates, name)), (UNBIASED, WHOLE))
        for name in ("mean", "variance", "covariance", "share_with_spread", "best_of")
    },
    **{
        f"pairs: {field}": (estimates, "pairs", with_one_off(estimates.pairs, field), (UNBIASED, WHOLE))
        for field in ("right", "decided", "right_decided")
    },
    **{
        f"tilt: {field}": (estimates, "tilt", with_one_off(estimates.tilt, field), statements)
        for field, statements in {
            "log_probabilities": (WHOLE, TILT),
            "kl": (WHOLE, TILT),
            "effective_size": (WHOLE,),
        }.items()
    },
    "the natural flow": (natural, "policies_at", slightly_off(natural.policies_at), (TILT,)),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_estimate_that_is_a_little_off_is_noticed(name, monkeypatch):
    module, attribute, altered, statements = ALTERED[name]
    batches = [statement.sample(jax.random.key(0), 50) for statement in statements]
    for statement, batch in zip(statements, batches, strict=True):
        assert (statement.margin(batch) >= 0).all()
    monkeypatch.setattr(module, attribute, altered)
    for statement, batch in zip(statements, batches, strict=True):
        assert (statement.margin(batch) < 0).mean() > 0.3


def test_outputs_that_do_not_exist_stay_out_of_a_tilt(monkeypatch):
    def mended(*arguments):
        return np.maximum(policies_at(*arguments), -1e3)

    policies_at = natural.policies_at
    monkeypatch.setattr(natural, "policies_at", mended)
    batch = TILT.sample(jax.random.key(0), 50)
    masked = ~np.asarray(batch.instance.mask).all((1, 2))
    np.testing.assert_array_equal((np.asarray(TILT.margin(batch)) < 0) >= masked, True)
    assert masked.any()


def test_the_flow_is_that_of_each_prompt_alone():
    """Its time is not divided by the number of prompts: the weights of prompts do not count."""
    instance = Instance([REWARDS, -REWARDS], start=Parameters(np.log([POLICY, POLICY])))
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], instance)
    found = natural.policies_at(batch, np.array([[2.0]]))[0, 0]
    for log_p, rewards in zip(found, (REWARDS, -REWARDS), strict=True):
        weights = POLICY * np.exp(2.0 * rewards)
        np.testing.assert_allclose(np.exp(log_p), weights / weights.sum(), rtol=1e-14)
