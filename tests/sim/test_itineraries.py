from itertools import pairwise

import numpy as np
import pytest

from goodteacher.sim.flow import trajectory
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.itineraries import itineraries


def test_stops_are_the_modal_outputs_of_the_flow():
    """Of rare outputs, in the order of the simulation, from when it says to within what is not rare."""
    rng = np.random.default_rng(1)
    passed_by = 0
    for _ in range(5):
        rare = np.sort(10.0 ** -rng.uniform(2, 6, 4))[::-1]
        rewards = np.sort(rng.uniform(-1, 1, 5))
        instance = Instance(rewards, start=[1 - rare.sum(), *rare])
        (itinerary,) = itineraries(instance)
        stops = itinerary.stops
        assert [stop.reward for stop in stops] == sorted(rewards[list(itinerary.outputs)])
        assert stops[0].start == 0.0
        assert [stop.end for stop in stops[:-1]] == [stop.start for stop in stops[1:]]
        assert np.isinf(stops[-1].end)
        times = np.geomspace(1e-2, 1e3 * stops[-1].start, 3000)
        modal = np.asarray(trajectory(instance, times))[:, 0].argmax(-1)
        order = modal[np.append(True, np.diff(modal) != 0)]
        assert tuple(order) == itinerary.outputs
        passed_by += 5 - len(order)
        for before, stop in pairwise(stops):
            taken = times[np.argmax((modal == stop.output) & (times > before.start))]
            assert taken == pytest.approx(stop.start, rel=0.1)
    assert passed_by > 0


def test_prompts_have_their_own_clocks():
    rewards, start = [[-1.0, 1.0], [-1.0, 1.0]], [[0.9, 0.1], [0.9, 0.1]]
    slow, fast = itineraries(Instance(rewards, start=start, prompt_weights=[0.25, 0.75]))
    assert slow.stops[1].start == pytest.approx(3 * fast.stops[1].start)
    np.testing.assert_array_equal(slow.breakpoints, fast.breakpoints)


def test_what_is_not_solved_is_refused():
    with pytest.raises(ValueError, match="give a tabular policy without KL coefficient"):
        itineraries(Instance([1.0, 0.0], regularizer=Regularizer(kl=0.1)))
