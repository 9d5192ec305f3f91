import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory.rankings import (
    MOST_ENUMERATED,
    attainable_accuracies,
    insertion_ranking,
    is_attainable,
    levels,
    ranking,
)


def accuracy(orders, truth):
    """Of rankings ``[..., outputs]`` over uniform pairs, by its definition."""
    i, j = np.triu_indices(truth.size, 1)
    return (np.sign(orders[..., i] - orders[..., j]) == np.sign(truth[i] - truth[j])).mean(-1)


def is_first(order, output, strictly):
    return order[output] == order.max() and (not strictly or (order == order.max()).sum() == 1)


def cases():
    """Ground truths with and without ties, and what must be first."""
    rng = np.random.default_rng(0)
    for count in (2, 3, 4, 5, 6):
        for kinds in (count, 2, 3):
            truth = rng.permutation(count) if kinds == count else rng.integers(0, kinds, count)
            for first, strictly in ((None, False), (int(rng.integers(count)), False), (0, True)):
                yield truth.astype(float), first, strictly


def test_uniform_pairs_against_all_weak_orders():
    for truth, first, strictly in cases():
        orders = np.array(list(itertools.product(range(truth.size), repeat=truth.size)))
        if first is not None:
            orders = orders[[is_first(order, first, strictly) for order in orders]]
        every = accuracy(orders, truth)
        options = {"ranked_first": first, "strictly": strictly}
        found = attainable_accuracies(truth, **options)
        np.testing.assert_allclose(found, np.unique(every.round(12)), atol=1e-11)
        enumerated = attainable_accuracies(truth, np.ones((truth.size,) * 2), **options)
        np.testing.assert_allclose(enumerated, found, atol=1e-12)
        for value in found:
            order = ranking(value, truth, **options)
            assert accuracy(order, truth) == pytest.approx(value, abs=1e-12)
            assert first is None or is_first(order, first, strictly)


def test_without_ties_every_number_of_pairs_is_attained():
    truth = np.random.default_rng(1).permutation(30).astype(float)
    assert len(attainable_accuracies(truth)) == 30 * 29 // 2 + 1
    output = int(np.flatnonzero(truth == 12)[0])  # 12 are worse
    attained = attainable_accuracies(truth, ranked_first=output)
    np.testing.assert_allclose(attained * 435, np.arange(29 * 28 // 2 + 12 + 1), atol=1e-9)
    alone = attainable_accuracies(truth, ranked_first=output, strictly=True)
    np.testing.assert_allclose(alone * 435, np.arange(12, 29 * 28 // 2 + 12 + 1), atol=1e-9)


@pytest.mark.parametrize("kind", ["no ties", "binary", "three values", "few ties"])
@pytest.mark.parametrize("first", [None, 7])
def test_rankings_of_hundreds_of_outputs(kind, first):
    rng = np.random.default_rng(2)
    truth = {
        "no ties": rng.normal(size=250),
        "binary": rng.integers(0, 2, 120),
        "three values": rng.integers(0, 3, 50),
        "few ties": np.append(rng.permutation(60), [20, 20, 20]),
    }[kind].astype(float)
    values = attainable_accuracies(truth, ranked_first=first)
    for value in (values[0], values[len(values) // 3], values[-2], values[-1]):
        order = ranking(value, truth, ranked_first=first)
        assert accuracy(order, truth) == pytest.approx(value, abs=1e-12)
        assert first is None or is_first(order, first, False)
    assert (values[-1] == 1.0) == (first is None or truth[first] == truth.max())


def test_given_pairs():
    truth, weights = [2.0, 1.0, 0.0], np.zeros((3, 3))
    weights[0, 1], weights[2, 1], weights[0, 0] = 3.0, 1.0, 99.0  # of {0, 1} and {1, 2}
    np.testing.assert_allclose(attainable_accuracies(truth, weights), [0, 0.25, 0.75, 1])
    order = ranking(0.25, truth, weights)
    assert order[0] <= order[1] > order[2]
    # With 2 first, {1, 2} is wrong.
    np.testing.assert_allclose(attainable_accuracies(truth, weights, ranked_first=2), [0, 0.75])
    assert is_attainable(0.75, truth, weights, ranked_first=2)
    assert not is_attainable(1.0, truth, weights, ranked_first=2)
    with pytest.raises(ValueError, match=r"0\.5 is not attainable; nearest to it is 0\.25 and 0\.75"):
        ranking(0.5, truth, weights)


def test_a_tie_at_the_top_is_needed_for_accuracy_zero_with_the_better_output_first():
    assert ranking(0.0, [1.0, -1.0], ranked_first=0).tolist() == [0, 0]
    with pytest.raises(
        ValueError, match=r"0\.0 is not attainable with output 0 ranked first alone; .* is 1\.0"
    ):
        ranking(0.0, [1.0, -1.0], ranked_first=0, strictly=True)


def test_what_is_not_attainable_names_the_nearest():
    truth = [0.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"0\.55 is not attainable; nearest to it is 0\.5 and 0\.66666"):
        ranking(0.55, truth)
    below, above = 4 / 6, 1.0
    assert not is_attainable(5 / 6, truth)
    with pytest.raises(ValueError, match=f"nearest to it is {below} and {above}"):
        ranking(5 / 6, truth)
    assert is_attainable(below, truth)


def test_what_needs_no_ties_is_never_too_large():
    truth = np.repeat(np.arange(5.0), 60)
    assert accuracy(ranking(0.5, truth), truth) == 0.5
    with pytest.raises(ValueError, match="too many ties for so many outputs: deciding takes"):
        ranking(1.0, truth)


def test_insertion_ranking():
    truth = np.array([2.0, 0.0, 1.0, 1.0])
    for right in ([0, 0, 0, 0], [2, 0, 1, 0], [3, 0, 1, 1]):
        order = insertion_ranking(truth, np.array(right))
        above_worse = ((order[:, None] > order) & (truth[:, None] > truth)).sum(1)
        assert above_worse.tolist() == right
        assert sorted(order) == [0, 1, 2, 3]


def test_levels():
    assert levels(jnp.array([0.5, -1.0, 0.5, 2.0])).tolist() == [1, 0, 1, 3]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("accuracy is 1.5; give a number between 0 and 1", {"accuracy": 1.5}),
        ("accuracy is nan", {"accuracy": float("nan")}),
        (r"ground_truth_rewards has shape \[1\]", {"ground_truth_rewards": [1.0]}),
        ("ground_truth_rewards .* finite", {"ground_truth_rewards": [1.0, float("inf")]}),
        ("ranked_first is 3; give an output from 0 to 2", {"ranked_first": 3}),
        (r"pair_weights has shape \[2, 2\]; give \[3, 3\]", {"pair_weights": np.ones((2, 2))}),
        ("pair_weights must be finite and not negative", {"pair_weights": -np.ones((3, 3))}),
        ("not all zero off the diagonal", {"pair_weights": np.eye(3)}),
        (
            f"has 9 outputs; give at most {MOST_ENUMERATED} with pair_weights",
            {"ground_truth_rewards": list(range(9)), "pair_weights": np.ones((9, 9))},
        ),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(ValueError, match=message):
        ranking(**({"accuracy": 1.0, "ground_truth_rewards": [0.0, 1.0, 2.0]} | arguments))
