"""The problem: prompts, outputs, rewards, a policy with its start and its reference, and regularisation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from goodteacher.sim.autoregressive import Autoregressive
from goodteacher.sim.policies import LinearSoftmax, Policy, Tabular

# A number, an array, or numbers nested in lists: whatever it is, it is validated and refused in plain words.
Numbers = Any

_NORMALIZATION_TOLERANCE = 1e-6  # how far given probabilities may be from summing to one
_ROUNDING = 1e-14  # what sums to one so closely is left as it is, so that files are read back exactly
_REALIZATION_TOLERANCE = 1e-9  # largest error of a probability that counts as realised by features


class Regularizer(eqx.Module):
    """Coefficients of reverse KL ``KL(pi || ref)``, forward ``KL(ref || pi)`` and entropy bonus."""

    kl: Float[Array, ""]
    forward_kl: Float[Array, ""]
    entropy: Float[Array, ""]


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
    """

    policy: Policy
    initial_parameters: Float[Array, "..."]
    rewards: Float[Array, "prompts outputs"]
    ground_truth_rewards: Float[Array, "prompts outputs"]
    reference_log_probabilities: Float[Array, "prompts outputs"]
    prompt_weights: Float[Array, " prompts"]
    regularizer: Regularizer | None
    mask: Bool[Array, "prompts outputs"] | None

    def __init__(
        self,
        rewards: Numbers,
        ground_truth_rewards: Numbers | None = None,
        *,
        initial_policy_probabilities: Numbers | None = None,
        initial_policy_weights: Numbers | None = None,
        output_features: Numbers | None = None,
        temperature: Numbers = 1.0,
        policy: Policy | None = None,
        reference_policy_logits: Numbers | None = None,
        kl_coefficient: Numbers = 0.0,
        forward_kl_coefficient: Numbers = 0.0,
        entropy_coefficient: Numbers = 0.0,
        prompt_weights: Numbers | None = None,
        mask: Numbers | None = None,
        nearest: bool = False,
    ):
        """Validates and completes a problem. A single prompt may be given without its axis.

        Args:
            rewards: proxy rewards, ``[prompts, outputs]``.
            ground_truth_rewards: same shape; the proxy itself if not given.
            initial_policy_probabilities: ``[prompts, outputs]``, positive, each row summing to one.
            initial_policy_weights: the initial parameters, instead of probabilities: ``[features]`` or
                ``[1, features]`` with features or a policy of one's own, else ``[prompts, outputs]``
                logits. With neither, the start is uniform.
            output_features: ``[prompts, outputs, features]``; makes the policy linear softmax, else tabular.
            temperature: of a linear softmax policy, positive.
            policy: any other policy (:mod:`goodteacher.sim.autoregressive`); needs
                ``initial_policy_weights``.
            reference_policy_logits: unnormalised log-probabilities of the reference, ``[prompts, outputs]``.
            kl_coefficient: of ``KL(pi || reference)``, not negative.
            forward_kl_coefficient: of ``KL(reference || pi)``, not negative.
            entropy_coefficient: of the entropy bonus, not negative.
            prompt_weights: ``[prompts]``, not negative; scaled to sum to one. Uniform if not given.
            mask: ``[prompts, outputs]``, true where an output exists; what stands elsewhere is ignored.
            nearest: accept features that cannot realise the given probabilities, and start from the
                least-squares fit to their logarithms.

        Raises:
            ValueError: naming the field, the value and the fix.
        """
        reward_array = _rows("rewards", rewards)
        if reward_array.shape[-1] < 2:
            raise ValueError(f"rewards has {reward_array.shape[-1]} output per prompt; give at least 2")
        if reward_array.shape[0] < 1:
            raise ValueError("rewards has no prompt; give at least one row")
        shape = reward_array.shape
        mask_array = None if mask is None else _mask(mask, shape)
        exists = np.ones(shape, bool) if mask_array is None else mask_array

        self.mask = None if mask_array is None else jnp.asarray(mask_array)
        self.rewards = jnp.where(exists, finite("rewards", reward_array, exists), 0.0)
        truth = reward_array
        if ground_truth_rewards is not None:
            truth = _rows("ground_truth_rewards", ground_truth_rewards, shape)
        self.ground_truth_rewards = jnp.where(exists, finite("ground_truth_rewards", truth, exists), 0.0)
        self.prompt_weights = _weights(prompt_weights, shape[0])
        coefficients = {
            "kl_coefficient": kl_coefficient,
            "forward_kl_coefficient": forward_kl_coefficient,
            "entropy_coefficient": entropy_coefficient,
        }
        scalars = [_scalar(name, value, "not negative") for name, value in coefficients.items()]
        # Of the arguments themselves: under jit even a constant becomes a tracer when it is made an array.
        absent = all(_is_concrete(value) and np.equal(value, 0.0) for value in coefficients.values())
        self.regularizer = None if absent else Regularizer(*scalars)

        if initial_policy_weights is not None and initial_policy_probabilities is not None:
            raise ValueError(
                "initial_policy_weights and initial_policy_probabilities are both given; give one"
            )
        if output_features is None:
            _scalar("temperature", temperature, "positive")
            if not (_is_concrete(temperature) and np.equal(temperature, 1.0)):
                raise ValueError(
                    "temperature is given without output_features; scale the tabular logits instead"
                )
        if policy is not None:
            if output_features is not None or initial_policy_weights is None:
                raise ValueError(
                    "policy needs initial_policy_weights and takes no output_features; give just these"
                )
            self.policy = policy
            self.initial_parameters = finite("initial_policy_weights", initial_policy_weights)
            if isinstance(policy, Autoregressive):
                self.initial_parameters = _flat(self.initial_parameters, policy.size, "policy has size")
            logits_shape = jax.eval_shape(policy.logits, self.initial_parameters).shape
            if logits_shape != shape:
                raise ValueError(
                    f"policy gives logits of shape {list(logits_shape)} but rewards has shape {list(shape)}"
                )
        elif output_features is not None:
            features = finite("output_features", output_features, ndim=3)
            if features.shape[:2] != shape or features.shape[2] < 1:
                raise ValueError(
                    f"output_features has shape {list(features.shape)} but rewards has shape {list(shape)}; "
                    "give [prompts, outputs, features]"
                )
            features = jnp.where(exists[..., None], features, 0.0)
            self.policy = LinearSoftmax(features, _scalar("temperature", temperature, "positive"))
            self.initial_parameters = self._linear_start(
                initial_policy_weights, initial_policy_probabilities, exists, nearest
            )
        else:
            self.policy = Tabular()
            self.initial_parameters = _tabular_start(
                initial_policy_weights, initial_policy_probabilities, exists
            )

        if reference_policy_logits is None:
            self.reference_log_probabilities = self.log_probabilities(self.initial_parameters)
        else:
            reference = _rows("reference_policy_logits", reference_policy_logits, shape)
            reference = jnp.where(exists, finite("reference_policy_logits", reference, exists), -jnp.inf)
            normalizer = jax.nn.logsumexp(reference, axis=-1, keepdims=True)
            normalized = jnp.abs(normalizer) <= _ROUNDING
            self.reference_log_probabilities = jnp.where(normalized, reference, jax.nn.log_softmax(reference))

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

    def _linear_start(
        self, weights: Any, probabilities: Any, exists: np.ndarray, nearest: bool
    ) -> Float[Array, " features"]:
        assert isinstance(self.policy, LinearSoftmax)
        features, temperature = self.policy.features, self.policy.temperature
        size = features.shape[-1]
        if weights is not None:
            return _flat(finite("initial_policy_weights", weights), size, "features have dimension")
        if probabilities is None:
            return jnp.zeros(size)
        target = _probabilities(probabilities, exists)
        # The published program solves features @ theta = ln p. Where that has no solution, a constant
        # per prompt, which no probability feels, may still give one.
        rows = (jnp.where(exists[..., None], features, 0.0) / temperature).reshape(-1, size)
        right = jnp.where(exists, jnp.log(jnp.where(exists, target, 1.0)), 0.0).ravel()
        parameters = jnp.linalg.lstsq(rows, right)[0]
        intercepts = jnp.repeat(jnp.eye(len(exists)), exists.shape[1], axis=0)
        with_intercepts = jnp.concatenate([rows, jnp.where(exists.reshape(-1, 1), intercepts, 0.0)], axis=1)
        shifted = jnp.linalg.lstsq(with_intercepts, right)[0][:size]

        def distance(candidate: Array) -> Array:
            return jnp.abs(self.probabilities(candidate) - jnp.where(exists, target, 0.0)).max()

        parameters = jnp.where(distance(parameters) <= _REALIZATION_TOLERANCE, parameters, shifted)
        gap = distance(parameters)
        if not nearest and _is_concrete(gap) and not gap <= _REALIZATION_TOLERANCE:
            raise ValueError(
                "initial_policy_probabilities cannot be realised by output_features: the nearest "
                f"policy (least squares in the logarithms) differs by {float(gap):.3g} in a probability; "
                "change either, or ask for the nearest (nearest=True, --nearest)"
            )
        return parameters


def _flat(weights: Array, size: int, requirement: str) -> Float[Array, " parameters"]:
    if weights.shape not in ((size,), (1, size)):
        raise ValueError(
            f"initial_policy_weights has shape {list(weights.shape)} but the {requirement} {size}; "
            f"give [[{size} numbers]]"
        )
    return weights.reshape(size)


def _tabular_start(weights: Any, probabilities: Any, exists: np.ndarray) -> Array:
    shape = exists.shape
    if weights is not None:
        logits = _rows("initial_policy_weights", weights, shape)
        return jnp.where(exists, finite("initial_policy_weights", logits, exists), 0.0)
    if probabilities is not None:
        target = _probabilities(probabilities, exists)
        return jnp.where(exists, jnp.log(jnp.where(exists, target, 1.0)), 0.0)
    return jnp.zeros(shape)


def _is_concrete(value: Any) -> bool:
    return not isinstance(value, Tracer)


def as_array(name: str, value: Any) -> Array:
    """An array of given numbers, finite or not.

    Raises:
        ValueError: naming the field, if it holds anything but numbers, or rows of different lengths.
    """
    if isinstance(value, jax.Array):
        return jnp.asarray(value, float)  # not weakly typed: that would compile everything anew
    try:
        array = np.asarray(value)
    except ValueError as error:
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
            return jnp.asarray(value, float)
        raise ValueError(
            f"{name} has rows of different lengths or nesting; pad the rows to one length and give a mask"
        ) from error
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(value, float)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold numbers only, nested as lists; it has {_offender(value)}")
    return jnp.asarray(array, float)


def _offender(value: Any) -> str:
    while isinstance(value, list | tuple) and value:
        value = next((v for v in value if not isinstance(v, int | float)), value[0])
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _rows(name: str, value: Any, shape: tuple[int, ...] | None = None) -> Array:
    array = as_array(name, value)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} levels of nesting; give 2: a list of outputs per prompt")
    if shape is not None and array.shape != shape:
        raise ValueError(
            f"{name} has shape {list(array.shape)} but rewards has shape {list(shape)}; make them equal"
        )
    return array


def finite(name: str, value: Any, exists: np.ndarray | None = None, ndim: int | None = None) -> Array:
    """An array of given numbers.

    Args:
        name: of the field, for the error.
        value: an array, or numbers nested in lists.
        exists: where they count; everywhere if not given.
        ndim: how many dimensions it must have.

    Raises:
        ValueError: if it holds anything but numbers, rows of different lengths, or a number that counts and
            is not finite.
    """
    array = as_array(name, value)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} has {array.ndim} levels of nesting; give {ndim}")
    if _is_concrete(array):
        bad = ~np.isfinite(np.asarray(array))
        if exists is not None:
            bad &= exists
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            place = "".join(f"[{i}]" for i in index)
            raise ValueError(f"{name}{place} is {float(array[index])}; give finite numbers")
    return array


def _scalar(name: str, value: Any, requirement: str) -> Array:
    scalar = finite(name, value)
    if scalar.ndim != 0:
        raise ValueError(f"{name} has shape {list(scalar.shape)}; give one number")
    if _is_concrete(scalar) and (scalar < 0 or (requirement == "positive" and scalar == 0)):
        raise ValueError(f"{name} is {float(scalar)}; it must be {requirement}")
    return scalar


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


def _weights(value: Any, prompts: int) -> Array:
    if value is None:
        return jnp.full(prompts, 1.0 / prompts, float)
    weights = finite("prompt_weights", value)
    if weights.shape != (prompts,):
        raise ValueError(
            f"prompt_weights has shape {list(weights.shape)} but there are {prompts} prompts; give one each"
        )
    if _is_concrete(weights) and (weights.min() < 0 or weights.sum() <= 0):
        raise ValueError(
            f"prompt_weights has minimum {float(weights.min())} and sum {float(weights.sum())}; "
            "give numbers that are not negative and not all zero"
        )
    total = weights.sum()
    return jnp.where(jnp.abs(total - 1.0) <= _ROUNDING, weights, weights / total)


def _probabilities(value: Any, exists: np.ndarray) -> Array:
    name = "initial_policy_probabilities"
    rows = finite(name, _rows(name, value, exists.shape), exists)
    if _is_concrete(rows):
        bad = exists & (np.asarray(rows) <= 0)
        if bad.any():
            x, y = (int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{name}[{x}][{y}] is {float(rows[x, y])}; a softmax policy gives every output a positive "
                "probability (mask an output out if it does not exist)"
            )
        with np.errstate(over="ignore"):
            sums = np.where(exists, np.asarray(rows), 0.0).sum(-1)
        wrong = np.flatnonzero(np.abs(sums - 1) > _NORMALIZATION_TOLERANCE)
        if wrong.size:
            raise ValueError(f"{name}[{wrong[0]}] sums to {sums[wrong[0]]:.9g}; make it sum to 1")
    present = jnp.where(exists, rows, 0.0)
    return present / present.sum(-1, keepdims=True)
