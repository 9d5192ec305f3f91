"""The search for the tightest instance finds what random draws miss, with and without a gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory.adversary import search
from goodteacher.theory.statements import Sides, Statement, problem, verify

DIMENSION = 6
VALLEY = jnp.linspace(0.15, 0.9, DIMENSION)


def statement(margin, *, smooth=False):
    """About points ``x`` of the unit cube."""
    return Statement(
        name="valley",
        title="",
        citation="",
        formula="",
        draw=lambda source: source.uniform(shape=(DIMENSION,)),
        judge=lambda x: Sides(jnp.ones(()), 10.0 ** margin(x)),
        sabotages={},
        bound=True,
        smooth=smooth,
    )


def distance(points):
    return ((points - VALLEY) ** 2).sum(-1)


@pytest.mark.parametrize("smooth", [False, True])
def test_finds_the_bottom_of_a_valley(smooth):
    found = search(statement(lambda x: 1.0 + distance(x), smooth=smooth), 30_000, seed=0)
    assert found.ok
    assert found.tightest_margin == pytest.approx(1.0, abs=1e-6)
    assert found.factor == pytest.approx(10.0, rel=1e-5)
    np.testing.assert_allclose(found.instance, VALLEY, atol=1e-3)
    np.testing.assert_array_equal(found.instance, found.point)
    assert 30_000 <= found.evaluations < 30_500


def test_the_gradient_helps():
    """Along a narrow, curved valley: the same number of evaluations leads lower."""

    def margin(x):
        return 1.0 + 1e3 * ((x[1:] - x[:-1] ** 2) ** 2).sum(-1) + ((1.0 - x) ** 2).sum(-1)

    blind, seeing = (
        search(statement(margin, smooth=smooth), 20_000, 0).tightest_margin for smooth in (False, True)
    )
    assert seeing < blind


def test_finds_a_violation_that_random_instances_miss():
    false = statement(lambda x: distance(x) - 1e-3)
    assert verify(false, 10_000, seed=0).violations == 0
    found = search(false, 20_000, seed=0)
    assert not found.ok
    assert distance(found.point) < 1e-3


def test_what_cannot_be_evaluated_is_found_and_counts_as_violated():
    found = search(statement(lambda x: jnp.where(distance(x) < 0.01, jnp.nan, distance(x))), 20_000, seed=0)
    assert np.isnan(found.tightest_margin)
    assert not found.ok
    assert distance(found.point) < 0.01


def test_minima_at_the_faces_of_the_cube():
    found = search(statement(lambda x: (x**2).sum(-1)), 30_000, seed=0)
    assert found.tightest_margin < 1e-6


def test_a_bound_that_is_never_near():
    found = search(statement(lambda x: jnp.asarray(jnp.inf)), 3_000, seed=0)
    assert found.tightest_margin == np.inf
    assert found.to_dictionary()["factor"] == "inf"


def test_the_seed_decides_and_progress_is_told():
    seen = []
    rough = statement(lambda x: distance(x) + 0.1 * jnp.sin(40.0 * x).sum(-1))
    first = search(rough, 10_000, 1, progress=lambda done, total: seen.append((done, total)))
    assert search(rough, 10_000, 1).tightest_margin == first.tightest_margin
    assert search(rough, 10_000, 2).tightest_margin != first.tightest_margin
    assert seen[-1] == (10_000, 10_000)
    assert sorted(seen) == seen


def test_refuses_what_is_not_positive():
    with pytest.raises(ValueError, match="evaluations is 0"):
        search(statement(distance), 0, 0)


def test_what_is_no_problem_cannot_be_written():
    with pytest.raises(ValueError, match="not about a problem"):
        problem(jnp.zeros(3))
