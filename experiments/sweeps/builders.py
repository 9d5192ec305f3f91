"""Builders: named functions from scalar parameters to an instance.

Parameters annotated as real numbers or seeds may vary within one compiled computation; counts and choices
decide shapes, so that every value of theirs is compiled for itself.
"""

import hashlib
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from goodteacher.experiments import instances
from goodteacher.sim import files
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.names import unknown
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.policy_families import Family, praise
from goodteacher.theory.rankings import levels
from goodteacher.theory.teachers import fast_rewards, low_variance_rewards


@dataclass(frozen=True)
class Domain:
    """What a parameter may be: a ``real`` number, a ``seed``, a ``count`` or a ``choice``."""

    kind: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = True  # whether the ends are excluded
    choices: tuple[str, ...] = ()

    @property
    def static(self) -> bool:
        """Whether every value has a compiled computation of its own."""
        return self.kind in ("count", "choice")

    def check(self, name: str, value: Any) -> Any:
        """The value in its own type.

        Raises:
            ValueError: if it is not one of this domain.
        """
        if self.kind == "choice":
            if value not in self.choices:
                raise unknown(f"{name}", value, self.choices)
            return value
        if isinstance(value, bool | str) or not isinstance(value, int | float | np.number):
            raise ValueError(f"{name} is {value!r}; give a number")
        if self.kind != "real" and value != int(value):
            raise ValueError(f"{name} is {value}; give a whole number")
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        if not (inside and math.isfinite(value)):
            ends = "strictly between" if self.open else "between"
            bounds = f"{ends} {self.low:g} and {self.high:g}"
            if self.high == math.inf:
                bounds = f"{'above' if self.open else 'of at least'} {self.low:g}"
            raise ValueError(f"{name} is {value:g}; give a number {bounds}")
        return float(value) if self.kind == "real" else int(value)


Real = Annotated[float, Domain("real")]
Probability = Annotated[float, Domain("real", 0, 1)]
Reward = Annotated[float, Domain("real", -1, 1)]
Positive = Annotated[float, Domain("real", 0)]
NotNegative = Annotated[float, Domain("real", 0, open=False)]
AtLeastOne = Annotated[float, Domain("real", 1, open=False)]
Seed = Annotated[int, Domain("seed", 0, 2**31 - 1, open=False)]
Count = Annotated[int, Domain("count", 1, 100_000, open=False)]
Outputs = Annotated[int, Domain("count", 2, 100_000, open=False)]


class Parameter(typing.NamedTuple):
    """A parameter of a builder: its domain and what it is if nothing is said."""

    domain: Domain
    default: Any


@dataclass(frozen=True)
class Builder:
    """A function that makes instances, by name.

    Attributes:
        name: on the command line and in specifications.
        build: from keyword scalars to an instance; traceable in those that are not static.
        parameters: by name.
        identity: what else decides what it builds: a digest of a file or of a function's source.
    """

    name: str
    build: Callable[..., Instance]
    parameters: Mapping[str, Parameter]
    identity: str = ""


# The functions -----------------------------------------------------------------


def beneficial_errors(
    initial_probability: Probability = 0.05,
    middling_reward: Reward = 0.8,
    middling_probability: Probability = 0.5,
    low_outputs: Count = 3,
    trained_on: Literal["ground_truth", "proxy"] = "ground_truth",
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """A best, a middling and low outputs, tabular; see ``experiments/instances.py``."""
    return instances.beneficial_errors(
        initial_probability,
        middling_reward,
        middling_probability,
        low_outputs,
        trained_on,
        regularizer=Regularizer(kl=kl_coefficient),
    )


def feature_similarity(
    similarity: Reward = 0.0,
    initial_probability: Probability = 0.05,
    middling_reward: Reward = 0.8,
    middling_probability: Probability = 0.5,
    low_outputs: Count = 3,
    trained_on: Literal["ground_truth", "proxy"] = "ground_truth",
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """The same with features at a given cosine; see ``experiments/instances.py``."""
    return instances.feature_similarity(
        similarity,
        initial_probability,
        middling_reward,
        middling_probability,
        low_outputs,
        trained_on,
        regularizer=Regularizer(kl=kl_coefficient),
    )


def _random(seed: Any, prompts: int, outputs: int, scale: Any) -> tuple[Array, Array, Array]:
    """Three things of a seed: ground truth rewards, logits, and more rewards; ``[prompts, outputs]``."""
    truth, logits, rewards = jax.random.split(jax.random.key(seed), 3)
    shape = (prompts, outputs)
    return (
        jax.random.uniform(truth, shape, float, -1.0, 1.0),
        scale * jax.random.normal(logits, shape, float),
        jax.random.uniform(rewards, shape, float, -1.0, 1.0),
    )


def random(
    seed: Seed = 0,
    outputs: Outputs = 8,
    prompts: Count = 1,
    logit_scale: Positive = 1.0,
    error: Annotated[float, Domain("real", 0, 1, open=False)] = 0.0,
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """A random policy and random rewards.

    Ground truth rewards are uniform in ``[-1, 1]``, logits normal times ``logit_scale``. The proxy is
    ``(1 - error)`` times the ground truth plus ``error`` times an independent uniform reward.
    """
    truth, logits, other = _random(seed, prompts, outputs, logit_scale)
    proxy = (1.0 - error) * truth + error * other
    return Instance(proxy, truth, start=Parameters(logits), regularizer=Regularizer(kl=kl_coefficient))


def random_teacher(
    seed: Seed = 0,
    policy_seed: Seed = 0,
    outputs: Outputs = 8,
    prompts: Count = 1,
    logit_scale: Positive = 1.0,
    reward_scale: Positive = 1.0,
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """A random reward model for one random policy and ground truth, which ``policy_seed`` decides.

    Its rewards are uniform in ``[-reward_scale, reward_scale]``.
    """
    truth, logits, _ = _random(policy_seed, prompts, outputs, logit_scale)
    rewards = reward_scale * _random(jnp.asarray(seed), prompts, outputs, 1.0)[2]
    return Instance(rewards, truth, start=Parameters(logits), regularizer=Regularizer(kl=kl_coefficient))


def slow_teacher(
    T: AtLeastOne = 100.0,
    seed: Seed = 0,
    outputs: Outputs = 8,
    logit_scale: Positive = 1.0,
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """The perfectly accurate, slow teacher: rewards in ``(0, 1 / T)`` (arXiv:2503.15477, Theorem 2)."""
    truth, logits, _ = _random(seed, 1, outputs, logit_scale)
    rewards = low_variance_rewards(levels(truth), T)
    return Instance(rewards, truth, start=Parameters(logits), regularizer=Regularizer(kl=kl_coefficient))


def fast_teacher(
    seed: Seed = 0,
    outputs: Outputs = 8,
    logit_scale: Positive = 1.0,
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """The inaccurate, fast teacher: all but the best output in reverse (arXiv:2503.15477, Theorem 2)."""
    truth, logits, _ = _random(seed, 1, outputs, logit_scale)
    best = truth.argmax(-1)
    reverse = levels(jnp.where(jnp.arange(outputs) == best[:, None], 2.0, -truth))
    start = jnp.take_along_axis(jax.nn.softmax(logits), best[:, None], -1)[:, 0]
    rewards = fast_rewards(reverse, best[:, None], start)
    return Instance(rewards, truth, start=Parameters(logits), regularizer=Regularizer(kl=kl_coefficient))


def policy_family(
    T: AtLeastOne = 100.0,
    likely_probability: Probability = 0.25,
    teacher: Literal["right", "wrong"] = "right",
    kl_coefficient: NotNegative = 0.0,
) -> Instance:
    """A policy for which one of two teachers is fast and the other slow (arXiv:2503.15477, Theorem 3).

    Ground truth rewards are ``(1, 1, 0, -1)``, of expectation 0. The first output has
    ``likely_probability / 2`` at least, the second ``T^-2`` or as little as the others allow. The right
    teacher praises the first, the wrong one the second.
    """
    truth = jnp.array([1.0, 1.0, 0.0, -1.0])
    c = 0.5 * likely_probability
    family = Family(truth, value=0.0, gamma=0.5, likely=0, rare=1, T=T, c=c)
    start = family.member(jnp.array([0.5, 0.999, 0.5, 0.5]))
    rewards = praise(0 if teacher == "right" else 1, 4)
    return Instance(rewards, truth, start=start, regularizer=Regularizer(kl=kl_coefficient))


BUILDERS: Mapping[str, Callable[..., Instance]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            beneficial_errors,
            feature_similarity,
            random,
            random_teacher,
            slow_teacher,
            fast_teacher,
            policy_family,
        )
    }
)


# Finding them --------------------------------------------------------------------


def find_builder(source: str | Callable[..., Instance]) -> Builder:
    """A builder by name, of an instance file (``file:PATH``), or of a function of one's own.

    A function takes keyword scalars with annotations and defaults: ``float`` for a real number, ``int`` for
    what decides a shape, a ``Literal`` of names, or the types of this module such as :data:`Seed`.

    Raises:
        ValueError: if there is none of that name, the file is bad, or the function cannot be used.
    """
    if callable(source):
        name = f"{source.__module__}.{source.__qualname__}"
        return Builder(name, source, _signature(source), _digest(_source(source)))
    if source.startswith("file:"):
        return _of_file(source, Path(source.removeprefix("file:")))
    if source not in BUILDERS:
        raise unknown("builder", source, BUILDERS)
    return Builder(source, BUILDERS[source], _signature(BUILDERS[source]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return function.__qualname__


def _signature(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty:
            raise ValueError(f"parameter {name} of {function.__qualname__} has no default; give it one")
        found[name] = Parameter(_domain(function, name, hints.get(name, float)), parameter.default)
    return found


def _domain(function: Callable[..., Any], name: str, hint: Any) -> Domain:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        for extra in hint.__metadata__:
            if isinstance(extra, Domain):
                return extra
        hint = typing.get_args(hint)[0]
    if origin is Literal:
        return Domain("choice", choices=typing.get_args(hint))
    if isinstance(hint, types.UnionType) or hint not in (float, int):
        raise ValueError(
            f"parameter {name} of {function.__qualname__} is annotated {hint}; give float, int or a Literal"
        )
    return Domain("real" if hint is float else "count")


# Instance files ------------------------------------------------------------------

_ENTRY = re.compile(r"(\w+)\[(\d+),\s*(\d+)\]")
_ARRAYS = ("rewards", "ground_truth_rewards", "initial_policy_probabilities", "initial_policy_weights")
_SCALARS = ("kl_coefficient", "forward_kl_coefficient", "entropy_coefficient")


def _of_file(name: str, path: Path) -> Builder:
    instance = files.read_instance(path)
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    # A single prompt may stand without its axis.
    arrays = {key: np.atleast_2d(np.asarray(data[key], float)) for key in _ARRAYS if key in data}
    parameters = {key: Parameter(Domain("real", 0, open=False), data.get(key, 0.0)) for key in _SCALARS}
    if isinstance(instance.policy, LinearSoftmax):
        parameters["temperature"] = Parameter(Domain("real", 0), data.get("temperature", 1.0))
    for key, array in arrays.items():
        domain = Domain("real", 0, 1) if key.endswith("probabilities") else Domain("real")
        for x, y in np.ndindex(*array.shape):
            parameters[f"{key}[{x},{y}]"] = Parameter(domain, float(array[x, y]))
    return Builder(name, partial(_vary, data, arrays), parameters, _digest(text))


def _vary(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **values: Any) -> Instance:
    """An instance file with some entries replaced; other probabilities of the row keep their proportions."""
    varied = {**data}
    for name, value in values.items():
        entry = _ENTRY.fullmatch(name)
        if entry is None:
            varied[name] = value
            continue
        key, x, y = entry[1], int(entry[2]), int(entry[3])
        array = jnp.atleast_2d(jnp.asarray(varied[key], float))
        if key == "initial_policy_probabilities":
            array = array.at[x].multiply((1.0 - value) / (1.0 - array[x, y]))
        varied[key] = array.at[x, y].set(value)
    return files.from_dictionary(varied, nearest="output_features" in data)
