"""Statistics of experiments."""

import numpy as np
import pytest
import scipy.stats

from goodteacher.experiments.statistics import rank_correlation


def test_rank_correlation_is_that_of_scipy():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, (3, 20)), random.normal(size=(3, 20))
    expected = np.array([scipy.stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True)], float)
    np.testing.assert_allclose(rank_correlation(a, b), expected, rtol=1e-12)
    assert rank_correlation(np.ones((1, 4)), b[:1, :4]) == 0
    assert rank_correlation(np.ones(4), b[0, :4]) == 0


def test_rank_correlation_of_many_with_one():
    random = np.random.default_rng(0)
    many, one = random.normal(size=(2, 3, 30)), random.normal(size=30)
    found = rank_correlation(many, one)
    assert found.shape == (2, 3)
    assert found[1, 2] == pytest.approx(scipy.stats.spearmanr(many[1, 2], one)[0], rel=1e-12)
    assert rank_correlation(np.exp(one), one) == pytest.approx(1.0)
    assert rank_correlation(-one, one) == pytest.approx(-1.0)
