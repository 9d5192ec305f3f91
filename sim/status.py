"""What became of a measurement: one type for flows, ascents, sweeps and everything that is printed."""

import enum


class Status(enum.IntEnum):
    """What became of a goal, or of a run without one.

    Where a goal is not reached the status says why: ``NOT_REACHED`` only that it was not by the horizon.
    """

    REACHED = 0  # the goal, or the time at which to measure
    NOT_REACHED = 1  # by the horizon: a longer one would decide; the time is inf
    NOT_CONVERGED = 2  # the steps ran out, or rounding decides where the flow goes: the time is nan
    INVALID = 3  # the parameters make no instance, or one whose numbers are not finite
    NO_SIGNAL = 4  # never: the trained objective does not change with the policy of this prompt
    OUT_OF_REACH = 5  # never: no policy has the expectation that is asked for
    OPTIMUM = 6  # never: the flow has come to rest at a policy short of the goal
    STATIONARY = 8  # the velocity at the start is zero, to rounding: whether it is ever left is unknown
    NOTHING_TO_GAIN = 9  # never: what is to rise is the same for all outputs
    NOT_KNOWN = 10  # what the estimator does on average with these rewards is not known: the time is nan
    FINISHED = 7  # a run without a goal
    NOT_COMPUTED = -1  # yet

    @property
    def title(self) -> str:
        """In words."""
        return _TITLES[self]

    @property
    def reached(self) -> bool:
        """Whether the goal was met."""
        return self is Status.REACHED

    @property
    def never(self) -> bool:
        """Whether it is known that the goal is not met at any time."""
        return self in (Status.NO_SIGNAL, Status.OUT_OF_REACH, Status.OPTIMUM, Status.NOTHING_TO_GAIN)


_TITLES = {
    Status.REACHED: "reached",
    Status.NOT_REACHED: "not reached by the horizon",
    Status.NOT_CONVERGED: "not converged",
    Status.INVALID: "invalid",
    Status.NO_SIGNAL: "never: no signal",
    Status.OUT_OF_REACH: "never: out of reach",
    Status.OPTIMUM: "never: at rest at an optimum",
    Status.NOTHING_TO_GAIN: "never: nothing to gain",
    Status.STATIONARY: "not reached: at rest at the start",
    Status.NOT_KNOWN: "not known",
    Status.FINISHED: "finished",
    Status.NOT_COMPUTED: "not computed",
}
