"""The problem: prompts, outputs, rewards, a policy with its start and its reference, and regularisation."""

from collections import ChainMap
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from goodteacher.sim.autoregressive import Autoregressive
from goodteacher.sim.clocks import Clock, Gradient, Objections, Seen, see
from goodteacher.sim.policies import LinearSoftmax, Policy, Tabular
from goodteacher.sim.validation import (
    AnyArray,
    Numbers,
    as_array,
    finite,
    is_concrete,
    jax_array,
    namespace,
    rows,
    scalar,
)

_NORMALIZATION_TOLERANCE = 1e-6  # how far given probabilities may be from summing to one
_ROUNDING = 1e-14  # what sums to one so closely is left as it is, so that files are read back exactly
_REALIZATION_TOLERANCE = 1e-9  # largest error of a probability that counts as realised by features


class Regularizer(eqx.Module):
    """Coefficients of reverse KL ``KL(pi || ref)``, forward ``KL(ref || pi)`` and entropy bonus.

    None is negative. Under their names in instance files: ``kl_coefficient``, ``forward_kl_coefficient``,
    ``entropy_coefficient``.
    """

    kl: Float[Array, ""]
    forward_kl: Float[Array, ""]
    entropy: Float[Array, ""]

    def __init__(self, kl: Numbers = 0.0, forward_kl: Numbers = 0.0, entropy: Numbers = 0.0):
        """Validates the coefficients.

        Raises:
            ValueError: if one is negative, not finite or no number.
        """
        self.kl = jax_array(scalar("kl_coefficient", kl, "not negative"))
        self.forward_kl = jax_array(scalar("forward_kl_coefficient", forward_kl, "not negative"))
        self.entropy = jax_array(scalar("entropy_coefficient", entropy, "not negative"))


@dataclass(frozen=True)
class Probabilities:
    """A start at given probabilities.

    Attributes:
        values: ``[prompts, outputs]``, positive, each row summing to one.
        nearest: of a linear softmax policy whose features cannot realise them: start from the least-squares
            fit to their logarithms, instead of refusing them.
    """

    values: Numbers
    nearest: bool = False


@dataclass(frozen=True)
class Parameters:
    """A start at given parameters of the policy.

    Attributes:
        values: ``[prompts, outputs]`` logits of a tabular policy; ``[features]`` or ``[1, features]`` of a
            linear one; flat for any other.
    """

    values: Numbers


class Instance(eqx.Module):
    """A problem of policy gradient on finitely many prompts and outputs.

    Immutable and a pytree: ``jax.vmap`` of a function that makes one gives a batch of instances.
    Values are validated when they are concrete, shapes always.

    Attributes:
        policy: how parameters become logits.
        initial_parameters: where every dynamics starts; ``[prompts, outputs]`` for a tabular policy,
            ``[features]`` for a linear one, flat for an autoregressive one.
        rewards: the proxy that is trained on, ``[prompts, outputs]``.
        ground_truth_rewards: what one really wants, same shape.
        reference_log_probabilities: of the reference policy, same shape; by default of the initial one.
        prompt_weights: ``[prompts]``, sums to one.
        regularizer: ``None`` when all its coefficients are zero, so that its terms are not computed.
        mask: which outputs exist; ``None`` when all do.
        reward_variances: of outputs whose proxy reward is random, ``rewards`` being its mean, same shape;
            ``None`` when none is.
        clock: what follows the gradient of the rewards multiplies it by; ``None`` for the gradient itself.
    """

    policy: Policy
    initial_parameters: Float[Array, "..."]
    rewards: Float[Array, "prompts outputs"]
    ground_truth_rewards: Float[Array, "prompts outputs"]
    reference_log_probabilities: Float[Array, "prompts outputs"]
    prompt_weights: Float[Array, " prompts"]
    regularizer: Regularizer | None
    mask: Bool[Array, "prompts outputs"] | None
    reward_variances: Float[Array, "prompts outputs"] | None
    clock: Clock | None

    def __init__(
        self,
        rewards: Numbers,
        ground_truth_rewards: Numbers | None = None,
        start: Probabilities | Parameters | Numbers | None = None,
        *,
        policy: Policy | None = None,
        regularizer: Regularizer | None = None,
        reference_policy_logits: Numbers | None = None,
        prompt_weights: Numbers | None = None,
        mask: Numbers | None = None,
        reward_variances: Numbers | None = None,
        clock: Clock | None = None,
    ):
        """Validates and completes a problem. A single prompt may be given without its axis.

        ``Instance(rewards, truth, probabilities)`` is the common case: a tabular policy at given
        probabilities.

        Args:
            rewards: proxy rewards, ``[prompts, outputs]``.
            ground_truth_rewards: same shape; the proxy itself if not given.
            start: the initial policy, as :class:`Probabilities` (numbers alone are that) or
                :class:`Parameters`; uniform if not given. In messages, ``initial_policy_probabilities`` and
                ``initial_policy_weights``, as in instance files.
            policy: tabular if not given; a :class:`goodteacher.sim.policies.LinearSoftmax`; or any other
                (:mod:`goodteacher.sim.autoregressive`), which needs parameters to start from.
            regularizer: none if not given.
            reference_policy_logits: unnormalised log-probabilities of the reference, ``[prompts, outputs]``.
            prompt_weights: ``[prompts]``, not negative; scaled to sum to one. Uniform if not given.
            mask: ``[prompts, outputs]``, true where an output exists; what stands elsewhere is ignored.
            reward_variances: ``[prompts, outputs]``, of random proxy rewards; not negative.
            clock: what is followed (:mod:`goodteacher.sim.clocks`); the gradient if not given.

        Raises:
            ValueError: naming the field, the value and the fix.
        """
        proxy = rows("rewards", rewards)
        if proxy.shape[-1] < 2:
            raise ValueError(f"rewards has {proxy.shape[-1]} output per prompt; give at least 2")
        if proxy.shape[0] < 1:
            raise ValueError("rewards has no prompt; give at least one row")
        shape = proxy.shape
        present = None if mask is None else _mask(mask, shape)
        exists = np.ones(shape, bool) if present is None else present
        truth = proxy if ground_truth_rewards is None else ground_truth_rewards
        truth = rows("ground_truth_rewards", truth, shape)

        self.mask = None if present is None else jnp.asarray(present)
        self.rewards = jax_array(_where(exists, finite("rewards", proxy, exists), 0.0))
        self.ground_truth_rewards = jax_array(
            _where(exists, finite("ground_truth_rewards", truth, exists), 0.0)
        )
        self.reward_variances = _variances(reward_variances, shape, exists)
        self.prompt_weights = jax_array(_weights(prompt_weights, shape[0]))
        self.regularizer = regularizer if _regularizes(regularizer) else None

        if not (start is None or isinstance(start, Probabilities | Parameters)):
            start = Probabilities(start)
        match policy:
            case None | Tabular():
                self.policy, parameters = Tabular(), _tabular_start(start, exists)
            case LinearSoftmax():
                self.policy, parameters = _linear_start(policy, start, exists)
            case _:
                self.policy, parameters = policy, _parameters(policy, start)
                logits_shape = jax.eval_shape(policy.logits, parameters).shape
                if logits_shape != shape:
                    raise ValueError(
                        f"policy gives logits of shape {list(logits_shape)} but rewards has shape "
                        f"{list(shape)}"
                    )
        self.initial_parameters = jax_array(parameters)

        if reference_policy_logits is None:
            reference = _log_probabilities(self.policy, parameters, exists)
        else:
            given = rows("reference_policy_logits", reference_policy_logits, shape)
            reference = _normalized(_where(exists, finite("reference_policy_logits", given, exists), -np.inf))
        self.reference_log_probabilities = jax_array(reference)
        self.clock = _fitted_clock(clock, self.rewards, self.reward_variances, self.mask)

    def following(
        self, clock: Clock, also: Float[Array, "*batch prompts outputs"] | None = None
    ) -> "Instance":
        """The same problem, or batch of problems, under another clock.

        Args:
            clock: what is followed.
            also: rewards of which some may take the place of the present ones later.

        Raises:
            ValueError: if it is none with these rewards, as far as they are known.
        """
        fitted = _fitted_clock(clock, self.rewards, self.reward_variances, self.mask, also)
        batch = self.rewards.shape[:-2]
        fitted = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, batch) if batch else leaf, fitted)
        return eqx.tree_at(lambda i: i.clock, self, fitted, is_leaf=lambda leaf: leaf is None)

    def objections(
        self, clock: Clock, also: Float[Array, "*batch prompts outputs"] | None = None
    ) -> Objections:
        """Of which prompts, counted through a batch, a clock is none, and why; as :meth:`following`.

        The rewards must be known.
        """
        if isinstance(clock, Gradient):
            return {}
        every, exists = _seen(self.rewards, self.reward_variances, self.mask, also)
        return dict(ChainMap(*(dict(clock.objections(seen, exists)) for seen in every)))

    def logits(self, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
        """Logits of the policy, ``-inf`` where an output does not exist."""
        logits = self.policy.logits(parameters)
        return logits if self.mask is None else jnp.where(self.mask, logits, -jnp.inf)

    def log_probabilities(self, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
        """Log-probabilities of the policy, ``-inf`` where an output does not exist."""
        return jax.nn.log_softmax(self.logits(parameters))

    def probabilities(self, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
        """Probabilities of the policy, zero where an output does not exist."""
        return jax.nn.softmax(self.logits(parameters))


def verified(
    truth: Numbers, true_positive_rate: Numbers, false_positive_rate: Numbers, mask: Numbers | None = None
) -> tuple[Float[AnyArray, "prompts outputs"], Float[AnyArray, "prompts outputs"]]:
    """Means and variances of the rewards, 0 or 1, that a verifier which errs gives a truth of 0 and 1.

    Args:
        truth: ``[prompts, outputs]``.
        true_positive_rate: the probability that what is right is found right.
        false_positive_rate: the probability that what is wrong is found right.
        mask: which outputs exist; all if not given.

    Raises:
        ValueError: if a rate is not between 0 and 1, or the truth holds other values than 0 and 1.
    """
    rates = []
    for name, rate in zip(
        ("true_positive_rate", "false_positive_rate"), (true_positive_rate, false_positive_rate), strict=True
    ):
        number = scalar(name, rate, "not negative")
        if is_concrete(number) and number > 1:
            raise ValueError(f"{name} is {float(number):g}; give a probability between 0 and 1")
        rates.append(number)
    right = rows("ground_truth_rewards", truth)
    exists = np.ones(right.shape, bool) if mask is None else _mask(mask, right.shape)
    if is_concrete(right) and (bad := exists & (right != 0) & (right != 1)).any():
        x, y = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"ground_truth_rewards[{x}][{y}] is {float(right[x, y]):g}, and a verifier's rates are those of "
            "0 and 1; give these"
        )
    mean = namespace(right, *rates).where(right == 1, *rates)
    return mean, mean * (1.0 - mean)


def _where(exists: np.ndarray, values: Any, other: float) -> Any:
    return namespace(values).where(exists, values, other)


def _regularizes(regularizer: Regularizer | None) -> bool:
    if regularizer is None:
        return False
    coefficients = jax.tree.leaves(regularizer)
    return not (is_concrete(*coefficients) and all(float(c) == 0.0 for c in coefficients))


# Clocks ----------------------------------------------------------------------------


def _fitted_clock(
    clock: Clock | None, rewards: Any, variances: Any, mask: Any, also: Any = None
) -> Clock | None:
    if clock is None or isinstance(clock, Gradient):
        return None
    if is_concrete(rewards, variances, mask, also):
        every, exists = _seen(rewards, variances, mask, also)
        return [clock.fitted(seen, exists) for seen in every][-1]
    return clock


def _seen(rewards: Any, variances: Any, mask: Any, also: Any) -> tuple[list[Seen], np.ndarray]:
    """What a clock sees, of a row for each prompt, and which outputs exist.

    The last of it is of all rewards that may be there.
    """
    rewards, variances, mask, also = (
        None if of is None else np.asarray(of).reshape(-1, of.shape[-1])
        for of in (rewards, variances, mask, also)
    )
    exists = np.ones(rewards.shape, bool) if mask is None else mask
    seen = see(rewards, variances, exists)
    if also is None:
        return [seen], exists
    both = see(np.concatenate([rewards, also], -1), None, np.concatenate([exists, exists], -1))
    return [see(also, variances, exists), seen._replace(upper=both.upper)], exists


def _variances(value: Numbers | None, shape: tuple[int, ...], exists: np.ndarray) -> Any:
    if value is None:
        return None
    name = "reward_variances"
    given = _where(exists, finite(name, rows(name, value, shape), exists), 0.0)
    if is_concrete(given) and (given < 0).any():
        x, y = (int(i) for i in np.argwhere(given < 0)[0])
        raise ValueError(f"{name}[{x}][{y}] is {float(given[x, y]):g}; give numbers that are not negative")
    return jax_array(given)


# Starts ----------------------------------------------------------------------------


def _flat(weights: Any, size: int, requirement: str) -> Any:
    if weights.shape not in ((size,), (1, size)):
        raise ValueError(
            f"initial_policy_weights has shape {list(weights.shape)} but the {requirement} {size}; "
            f"give [[{size} numbers]]"
        )
    return weights.reshape(size)


def _tabular_start(start: Probabilities | Parameters | None, exists: np.ndarray) -> Any:
    match start:
        case None:
            return np.zeros(exists.shape)
        case Parameters():
            logits = rows("initial_policy_weights", start.values, exists.shape)
            return _where(exists, finite("initial_policy_weights", logits, exists), 0.0)
        case Probabilities():
            return _logarithms(_probabilities(start.values, exists), exists)


def _logarithms(probabilities: Any, exists: np.ndarray) -> Any:
    xp = namespace(probabilities)
    return xp.log(xp.where(exists, probabilities, 1.0))


def _parameters(policy: Policy, start: Probabilities | Parameters | None) -> Any:
    if not isinstance(start, Parameters):
        raise ValueError("policy needs initial_policy_weights to start from; give just these")
    weights = finite("initial_policy_weights", start.values)
    if isinstance(policy, Autoregressive):
        return _flat(weights, policy.size, "policy has size")
    return weights


def _linear_start(
    policy: LinearSoftmax, start: Probabilities | Parameters | None, exists: np.ndarray
) -> tuple[LinearSoftmax, Any]:
    """The policy without features of outputs that do not exist, and its initial parameters."""
    features = as_array("output_features", policy.features)
    if features.shape[:2] != exists.shape or features.shape[2] < 1:
        raise ValueError(
            f"output_features has shape {list(features.shape)} but rewards has shape {list(exists.shape)}; "
            "give [prompts, outputs, features]"
        )
    features = _where(exists[..., None], finite("output_features", features, exists[..., None]), 0.0)
    policy = LinearSoftmax(features, policy.temperature)
    size = features.shape[-1]
    match start:
        case None:
            return policy, np.zeros(size)
        case Parameters():
            given = finite("initial_policy_weights", start.values)
            weights = _flat(given, size, "features have dimension")
            if is_concrete(logits := _linear_logits(policy, weights)) and not np.isfinite(logits).all():
                raise ValueError(
                    "initial_policy_weights give logits that are not finite, with output_features and the "
                    f"temperature {float(policy.temperature):g}; give smaller weights or a higher temperature"
                )
            return policy, weights
        case Probabilities():
            return policy, _fitted(features, policy.temperature, start, exists)


def _fitted(features: Any, temperature: Any, start: Probabilities, exists: np.ndarray) -> Any:
    """Parameters of given probabilities."""
    target = _probabilities(start.values, exists)
    xp = namespace(features, temperature, target)
    size = features.shape[-1]
    # The published program solves features @ theta = ln p. Where that has no solution, a constant
    # per prompt, which no probability feels, may still give one.
    matrix = (features / xp.asarray(temperature)).reshape(-1, size)
    right = _logarithms(target, exists).ravel()
    plain = xp.linalg.lstsq(matrix, right)[0]
    intercepts = np.repeat(np.eye(len(exists)), exists.shape[1], axis=0) * exists.reshape(-1, 1)
    shifted = xp.linalg.lstsq(xp.concatenate([matrix, intercepts], axis=1), right)[0][:size]

    def distance(candidate: Any) -> Any:
        logits = _where(exists, (matrix @ candidate).reshape(exists.shape), -np.inf)
        return xp.abs(xp.exp(_log_softmax(logits)) - target).max()

    parameters = xp.where(distance(plain) <= _REALIZATION_TOLERANCE, plain, shifted)
    gap = distance(parameters)
    if not start.nearest and is_concrete(gap) and not gap <= _REALIZATION_TOLERANCE:
        raise ValueError(
            "initial_policy_probabilities cannot be realised by output_features: the nearest "
            f"policy (least squares in the logarithms) differs by {float(gap):.3g} in a probability; "
            "change either, or ask for the nearest"
        )
    return parameters


def _probabilities(value: Any, exists: np.ndarray) -> Any:
    """Rows that sum to one, zero where an output does not exist."""
    name = "initial_policy_probabilities"
    given = finite(name, rows(name, value, exists.shape), exists)
    if is_concrete(given):
        bad = exists & (given <= 0)
        if bad.any():
            x, y = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{name}[{x}][{y}] is {float(given[x, y])}; a softmax policy gives every output a positive "
                "probability (mask an output out if it does not exist)"
            )
        with np.errstate(over="ignore"):
            sums = np.where(exists, given, 0.0).sum(-1)
        wrong = np.flatnonzero(np.abs(sums - 1) > _NORMALIZATION_TOLERANCE)
        if wrong.size:
            raise ValueError(f"{name}[{wrong[0]}] sums to {sums[wrong[0]]:.9g}; make it sum to 1")
    present = _where(exists, given, 0.0)
    return present / present.sum(-1, keepdims=True)


# References ------------------------------------------------------------------------


def _log_softmax(logits: Any) -> Any:
    shifted, normalizer = _shifted(logits)
    return shifted - normalizer


def _shifted(logits: Any) -> tuple[Any, Any]:
    """Logits less their largest, and their normaliser."""
    xp = namespace(logits)
    with np.errstate(over="ignore", invalid="ignore"):  # far apart, or not finite
        shifted = logits - logits.max(-1, keepdims=True)
    return shifted, xp.log(xp.exp(shifted).sum(-1, keepdims=True))


def _linear_logits(policy: LinearSoftmax, parameters: Any) -> Any:
    xp = namespace(policy.features, policy.temperature, parameters)
    with np.errstate(over="ignore", invalid="ignore"):  # refused by who asks for them
        return xp.asarray(policy.features) @ parameters / xp.asarray(policy.temperature)


def _log_probabilities(policy: Policy, parameters: Any, exists: np.ndarray) -> Any:
    """Of a policy, ``-inf`` where an output does not exist."""
    match policy:
        case Tabular():
            logits = parameters
        case LinearSoftmax():
            logits = _linear_logits(policy, parameters)
        case _:
            logits = policy.logits(jax_array(parameters))
    return _log_softmax(_where(exists, logits, -np.inf))


def _normalized(logits: Any) -> Any:
    """Log-probabilities of unnormalised ones; those that are normalised are left as they are."""
    shifted, normalizer = _shifted(logits)
    xp = namespace(logits)
    normal = xp.abs(logits.max(-1, keepdims=True) + normalizer) <= _ROUNDING
    return xp.where(normal, logits, shifted - normalizer)


# Shapes and weights -----------------------------------------------------------------


def _mask(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        mask = np.asarray(value)
    except ValueError:
        mask = np.empty(0, object)
    if mask.ndim == 1 and shape[0] == 1:
        mask = mask[None]
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise ValueError("mask must hold only true and false, in rows of one length")
    mask = mask.astype(bool)
    if mask.shape != shape:
        raise ValueError(
            f"mask has shape {list(mask.shape)} but rewards has shape {list(shape)}; make them equal"
        )
    short = np.flatnonzero(mask.sum(-1) < 2)
    if short.size:
        raise ValueError(
            f"mask leaves prompt {short[0]} with {mask[short[0]].sum()} outputs; leave at least 2"
        )
    return mask


def _weights(value: Any, prompts: int) -> Any:
    if value is None:
        return np.full(prompts, 1.0 / prompts)
    weights = finite("prompt_weights", value)
    if weights.shape != (prompts,):
        raise ValueError(
            f"prompt_weights has shape {list(weights.shape)} but there are {prompts} prompts; give one each"
        )
    if is_concrete(weights) and (weights.min() < 0 or weights.sum() <= 0):
        raise ValueError(
            f"prompt_weights has minimum {float(weights.min())} and sum {float(weights.sum())}; "
            "give numbers that are not negative and not all zero"
        )
    total = weights.sum()
    xp = namespace(weights)
    return xp.where(xp.abs(total - 1.0) <= _ROUNDING, weights, weights / total)
