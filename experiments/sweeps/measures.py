"""What a sweep measures at every point: hitting times, and functions of the policy at a time.

From Python a measure is made by its kind, ``hitting_time(0.95)`` or ``variance(at=FINAL)``; a text such as
``hitting_time:0.95`` or ``variance:final`` says the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from goodteacher.experiments.aims import share_of_the_way, with_nothing_to_gain
from goodteacher.experiments.domains import Domain, Number, Positive, Probability, Real, domains
from goodteacher.experiments.sweeps.axes import scalar
from goodteacher.experiments.sweeps.dynamics import Dynamics, Policies, Times
from goodteacher.sim.goals import Goal, probability_level, reward_increase, reward_level
from goodteacher.sim.instance import Instance
from goodteacher.sim.metrics import accuracy_where_truth_differs, product_accuracy, reward_variance
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import entropy as policy_entropy
from goodteacher.sim.objective import expected_reward as expectation
from goodteacher.sim.objective import kl_divergence
from goodteacher.sim.status import Status

FINAL = math.inf  # the time of the policy at the horizon

Output = Annotated[int, Number(0, open=False, whole=True)]


class Variable(NamedTuple):
    """An array of the store: how it is stored, what it is, and what stands where nothing is known."""

    dtype: str
    missing: float
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A measure before its arguments; called with them, it gives a :class:`Measure`.

    Attributes:
        name: in texts.
        function: of an instance and the arguments to a goal that is waited for; or of an instance, the
            log-probabilities of a policy, and the arguments to a number for each prompt.
        waits: whether it gives a goal.
        long_name: what is measured, with the arguments in braces.
        units: of a function of the policy.
        of_truth: whether it needs a ground truth.
    """

    name: str
    function: Callable[..., Any]
    waits: bool
    long_name: str
    units: str = "1"
    of_truth: bool = False

    @cached_property
    def arguments(self) -> Mapping[str, Domain]:
        """What its arguments may be, by name."""
        return domains(self.function, without=("instance", "log_p"))

    @property
    def form(self) -> str:
        """Its text."""
        return ":".join([self.name, *map(str.upper, self.arguments)]) + ("" if self.waits else "[:TIME]")

    def __call__(self, *arguments: float, at: float = 0.0) -> "Measure":
        """A measure.

        Args:
            arguments: of the goal or the function.
            at: when a function of the policy is evaluated: 0 for the initial policy, a time, a number of
                updates, or :data:`FINAL`.

        Raises:
            ValueError: for arguments that are missing, too many or out of range.
        """
        if len(arguments) != len(self.arguments) or (self.waits and at):
            raise ValueError(f"measure {self.name} has {len(arguments)} arguments; give {self.form}")
        checked = [
            domain.check(f"measure {self.name}: {name}", value)
            for (name, domain), value in zip(self.arguments.items(), arguments, strict=True)
        ]
        return Measure(self, tuple(checked), at)


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        kind: what.
        arguments: of its function.
        at: when a function of the policy is evaluated.
    """

    kind: Kind
    arguments: tuple[float, ...]
    at: float

    @property
    def text(self) -> str:
        """The same as text."""
        numbers = [*self.arguments, *([self.at] if self.at else [])]
        return ":".join([self.kind.name, *map(_plain, numbers)])

    @property
    def function(self) -> Callable[..., Any]:
        """Of an instance, and for a function of the policy its log-probabilities."""
        return partial(self.kind.function, **dict(zip(self.kind.arguments, self.arguments, strict=True)))

    def time(self, dynamics: Dynamics) -> float:
        """When a function of the policy is evaluated."""
        return dynamics.last if self.at == FINAL else self.at

    def check(self, dynamics: Dynamics, outputs: int) -> None:
        """Refuses what the dynamics cannot give.

        Raises:
            ValueError: for a time that is beyond the horizon or not whole, an output that does not exist, or
                a goal under dynamics that do not wait.
        """
        output = self.arguments[0] if "output" in self.kind.arguments else 0
        if output >= outputs:
            raise ValueError(f"measure {self.text!r}: output {output} is not one of 0 to {outputs - 1}")
        time = self.time(dynamics)
        if not 0 <= time <= dynamics.last or (dynamics.discrete and time != int(time)):
            whole = "whole " if dynamics.discrete else ""
            raise ValueError(
                f"measure {self.text!r}: give a {whole}time from 0 to the horizon, {dynamics.last:g}"
            )
        if self.kind.waits and not dynamics.waits:
            raise ValueError(
                f"measure {self.text!r} does not apply to dynamics {dynamics.name}; take flow or ascent"
            )

    def variables(self, name: str, dynamics: Dynamics) -> dict[str, Variable]:
        """The arrays that it gives, by name; the status comes last."""
        long_name = self.kind.long_name.format(**dict(zip(self.kind.arguments, self.arguments, strict=True)))
        if not self.kind.waits:
            long_name += f" at time {self.time(dynamics):g}" if self.at else " of the initial policy"
        units = dynamics.units if self.kind.waits else self.kind.units
        about = {"long_name": long_name, "units": units, "definition": self.text, "dynamics": dynamics.name}
        found = {name: Variable("float64", math.nan, about)}
        for counter, words in dynamics.counters.items() if self.kind.waits else ():
            counted = {"long_name": f"{words} of {self.text}, -1 if none", "units": "1"}
            found[f"{name}_{counter}"] = Variable("int32", -1, counted)
        flags = {
            "long_name": f"status of {self.text}",
            "units": "1",
            "flag_values": [int(status) for status in Status],
            "flag_meanings": " ".join(status.name.lower() for status in Status),
        }
        return {**found, f"{name}_status": Variable("int8", int(Status.NOT_COMPUTED), flags)}


def _plain(number: float) -> str:
    return "final" if number == FINAL else repr(number).removesuffix(".0")


# Goals ----------------------------------------------------------------------------


def _level(instance: Instance, level: Real) -> Goal:
    return reward_level(instance, level)


def _increase(instance: Instance, gamma: Positive) -> Goal:
    return reward_increase(instance, gamma)


def _share(instance: Instance, share: Probability) -> Goal:
    return share_of_the_way(instance, share)


def _rare(instance: Instance, output: Output, level: Probability) -> Goal:
    return probability_level(instance, output, level)


_RISE = "time at which the expected ground truth reward"
hitting_time = Kind("hitting_time", _level, True, _RISE + " reaches {level}", of_truth=True)
increase_time = Kind("increase_time", _increase, True, _RISE + " has risen by {gamma}", of_truth=True)
share_time = Kind("share_time", _share, True, _RISE + " has risen by {share} of what it can", of_truth=True)
probability_time = Kind(
    "probability_time", _rare, True, "time at which the probability of output {output} reaches {level}"
)

# Functions of the policy ----------------------------------------------------------


def _probability(instance: Instance, log_p: Array, output: Output) -> Array:
    return jnp.exp(log_p[:, output])


def _proxy(instance: Instance, log_p: Array) -> Array:
    return expectation(jnp.exp(log_p), instance.rewards)


def _truth(instance: Instance, log_p: Array) -> Array:
    return expectation(jnp.exp(log_p), instance.ground_truth_rewards)


def _variance(instance: Instance, log_p: Array) -> Array:
    return reward_variance(jnp.exp(log_p), instance.rewards)


def _uniform(accuracy: Callable[..., Array]) -> Callable[[Instance, Array], Array]:
    def over_uniform_pairs(instance: Instance, log_p: Array) -> Array:
        exists = jnp.isfinite(instance.logits(instance.initial_parameters)).astype(float)
        return accuracy(instance.rewards, instance.ground_truth_rewards, exists)

    return over_uniform_pairs


def _on_policy(accuracy: Callable[..., Array]) -> Callable[[Instance, Array], Array]:
    def over_sampled_pairs(instance: Instance, log_p: Array) -> Array:
        return accuracy(instance.rewards, instance.ground_truth_rewards, jnp.exp(log_p))

    return over_sampled_pairs


def _kl(instance: Instance, log_p: Array) -> Array:
    return kl_divergence(log_p, instance.reference_log_probabilities)


def _entropy(instance: Instance, log_p: Array) -> Array:
    return policy_entropy(log_p)


_UNIFORM = "accuracy of the proxy over uniform pairs of outputs"
_SAMPLED = "accuracy of the proxy over pairs that the policy samples"
_DECIDED = " that the ground truth tells apart"
probability = Kind("probability", _probability, False, "probability of output {output}")
expected_reward = Kind("expected_reward", _proxy, False, "expected proxy reward")
ground_truth = Kind("ground_truth", _truth, False, "expected ground truth reward", of_truth=True)
variance = Kind("variance", _variance, False, "variance of the proxy reward")
uniform_accuracy = Kind("uniform_accuracy", _uniform(product_accuracy), False, _UNIFORM, of_truth=True)
uniform_accuracy_where_truth_differs = Kind(
    "uniform_accuracy_where_truth_differs",
    _uniform(accuracy_where_truth_differs),
    False,
    _UNIFORM + _DECIDED,
    of_truth=True,
)
on_policy_accuracy = Kind("on_policy_accuracy", _on_policy(product_accuracy), False, _SAMPLED, of_truth=True)
on_policy_accuracy_where_truth_differs = Kind(
    "on_policy_accuracy_where_truth_differs",
    _on_policy(accuracy_where_truth_differs),
    False,
    _SAMPLED + _DECIDED,
    of_truth=True,
)
kl = Kind("kl", _kl, False, "KL divergence from the policy to its reference", "nats")
entropy = Kind("entropy", _entropy, False, "entropy of the policy", "nats")

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            hitting_time,
            increase_time,
            share_time,
            probability_time,
            probability,
            expected_reward,
            ground_truth,
            variance,
            uniform_accuracy,
            uniform_accuracy_where_truth_differs,
            on_policy_accuracy,
            on_policy_accuracy_where_truth_differs,
            kl,
            entropy,
        )
    }
)


def measure(text: str) -> Measure:
    """A measure from its text: the name of a kind, its arguments, and a time or ``final``.

    Raises:
        ValueError: for an unknown measure, or arguments that are missing, too many or out of range.
    """
    name, *given = text.split(":")
    if name == "accuracy":
        raise ValueError(
            "measure 'accuracy' does not say over which pairs; give uniform_accuracy or on_policy_accuracy"
        )
    if name not in KINDS:
        raise unknown("measure", name, KINDS)
    kind = KINDS[name]
    count = len(kind.arguments)
    if not count <= len(given) <= count + (not kind.waits):
        raise ValueError(f"measure {text!r} has {len(given)} arguments; give {kind.form}")
    numbers = []
    for position, part in enumerate(given):
        number = scalar(part)
        if part == "final" and position == count:
            number = FINAL
        elif isinstance(number, str) or not math.isfinite(number):
            raise ValueError(
                f"measure {text!r} has the argument {part!r}; give {kind.form} with finite numbers"
            )
        numbers.append(number)
    return kind(*numbers[:count], at=numbers[count] if len(numbers) > count else 0.0)


# Measuring ------------------------------------------------------------------------


def prepare(measures: Mapping[str, Measure], instances: Instance) -> tuple[Instance, Array, dict[str, Goal]]:
    """What there is to do for a batch of instances; traceable.

    Returns:
        The instances, with zeros for what is not finite; whether all of each was, ``[n]``; and the goals that
        are waited for, by the name of their variables.
    """
    instances, valid = jax.vmap(_harmless)(instances)
    waiting = {name: one for name, one in measures.items() if one.kind.waits}
    return instances, valid, {name: jax.vmap(one.function)(instances) for name, one in waiting.items()}


def settle(
    measures: Mapping[str, Measure],
    dynamics: Dynamics,
    instances: Instance,
    valid: Array,
    times: Mapping[str, Times],
    policies: Mapping[float, Policies],
) -> dict[str, Array]:
    """All variables of all measures; traceable.

    Args:
        measures: by the names of their variables.
        dynamics: how the policies evolve.
        instances, valid: as :func:`prepare` gives them.
        times: when the goals are met, by the name of their variables.
        policies: by the times at which they are looked at.

    Returns:
        By variable, ``[n, prompts]``.
    """
    found: dict[str, Array] = {}
    for name, one in measures.items():
        if one.kind.waits:
            value, status, counters = times[name]
            goals = jax.vmap(one.function)(instances)
            status = jax.vmap(with_nothing_to_gain)(instances, goals, status)
        else:
            log_p, arrived = policies[one.time(dynamics)]
            value, counters = jax.vmap(one.function)(instances, log_p), {}
            status = jnp.where(arrived[:, None], int(Status.FINISHED), int(Status.NOT_CONVERGED))
        status = jnp.where(valid[:, None], jnp.broadcast_to(status, value.shape), int(Status.INVALID))
        failed = (status == int(Status.NOT_CONVERGED)) | (status == int(Status.INVALID))
        found[name] = jnp.where(failed, jnp.nan, value)
        for counter, count in counters.items():
            counted = jnp.where(valid, count, -1).astype(jnp.int32)
            found[f"{name}_{counter}"] = jnp.broadcast_to(counted[:, None], value.shape)
        found[f"{name}_status"] = status.astype(jnp.int8)
    return found


def _harmless(instance: Instance) -> tuple[Instance, Array]:
    """The same with zeros for what is not finite, and whether all was."""
    reference = jnp.exp(instance.reference_log_probabilities)  # zero where no output exists
    checked = (instance.initial_parameters, instance.rewards, instance.ground_truth_rewards, reference)
    valid = jnp.stack([jnp.isfinite(leaf).all() for leaf in checked]).all()

    def harmless(leaf: Array) -> Array:
        return jnp.where(valid | jnp.isfinite(leaf), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(harmless, instance), valid
