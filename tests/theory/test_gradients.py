"""What rounding errors of the gradient are relative to."""

import jax.numpy as jnp
import numpy as np

from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.theory.gradients import logit_gradient_magnitude


def test_terms_of_the_gradient_by_a_plain_loop():
    rewards, reference = [[1.0, -0.5, 0.2]], [[0.2, 0.3, 0.5]]
    instance = Instance(
        rewards * 2, start=reference * 2, regularizer=Regularizer(kl=0.3), prompt_weights=[0.25, 0.75]
    )
    logits = jnp.log(jnp.array([[0.5, 0.4, 0.1]] * 2))
    sizes = [
        abs(r) + 0.3 * (1 - np.log(p) - np.log(q))
        for r, p, q in zip(rewards[0], [0.5, 0.4, 0.1], reference[0], strict=True)
    ]
    shares = [p * (1 - np.log(p)) for p in (0.5, 0.4, 0.1)]
    mean = sum(share * size for share, size in zip(shares, sizes, strict=True))
    expected = [[w * s * (size + mean) for s, size in zip(shares, sizes, strict=True)] for w in (0.25, 0.75)]
    np.testing.assert_allclose(logit_gradient_magnitude(instance, logits), expected, rtol=1e-12)
