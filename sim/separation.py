"""Prompts of solvable instances, each as a problem by itself: outputs with logits of their own.

These are tabular policies, and linear ones of features that are orthogonal, but for outputs of a prompt that
share one; nothing regularises them. Every array of an instance has a leading axis, of a batch.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from goodteacher.sim.clocks import Clocked, Enumerated, Natural, see
from goodteacher.sim.instance import Instance
from goodteacher.sim.lines import Lines, lines
from goodteacher.sim.loops import fixed
from goodteacher.sim.policies import LinearSoftmax, Tabular
from goodteacher.sim.validation import AnyArray, is_concrete, namespace

_ABSENT = -1e4  # logit of an output that does not exist, under the largest
_MOST_UNEQUAL, _MOST_INERTIA = 16.0, 64.0  # up to which the quadrature is right to 1e-11


class Sharing(NamedTuple):
    """How outputs of linear policies share orthogonal features: as one output that has their mass.

    Attributes:
        same: whether two outputs of a prompt have one feature.
        first: the first output with the same feature; no output that does not exist.
        largest: squared norm of the longest feature of each prompt.
        inertia: that over those of all features; ``None`` if they are the same.
    """

    same: Bool[np.ndarray, "n prompts outputs outputs"]
    first: Int[np.ndarray, "n prompts outputs"]
    largest: Float[np.ndarray, "n prompts"]
    inertia: Float[np.ndarray, "n prompts outputs"] | None


def is_solvable(instance: Instance) -> bool:
    """Whether the flow of an instance, or of a batch, has a solution by quadrature.

    Of features that are traced it is not known.
    """
    if isinstance(instance.clock, Natural):
        return True  # in closed form, or refused
    if instance.regularizer is not None or isinstance(instance.clock, Enumerated):
        return False
    match instance.policy:
        case Tabular():
            return True
        case LinearSoftmax(features=features):
            return is_concrete(features, instance.mask) and _orthogonal(instance)
        case _:
            return False


def _orthogonal(instance: Instance) -> bool:
    """Whether features of a prompt are orthogonal or the same, of similar norms, and those of two apart."""
    sharing, features = _sharing(instance), np.asarray(_linear(instance).features)
    rows = features.reshape(*features.shape[:-3], -1, features.shape[-1])
    products = np.abs(rows @ np.swapaxes(rows, -1, -2))
    *batch, prompts, outputs, _ = features.shape
    blocks = products.reshape(*batch, prompts, outputs, prompts, outputs)
    for prompt in range(prompts):
        blocks[..., prompt, :, prompt, :][sharing.same[..., prompt, :, :]] = 0.0
    similar = sharing.inertia is None or (
        (sharing.inertia <= _MOST_UNEQUAL).all() and (sharing.inertia.sum(-1) <= _MOST_INERTIA).all()
    )
    return bool((products == 0.0).all() and (sharing.largest > 0).all() and similar)


def sharing(instances: Instance) -> Sharing | None:
    """How a batch of solvable instances shares features; ``None`` if it has none."""
    if not isinstance(instances.policy, LinearSoftmax):
        return None
    return _sharing(instances)


def _sharing(instance: Instance) -> Sharing:
    features = np.asarray(_linear(instance).features)
    exists = np.ones(features.shape[:-1], bool) if instance.mask is None else np.asarray(instance.mask)
    same = (features[..., :, None, :] == features[..., None, :, :]).all(-1)
    same &= exists[..., :, None] & exists[..., None, :]
    same |= np.eye(features.shape[-2], dtype=bool)
    squares = (features**2).sum(-1)
    largest = squares.max(-1, keepdims=True, where=exists, initial=0.0)
    with np.errstate(all="ignore"):
        inertia = np.where(exists, largest / squares, 1.0)
    return Sharing(same, same.argmax(-1), largest[..., 0], None if (inertia == 1.0).all() else inertia)


def _linear(instance: Instance) -> LinearSoftmax:
    assert isinstance(instance.policy, LinearSoftmax)
    return instance.policy


class Prompts(NamedTuple):
    """Prompts of all problems, one by one: outputs first, prompts last.

    Attributes:
        logits: as in :class:`goodteacher.sim.lines.Lines`.
        rewards: likewise.
        inertia: likewise.
        exists: whether there is such an output.
        weight: the speed of the prompt's clock.
        clocked: as in :class:`goodteacher.sim.lines.Lines`.
    """

    logits: Float[AnyArray, "outputs n"]
    rewards: Float[AnyArray, "outputs n"]
    inertia: Float[AnyArray, "outputs n"] | None
    exists: Bool[AnyArray, "outputs n"]
    weight: Float[AnyArray, " n"]
    clocked: Clocked | None


def envelopes(prompts: Prompts) -> Lines:
    """Their flows as lines."""
    return lines(prompts.logits, prompts.rewards, prompts.inertia)._replace(clocked=prompts.clocked)


def outputs_first(of: AnyArray) -> AnyArray:
    """Arrays ``[n, prompts, outputs]`` as ``[outputs, n * prompts]``."""
    return of.reshape(-1, of.shape[-1]).T


def _prompts_first(of: AnyArray, count: int) -> AnyArray:
    return of.T.reshape(count, -1, len(of))


def _logits(instances: Instance) -> AnyArray:
    """Where the flows start, finite for outputs that do not exist."""
    policy, parameters = instances.policy, instances.initial_parameters
    if not isinstance(policy, LinearSoftmax):
        return parameters
    xp = namespace(policy.features, parameters)
    return xp.einsum("nxyd,nd->nxy", policy.features, parameters) / policy.temperature[:, None, None]


def _offset(instances: Instance) -> AnyArray:
    """A constant for each prompt to take off its logits that leaves their differences as they are."""
    logits = _logits(instances)
    xp = namespace(logits, instances.mask)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, -xp.inf)
    return fixed(xp.round(logits.max(-1)))


def together(values: AnyArray, shared: Sharing | None) -> AnyArray:
    """The mean of outputs that share a feature."""
    if shared is None:
        return values
    xp = namespace(values)
    return xp.einsum("nxyz,nxz->nxy", shared.same * 1.0, values) / shared.same.sum(-1)


def _each(masses: AnyArray, shared: Sharing | None) -> AnyArray:
    """The logarithm of the mass of each of the outputs that share a feature, from that of all of them."""
    if shared is None:
        return masses
    xp = namespace(masses)
    return xp.take_along_axis(masses, shared.first, -1) - xp.log(shared.same.sum(-1) * 1.0)


def separate(instances: Instance, shared: Sharing | None) -> Prompts:
    """All prompts of all problems of a batch."""
    xp = namespace(*jax.tree.leaves(instances))
    logits = _logits(instances) - _offset(instances)[..., None]
    exists = xp.ones(logits.shape, bool) if instances.mask is None else instances.mask
    rewards, weight, inertia = together(instances.rewards, shared), instances.prompt_weights, None
    if shared is not None:
        exists = exists & (shared.first == np.arange(logits.shape[-1]))
        logits = logits + xp.log(shared.same.sum(-1) * 1.0)
        weight = weight * shared.largest / _linear(instances).temperature[:, None] ** 2
        inertia = None if shared.inertia is None else outputs_first(shared.inertia)
    least = rewards.min(-1, keepdims=True, where=exists, initial=xp.inf)
    return Prompts(
        outputs_first(xp.where(exists, logits, _ABSENT)),
        outputs_first(xp.where(exists, rewards, least)),
        inertia,
        outputs_first(exists),
        weight.ravel(),
        _clocked(instances, shared),
    )


def _clocked(instances: Instance, shared: Sharing | None) -> Clocked | None:
    """The clocks of all prompts, and what they see: of outputs that share a feature, the mean."""
    if instances.clock is None:
        return None
    rewards, xp = instances.rewards, namespace(*jax.tree.leaves(instances))
    seen = see(rewards, instances.reward_variances, instances.mask)
    variances = seen.variances
    if shared is not None:
        mean = together(rewards, shared)
        within = together((rewards - mean) ** 2, shared)
        variances = within if variances is None else within + together(variances, shared)
        upper, lower = (together(of, shared) for of in (seen.upper, seen.lower))
        seen = seen._replace(rewards=mean, variances=variances, upper=upper, lower=lower)
    count, prompts, _ = rewards.shape

    def each(leaf: AnyArray) -> AnyArray:
        return xp.broadcast_to(leaf[:, None], (count, prompts)).ravel()

    clock = jax.tree.map(each, instances.clock)
    fields = {
        name: of.ravel() if name in ("least", "gap") else outputs_first(of)
        for name, of in seen._asdict().items()
        if of is not None
    }
    return Clocked(clock, seen._replace(**fields))


def log_probabilities(instances: Instance, masses: AnyArray, shared: Sharing | None) -> AnyArray:
    """Those of all outputs, from the logarithms of the masses, ``[outputs, n * prompts]``."""
    logits = _each(_prompts_first(masses, len(instances.rewards)), shared)
    xp = namespace(logits, instances.mask)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, -xp.inf)
    logits = logits - fixed(logits.max(-1, keepdims=True))
    return logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))


def parameters(instances: Instance, masses: AnyArray, shared: Sharing | None) -> AnyArray:
    """Those at which flows are, from the logarithms of their masses, ``[outputs, n * prompts]``."""
    xp = namespace(*jax.tree.leaves((instances, masses)))
    masses = _prompts_first(masses, len(instances.rewards))
    logits = _each(masses, shared) + _offset(instances)[..., None]
    start = _logits(instances)
    if instances.mask is not None:
        logits = xp.where(instances.mask, logits, start)
    if shared is None:
        return logits
    length = shared.largest[..., None] * shared.same.sum(-1)
    policy = _linear(instances)
    moved = policy.temperature[:, None, None] * (logits - start) / length
    moved = moved if shared.inertia is None else moved * shared.inertia
    return instances.initial_parameters + xp.einsum("nxy,nxyd->nd", moved, policy.features)
