"""What the figure of Theorem 6 and its caption claim is true of its data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.policy_dependence import EXPERIMENT, Settings
from goodteacher.theory.policy_families import Family


def test_policy_dependence():
    settings = replace(EXPERIMENT.settings, points=60, scales=(10.0, 100.0, 1000.0))
    data = EXPERIMENT.run(settings)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) == 2 * 2 * (60 + 3)
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)

    observed, bound = (data["hitting_times"][name].values for name in ("observed", "bound"))
    for policy in (0, 1):
        right, wrong = (policy, policy), (policy, 1 - policy)
        assert (observed[right] < bound[right]).all()
        assert (observed[wrong] > bound[wrong]).all()
        # The other way round both would be false.
        assert (observed[wrong] > bound[right]).any()
        assert (observed[right] < bound[wrong]).any()
        assert observed[right].max() < 1.2 * observed[right].min()
        np.testing.assert_allclose(observed[wrong][1:] / observed[wrong][:-1], 100.0, rtol=0.06)
        np.testing.assert_allclose(bound[wrong][1:] / bound[wrong][:-1], 10.0)
    # By hand: rho = (V + gamma + 1) / (r_G + 1).
    np.testing.assert_allclose(bound[0, 0], 2 / (1 - 1.1 / 2.0) ** 3 * (10 - 2.0 / 1.1))
    np.testing.assert_allclose(bound[1, 1], 2 / (1 - 1.1 / 1.8) ** 3 * (10 - 1.8 / 1.1))
    np.testing.assert_allclose(bound[0, 1, 1], (1 - np.exp(-0.25)) / np.sqrt(2) * 100)

    # Each path crosses the goal between the records around its hitting time.
    paths = data["trajectories"]["expected_reward"]
    np.testing.assert_allclose(paths[..., 0], settings.value, atol=0.01)
    first = (paths >= settings.value + settings.gamma).argmax("time").values
    times = paths["time"].values
    assert np.all((times[first - 1] < observed[..., 1]) & (observed[..., 1] <= times[first]))

    caption = EXPERIMENT.caption(data, settings)
    assert "At T = 1000 the right teachers take 4.43 and 4.79, at most 180 and 284" in caption
    assert "grow with powers 2 and 2 of T" in caption


def test_initial_policies_are_of_the_families():
    settings = Settings()
    assert len(settings.scales) > 5
    for knows in (0, 1):
        family = Family(
            settings.ground_truth_rewards,
            value=settings.value,
            gamma=settings.gamma,
            likely=knows,
            rare=1 - knows,
            T=min(settings.scales),
            c=settings.c,
        )
        position = jnp.full(5, 0.5).at[knows].set(0.0).at[1 - knows].set(1.0)
        p = jax.jit(Family.member)(family, position)
        np.testing.assert_allclose(p[knows], settings.c)
        np.testing.assert_allclose(p[1 - knows], min(settings.scales) ** -2)
