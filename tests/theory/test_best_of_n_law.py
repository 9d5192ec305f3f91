import itertools

import jax.numpy as jnp
import numpy as np

from goodteacher.sim.instance import Instance
from goodteacher.theory.best_of_n_law import expected_best_of_n
from goodteacher.theory.rankings import levels


def test_no_ranking_beats_a_perfectly_accurate_one():
    """All rankings of four outputs of a problem, two of them tied, for few and many samples."""
    truth = jnp.array([[0.3, -1.0, 0.3, 1.0]])
    instance = Instance(truth, start=[[0.4, 0.35, 0.2, 0.05]])
    for samples in (1.0, 2.0, 30.0):
        count = jnp.asarray(samples)
        every = [
            float(expected_best_of_n(instance, jnp.array([order], float), count)[0])
            for order in itertools.product(range(3), repeat=4)
        ]
        perfect = float(expected_best_of_n(instance, levels(truth).astype(float), count)[0])
        assert perfect >= max(every) - 1e-15
        assert (perfect - min(every) > 0.1) == (samples > 1)  # one sample is drawn as it comes


def test_expected_best_of_two():
    instance = Instance([[1.0, -1.0]], start=[[0.25, 0.75]])
    found = expected_best_of_n(instance, jnp.array([[1.0, 0.0]]), jnp.asarray(2.0))
    np.testing.assert_allclose(found, 1 - 2 * 0.75**2, rtol=1e-15)
    worst = expected_best_of_n(instance, jnp.array([[0.0, 1.0]]), jnp.asarray(2.0))
    np.testing.assert_allclose(worst, -1 + 2 * 0.25**2, rtol=1e-15)
