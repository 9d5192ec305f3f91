"""Formulas: their numbers are those of the law, and altering one is noticed where it is false."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory import findings
from goodteacher.theory.formulas import BEYOND, Formula, changed, nearest_false
from goodteacher.theory.statements import Sides, Statement, find_statements, verify

STATEMENTS = find_statements()
FORMULAS = {name: one.judge for name, one in STATEMENTS.items() if isinstance(one.judge, Formula)}


def law(x, *, constant=2.0, power=3.0):
    """At least ``x ** 3`` times two."""
    return constant * x**power


def above(bound):
    """That ``2 x^3 + x`` is at least the bound."""
    return lambda x: Sides(bound(x), 2.0 * x**3 + 1e-3 * x)


FORMULA = Formula(law, above)


def cubic(**more):
    return Statement(
        name="cubic",
        title="",
        citation="",
        formula="",
        draw=lambda source: source.uniform(0.5, 2.0),
        judge=FORMULA,
        sabotages={},
        **more,
    )


def test_numbers_are_those_of_the_law():
    assert dict(FORMULA.numbers) == {"constant": 2.0, "power": 3.0}
    assert dict(FORMULA.altered(power=4.0).numbers) == {"constant": 2.0, "power": 4.0}
    assert FORMULA(2.0) == above(law)(2.0)
    assert FORMULA.altered(constant=3.0)(2.0).smaller == 24.0


@pytest.mark.parametrize(("numbers", "unrefuted"), [({"exponent": 1.0}, {}), ({}, {"exponent": "why"})])
def test_a_number_that_the_law_has_not_is_refused(numbers, unrefuted):
    with pytest.raises(ValueError, match="no number 'exponent'; its numbers are constant, power"):
        Formula(law, above, numbers, unrefuted)


def test_a_number_changes_in_magnitude():
    np.testing.assert_allclose(changed(-0.5, jnp.array([1.0, -1.0])), [-1.0, -0.25])


def test_the_nearest_false_values():
    """Above: where the largest ``x`` refutes it by 5 %. Below: where the smallest does, if any."""
    x = jnp.array([0.5, 1.0, 2.0])
    found = nearest_false(FORMULA, x)
    (constant,) = found["constant"]
    factor = 10**BEYOND
    assert constant == pytest.approx(2.0 * factor * (1 + 0.5e-3 / 4), rel=0.02)
    assert sorted(found["power"])[0] < 3.0 < sorted(found["power"])[1]
    for name, values in found.items():
        for value in values:
            margins = [float(FORMULA.altered(**{name: value})(one).margin) for one in x]
            assert min(margins) <= -BEYOND


def test_an_identity_is_altered_by_one_per_cent():
    edges = cubic().edges
    assert list(edges) == [
        "constant 2.02 for 2",
        "constant 1.98 for 2",
        "power 3.03 for 3",
        "power 2.97 for 3",
    ]
    assert set(cubic().trials) == set(edges)


def test_of_a_bound_it_must_be_known_what_is_false(monkeypatch):
    with pytest.raises(ValueError, match="knows nothing of cubic"):
        cubic(bound=True).edges  # noqa: B018
    known = {"cubic": findings.Known(np.array([0.5]), 1.0, {"constant": [2.2], "power": [3.1, 2.9]})}
    monkeypatch.setattr(findings, "known", lambda: known)
    assert list(cubic(bound=True).edges) == ["constant 2.2 for 2", "power 3.1 for 3", "power 2.9 for 3"]
    known["cubic"] = known["cubic"]._replace(false={"constant": [2.2], "power": []})
    assert list(cubic(bound=True).edges) == ["constant 2.2 for 2"]
    report = verify(cubic(bound=True), 1000)
    assert report.ok
    # A quarter of the instances is near what is known.
    drawn = np.asarray(cubic(bound=True).sample(jax.random.key(0), 1000))
    near = np.abs(drawn - 1.25) < 0.3
    assert near[3::4].mean() > 0.9
    assert near[::4].mean() < 0.6
    known["cubic"] = known["cubic"]._replace(point=np.zeros(2))
    with pytest.raises(ValueError, match="holds a point of 2 numbers for cubic, which takes 1"):
        cubic(bound=True).sample(jax.random.key(0), 10)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_number_is_altered_or_it_is_said_why_not(name):
    formula = FORMULAS[name]
    altered = {description.split()[0] for description in STATEMENTS[name].edges}
    assert altered | set(formula.unrefuted) == set(formula.numbers)
    assert all(formula.unrefuted.values())


@pytest.mark.parametrize("name", [name for name in FORMULAS if STATEMENTS[name].bound])
def test_constants_are_altered_to_little_beyond_the_tightest_instance(name):
    """A constant is a factor of a bound: what is false begins where the tightest instance is."""
    numbers = FORMULAS[name].numbers
    if "constant" not in numbers:
        return
    known = findings.known()[name]
    change = np.abs(np.log(np.array(known.false["constant"]) / numbers["constant"]))
    assert change.min() <= np.log(1.1 * known.factor)


def test_a_statement_that_says_little_is_at_fault():
    seldom = dataclasses.replace(cubic(), judge=lambda x: Sides(x, x + 1.0, x > 1.9), sabotages={})
    report = verify(seldom, 1000)
    assert report.violations == 0
    assert 0 < report.informative < 0.2
    assert not report.ok
