import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import Comparisons, comparisons, one_vs_many_accuracy, pairwise_accuracy

PROMPTS, MANY = 3, 4


def by_loops(data):
    """All eight numbers by their definitions, without logarithms."""
    pairs, groups = [], []
    for prompt in range(PROMPTS):
        right, harmless, probability = [], [], math.exp(data["log_p"][prompt] / data["length"][prompt])
        product = probability
        for k in range(MANY):
            if not data["mask"][prompt, k]:
                continue
            reward = data["dispreferred"][prompt, k]
            other = math.exp(data["log_q"][prompt, k] / data["lengths"][prompt, k])
            right.append(data["preferred"][prompt] > reward)
            harmless.append(reward < data["mean"][prompt])
            pairs.append((right[-1], right[-1] or harmless[-1], probability * other))
            product *= other
        groups.append((all(right), all(right) or all(harmless), product))

    def accuracies(rows):
        weight = sum(row[2] for row in rows)
        return [
            value
            for kind in (0, 1)
            for value in (
                sum(row[kind] for row in rows) / len(rows),
                sum(row[kind] * row[2] for row in rows) / weight,
            )
        ]

    return accuracies(pairs), accuracies(groups)


def evaluate(data):
    made = Comparisons(
        data["preferred"],
        data["dispreferred"],
        data["mean"],
        data["log_p"],
        data["log_q"],
        preferred_lengths=data["length"],
        dispreferred_lengths=data["lengths"],
        mask=data["mask"],
    )
    return pairwise_accuracy(made), one_vs_many_accuracy(made)


levels = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])  # so that ties are common


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            "preferred": st.lists(levels, min_size=PROMPTS, max_size=PROMPTS),
            "mean": st.lists(levels, min_size=PROMPTS, max_size=PROMPTS),
            "dispreferred": st.lists(levels, min_size=PROMPTS * MANY, max_size=PROMPTS * MANY),
            "mask": st.lists(st.booleans(), min_size=PROMPTS * MANY, max_size=PROMPTS * MANY),
            "seed": st.integers(0, 2**31),
        }
    )
)
def test_accuracies_are_those_of_direct_loops(drawn):
    random = np.random.default_rng(drawn["seed"])
    mask = np.reshape(drawn["mask"], (PROMPTS, MANY))
    mask[:, 0] = True
    data = {
        "preferred": np.array(drawn["preferred"]),
        "mean": np.array(drawn["mean"]),
        "dispreferred": np.where(mask, np.reshape(drawn["dispreferred"], mask.shape), np.nan),
        "mask": mask,
        "log_p": -random.exponential(5.0, PROMPTS),
        "log_q": np.where(mask, -random.exponential(5.0, mask.shape), np.nan),
        "length": random.integers(1, 5, PROMPTS),
        "lengths": random.integers(1, 5, mask.shape),
    }
    for found, expected in zip(evaluate(data), by_loops(data), strict=True):
        found = [found.acc, found.acc_w, found.hacc, found.hacc_w]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_tie_is_wrong_unless_it_is_harmless():
    tied = Comparisons([0.5], [[0.5]], [0.0], [-1.0], [[-1.0]])
    assert [float(x) for x in pairwise_accuracy(tied)] == [0, 0, 0, 0]
    harmless = Comparisons([0.5], [[0.5]], [0.6], [-1.0], [[-1.0]])
    assert [float(x) for x in pairwise_accuracy(harmless)] == [0, 0, 1, 1]
    at_the_line = Comparisons([0.5], [[0.5]], [0.5], [-1.0], [[-1.0]])
    assert float(pairwise_accuracy(at_the_line).hacc) == 0


def test_weights_that_underflow_still_weigh():
    """Probabilities of exp(-2000) and exp(-2001): the weights are e to 1."""
    made = Comparisons([1.0, 0.0], [[0.0], [1.0]], [-1.0, -1.0], [-1000.0, -1000.0], [[-1000.0], [-1001.0]])
    for ranking in (pairwise_accuracy, one_vs_many_accuracy):
        np.testing.assert_allclose(ranking(made).acc_w, math.e / (math.e + 1), rtol=1e-14)
    # Divided by their lengths they are nearly equal.
    normalized = Comparisons(
        [1.0, 0.0],
        [[0.0], [1.0]],
        [-1.0, -1.0],
        [-1000.0, -1000.0],
        [[-1000.0], [-1001.0]],
        preferred_lengths=1000,
        dispreferred_lengths=1000,
    )
    np.testing.assert_allclose(pairwise_accuracy(normalized).acc_w, 1 / (1 + math.exp(-1e-3)), rtol=1e-12)
    never = Comparisons([1.0], [[0.0]], [0.0], [-np.inf], [[-1.0]])
    assert np.isnan(pairwise_accuracy(never).acc_w)
    assert float(pairwise_accuracy(never).acc) == 1


def test_of_an_instance():
    problem = Instance(
        [[0.2, 0.3, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]],
        [[1.0, 0.8, -1.0, -1.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]],
        start=[[0.05, 0.5, 0.15, 0.15, 0.15]] * 2,
    )
    made = comparisons(problem, problem.initial_parameters)
    # Output 4 ties with the best one of the first prompt, and is left out.
    np.testing.assert_array_equal(
        made.mask, [[False, True, True, True, False], [False, True, True, True, True]]
    )
    np.testing.assert_allclose(made.expected_rewards, [0.2 * 0.05 + 0.3 * 0.5 - 0.15, 0.05], rtol=1e-12)
    found = pairwise_accuracy(made)
    assert float(found.acc) == pytest.approx(6 / 7)
    weights = np.array([0.5, 0.15, 0.15, 0.5, 0.15, 0.15, 0.15])
    assert float(found.acc_w) == pytest.approx(1 - 0.5 / weights.sum())
    assert float(one_vs_many_accuracy(made).acc) == 0.5
    alone = jax.jit(jax.vmap(lambda i: pairwise_accuracy(comparisons(i, i.initial_parameters)).acc))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    np.testing.assert_allclose(alone(batch), 6 / 7)
    flat = Instance([1.0, 0.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="ground_truth_rewards of prompt 0 are all equal"):
        comparisons(flat, flat.initial_parameters)


VALID = ([1.0], [[0.0, 0.5]], [0.0], [-1.0], [[-1.0, -2.0]])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, [np.nan], r"preferred_rewards\[0\] is nan; give a finite number"),
        (1, [[0.0, np.inf]], r"dispreferred_rewards\[0, 1\] is inf"),
        (1, [0.0, 0.5], r"dispreferred_rewards has shape \[2\]; give \[prompts, dispreferred\]"),
        (2, [0.0, 1.0], r"expected_rewards has shape \[2\]; give \[1\]"),
        (3, [0.1], r"preferred_log_probabilities\[0\] is 0.1; that of a probability is at most 0"),
        (4, [[-1.0, 2.0]], r"dispreferred_log_probabilities\[0, 1\] is 2.0"),
        (4, [[np.nan, -2.0]], r"dispreferred_log_probabilities\[0, 0\] is nan"),
    ],
)
def test_bad_input(position, value, message):
    arguments = [value if at == position else given for at, given in enumerate(VALID)]
    with pytest.raises(ValueError, match=message):
        Comparisons(*arguments)


def test_bad_masks_and_lengths():
    with pytest.raises(ValueError, match="mask leaves prompt 0 without a dispreferred output"):
        Comparisons(*VALID, mask=[[False, False]])
    with pytest.raises(ValueError, match=r"mask has shape \[2\]"):
        Comparisons(*VALID, mask=[True, False])
    with pytest.raises(ValueError, match=r"dispreferred_lengths\[0, 1\] is 0.0; give a number of tokens"):
        Comparisons(*VALID, dispreferred_lengths=[[1, 0]])
    # What the mask hides is not looked at.
    hidden = Comparisons([1.0], [[0.0, np.nan]], [0.0], [-1.0], [[-1.0, 3.0]], mask=[[True, False]])
    assert float(pairwise_accuracy(hidden).acc_w) == 1


@pytest.mark.parametrize("reward", [0.9, 0.1])
def test_a_constant_reward_is_never_right(reward):
    """Its mean is itself, not what rounding makes of it: no output is below the mean."""
    chances = np.random.default_rng(0).dirichlet(np.ones(7), 20)
    truth = np.tile(np.arange(7) / 7, (20, 1))
    problem = Instance(np.full((20, 7), reward), truth, start=chances)
    found = pairwise_accuracy(comparisons(problem, problem.initial_parameters))
    assert [float(value) for value in found] == [0, 0, 0, 0]
