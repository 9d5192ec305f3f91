"""Builders: named functions from scalar parameters to an instance.

Parameters annotated as real numbers or seeds may vary within one compiled computation; counts and choices
decide shapes, so that every value of theirs is compiled for itself.
"""

import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import Array

from goodteacher.experiments import instances
from goodteacher.experiments.domains import (
    AtLeastOne,
    Choice,
    Count,
    Domain,
    NotNegative,
    Number,
    Outputs,
    Positive,
    Probability,
    Seed,
    Share,
    domains,
)
from goodteacher.experiments.rollouts.intake import read_rollouts
from goodteacher.experiments.rollouts.problems import as_problem
from goodteacher.sim import files
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.names import unknown
from goodteacher.sim.objective import gradient
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.theory.policy_families import Family, praise
from goodteacher.theory.rankings import levels
from goodteacher.theory.teachers import fast_rewards, low_variance_rewards


@dataclass(frozen=True)
class Builder:
    """A function that makes instances, by name.

    Attributes:
        name: on the command line and in specifications.
        build: from keyword scalars to an instance; traceable in those that are not static.
        parameters: what they may be, by name.
        has_truth: whether the instances have a ground truth.
    """

    name: str
    build: Callable[..., Instance]
    parameters: Mapping[str, Domain]
    has_truth: bool = True

    def program(
        self, fixed: Mapping[str, Any], varying: Mapping[str, Any]
    ) -> tuple[tuple[int, int], Iterator[bytes]]:
        """What it does with given parameters, whatever functions it calls, in this module or in others.

        Args:
            fixed: parameters that are part of the program.
            varying: values of those that are not, of which only the types matter.

        Returns:
            Prompts and outputs of the instance; and the program that makes it, and that evaluates its policy
            and the gradient there: as text, followed by the constants.
        """

        def program(**values: Any) -> Any:
            instance = self.build(**fixed, **values)
            start = instance.initial_parameters
            return instance, instance.logits(start), gradient(instance, start)

        closed, made = jax.make_jaxpr(program, return_shape=True)(**varying)
        # What stands in the text of a function is its address, another one every time.
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{closed}\n{jax.tree.structure(made)}")
        return made[0].rewards.shape, itertools.chain([text.encode()], _constants(closed))


def _constants(jaxpr: ClosedJaxpr | Jaxpr) -> Iterator[bytes]:
    """The constants of a program and of all programs within."""
    if isinstance(jaxpr, ClosedJaxpr):
        for constant in jaxpr.consts:
            key = jnp.issubdtype(constant.dtype, jax.dtypes.prng_key)
            yield np.asarray(jax.random.key_data(constant) if key else constant).tobytes()
        jaxpr = jaxpr.jaxpr
    for equation in jaxpr.eqns:
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield from _constants(part)


# The functions -----------------------------------------------------------------


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
    error: Share = 0.0,
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
            instances.beneficial_errors,
            instances.feature_similarity,
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
    """A builder by name, of an instance file (``file:PATH``), of rollouts, or of a function of one's own.

    That of rollouts (``rollouts:PATH``) takes the number of a ``prompt``, the name of a ``reward``, a
    ``reward_scale`` and a ``kl_coefficient``.

    A function takes keyword scalars with annotations and defaults: ``float`` for a real number, ``int`` for
    what decides a shape, a ``Literal`` of names, or the types of :mod:`goodteacher.experiments.domains`.

    Raises:
        ValueError: if there is none of that name, the file is bad, or the function cannot be used.
    """
    if callable(source):
        name = f"{source.__module__}.{source.__qualname__}"
        return Builder(name, source, _parameters(source))
    if source in ("file:", "rollouts:"):
        raise ValueError(f"builder is {source!r} and names no file; give {source}FILE")
    if source.startswith("file:"):
        return _of_file(source, Path(source.removeprefix("file:")))
    if source.startswith("rollouts:"):
        return _of_rollouts(source, source.removeprefix("rollouts:"))
    if source not in BUILDERS:
        raise unknown("builder", source, BUILDERS)
    return Builder(source, BUILDERS[source], _parameters(BUILDERS[source]))


def _parameters(function: Callable[..., Instance]) -> Mapping[str, Domain]:
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise ValueError(f"parameter {name} of {function.__qualname__} has no default; give it one")
    return domains(function)


# Instance files ------------------------------------------------------------------

_ENTRY = re.compile(r"(\w+)\[(\d+),\s*(\d+)\]")
_ARRAYS = ("rewards", "ground_truth_rewards", "initial_policy_probabilities", "initial_policy_weights")
_SCALARS = ("kl_coefficient", "forward_kl_coefficient", "entropy_coefficient")


def _of_file(name: str, path: Path) -> Builder:
    instance = files.read_instance(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    # A single prompt may stand without its axis.
    arrays = {key: np.atleast_2d(np.asarray(data[key], float)) for key in _ARRAYS if key in data}
    parameters: dict[str, Domain] = {key: Number(0, open=False) for key in _SCALARS}
    if isinstance(instance.policy, LinearSoftmax):
        parameters["temperature"] = Number(0)
    for key, array in arrays.items():
        domain = Number(0, 1) if key.endswith("probabilities") else Number()
        parameters |= {f"{key}[{x},{y}]": domain for x, y in np.ndindex(*array.shape)}
    return Builder(name, partial(_vary, data, arrays), parameters)


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


# Rollouts ------------------------------------------------------------------------

_ABSENT = -1e4  # logit of an output that a prompt does not have


def _of_rollouts(name: str, path: str) -> Builder:
    rollouts = read_rollouts([path])
    each = {reward: as_problem(rollouts.choose([reward])).instance for reward in rollouts.names}
    prompts = len(next(iter(each.values())).rewards)
    parameters: dict[str, Domain] = {
        "prompt": Number(0, max(prompts - 1, 1), open=False, whole=True),
        "reward": Choice(rollouts.names),
        "reward_scale": Number(0),
        "kl_coefficient": Number(0, open=False),
    }
    return Builder(name, partial(_prompt_of_rollouts, each), parameters, rollouts.truth is not None)


def _prompt_of_rollouts(
    each: Mapping[str, Instance],
    prompt: Any = 0,
    reward: str | None = None,
    reward_scale: Any = 1.0,
    kl_coefficient: Any = 0.0,
) -> Instance:
    """One prompt with one reward; the first of both if not given."""
    whole = each[next(iter(each)) if reward is None else reward]
    number = jnp.asarray(prompt, int)

    def row(values: Array) -> Array:
        return jnp.asarray(values)[number][None]

    exists = row(jnp.ones(whole.rewards.shape, bool) if whole.mask is None else whole.mask)
    instance = Instance(
        reward_scale * row(whole.rewards),
        row(whole.ground_truth_rewards),
        Parameters(jnp.where(exists, row(whole.initial_parameters), _ABSENT)),
        regularizer=Regularizer(kl=kl_coefficient),
    )
    return eqx.tree_at(lambda i: i.mask, instance, exists, is_leaf=lambda leaf: leaf is None)
