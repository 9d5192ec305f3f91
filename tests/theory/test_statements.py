"""The registry walked by the driver, the driver itself, and the same statements driven by Hypothesis."""

import json
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from goodteacher.sim.files import from_dictionary
from goodteacher.sim.goals import probability_level
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.draw_estimates import Counted, Population
from goodteacher.theory.draws import without
from goodteacher.theory.exact_flows import Elapsed, Hitting
from goodteacher.theory.statements import (
    LEAST_INFORMATIVE,
    Dropped,
    Sides,
    Statement,
    collect,
    find_statements,
    plain,
    problem,
    verify,
)

STATEMENTS = find_statements()
INSTANCES = 200


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_holds_and_its_sabotages_are_caught(name):
    """Those at the edge are for the many instances of ``make verify``."""
    report = verify(STATEMENTS[name], INSTANCES, seed=0)
    assert report.violations == 0
    assert report.informative >= LEAST_INFORMATIVE
    assert STATEMENTS[name].sabotages
    assert all(report.sabotages[sabotage].caught for sabotage in STATEMENTS[name].sabotages)
    json.dumps(report.to_dictionary(), allow_nan=False)
    assert problem(report.tightest).rewards.ndim == 2  # what a search finds can be written for others to run


# Driven by Hypothesis ---------------------------------------------------------


# A strategy gives plain numbers, of few digits, which shrink to readable ones; a function makes an instance
# of them.


def numbers(low, high, *shape):
    size = math.prod(shape)
    flat = st.lists(st.integers(low * 8, high * 8), min_size=size, max_size=size)
    return flat.map(lambda values: np.reshape(values, shape) / 8)


def instance_numbers(spread, most_kl, features=None):
    start = (2, 3) if features is None else (features,)
    return st.fixed_dictionaries(
        {
            "rewards": numbers(-1, 1, 2, 3),
            "initial_policy_weights": numbers(-spread, spread, *start),
            "reference_policy_logits": numbers(-spread, spread, 2, 3),
            "kl_coefficient": st.floats(0.1, most_kl),
        }
        | ({} if features is None else {"output_features": numbers(-2, 2, 2, 3, features)})
    )


def instance(fields):
    return from_dictionary({**fields, "ground_truth_rewards": fields["rewards"]})


def elapsed(fields):
    rewards, weights, time = fields
    return Elapsed(Instance(rewards, start=Parameters(weights)), jnp.asarray(time))


def one_good_output(fields):
    padded, start, rise, gap, outputs = fields
    index = np.arange(padded)
    weights = np.where(index == 0, np.log(start), np.log1p(-start) - np.log(outputs - 1))
    problem = Instance(np.where(index == 0, gap, 0.0), start=Parameters(weights[None]))
    if padded > 2:
        problem = without(problem, jnp.asarray(index < outputs)[None])
    return Hitting(problem, probability_level(problem, 0, start + rise * (1 - start)))


def hitting_numbers(padded, fewest):
    return st.tuples(
        st.just(padded),
        st.floats(1e-9, 0.4),
        st.floats(1e-2, 1 - 1e-6),
        st.floats(1e-2, 2),
        st.integers(fewest, padded),
    )


LEVELS = st.lists(st.integers(-2, 2), min_size=3, max_size=3).map(lambda of: np.array(of) / 2)
COUNTS = st.lists(st.integers(1, 3), min_size=3, max_size=3).map(np.array)


def counted(fields):
    rewards, truth, counts, tau = fields
    instance = Instance(rewards, truth, start=counts / counts.sum())
    return Counted(instance, jnp.asarray(counts), jnp.asarray(tau))


def population(fields):
    rewards, truth, counts, draws = fields
    return Population(Instance(rewards, truth, start=counts / counts.sum()), jnp.asarray(draws))


UNSHRUNK = settings(phases=[Phase.generate])
IDENTITIES = {
    "two_output_flow": (one_good_output, hitting_numbers(2, 2)),
    "one_good_output_flow": (one_good_output, hitting_numbers(16, 3)),
    "natural_gradient_flow": (
        elapsed,
        st.tuples(numbers(-1, 1, 2, 3), numbers(-4, 4, 2, 3), st.floats(0.125, 64)),
    ),
    "draws_unbiased": (population, st.tuples(LEVELS, LEVELS, COUNTS, st.integers(2, 4))),
    "draws_whole_population": (counted, st.tuples(LEVELS, LEVELS, COUNTS, st.floats(0.125, 16))),
    "tilt_of_draws": (
        elapsed,
        st.tuples(numbers(-1, 1, 2, 3), numbers(-4, 4, 2, 3), st.floats(0.125, 64)),
    ),
    "kl_optimum_stationary": (instance, instance_numbers(8, 4.0)),
    "kl_optimum_gap": (instance, instance_numbers(8, 4.0)),
    "gradient_tabular": (instance, instance_numbers(8, 4.0)),
    "gradient_linear": (instance, instance_numbers(2, 4.0, features=2)),
    "conservation": (instance, instance_numbers(2, 1.0)),
    "ascent": (instance, instance_numbers(2, 1.0, features=2)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_holds_on_small_instances_and_its_sabotages_do_not(name):
    make, strategy = IDENTITIES[name]
    statement = STATEMENTS[name]

    def margin_of(judge, fields):
        batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], make(fields))
        return float(statement.judgements(batch)[judge].margin[0])

    @settings(max_examples=40)
    @given(strategy)
    def holds(fields):
        assert margin_of(statement.judge, fields) >= 0

    holds()
    for change, judge in statement.trials.values():
        assert change is None
        find(strategy, lambda fields, j=judge: margin_of(j, fields) < 0, settings=UNSHRUNK)


# The driver -------------------------------------------------------------------


def square_statement(judge, sabotages=None, **more):
    """About numbers ``x`` uniform in [0, 1)."""
    return Statement(
        name="square",
        title="Squares are small",
        citation="none",
        formula="x² ≤ bound",
        draw=lambda source: source.uniform(),
        judge=judge,
        sabotages=sabotages or {},
        **more,
    )


def below(bound):
    return lambda x: Sides(x**2, jnp.full_like(x, bound))


def test_a_false_statement_is_reported_with_its_tightest_instance():
    false = verify(square_statement(below(0.25)), 1000, seed=3)
    drawn = np.asarray(square_statement(below(0.25)).sample(jax.random.key(3), 1000))
    assert not false.ok
    assert false.violations == (drawn > 0.5).sum() > 400
    assert false.tightest_index == drawn.argmax()
    assert false.tightest == drawn.max()
    assert false.tightest_margin == pytest.approx(np.log10(0.25 / drawn.max() ** 2))
    assert false.tightest_sides == (pytest.approx(drawn.max() ** 2), 0.25)
    true = verify(square_statement(below(1.0)), 1000, seed=3)
    assert true.ok
    assert true.violations == 0
    assert true.tightest_margin > 0


def test_sabotages_are_tried_until_caught_and_must_be():
    sabotages = {"caught": below(0.25), "hard to catch": below(0.999), "true": below(1.0)}
    report = verify(square_statement(below(1.0), sabotages), 4000, seed=0, chunk=100)
    fates = {name: (trial.caught, trial.instances) for name, trial in report.sabotages.items()}
    assert fates["caught"] == (True, 100)
    assert fates["hard to catch"][0]
    assert 100 < fates["hard to catch"][1] <= 4000
    assert fates["true"] == (False, 4000)
    assert report.violations == 0
    assert not report.ok


def test_what_is_costly_is_observed_once_for_the_statement_and_its_sabotages():
    seen = []

    def observe(x):
        seen.append(np.asarray(x))
        return 2.0 * x

    def less(x):
        return x - 1.0

    sabotages = {
        "stricter": below(0.5),
        "never caught": below(5.0),
        "negative": Dropped(less),
        "negative, and stricter": Dropped(less, below(0.5)),
        "negative, and one more": Dropped(lambda x: x - 2.0, below(20.0)),
    }
    report = verify(square_statement(below(4.0), sabotages, observe=observe), 200, seed=0, chunk=100)
    drawn = np.asarray(square_statement(below(1.0)).sample(jax.random.key(0), 200))
    # The first chunk, both of its changes; of the second chunk what was not caught in the first.
    first, second = drawn[:100], drawn[100:]
    expected = [first, first - 1.0, first - 2.0, second, second - 1.0, second - 2.0]
    assert [x.tolist() for x in seen] == [x.tolist() for x in expected]
    violations = {name: trial.violations for name, trial in report.sabotages.items()}
    assert violations == {
        "stricter": ((2 * first) ** 2 > 0.5).sum(),
        "never caught": 0,
        "negative": 0,
        "negative, and stricter": ((2 * first - 2) ** 2 > 0.5).sum(),
        "negative, and one more": 0,
    }
    assert report.tightest == drawn.max()
    assert report.tightest_sides == (pytest.approx(4 * drawn.max() ** 2), 4.0)


def test_nan_is_a_violation_and_the_tightest():
    report = verify(square_statement(lambda x: Sides(x, jnp.where(x > 0.9, jnp.nan, 1.0))), 500, seed=0)
    assert 0 < report.violations < 100
    assert np.isnan(report.tightest_margin)
    assert report.tightest > 0.9
    assert report.to_dictionary()["tightest_margin"] == "nan"


def test_the_seed_decides_and_the_chunk_does_not():
    statement = square_statement(below(0.25), {"stricter": below(0.2)})
    report = verify(statement, 1000, seed=5)
    assert replace(verify(statement, 1000, seed=5, chunk=300), sabotages=report.sabotages) == report
    assert verify(statement, 1000, seed=6).tightest != report.tightest


def test_progress_is_told():
    seen = []
    verify(square_statement(below(1.0)), 250, seed=0, chunk=100, progress=lambda *args: seen.append(args))
    assert seen == [(100, 250), (200, 250), (250, 250)]


@pytest.mark.parametrize(("field", "arguments"), [("instances", (0, 0)), ("chunk", (5, 0))])
def test_verify_refuses_what_is_not_positive(field, arguments):
    with pytest.raises(ValueError, match=f"{field} is"):
        verify(square_statement(below(1.0)), arguments[0], 0, chunk=arguments[1])


def test_every_statement_says_what_it_assumes():
    assert [name for name, statement in STATEMENTS.items() if not statement.assumptions] == []


def test_names_are_unique():
    statement = square_statement(below(1.0))
    with pytest.raises(ValueError, match="two statements are named 'square'"):
        collect([statement, statement])
    assert all(name == statement.name for name, statement in STATEMENTS.items())


def test_reports_are_plain_and_their_instances_can_be_run():
    report = verify(STATEMENTS["one_good_output_flow"], INSTANCES, seed=0)
    data = json.loads(json.dumps(report.to_dictionary(), allow_nan=False))
    assert next(iter(data["sabotages"].values())) == {
        "caught": True,
        "violations": INSTANCES,
        "instances": INSTANCES,
    }
    again, reported = from_dictionary(data["tightest_instance"]["instance"]), report.tightest.instance
    for of in (lambda i: i.probabilities(i.initial_parameters), lambda i: i.rewards * i.mask):
        np.testing.assert_allclose(of(again), of(reported), rtol=1e-15)


def test_plain_values():
    class Pair(NamedTuple):
        left: object
        right: object

    @dataclass
    class Box:
        content: object

    value = {
        1: Pair(np.array([1.0, np.inf]), [None, True, "text"]),
        "box": Box((jnp.int32(3), -np.inf, np.nan)),
    }
    expected = {
        "1": {"left": [1.0, "inf"], "right": [None, True, "text"]},
        "box": {"content": [3, "-inf", "nan"]},
    }
    assert plain(value) == expected
