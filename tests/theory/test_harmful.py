"""Bounds under natural gradient where they meet: two outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.theory.harmful import natural_gradient_time_bounds


@pytest.mark.parametrize("eps", [0.4, 1e-3])
def test_bounds_of_two_outputs_are_the_time_of_the_logistic_function(eps):
    """``d ln(p / (1-p)) / dt = b``."""
    start, rewards = jnp.log(jnp.array([eps, 1.0 - eps])), jnp.array([1.0, 0.3])
    bounds = natural_gradient_time_bounds(start, rewards)
    np.testing.assert_allclose(bounds, [np.log((1.0 - eps) / eps) / 0.7] * 2, rtol=1e-12)
