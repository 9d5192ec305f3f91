import itertools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.autoregressive import (
    LARGEST,
    MLP,
    Autoregressive,
    Sequences,
    TokenFunction,
    TokenLinear,
    TokenTable,
    token_function,
    token_mlp,
)
from goodteacher.sim.flow import Control, hitting_time, trajectory
from goodteacher.sim.goals import reward_increase, reward_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.objective import expected_reward, gradient, natural_gradient, objective
from goodteacher.theory.closed_forms import one_good_output_time

SOLVER = diffrax.Tsit5()  # compiled in half the time of the default
KINDS = ("table", "linear", "mlp")


def random_instance(kind, prompts=2, vocabulary=3, length=2, **optional):
    rng = np.random.default_rng(0)
    of = Sequences(prompts, vocabulary, length)
    if kind == "table":
        policy = TokenTable(of)
    elif kind == "linear":
        policy = TokenLinear(of, jnp.asarray(rng.normal(size=(prompts, of.prefixes, vocabulary, 4))))
    else:
        policy, _ = token_mlp(of, 3, 1, jax.random.key(0))
    rewards = rng.uniform(-1, 1, (prompts, of.outputs))
    return Instance(rewards, policy=policy, start=Parameters(rng.normal(size=policy.size)), **optional)


def test_orders():
    of = Sequences(1, 3, 3)
    assert [tuple(row) for row in of.tokens()] == [*itertools.product(range(3), repeat=3)]
    tokens, lengths = of.prefix_tokens()
    found = [tuple(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    assert found == [prefix for level in range(3) for prefix in itertools.product(range(3), repeat=level)]
    assert (tokens[np.arange(2) >= lengths[:, None]] == -1).all()
    assert (of.outputs, of.prefixes) == (27, 13)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_products_over_tokens(kind):
    instance = random_instance(kind, length=3)
    policy, theta = instance.policy, instance.initial_parameters
    assert isinstance(policy, Autoregressive)
    next_token = np.asarray(policy.next_token_logits(theta))
    found = np.asarray(instance.probabilities(theta))
    prefixes = [p for level in range(3) for p in itertools.product(range(3), repeat=level)]
    for x in range(2):
        for y, tokens in enumerate(itertools.product(range(3), repeat=3)):
            expected = 1.0
            for position, token in enumerate(tokens):
                logits = next_token[x, prefixes.index(tokens[:position])]
                expected *= np.exp(logits[token]) / np.exp(logits).sum()
            np.testing.assert_allclose(found[x, y], expected, rtol=1e-12)


def test_mlp_by_its_own_network():
    of = Sequences(2, 3, 3)
    mlp = MLP(of, 4, 2)
    policy, theta = token_mlp(of, 4, 2, jax.random.key(1))
    network = mlp.network(jax.random.key(1))
    tokens, lengths = of.prefix_tokens()
    found = policy.next_token_logits(theta)
    for x, p in itertools.product(range(2), range(of.prefixes)):
        inputs = [np.eye(2)[x], *[np.eye(3)[t] if t >= 0 else np.zeros(3) for t in tokens[p]]]
        inputs.append(np.eye(3)[lengths[p]])
        np.testing.assert_allclose(found[x, p], network(jnp.asarray(np.concatenate(inputs))), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_autodiff_and_natural_gradient_solves_the_fisher_system(kind):
    instance = random_instance(kind, prompts=1, vocabulary=2, length=6, regularizer=Regularizer(kl=0.3))
    theta = instance.initial_parameters + 0.1

    @jax.jit
    def derivatives(theta):
        scores = jax.jacobian(instance.log_probabilities)(theta)
        weights = instance.prompt_weights[:, None] * instance.probabilities(theta)
        fisher = jnp.einsum("xy,xyi,xyj->ij", weights, scores, scores)
        autodiff = jax.grad(objective, 1)(instance, theta)
        return gradient(instance, theta), autodiff, fisher, natural_gradient(instance, theta)

    found, autodiff, fisher, direction = derivatives(theta)
    np.testing.assert_allclose(found, autodiff, atol=1e-15)
    scale = float(jnp.abs(found).max())
    np.testing.assert_allclose(fisher @ direction, found, atol=1e-8 * scale)
    assert jnp.abs(1.01 * fisher @ direction - found).max() > 1e-4 * scale
    if kind == "linear":  # of full rank, so that the direction is unique
        np.testing.assert_allclose(direction, jnp.linalg.solve(fisher, found), rtol=1e-9)
    if kind == "table":  # the smallest one: zero mean for each prefix
        np.testing.assert_allclose(direction.reshape(-1, 2).sum(-1), 0.0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_norms(kind):
    instance = random_instance(kind)
    policy, theta = instance.policy, instance.initial_parameters
    assert isinstance(policy, Autoregressive)
    jacobian = np.asarray(jax.jit(jax.jacobian(policy.next_token_logits))(theta))
    expected = np.linalg.svd(jacobian, compute_uv=False)[..., 0]
    found = eqx.filter_jit(policy.jacobian_norms)(theta)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if kind != "table":
        assert np.abs(found / np.linalg.norm(jacobian, axis=(-2, -1)) - 1.0).max() > 1e-3
    assert policy.length == 2


def test_one_token_per_output_is_the_tabular_policy():
    rng = np.random.default_rng(1)
    rewards, logits = rng.uniform(-1, 1, (2, 3, 5))
    tabular = Instance(rewards, start=Parameters(logits))
    tokens = Instance(rewards, policy=TokenTable(Sequences(3, 5, 1)), start=Parameters(logits.ravel()))
    for direction in (gradient, natural_gradient):
        expected = direction(tabular, tabular.initial_parameters).ravel()
        np.testing.assert_allclose(direction(tokens, tokens.initial_parameters), expected, atol=1e-15)
    expected, found = (
        hitting_time(i, reward_increase(i, 0.3), Control(solver=SOLVER)).time for i in (tabular, tokens)
    )
    assert jnp.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("decisive", [0, 1])
def test_closed_forms_from_a_rare_start(decisive):
    """Only one token of two counts: if the second, each prefix learns it at half the pace."""
    of = Sequences(1, 2, 2)
    start = 1e-12
    rewards = 1.0 - 2.0 * of.tokens()[:, decisive]
    log_odds = np.log(start) - np.log1p(-start)
    weights = np.zeros((3, 2))
    weights[1:, 0] = log_odds if decisive else 0.0
    weights[0, 0] = 0.0 if decisive else log_odds
    instance = Instance(rewards, policy=TokenTable(of), start=Parameters(weights.ravel()))
    time = hitting_time(instance, reward_level(instance, 0.8), Control(solver=SOLVER)).time[0]
    expected = (1 + decisive) * one_good_output_time(start, 0.9, 2.0)
    assert expected > 1e11
    np.testing.assert_allclose(time, expected, rtol=1e-9)
    # On to where the right token is all but certain.
    time = hitting_time(instance, reward_level(instance, 1.0 - 2e-11), Control(solver=SOLVER)).time[0]
    expected = (1 + decisive) * one_good_output_time(start, 1.0 - 1e-11, 2.0)
    np.testing.assert_allclose(time, expected, rtol=1e-4)  # of 1 - 1e-11 a double holds five digits


def test_hitting_time_is_where_the_trajectory_is_at_the_goal():
    instance = random_instance("mlp", vocabulary=2, prompts=1, regularizer=Regularizer(kl=0.01))
    goal = reward_increase(instance, 0.2)
    time = hitting_time(instance, goal, Control(solver=SOLVER)).time
    assert jnp.isfinite(time).all()
    for factor, gap in {1.0: 0.0, 0.9: -1e-3}.items():
        theta = trajectory(instance, factor * time, Control(solver=SOLVER))[0]
        value = expected_reward(instance.probabilities(theta), goal.values) - goal.level
        assert abs(value[0]) < 1e-8 if gap == 0.0 else value[0] < gap


def bigram(parameters, prompt, prefix, length):
    last = jnp.where(length > 0, prefix[length - 1], 2)
    return parameters["transition"][last] + parameters["bias"][prompt]


def test_a_function_of_ones_own():
    of = Sequences(2, 2, 3)
    transition = np.arange(6.0).reshape(3, 2)
    parameters = {"transition": transition, "bias": jnp.ones((2, 2), jnp.float32)}
    policy, flat = token_function(of, bigram, parameters)
    assert flat.dtype == float
    logits = policy.next_token_logits(flat)
    np.testing.assert_array_equal(logits[1, 0], transition[2] + 1)
    np.testing.assert_array_equal(logits[0, 2], transition[1] + 1)  # after token 1
    np.testing.assert_array_equal(logits[0, 5], transition[0] + 1)  # after tokens 1, 0
    again, _ = token_function(of, bigram, parameters)
    assert eqx.tree_equal(policy, again)
    assert isinstance(policy, TokenFunction)
    assert policy.size == 10
    with pytest.raises(ValueError, match=r"apply returns .* give an array of 2 logits, one per token"):
        token_function(of, lambda parameters, *_: parameters["bias"], parameters)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 2, 2), "prompts is 0; give a whole number from 1 to 4194304"),
        ((1, 1, 2), "vocabulary is 1; give a whole number from 2"),
        ((1, 2, 0), "length is 0; give a whole number from 1"),
        ((1, 2, True), "length is True; give a whole number"),
        ((1, 2, 10**30), "length is 10000"),
        (
            (1, 2, 23),
            r"2 \*\* 23 outputs for each of 1 prompts take 0\.0671 GB .* and 12\.1 GB for a hitting",
        ),
        ((32, 50, 5), r"50 \*\* 5 outputs for each of 32 prompts take 80 GB"),
        ((1, 50_000, 1000), r"take 1e4691 GB for their logits alone"),
    ],
)
def test_too_large_an_enumeration(numbers, message):
    with pytest.raises(ValueError, match=message):
        Sequences(*numbers)


def test_sizes_that_fit():
    assert Sequences(1, 2, 22).outputs == LARGEST
    comfortable = Sequences(32, 2, 12)
    assert TokenTable(comfortable).size == 32 * 4095 * 2


def test_bad_shapes():
    of = Sequences(2, 2, 2)
    with pytest.raises(ValueError, match=r"features has shape \[2, 4, 2, 5\]; give \[2, 3, 2, 'features'\]"):
        TokenLinear(of, jnp.zeros((2, 4, 2, 5)))
    with pytest.raises(ValueError, match="width is 0; give a whole number from 1 to 1000"):
        MLP(of, 0, 1)
    with pytest.raises(ValueError, match="depth is 11; give a whole number from 1 to 10"):
        MLP(of, 1, 11)
    rewards = np.zeros((2, 4))
    with pytest.raises(
        ValueError, match=r"has shape \[5\] but the policy has size 12; give \[\[12 numbers\]\]"
    ):
        Instance(rewards, policy=TokenTable(of), start=Parameters(np.zeros(5)))
    with pytest.raises(
        ValueError, match=r"policy gives logits of shape \[2, 4\] but rewards has shape \[2, 3\]"
    ):
        Instance(rewards[:, :3], policy=TokenTable(of), start=Parameters(np.zeros(12)))
