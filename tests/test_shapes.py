"""That the tests enforce shapes and types, of the first calls of every function in each of them."""

from typing import Any

import numpy as np
import pytest

from goodteacher.sim.lines import lines

LOGITS = np.zeros((2, 3))


def right():
    return lines(LOGITS, LOGITS)


def wrong(rewards: Any):
    return lines(LOGITS, rewards)


@pytest.mark.parametrize("calls_before", [0, 49])
@pytest.mark.parametrize("rewards", [np.zeros((2, 1)), np.zeros(2), np.zeros((2, 3), int), "text"])
def test_what_is_not_as_annotated_is_refused(rewards, calls_before):
    for _ in range(calls_before):
        right()
    with pytest.raises(TypeError, match=r"parameters of goodteacher\.sim\.lines\.lines"):
        wrong(rewards)


def test_later_calls_of_a_test_are_not_slowed_down():
    for _ in range(50):
        right()
    assert wrong(np.zeros((2, 1))).normalizer.shape == (3,)  # NumPy makes do with that
