"""What is followed, by the names and numbers that people know: the gradient, or what an estimator makes of
it on average."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.experiments.domains import AtLeastOne, Domain, Flag, NotNegative, Number, Text, check_fields
from goodteacher.experiments.text import listed
from goodteacher.sim.clocks import (
    BatchScaled,
    Clock,
    ColdStart,
    DynamicSampling,
    Gradient,
    Group,
    Grpo,
    MaxRl,
    MeanSubtracted,
    Natural,
    Objections,
    PassAtK,
)
from goodteacher.sim.instance import Instance
from goodteacher.sim.names import unknown as unknown_name
from goodteacher.sim.policies import Tabular


class Preset(NamedTuple):
    """What a framework does by default with the rewards of a group.

    Attributes:
        epsilon: that is added to the standard deviation; ``None`` where it divides by none.
        source: where that stands.
        batch: whether the standard deviation is that of the whole batch, not of the group.
    """

    epsilon: float | None
    source: str
    batch: bool = False


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "trl": Preset(1e-4, "TRL, GRPOTrainer with scale_rewards = group"),
        "trl-batch": Preset(1e-4, "TRL, GRPOTrainer with scale_rewards = batch", batch=True),
        "trl-none": Preset(None, "TRL, GRPOTrainer with scale_rewards = none"),
        "verl": Preset(1e-6, "verl, compute_grpo_outcome_advantage"),
        "openrlhf": Preset(1e-9, "OpenRLHF, group_norm"),
        "prime-rl": Preset(None, "prime-rl, algo/grpo.py"),
    }
)
"""All of them take the standard deviation with Bessel's correction, as ``torch.std`` does."""


ESTIMATORS: Mapping[str, Callable[["Followed"], Clock]] = MappingProxyType(
    {
        "gradient": lambda of: Gradient(),
        "natural": lambda of: Natural(),
        "mean_subtracted": lambda of: of._of_groups(MeanSubtracted),
        "grpo": lambda of: of._grpo(),
        "maxrl": lambda of: of._of_groups(MaxRl),
        "pass_at_k": lambda of: of._pass_at_k(),
        "cold_start": lambda of: ColdStart(1.0 if of.power is None else of.power),
    }
)

OF_GROUPS = ("mean_subtracted", "grpo", "maxrl")
UNBIASED = ("reinforce", "baseline", "rloo")
"""Sampled estimators whose mean is the gradient."""

_APPLY = {
    "preset": ("grpo",),
    "group": (*OF_GROUPS, *UNBIASED),
    "epsilon": ("grpo",),
    "population": ("grpo",),
    "power": ("cold_start",),
    "k": ("pass_at_k",),
    "dynamic_sampling": OF_GROUPS,
}
OPTIONS = tuple(_APPLY)
"""What may be given beside the name of an estimator."""


@dataclass(frozen=True)
class _Group(Domain):
    """Numbers of samples; the limit of many is the default."""

    whole = True
    static = True

    def check(self, name: str, value: Any) -> float | None:
        """The number, or none for the limit."""
        return None if value in (None, math.inf) else Number(2, open=False, whole=True).check(name, value)


@dataclass(frozen=True)
class Followed:
    """Names and numbers of what is followed, as people give them; those that are not given have defaults.

    Attributes:
        estimators: what it may be, by name.
        estimator: a name of these.
        preset: a name of :data:`PRESETS`: for ``grpo``, as that framework computes it.
        group: samples of a group; the limit, also ``inf``, if not given.
        epsilon: of ``grpo``; that of the preset, or zero, if not given.
        population: whether the standard deviation of ``grpo`` divides by the size of the group.
        power: of ``cold_start``; 1 if not given.
        k: of ``pass_at_k``.
        dynamic_sampling: whether groups without a spread are drawn again.
    """

    estimators: ClassVar[Mapping[str, Callable[["Followed"], Clock]]] = ESTIMATORS
    estimator: Annotated[str, Text()] = "gradient"
    preset: Annotated[str, Text()] | None = None
    group: Annotated[float | None, _Group()] = None
    epsilon: NotNegative | None = None
    population: Annotated[bool, Flag()] = False
    power: NotNegative | None = None
    k: AtLeastOne | None = None
    dynamic_sampling: Annotated[bool, Flag()] = False

    def __post_init__(self) -> None:
        """Refuses what does not go together.

        Raises:
            ValueError: for an unknown name, a number that is out of range, or one that does not apply.
        """
        check_fields(self)
        self.clock()

    @property
    def given(self) -> Mapping[str, Any]:
        """What is not left out, by name: all that differs from its default, which zero may."""
        options = [field for field in fields(Followed) if field.name in _APPLY]
        values = {field.name: (getattr(self, field.name), field.default) for field in options}
        return {name: value for name, (value, default) in values.items() if value != default}

    def clock(self) -> Clock:
        """The value."""
        if self.estimator not in self.estimators:
            raise unknown_name("estimator", self.estimator, self.estimators)
        for name in self.given:
            if self.estimator not in _APPLY[name]:
                of = [other for other in _APPLY[name] if other in self.estimators]
                raise ValueError(
                    f"{name} does not apply to estimator {self.estimator}; leave it out"
                    + (f", or choose {' or '.join(of)}" if of else "")
                )
        clock = self.estimators[self.estimator](self)
        if self.dynamic_sampling:
            assert isinstance(clock, Group)
            return DynamicSampling(clock)
        return clock

    def _grpo(self) -> Clock:
        size = {} if self.group is None else {"group": self.group}
        if self.preset is None:
            return Grpo(**size, epsilon=self.epsilon or 0.0, bessel=not self.population)
        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS)
        epsilon, _, batch = PRESETS[self.preset]
        if epsilon is None:
            if self.epsilon is not None or self.population:
                raise ValueError(
                    f"preset is {self.preset}, which divides by no standard deviation; leave out its options"
                )
            return MeanSubtracted(**size)
        epsilon = epsilon if self.epsilon is None else self.epsilon
        return self._of_batch(epsilon) if batch else Grpo(**size, epsilon=epsilon, bessel=not self.population)

    def _of_batch(self, epsilon: float) -> Clock:
        """Groups that are drawn again have other deviations."""
        if self.dynamic_sampling:
            raise ValueError(
                f"preset is {self.preset}, of whose batch all groups are part, also those that "
                "dynamic_sampling would draw again; leave one out"
            )
        if self.population:
            raise ValueError(
                f"preset is {self.preset}, which divides by the deviation of no group; leave out population"
            )
        return BatchScaled(epsilon) if self.group is None else BatchScaled(epsilon, self.group)

    def _pass_at_k(self) -> Clock:
        if self.k is None:
            raise ValueError("k is missing; give the number of samples of which one is to succeed")
        return PassAtK(self.k)

    def _of_groups(self, kind: Any) -> Clock:
        return kind() if self.group is None else kind(self.group)


class Following(NamedTuple):
    """A problem under a clock.

    Attributes:
        instance: the problem; the prompts of which the clock is none have no signal in it.
        unknown: why it is none of these, by prompt.
    """

    instance: Instance
    unknown: Objections


def follow(
    instance: Instance, clock: Clock, also: Float[Array, "prompts outputs"] | None = None
) -> Following:
    """A problem under a clock, which may be none of some prompts: the others have answers.

    Args:
        instance: the problem.
        clock: what is followed.
        also: rewards of which some may take the place of the present ones later.

    Raises:
        ValueError: if it is none of all prompts, or of one that shares parameters with others.
    """
    unknown = instance.objections(clock, also)
    if not isinstance(instance.policy, Tabular) or len(unknown) == len(instance.rewards):
        unknown = {}  # what cannot be left out is refused
    if unknown:
        silent = jnp.isin(jnp.arange(len(instance.rewards)), jnp.asarray(list(unknown)))[:, None]
        variances = instance.reward_variances
        changed = [jnp.where(silent, 0.0, instance.rewards)]
        changed += [] if variances is None else [jnp.where(silent, 0.0, variances)]
        instance = eqx.tree_at(
            lambda i: [i.rewards] + ([] if variances is None else [i.reward_variances]), instance, changed
        )
        also = None if also is None else jnp.where(silent, 0.0, also)
    return Following(instance.following(clock, also), unknown)


def told(unknown: Objections, names: Sequence[str] | None = None) -> list[str]:
    """Why prompts are not answered for, a line for each reason.

    Args:
        unknown: the reasons, by prompt.
        names: of the prompts; their numbers if not given.
    """
    lines = []
    for why in dict.fromkeys(unknown.values()):
        prompts = [f"{x}" if names is None else names[x] for x, reason in unknown.items() if reason == why]
        said = f"prompt{'s' * (len(prompts) > 1)} {listed(prompts, _NAMED)}"
        lines.append(f"{said}: not known, for the rewards {why}.")
    return lines


_NAMED = 5  # prompts, at most
