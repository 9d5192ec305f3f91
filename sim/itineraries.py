"""Which outputs hold a flow up, in which order, from when to when.

Where the flow is solved (:mod:`goodteacher.sim.lines`), the modal output at each ``tau`` is the one whose
line ``1 / p_y - r_y tau`` is lowest: the lower envelope of the lines is the way that the flow takes. An
output whose line never touches it never holds anything up, in the limit of rare outputs.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from goodteacher.sim.batch_scaling import elapsed
from goodteacher.sim.batching import as_batch
from goodteacher.sim.clocks import BatchScaled, Gradient, Natural
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, Position
from goodteacher.sim.quadrature import time
from goodteacher.sim.separation import Prompts, Sharing, envelopes, is_solvable, separate, sharing
from goodteacher.sim.validation import AnyArray, namespace


@dataclass(frozen=True)
class Stop:
    """An output that is modal for a while.

    Attributes:
        output: its number.
        reward: what it is trained on.
        start: the time at which it takes over; 0 for the first.
        end: the time at which the next one takes over; ``inf`` for the last.
    """

    output: int
    reward: float
    start: float
    end: float


@dataclass(frozen=True)
class Itinerary:
    """The stops of the flow of one prompt, in their order; rewards ascend.

    Attributes:
        stops: at least one.
        breakpoints: of the lower envelope: the ``tau`` at which each stop begins.
    """

    stops: tuple[Stop, ...]
    breakpoints: Float[np.ndarray, " stops"]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Those that are modal, in their order."""
        return tuple(stop.output for stop in self.stops)


def itineraries(instance: Instance, *, compiled: bool = False) -> list[Itinerary]:
    """The itinerary of every prompt.

    At a breakpoint the probabilities of the two outputs are the same. With features of different norms that
    is so of their probabilities over the squared norms; outputs that share a feature count as one, the first,
    with the mean of their rewards.

    Args:
        instance: the problem.
        compiled: compile what is computed, once for all instances of a shape: for who asks often.

    Raises:
        ValueError: if the flow is not one that is solved.
    """
    if not is_solvable(instance) or isinstance(instance.clock, Natural):
        raise ValueError(
            "the instance has a regulariser, tokens, an estimator that is no clock, or features that are not "
            "orthogonal and of one norm: its flow has no itinerary; give a tabular policy without KL "
            "coefficient and entropy bonus"
        )
    joint = isinstance(instance.clock, BatchScaled)
    along = instance.following(Gradient()) if joint else instance
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], along)
    with np.errstate(all="ignore"):
        of = _compiled if compiled else _envelopes
        prompts, flow, times = jax.device_get(of(batch, sharing(batch)))
    if joint:
        times = np.asarray(elapsed(as_batch(instance), times.reshape(1, -1))).reshape(times.shape)
    found = []
    for prompt in range(len(instance.rewards)):
        taus, modal, rewards = (of[:, prompt] for of in (flow.breakpoints, flow.modal, prompts.rewards))
        stops = np.flatnonzero(np.isfinite(taus))
        starts = times[stops, prompt]
        ends = np.append(starts[1:], np.inf)
        outputs = modal[stops]
        found.append(
            Itinerary(
                tuple(
                    Stop(int(output), float(rewards[output]), float(start), float(end))
                    for output, start, end in zip(outputs, starts, ends, strict=True)
                ),
                np.asarray(taus[stops]),
            )
        )
    return found


def _envelopes(instances: Instance, shared: Sharing | None) -> tuple[Prompts, Lines, AnyArray]:
    """The prompts as lines, and the times of the breakpoints, ``[outputs, prompts]``."""
    xp = namespace(*jax.tree.leaves(instances))
    prompts = separate(instances, shared)
    flow = envelopes(prompts)
    outputs = len(flow.modal)
    anchors = xp.where(xp.isfinite(flow.breakpoints), xp.arange(outputs)[:, None], 0)

    # All breakpoints of a flow side by side.
    def repeated(leaf: AnyArray) -> AnyArray:
        return xp.tile(leaf, outputs)

    times = time(jax.tree.map(repeated, flow), Position(anchors.ravel(), xp.zeros(anchors.size)))
    return prompts, flow, times.reshape(anchors.shape) / prompts.weight


_compiled = jax.jit(_envelopes)
