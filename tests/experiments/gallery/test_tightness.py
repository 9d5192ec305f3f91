"""The figure of how tight the bounds are, and that what a search has found is still what it was."""

import numpy as np
import pytest
from test_figures import run

from goodteacher.experiments.gallery import tightness
from goodteacher.theory import findings
from goodteacher.theory.statements import find_statements

BOUNDS = ("gradient_bound_tabular", "divergence_bound", "lojasiewicz")


def test_tightness():
    data, caption = run("tightness", instances=200, bounds=BOUNDS)
    random, found = data["random"]["factor"], data["adversarial"]["factor"]
    assert set(found["bound"].values) == set(BOUNDS)
    assert (found >= 1.0).all()
    assert (found <= random.sel(quantile=0.0) * (1 + 1e-9)).all()
    assert (np.diff(random) >= 0).all()

    # What was recorded with the points is what they give.
    for bound in found:
        recorded = findings.known()[str(bound["bound"].item())].factor
        assert float(bound) == pytest.approx(recorded, rel=1e-9)
        assert f"{float(bound):.3g}" in caption


def test_every_bound_has_a_point():
    points = tightness.tightest_points()
    bounds = {name: statement for name, statement in find_statements().items() if statement.bound}
    assert {name: point.shape for name, point in points.items()} == {
        name: (statement.dimension,) for name, statement in bounds.items()
    }


def test_a_point_of_another_draw_is_refused(monkeypatch):
    monkeypatch.setattr(tightness, "tightest_points", lambda: {"lojasiewicz": np.zeros(3)})
    with pytest.raises(ValueError, match="run make tightest"):
        run("tightness", instances=200, bounds=("lojasiewicz",))
