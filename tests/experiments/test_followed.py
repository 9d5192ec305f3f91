"""What is followed, by names and numbers."""

import math

import numpy as np
import pytest

from goodteacher.experiments.followed import Followed
from goodteacher.experiments.sweeps.dynamics import dynamics
from goodteacher.sim.clocks import DynamicSampling, Gradient, Grpo, MaxRl, MeanSubtracted, Natural


@pytest.mark.parametrize(("preset", "epsilon"), [("trl", 1e-4), ("verl", 1e-6), ("openrlhf", 1e-9)])
def test_presets(preset, epsilon):
    clock = Followed("grpo", preset=preset, group=8).clock()
    assert isinstance(clock, Grpo)
    assert (clock.group, clock.bessel) == (8, True)
    np.testing.assert_allclose(clock.epsilon, epsilon, rtol=1e-15)


def test_values():
    assert isinstance(Followed().clock(), Gradient)
    assert isinstance(Followed("natural").clock(), Natural)
    assert isinstance(Followed("grpo", preset="prime-rl").clock(), MeanSubtracted)
    clock = Followed("maxrl", group=4, dynamic_sampling=True).clock()
    assert isinstance(clock, DynamicSampling)
    assert isinstance(clock.of, MaxRl)
    plain = Followed("grpo", population=True).clock()
    assert isinstance(plain, Grpo)
    assert plain.group == math.inf
    assert not plain.bessel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "grop"}, "estimator 'grop' is unknown; did you mean grpo"),
        ({"estimator": "grpo", "preset": "tlr"}, "preset 'tlr' is unknown; did you mean trl"),
        ({"estimator": "maxrl", "epsilon": 0.1}, "epsilon does not apply to estimator maxrl"),
        ({"estimator": "grpo", "group": 1}, "group is 1; give a whole number of at least 2"),
        ({"estimator": "pass_at_k"}, "k is missing"),
        ({"estimator": "grpo", "preset": "prime-rl", "epsilon": 0.1}, "divides by no standard deviation"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        Followed(**options)
    if "maxrl" in options.values():
        with pytest.raises(ValueError, match=message):
            dynamics({"name": "flow", **options})
