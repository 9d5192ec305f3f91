"""Several rewards, normalised and then summed or the other way round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from goodteacher.sim.clocks import Grpo
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.learning import learn
from goodteacher.sim.objective import gradient
from goodteacher.sim.sampling import sampled_gradient, weighing
from goodteacher.sim.several_rewards import Gdpo, normalised_then_summed, summed_then_normalised, updated

START = np.log([0.2, 0.5, 0.3])
KINDS = np.array([[1.0, 0.3, 0.0], [0.0, 0.5, 2.0]])
WEIGHTS = np.array([0.7, 0.4])
BOTH = (normalised_then_summed, summed_then_normalised)


def advantages(of, rewards, weights, epsilon=0.0):
    return np.asarray(of(jnp.asarray(START), jnp.asarray(rewards), jnp.asarray(weights), epsilon))


def test_with_one_reward_both_are_grpo():
    instance = Instance(KINDS[0], start=np.exp(START)).following(Grpo(epsilon=0.1))
    exact = np.asarray(gradient(instance, instance.initial_parameters))[0]
    for of in BOTH:
        np.testing.assert_allclose(
            np.exp(START) * advantages(of, KINDS[:1], np.ones(1), 0.1), exact, rtol=1e-13
        )


def test_with_equal_deviations_all_along_both_have_one_path():
    """Of one reward, turned round or shifted: what is left is the difference of the weights."""
    alike = np.stack([KINDS[0], 0.4 - KINDS[0], KINDS[0] - 2.0])
    weights = np.array([0.5, 0.3, 0.6])
    separate, together = (advantages(of, alike, weights) for of in BOTH)
    np.testing.assert_allclose(separate, 0.8 * together, rtol=1e-12)
    apart = [advantages(of, KINDS, WEIGHTS) for of in BOTH]
    assert abs(apart[0] @ apart[1]) < 0.99 * np.linalg.norm(apart[0]) * np.linalg.norm(apart[1])


@pytest.mark.parametrize(("of", "separate"), [(BOTH[0], True), (BOTH[1], False)])
def test_large_groups_of_samples(of, separate):
    drawn = np.random.default_rng(0).choice(3, p=np.exp(START), size=400_000)
    seen = KINDS[:, drawn] if separate else (WEIGHTS @ KINDS[:, drawn])[None]
    normalised = (seen - seen.mean(1, keepdims=True)) / (seen.std(1, keepdims=True) + 0.1)
    weight = (WEIGHTS if separate else np.ones(1)) @ normalised
    update = np.bincount(drawn, weight, 3) / len(drawn)
    exact = np.exp(START) * advantages(of, KINDS, WEIGHTS, 0.1)
    np.testing.assert_allclose(update, exact, atol=3e-3)


def _learned(of, rewards, updates, start=(0.0, 0.0), epsilon=0.0):
    options = {"learning_rate": 0.1, "updates": updates, "epsilon": epsilon}
    return np.asarray(jax.nn.softmax(updated(of, start, rewards, np.ones(len(rewards)), **options)))


def test_small_rewards_outvote_a_large_one():
    """An output that is wrong, but short and in the format, and one that is right."""
    rewards = [[0.1, 0.0], [0.1, 0.0], [0.0, 1.0]]
    assert _learned(normalised_then_summed, rewards, 5000)[0] > 0.999
    assert _learned(summed_then_normalised, rewards, 5000)[1] > 0.999
    # Magnitudes count where s = sqrt(p (1-p)) is small: 0.2 / (0.1 s + e) is 1 / (s + e) at s = 8 e.
    mixed = _learned(normalised_then_summed, rewards, 100_000, epsilon=0.02)
    np.testing.assert_allclose(mixed.prod(), (8 * 0.02) ** 2, rtol=1e-6)


def test_majorities_that_go_in_circles_take_the_policy_along():
    """Every output is preferred to the next by two rewards of three; the sum says nothing."""
    circle = [[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]]
    start = (0.1, 0.0, 0.0)
    np.testing.assert_allclose(
        _learned(summed_then_normalised, circle, 600, start), jax.nn.softmax(jnp.asarray(start)), atol=1e-9
    )
    later = [_learned(normalised_then_summed, circle, n, start) for n in (0, 100, 240, 350, 460)]
    assert [int(policy.argmax()) for policy in later] == [0, 2, 1, 0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0]}, "rewards has shape .2, 3.; give a row of 3 outputs for each of 1 weights"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be positive"),
        ({"epsilon": -1.0}, "epsilon is -1.0; it must be not negative"),
        ({"updates": -1}, "updates is -1; it must be not negative"),
        ({"start": [0.0, np.nan, 0.0]}, "start"),
    ],
)
def test_bad_input(change, message):
    given = {"start": START, "rewards": KINDS, "weights": WEIGHTS, "learning_rate": 0.1, "updates": 1}
    with pytest.raises(ValueError, match=message):
        updated(normalised_then_summed, **(given | change))


# From samples -----------------------------------------------------------------------------

GROUP = 4
STARTS, SHARES = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], [0.7, 0.3]
PROMPTS = Instance([[0.0] * 3, [0.0] * 3], start=STARTS, prompt_weights=SHARES)
OF_PROMPTS = np.stack([KINDS, KINDS[:, ::-1]], 1)  # [kinds, prompts, outputs]
GDPO = Gdpo(OF_PROMPTS, WEIGHTS, Grpo(GROUP, 1e-2))
SUM = Instance(np.tensordot(WEIGHTS, OF_PROMPTS, 1), start=STARTS, prompt_weights=SHARES)
EXACT = {
    "normalised, then summed": GDPO.gradient(PROMPTS, PROMPTS.initial_parameters),
    "summed, then normalised": gradient(SUM.following(Grpo(GROUP, 1e-2)), SUM.initial_parameters),
}


@jax.jit
@jax.vmap
def _updates(key):
    """One of each, from the same samples."""
    uniforms = jax.random.uniform(key, (2, GROUP))
    start = PROMPTS.initial_parameters
    summed = sampled_gradient(SUM, start, uniforms, weighing(Grpo(GROUP, 1e-2)))
    return GDPO.sampled_gradient(PROMPTS, start, uniforms), summed


def test_means_of_many_sampled_updates_are_exact():
    """Within five standard errors of their own expectation, and none of the other's."""
    found = _updates(jax.random.split(jax.random.key(0), 100_000))

    def errors(updates, exact):
        return np.abs(updates.mean(0) - exact) / (updates.std(0) / np.sqrt(len(updates)))

    for updates, own in zip(map(np.asarray, found), EXACT, strict=True):
        for name, exact in EXACT.items():
            off = errors(updates, np.asarray(exact)).max()
            assert off < 5.0 if name == own else off > 20.0
        assert errors(updates, 1.05 * np.asarray(EXACT[own])).max() > 5.0


def test_the_mean_of_finite_groups_tends_to_the_limit():
    def mean(rule):
        return np.asarray(Gdpo(OF_PROMPTS, WEIGHTS, rule).gradient(PROMPTS, PROMPTS.initial_parameters))

    limit = mean(Grpo(epsilon=1e-2))
    of_first = 0.7 * np.exp(START) * advantages(normalised_then_summed, KINDS, WEIGHTS, 1e-2)
    np.testing.assert_allclose(limit[0], of_first, rtol=1e-12)
    off = [np.abs(mean(Grpo(group, 1e-2)) - limit).max() for group in (4, 32, 128)]
    assert off[0] > 3.0 * off[1] > 9.0 * off[2]


def test_learners_put_outputs_to_the_vote_and_a_seed_decides():
    """A large reward for being right against two small ones for brevity and format."""
    kinds = np.array([[[0.1, 0.0]], [[0.1, 0.0]], [[0.0, 1.0]]])
    problem = Instance(kinds.sum(0), start=[[0.5, 0.5]])
    rule = Grpo(8, 1e-4)

    def learned(estimator, seed):
        parameters = learn(problem, jax.random.key(seed), estimator, None, optax.sgd(0.3), 300).parameters
        return np.asarray(problem.probabilities(parameters))[0]

    gdpo = Gdpo(kinds, np.ones(3), rule)
    assert learned(gdpo, 0)[0] > 0.95
    assert learned(rule, 0)[1] > 0.95
    np.testing.assert_array_equal(learned(gdpo, 0), learned(gdpo, 0))
    assert (learned(gdpo, 0) != learned(gdpo, 1)).all()
    # One kind alone is GRPO, from the same samples.
    alone = Gdpo(kinds.sum(0)[None], np.ones(1), rule)
    np.testing.assert_allclose(learned(alone, 0), learned(rule, 0), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Gdpo(OF_PROMPTS, [1.0], Grpo(4)),
            "rewards has 2 kinds, weights has 1; give",
        ),
        (lambda: Gdpo(KINDS, WEIGHTS, Grpo(4)), "rewards"),
        (lambda: GDPO.check(Instance([1.0, 0.0])), r"prompts and outputs \[1, 2\]; give .kinds"),
        (
            lambda: learn(
                Instance([[0.0] * 3] * 2, regularizer=Regularizer(kl=0.1)),
                jax.random.key(0),
                GDPO,
                None,
                optax.sgd(0.1),
                1,
            ),
            "the problem is regularised or has random rewards",
        ),
        (
            lambda: learn(
                PROMPTS, jax.random.key(0), Gdpo(OF_PROMPTS, WEIGHTS, Grpo()), None, optax.sgd(0.1), 1
            ),
            "group of GDPO, 2 rewards, each by GRPO, large groups is inf; give one of the number of samples",
        ),
    ],
)
def test_bad_several_rewards(make, message):
    with pytest.raises(ValueError, match=message):
        make()
