"""How the policies of a sweep evolve: gradient flow, discrete ascent, or learning from samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from goodteacher.experiments.aims import after_updates
from goodteacher.experiments.datasets import TIME
from goodteacher.experiments.domains import Choice, Number, Positive, check_fields
from goodteacher.experiments.followed import ESTIMATORS, OF_GROUPS, OPTIONS, UNBIASED, Followed
from goodteacher.sim.ascent import OPTIMIZERS, ascend, optimizer
from goodteacher.sim.clocks import BatchScaled, Clock, DynamicSampling, Gradient, Group
from goodteacher.sim.flow import HORIZON, MAX_STEPS, TOLERANCE, Control, final_policies, hitting_times
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn
from goodteacher.sim.names import unknown
from goodteacher.sim.sampling import estimator

Size = Annotated[int, Number(0, whole=True)]
Policies = tuple[Array, Array]  # log-probabilities [n, prompts, outputs], and whether their time was reached
Times = tuple[Array, Array, Mapping[str, Array]]  # times and statuses [n, prompts], and counters [n]


class Dynamics(ABC):
    """How policies evolve.

    Attributes:
        units: of its time.
        discrete: whether its times are numbers of updates.
        waits: whether it finds the times at which goals are met.
        counters: by name, what it counts besides, for each of them.
    """

    units: ClassVar[str]
    discrete: ClassVar[bool]
    waits: ClassVar[bool]
    counters: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    @abstractmethod
    def name(self) -> str:
        """On the command line and in specifications."""

    @property
    @abstractmethod
    def last(self) -> float:
        """The horizon, as a time or a number of updates."""

    def describe(self) -> dict[str, Any]:
        """As it stands in a specification; plain data."""
        return {"name": self.name, **asdict(self)}  # pyright: ignore[reportArgumentType]

    def policies(self, time: float, instances: Instance, positions: Array, lanes: int) -> Policies:
        """The policies at a time; traceable.

        Args:
            time: when.
            instances: a batch of ``n``.
            positions: ``[n]``, the numbers of the points in the sweep: they choose the samples.
            lanes: how many problems are under way at a time.

        Returns:
            Log-probabilities ``[n, prompts, outputs]``, and whether that time was reached: ``[n]``.
        """
        if time > 0:
            return self._later(time, instances, positions, lanes)
        start = jax.vmap(lambda instance: instance.log_probabilities(instance.initial_parameters))(instances)
        return start, jnp.ones(len(start), bool)

    @abstractmethod
    def _later(self, time: float, instances: Instance, positions: Array, lanes: int) -> Policies:
        """The same after the start."""

    def hitting_times(self, goals: Goal, instances: Instance, lanes: int) -> Times:
        """When goals are met, if it ``waits``; traceable.

        Returns:
            Times and :class:`goodteacher.sim.status.Status`, both ``[n, prompts]``; and the ``counters`` by
            name, ``[n]``.
        """
        raise NotImplementedError


class _OfEstimator(Followed, Dynamics):
    """Dynamics of what is followed."""

    def describe(self) -> dict[str, Any]:
        """As it stands in a specification: of what is followed, that which is given."""
        every, given = super().describe(), self.given
        return {key: value for key, value in every.items() if key in given or key not in OPTIONS}


@dataclass(frozen=True)
class Flow(_OfEstimator):
    """The flow of what is followed; see :func:`goodteacher.sim.flow.hitting_time`.

    Attributes:
        horizon, tolerance, max_steps: see :class:`goodteacher.sim.flow.Control`.
    """

    horizon: Positive = HORIZON
    tolerance: Positive = TOLERANCE
    max_steps: Size = MAX_STEPS
    units = TIME
    discrete = False
    waits = True
    counters = MappingProxyType({"steps": "Runge-Kutta steps"})

    @property
    def name(self) -> str:
        """``flow``."""
        return "flow"

    @property
    def last(self) -> float:
        """The horizon."""
        return self.horizon

    def _later(self, time: float, instances: Instance, positions: Array, lanes: int) -> Policies:
        """The policies at a time."""
        instances = instances.following(self.clock())
        log_p, end = final_policies(instances, self._control(time), lanes=lanes)
        return log_p, end == time

    def hitting_times(self, goals: Goal, instances: Instance, lanes: int) -> Times:
        """When goals are met."""
        instances = instances.following(self.clock())
        result = hitting_times(instances, goals, self._control(self.horizon), lanes=lanes)
        return result.time, result.status, {"steps": result.steps}

    def _control(self, horizon: float) -> Control:
        return Control(tolerance=self.tolerance, horizon=horizon, max_steps=self.max_steps)


FLOW = Flow()


@dataclass(frozen=True)
class _Updates(Dynamics):
    """Discrete updates.

    Attributes:
        steps: how many.
        learning_rate, optimizer: see :func:`goodteacher.sim.ascent.optimizer`.
    """

    steps: Size = 50_000
    learning_rate: Positive = 0.1
    optimizer: Annotated[str, Choice(tuple(OPTIMIZERS))] = "sgd"
    units = "updates"
    discrete = True

    def __post_init__(self) -> None:
        """Refuses what is out of range."""
        check_fields(self)

    @property
    def last(self) -> float:
        """The number of updates."""
        return self.steps


@dataclass(frozen=True)
class Ascent(_Updates):
    """Discrete updates with exact gradients; see :func:`goodteacher.sim.ascent.ascend`."""

    waits = True

    @property
    def name(self) -> str:
        """``ascent``."""
        return "ascent"

    def _later(self, time: float, instances: Instance, positions: Array, lanes: int) -> Policies:
        """The policies after a number of updates."""
        direction, transformation = _optimizer(self.optimizer, self.learning_rate)

        def last(instance: Instance) -> Array:
            result = ascend(instance, transformation, int(time), direction=direction)
            return instance.log_probabilities(result.parameters)

        return _arrived(jax.vmap(last)(instances))

    def hitting_times(self, goals: Goal, instances: Instance, lanes: int) -> Times:
        """After how many updates goals are met."""
        direction, transformation = _optimizer(self.optimizer, self.learning_rate)

        def follow(instance: Instance, goal: Goal) -> tuple[Array, Array]:
            result = ascend(instance, transformation, self.steps, direction=direction, goal=goal)
            first = result.first_update
            assert first is not None
            finite = jnp.isfinite(instance.log_probabilities(result.parameters)).any(-1)
            return first, jnp.asarray(after_updates(instance, goal, first, finite))

        return *jax.vmap(follow)(instances, goals), {}


SAMPLED: Mapping[str, Callable[[Followed], Clock]] = MappingProxyType(
    {
        **dict.fromkeys(UNBIASED, lambda of: Gradient()),
        **{name: ESTIMATORS[name] for name in OF_GROUPS},
    }
)
"""What is sampled, with the clock of its mean."""


@dataclass(frozen=True)
class Sampled(_OfEstimator, _Updates):
    """Discrete updates with gradients estimated from samples; see :func:`goodteacher.sim.learning.learn`.

    Attributes:
        estimator: a name of :data:`SAMPLED`; its options are those of
            :class:`goodteacher.experiments.followed.Followed`.
        group: samples per prompt and update.
        seed: of the samples; those of every point are independent.
    """

    estimators = SAMPLED
    estimator: Annotated[str, Choice(tuple(SAMPLED))] = "grpo"
    group: Size = 8
    seed: Annotated[int, Number(0, 2**63 - 1, open=False, whole=True)] = 0
    waits = False

    def __post_init__(self) -> None:
        """Refuses what is out of range, or does not go together."""
        super().__post_init__()
        self._rule()

    @property
    def name(self) -> str:
        """That of the estimator."""
        return self.estimator

    def describe(self) -> dict[str, Any]:
        """As it stands in a specification, where the estimator is the name."""
        return {key: value for key, value in super().describe().items() if key != "estimator"}

    def _rule(self) -> str | Group | DynamicSampling | BatchScaled:
        """What learners take: a name, or a clock of groups."""
        clock = self.clock()
        if isinstance(clock, Group | DynamicSampling | BatchScaled):
            return clock
        estimator(self.estimator, self.group)
        return self.estimator

    def _later(self, time: float, instances: Instance, positions: Array, lanes: int) -> Policies:
        """The policies after a number of updates."""
        _, transformation = _optimizer(self.optimizer, self.learning_rate)

        def last(instance: Instance, position: Array) -> Array:
            key = jax.random.fold_in(jax.random.key(self.seed), position)
            result = learn(instance, key, self._rule(), self.group, transformation, int(time))
            return instance.log_probabilities(result.parameters)

        return _arrived(jax.vmap(last)(instances, positions))


_optimizer = cache(optimizer)  # one that is made anew would be compiled anew


def _arrived(log_p: Array) -> tuple[Array, Array]:
    return log_p, ~jnp.isnan(log_p).any((-2, -1))


KINDS: Mapping[str, Any] = MappingProxyType(
    {"flow": Flow, "ascent": Ascent, **{name: partial(Sampled, estimator=name) for name in SAMPLED}}
)


def dynamics(table: Mapping[str, Any]) -> Dynamics:
    """Dynamics from a table of text: ``name``, one of :data:`KINDS`, and options that are not the defaults.

    Raises:
        ValueError: for an unknown name, an option that does not apply, or one that is out of range.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"dynamics is {table!r}; give a table with a name, such as name = 'flow'")
    options = {"name": "flow", **table}
    name = options.pop("name")
    if name not in KINDS:
        raise unknown("dynamics", name, KINDS)
    known = {field.name for kind in (Flow, Sampled) for field in fields(kind)}
    own = {field.name for field in fields(KINDS[name]())}
    applicable = own - {"estimator"} if name in SAMPLED else own  # which is its name
    for option in options:
        if option not in known:
            raise unknown("option of dynamics", option, sorted(known))
        if option not in applicable:
            raise ValueError(f"{option} does not apply to dynamics {name}; leave it out")
    return KINDS[name](**options)
