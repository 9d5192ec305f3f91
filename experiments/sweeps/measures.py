"""What a sweep measures, parsed from texts such as ``hitting_time:0.95``, under a choice of dynamics."""

import enum
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from goodteacher.experiments.batches import TIME
from goodteacher.experiments.sweeps.axes import scalar
from goodteacher.sim import flow
from goodteacher.sim.ascent import ascend, optimizer
from goodteacher.sim.flow import Control
from goodteacher.sim.goals import Goal, probability_level, reward_increase, reward_level
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn
from goodteacher.sim.metrics import product_accuracy, reward_variance
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import entropy, expected_reward, kl_divergence
from goodteacher.sim.sampling import ESTIMATORS, estimator


class Status(enum.IntEnum):
    """What became of a measurement at a point."""

    REACHED = 0  # the goal, or the time at which to measure
    NOT_REACHED = 1  # the hitting time is inf
    NOT_CONVERGED = 2  # nan
    INVALID = 3  # nan: the parameters make no instance, or one whose numbers are not finite
    NOT_COMPUTED = -1  # nan: the chunk does not exist yet


# Dynamics -------------------------------------------------------------------------

_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "flow": ("horizon", "tolerance", "max_steps"),
        "ascent": ("steps", "learning_rate", "optimizer"),
        **dict.fromkeys(ESTIMATORS, ("steps", "learning_rate", "optimizer", "group", "seed")),
    }
)


@dataclass(frozen=True)
class Dynamics:
    """How policies evolve: gradient ``flow``, discrete ``ascent``, or an estimator from samples.

    Attributes:
        name: one of these; for estimators see :data:`goodteacher.sim.sampling.ESTIMATORS`.
        horizon, tolerance, max_steps: of the flow, see :func:`goodteacher.sim.flow.hitting_time`.
        steps: how many updates, the horizon of discrete dynamics.
        learning_rate, optimizer: see :func:`goodteacher.sim.ascent.optimizer`.
        group: samples per prompt and update.
        seed: of the samples; those of every point are independent.
    """

    name: str = "flow"
    horizon: float = flow.HORIZON
    tolerance: float = flow.TOLERANCE
    max_steps: int = flow.MAX_STEPS
    steps: int = 50_000
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    group: int = 8
    seed: int = 0

    @property
    def last(self) -> float:
        """The horizon, as a time or a number of updates."""
        return self.horizon if self.name == "flow" else self.steps

    @property
    def units(self) -> str:
        """Of its time."""
        return TIME if self.name == "flow" else "updates"

    def describe(self) -> dict[str, Any]:
        """As it stands in a specification."""
        return {"name": self.name, **{option: getattr(self, option) for option in _OPTIONS[self.name]}}


def dynamics(name: str = "flow", **options: Any) -> Dynamics:
    """Dynamics with defaults for what is not given.

    Raises:
        ValueError: for an unknown name, an option that does not apply, or one that is out of range.
    """
    if name not in _OPTIONS:
        raise unknown("dynamics", name, _OPTIONS)
    known = [field.name for field in fields(Dynamics)][1:]
    for option, value in options.items():
        if option not in known:
            raise unknown("option of dynamics", option, known)
        if option not in _OPTIONS[name]:
            raise ValueError(f"{option} does not apply to dynamics {name}; leave it out")
        if option == "optimizer":
            continue
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise ValueError(f"{option} is {value!r}; give a finite number")
        whole = option in ("max_steps", "steps", "group", "seed")
        if value <= (-1 if option == "seed" else 0) or (whole and value != int(value)):
            raise ValueError(f"{option} is {value}; give a positive {'whole ' if whole else ''}number")
    defaults = Dynamics()
    made = Dynamics(name, **{key: type(getattr(defaults, key))(value) for key, value in options.items()})
    if name != "flow":
        optimizer(made.optimizer, made.learning_rate)
    if name in ESTIMATORS:
        estimator(name, made.group)
    return made


# Measures -------------------------------------------------------------------------


class Variable(NamedTuple):
    """An array of the store: how it is stored, what it is, and what stands where nothing is known."""

    dtype: str
    missing: float
    attributes: Mapping[str, Any]


def _probability(instance: Instance, log_p: Array, output: int) -> Array:
    return jnp.exp(log_p[:, output])


def _proxy(instance: Instance, log_p: Array) -> Array:
    return expected_reward(jnp.exp(log_p), instance.rewards)


def _truth(instance: Instance, log_p: Array) -> Array:
    return expected_reward(jnp.exp(log_p), instance.ground_truth_rewards)


def _variance(instance: Instance, log_p: Array) -> Array:
    return reward_variance(jnp.exp(log_p), instance.rewards)


def _accuracy(instance: Instance, log_p: Array) -> Array:
    exists = jnp.isfinite(instance.logits(instance.initial_parameters)).astype(float)
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, exists)


def _on_policy_accuracy(instance: Instance, log_p: Array) -> Array:
    return product_accuracy(instance.rewards, instance.ground_truth_rewards, jnp.exp(log_p))


def _kl(instance: Instance, log_p: Array) -> Array:
    return kl_divergence(log_p, instance.reference_log_probabilities)


def _entropy(instance: Instance, log_p: Array) -> Array:
    return entropy(log_p)


def _level(instance: Instance, level: float) -> Goal:
    return reward_level(instance, level)


def _increase(instance: Instance, gamma: float) -> Goal:
    return reward_increase(instance, gamma)


def _share(instance: Instance, share: float) -> Goal:
    log_p = instance.log_probabilities(instance.initial_parameters)
    value = expected_reward(jnp.exp(log_p), instance.ground_truth_rewards)
    best = jnp.where(jnp.isfinite(log_p), instance.ground_truth_rewards, -jnp.inf).max(-1)
    return reward_increase(instance, share * (best - value))


def _rare(instance: Instance, output: int, level: float) -> Goal:
    return probability_level(instance, output, level)


class _Kind(NamedTuple):
    """A measure before its arguments: a goal that is waited for, or a function of the policy at a time."""

    function: Callable[..., Any]
    hits: bool
    long_name: str
    units: str = "1"


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "hitting_time": _Kind(_level, True, "time at which the expected ground truth reward reaches {level}"),
        "increase_time": _Kind(
            _increase, True, "time at which the expected ground truth reward has risen by {gamma}"
        ),
        "share_time": _Kind(
            _share, True, "time at which the expected ground truth reward has risen by {share} of what it can"
        ),
        "probability_time": _Kind(
            _rare, True, "time at which the probability of output {output} reaches {level}"
        ),
        "probability": _Kind(_probability, False, "probability of output {output}"),
        "expected_reward": _Kind(_proxy, False, "expected proxy reward"),
        "ground_truth": _Kind(_truth, False, "expected ground truth reward"),
        "variance": _Kind(_variance, False, "variance of the proxy reward"),
        "accuracy": _Kind(_accuracy, False, "accuracy of the proxy over uniform pairs of outputs"),
        "on_policy_accuracy": _Kind(_on_policy_accuracy, False, "accuracy of the proxy over sampled pairs"),
        "kl": _Kind(_kl, False, "KL divergence from the policy to its reference", "nats"),
        "entropy": _Kind(_entropy, False, "entropy of the policy", "nats"),
    }
)


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        text: as it was given.
        kind: a name of :data:`KINDS`.
        arguments: of its function.
        time: when a function of the policy is evaluated: 0 for the initial policy.
    """

    text: str
    kind: str
    arguments: tuple[tuple[str, float], ...]
    time: float

    @property
    def function(self) -> Callable[..., Any]:
        """Of an instance, and for a function of the policy its log-probabilities."""
        return partial(KINDS[self.kind].function, **dict(self.arguments))

    def variables(self, name: str, dynamics: Dynamics) -> dict[str, Variable]:
        """The arrays that it gives, by name; the status comes last."""
        kind = KINDS[self.kind]
        long_name = kind.long_name.format(**dict(self.arguments))
        if not kind.hits:
            long_name += f" at time {self.time:g}" if self.time else " of the initial policy"
        units = dynamics.units if kind.hits else kind.units
        about = {"long_name": long_name, "units": units, "definition": self.text, "dynamics": dynamics.name}
        found = {name: Variable("float64", math.nan, about)}
        if kind.hits and dynamics.name == "flow":
            steps = {"long_name": f"Runge-Kutta steps of {self.text}, -1 if none", "units": "1"}
            found[f"{name}_steps"] = Variable("int32", -1, steps)
        flags = {
            "long_name": f"status of {self.text}",
            "units": "1",
            "flag_values": [int(status) for status in Status],
            "flag_meanings": " ".join(status.name.lower() for status in Status),
        }
        return {**found, f"{name}_status": Variable("int8", int(Status.NOT_COMPUTED), flags)}


def measure(text: str, dynamics: Dynamics, outputs: int) -> Measure:
    """A measure from its text.

    Hitting times, under flow or ascent: ``hitting_time:LEVEL`` and ``increase_time:GAMMA`` of the expected
    ground truth reward, ``share_time:SHARE`` of the increase up to the highest reward,
    ``probability_time:OUTPUT:LEVEL``. Functions of the policy: ``probability:OUTPUT``,
    ``expected_reward`` (of the proxy), ``ground_truth``, ``variance``, ``accuracy``, ``on_policy_accuracy``,
    ``kl`` and ``entropy``; of the initial one, or with a further ``:TIME`` (updates, if discrete) or
    ``:final`` of the policy then.

    Raises:
        ValueError: for an unknown measure, or arguments that are missing, too many or out of range.
    """
    name, *given = text.split(":")
    if name not in KINDS:
        raise unknown("measure", name, KINDS)
    kind = KINDS[name]
    wanted = [p for p in inspect.signature(kind.function).parameters if p not in ("instance", "log_p")]
    form = ":".join([name, *map(str.upper, wanted)]) + ("" if kind.hits else "[:TIME]")
    if not len(wanted) <= len(given) <= len(wanted) + (not kind.hits):
        raise ValueError(f"measure {text!r} has {len(given)} arguments; give {form}")
    values = [dynamics.last if v == "final" and i == len(wanted) else scalar(v) for i, v in enumerate(given)]
    for value in values:
        if isinstance(value, str) or not math.isfinite(value):
            raise ValueError(f"measure {text!r} has the argument {value!r}; give {form} with finite numbers")
    numbers = [float(value) for value in values]
    arguments: dict[str, float] = dict(zip(wanted, numbers, strict=False))
    time = numbers[len(wanted)] if len(numbers) > len(wanted) else 0.0
    if "output" in arguments:
        output = arguments["output"]
        if output != int(output) or not 0 <= output < outputs:
            raise ValueError(f"measure {text!r}: output {output:g} is not one of 0 to {outputs - 1}")
        arguments["output"] = int(output)
    if not 0 <= time <= dynamics.last or (dynamics.name != "flow" and time != int(time)):
        whole = "" if dynamics.name == "flow" else "whole "
        raise ValueError(f"measure {text!r}: give a {whole}time from 0 to the horizon, {dynamics.last:g}")
    if name == "probability_time" and not 0 < arguments["level"] < 1:
        raise ValueError(f"measure {text!r}: give a level strictly between 0 and 1")
    if name == "increase_time" and not arguments["gamma"] > 0:
        raise ValueError(f"measure {text!r}: give a positive increase")
    if name == "share_time" and not 0 < arguments["share"] < 1:
        raise ValueError(f"measure {text!r}: give a share strictly between 0 and 1")
    if kind.hits and dynamics.name not in ("flow", "ascent"):
        raise ValueError(f"measure {text!r} does not apply to dynamics {dynamics.name}; take flow or ascent")
    return Measure(text, name, tuple(arguments.items()), time)


# Measuring ------------------------------------------------------------------------


def evaluate(
    measures: Sequence[tuple[str, Measure]],
    dynamics: Dynamics,
    instances: Instance,
    positions: Array,
    lanes: int,
) -> dict[str, Array]:
    """All variables of all measures; traceable.

    Args:
        measures: with the names of their variables.
        dynamics: how the policies evolve.
        instances: a batch of ``n``.
        positions: ``[n]``, the numbers of the points in the sweep: they choose the samples of estimators.
        lanes: how many problems are under way at a time.

    Returns:
        By variable, ``[n, prompts]``.
    """
    instances, valid = jax.vmap(_harmless)(instances)
    times = dict.fromkeys(m.time for _, m in measures if not KINDS[m.kind].hits)
    policies = {time: _policies(dynamics, time, instances, positions, lanes) for time in times}
    found: dict[str, Array] = {}
    for name, one in measures:
        if KINDS[one.kind].hits:
            values = _hit(dynamics, jax.vmap(one.function)(instances), instances, lanes)
        else:
            log_p, arrived = policies[one.time]
            value = jax.vmap(one.function)(instances, log_p)
            status = jnp.where(arrived[:, None], int(Status.REACHED), int(Status.NOT_CONVERGED))
            values = {"": value, "_status": jnp.broadcast_to(status, value.shape)}
        found |= {name + suffix: array for suffix, array in _settle(values, valid).items()}
    return found


def _harmless(instance: Instance) -> tuple[Instance, Array]:
    """The same with zeros for what is not finite, and whether all was."""
    reference = jnp.exp(instance.reference_log_probabilities)  # zero where no output exists
    checked = (instance.initial_parameters, instance.rewards, instance.ground_truth_rewards, reference)
    valid = jnp.stack([jnp.isfinite(leaf).all() for leaf in checked]).all()

    def harmless(leaf: Array) -> Array:
        return jnp.where(valid | jnp.isfinite(leaf), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(harmless, instance), valid


def _settle(values: dict[str, Array], valid: Array) -> dict[str, Array]:
    """Without numbers where there is no problem, or where it failed."""
    status = jnp.where(valid[:, None], values["_status"], int(Status.INVALID)).astype(jnp.int8)
    failed = status >= int(Status.NOT_CONVERGED)
    settled = {"": jnp.where(failed, jnp.nan, values[""])}
    if "_steps" in values:
        steps = jnp.broadcast_to(values["_steps"][:, None], status.shape)
        settled["_steps"] = jnp.where(valid[:, None], steps, -1).astype(jnp.int32)
    return settled | {"_status": status}


def _hit(dynamics: Dynamics, goals: Goal, instances: Instance, lanes: int) -> dict[str, Array]:
    if dynamics.name == "flow":
        result = flow.hitting_times(
            instances,
            goals,
            Control(tolerance=dynamics.tolerance, horizon=dynamics.horizon, max_steps=dynamics.max_steps),
            lanes=lanes,
        )
        return {"": result.time, "_steps": result.steps, "_status": result.status}
    direction, transformation = _optimizer(dynamics)

    def follow(instance: Instance, goal: Goal) -> tuple[Array, Array]:
        result = ascend(instance, transformation, dynamics.steps, direction=direction, goal=goal)
        first = result.first_update
        assert first is not None
        return first, jnp.isfinite(instance.log_probabilities(result.parameters)).any(-1)

    first, finite = jax.vmap(follow)(instances, goals)
    unmet = jnp.where(finite, int(Status.NOT_REACHED), int(Status.NOT_CONVERGED))
    return {"": first, "_status": jnp.where(jnp.isfinite(first), int(Status.REACHED), unmet)}


@cache  # an optimiser that is made anew would be compiled anew
def _optimizer(dynamics: Dynamics) -> Any:
    return optimizer(dynamics.optimizer, dynamics.learning_rate)


def _policies(
    dynamics: Dynamics, time: float, instances: Instance, positions: Array, lanes: int
) -> tuple[Array, Array]:
    """Log-probabilities ``[n, prompts, outputs]`` at a time, and whether that was reached: ``[n]``."""
    if time == 0:
        start = jax.vmap(lambda instance: instance.log_probabilities(instance.initial_parameters))(instances)
        return start, jnp.ones(len(start), bool)
    if dynamics.name == "flow":
        log_p, end = flow.final_policies(
            instances,
            Control(tolerance=dynamics.tolerance, horizon=time, max_steps=dynamics.max_steps),
            lanes=lanes,
        )
        return log_p, end == time
    direction, transformation = _optimizer(dynamics)

    def last(instance: Instance, position: Array) -> Array:
        if dynamics.name == "ascent":
            result = ascend(instance, transformation, int(time), direction=direction)
        else:
            key = jax.random.fold_in(jax.random.key(dynamics.seed), position)
            result = learn(instance, key, dynamics.name, dynamics.group, transformation, int(time))
        return instance.log_probabilities(result.parameters)

    log_p = jax.vmap(last)(instances, positions)
    return log_p, ~jnp.isnan(log_p).any((-2, -1))
