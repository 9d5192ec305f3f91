"""How flows are followed, and what is found; shared by those that solve and those that integrate."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from goodteacher.sim.validation import Numbers, is_concrete, namespace

HORIZON = 1e300  # about as far as numbers go
TOLERANCE = 1e-11  # hitting times are then good to a relative 1e-9 or better (make audit)
MAX_STEPS = 100_000


class HittingTime(eqx.Module):
    """First times at which goals are met; every array has the batch's leading axis, if there is one.

    Attributes:
        time: ``[prompts]``; ``inf`` where not reached, ``nan`` where not converged.
        status: ``[prompts]``, of :class:`goodteacher.sim.status.Status`.
        log_probabilities: ``[prompts, outputs]``: the policy at each prompt's own hitting time, or where
            it was seen that there is none.
        end: how far the integration went: the last hitting time, the horizon, or the time at which it was
            seen that the other goals are never met.
        solved: whether the flow was solved by quadrature (:mod:`goodteacher.sim.solved`), not integrated.
        steps: Runge-Kutta steps taken, rejected ones too; 0 where it was solved.
    """

    time: Float[Array, "*batch prompts"]
    status: Int[Array, "*batch prompts"]
    log_probabilities: Float[Array, "*batch prompts outputs"]
    end: Float[Array, "*batch"]
    solved: Bool[Array, "*batch"]
    steps: Int[Array, "*batch"]


class Control(eqx.Module):
    """How far a flow is followed, and how it is integrated where it cannot be solved.

    Attributes:
        solver: an explicit Runge-Kutta method of diffrax with an error estimate; ``diffrax.Dopri8()`` if
            not given. Where regularisation makes a flow stiff, an implicit method takes over by itself.
        tolerance: error per step, of a logit or of the logarithm of the time.
        horizon: the time at which to give up; one for all problems of a batch, or one for each.
        max_steps: after which to give up.
    """

    solver: Any  # as diffrax is imported only where flows are integrated
    tolerance: Any
    horizon: Any
    max_steps: Any

    def __init__(
        self,
        solver: Any = None,
        tolerance: Numbers = TOLERANCE,
        horizon: Numbers = HORIZON,
        max_steps: Numbers = MAX_STEPS,
    ):
        """Validates the numbers.

        Raises:
            ValueError: if the tolerance, the horizon or the number of steps is not positive and finite.
        """
        self.solver = solver
        self.tolerance = _positive("tolerance", tolerance, float)
        self.horizon = _positive("horizon", horizon, float)
        self.max_steps = _positive("max_steps", max_steps, int)


def _positive(name: str, value: Numbers, kind: type) -> Any:
    # Of a definite type: that of Python's numbers would compile everything anew.
    whole = kind is int and is_concrete(value) and np.isfinite(value).all()
    array = namespace(value).asarray(value, int if whole else float)
    if is_concrete(array) and not ((array > 0) & np.isfinite(array)).all():
        raise ValueError(f"{name} is {value}; give a positive, finite number")
    return array
