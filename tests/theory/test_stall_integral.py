"""The polynomial integral as a function; that it bounds flows is verified with the other statements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goodteacher.sim.lines import lines
from goodteacher.theory import stalling
from goodteacher.theory.stall_integral import log_integrals


def integrals(log_p, rewards):
    columns = jnp.asarray(log_p)[:, None], jnp.asarray(rewards)[:, None]
    return np.asarray(jax.jit(lambda *flow: log_integrals(lines(*flow)))(*columns))[:, 0]


def test_integral_of_three_outputs_by_hand():
    """The middling output holds the flow up to tau = 6, where the lines of the best and of it meet."""
    p, r = np.array([0.1, 0.6, 0.3]), np.array([1.0, 0.0, -1.0])
    tau = (1 / p[0] - 1 / p[1]) / (r[0] - r[1])
    best = np.polynomial.Polynomial([1 / p[0] - 1 / p[1], r[1] - r[0]])
    low = np.polynomial.Polynomial([1 / p[2] - 1 / p[1], r[1] - r[2]])
    expected = p.prod() * (best * low).integ()(tau)
    assert integrals(np.log(p), r)[1] == pytest.approx(np.log(expected), rel=1e-13)
    assert np.isinf(integrals(np.log(p), r)[[0, 2]]).all()


@pytest.mark.parametrize("log_eps", [-20.0, -200.0])
def test_a_rare_best_output_gives_the_stalling_law(log_eps):
    p = jnp.log(jnp.array([0.0, 0.5, 0.3, 0.2])).at[0].set(log_eps)
    rewards = jnp.array([1.0, 0.6, 0.1, -0.4])
    assert integrals(p, rewards)[1] == pytest.approx(float(stalling.log_time(p, rewards)), abs=1e-6)


def test_a_hierarchy_has_the_times_of_the_outputs_no_better():
    """Each of ever rarer better outputs takes over at the law's time, as if those above did not exist."""
    p = jnp.log(jnp.array([1e-20, 1e-10, 0.2, 0.5, 0.3]))
    rewards = jnp.array([1.0, 0.7, 0.5, 0.1, -0.4])
    found = integrals(p, rewards)
    flow = lines(p[:, None], rewards[:, None])
    for output in (0, 1):
        law = float(stalling.log_time(p[output:], rewards[output:]))
        takeover = found[np.asarray(flow.modal[:, 0]).tolist().index(output)]
        assert takeover == pytest.approx(law, abs=1e-6)
