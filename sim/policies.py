"""Policies: from parameters to the logits of every output, exactly and by enumeration."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.validation import Numbers, as_array, jax_array, scalar

_GAUSS_NODE = math.sqrt(3.0) / 6.0  # from the middle of an interval of length one
_LITTLE = 1e-3  # in logits, up to which that rule is exact to rounding
RANK_TOLERANCE = 1e-10  # relative; weights span 1e12, of which singular values see the root


class Policy(eqx.Module):
    """A softmax policy over finitely many outputs per prompt.

    A subclass says how parameters become logits; what follows from that by the chain rule is here.
    """

    @abc.abstractmethod
    def logits(self, parameters: Float[Array, "..."]) -> Float[Array, "prompts outputs"]:
        """Unnormalised log-probabilities of every output of every prompt."""

    @property
    def length(self) -> int:
        """How many tokens an output has: one, unless the policy is autoregressive."""
        return 1

    def jacobian_norms(self, parameters: Float[Array, "..."]) -> Float[Array, "prompts prefixes"]:
        """Spectral norm of the Jacobian of the next token's logits, for every prompt and prefix.

        The norm of ``d f / d theta`` in arXiv:2503.15477, Proposition 2. With outputs of one token there is
        one prefix, the empty one. Features of outputs that do not exist are zero in an instance and do
        not count.
        """
        return spectral_norms(self._jacobian(parameters))[:, None]

    def _jacobian(self, parameters: Array) -> Float[Array, "prompts outputs parameters"]:
        shape = jax.eval_shape(self.logits, parameters).shape
        mode = jax.jacfwd if parameters.size < math.prod(shape) else jax.jacrev
        return mode(self.logits)(parameters).reshape(*shape, -1)

    def pullback(
        self, parameters: Float[Array, "..."], logit_gradient: Float[Array, "prompts outputs"]
    ) -> Float[Array, "..."]:
        """The parameter gradient of a function whose gradient with respect to the logits is given."""
        return jax.vjp(self.logits, parameters)[1](logit_gradient)[0]

    def pushforward(
        self, parameters: Float[Array, "..."], velocity: Float[Array, "..."]
    ) -> Float[Array, "prompts outputs"]:
        """The velocity of the logits when the parameters move with the given velocity."""
        return jax.jvp(self.logits, (parameters,), (velocity,))[1]

    def displacement(
        self, parameters: Float[Array, "..."], displacement: Float[Array, "..."]
    ) -> Float[Array, "prompts outputs"]:
        """By how much the logits change when the parameters move by a displacement, however small."""
        change = self.logits(parameters + displacement) - self.logits(parameters)
        # The integral of the velocity on the way, by Gauss's rule of two points, where a difference cancels.
        halves = [
            0.5 * self.pushforward(parameters + (0.5 + node) * displacement, displacement)
            for node in (-_GAUSS_NODE, _GAUSS_NODE)
        ]
        return jnp.where(jnp.abs(change).max() > _LITTLE, change, sum(halves))

    def natural_direction(
        self,
        parameters: Float[Array, "..."],
        advantages: Float[Array, "prompts outputs"],
        probabilities: Float[Array, "prompts outputs"],
        weights: Float[Array, "prompts outputs"],
    ) -> Float[Array, "..."]:
        """The pseudo-inverse Fisher matrix applied to the policy gradient.

        It is the smallest solution of the compatible-features regression of the advantages on the
        scores (Kakade 2001), solved on the square root of the Fisher matrix so that its condition
        number is not squared.

        Args:
            parameters: of the policy.
            advantages: zero where an output does not exist.
            probabilities: of the policy, about which the scores are centred.
            weights: of the outputs in the regression, zero where an output does not exist.
        """
        jacobian = self._jacobian(parameters)
        scores = jacobian - jnp.einsum("xy,xyd->xd", probabilities, jacobian)[:, None]
        scale = jnp.sqrt(weights)
        rows = (scale[..., None] * scores).reshape(-1, jacobian.shape[-1])
        solution = jnp.linalg.lstsq(rows, (scale * advantages).ravel(), rcond=RANK_TOLERANCE)[0]
        return solution.reshape(parameters.shape)


class Tabular(Policy):
    """A logit of its own for every output of every prompt: ``softmax(parameters)``."""

    def logits(self, parameters: Float[Array, "prompts outputs"]) -> Float[Array, "prompts outputs"]:
        """The parameters themselves."""
        return parameters

    def displacement(
        self, parameters: Float[Array, "prompts outputs"], displacement: Float[Array, "prompts outputs"]
    ) -> Float[Array, "prompts outputs"]:
        """That of the parameters."""
        return displacement

    def jacobian_norms(self, parameters: Float[Array, "prompts outputs"]) -> Float[Array, "prompts prefixes"]:
        """One."""
        return jnp.ones((len(parameters), 1))

    def natural_direction(
        self,
        parameters: Float[Array, "prompts outputs"],
        advantages: Float[Array, "prompts outputs"],
        probabilities: Float[Array, "prompts outputs"],
        weights: Float[Array, "prompts outputs"],
    ) -> Float[Array, "prompts outputs"]:
        """The advantages themselves."""
        return advantages


class LinearSoftmax(Policy):
    """Log-linear policy: logits ``features @ parameters / temperature``, parameters shared by all prompts."""

    features: Float[Array, "prompts outputs features"]
    temperature: Float[Array, ""]

    def __init__(self, features: Numbers, temperature: Numbers = 1.0):
        """Features, ``[prompts, outputs, features]``, and a positive temperature.

        Raises:
            ValueError: if they are none; in messages, ``output_features``.
        """
        array = as_array("output_features", features)
        if array.ndim != 3:
            raise ValueError(f"output_features has {array.ndim} levels of nesting; give 3")
        self.features = jax_array(array)
        self.temperature = jax_array(scalar("temperature", temperature, "positive"))

    def logits(self, parameters: Float[Array, " features"]) -> Float[Array, "prompts outputs"]:
        """Inner products of features and parameters over the temperature."""
        return self.features @ parameters / self.temperature

    def displacement(
        self, parameters: Float[Array, " features"], displacement: Float[Array, " features"]
    ) -> Float[Array, "prompts outputs"]:
        """Inner products of features and the displacement over the temperature."""
        return self.logits(displacement)

    def jacobian_norms(self, parameters: Float[Array, " features"]) -> Float[Array, "prompts prefixes"]:
        """Spectral norms of the features over the temperature."""
        return spectral_norms(self.features / self.temperature)[:, None]


def spectral_norms(matrices: Float[Array, "*batch rows columns"]) -> Float[Array, "*batch"]:
    """The largest singular values."""
    return jnp.linalg.norm(matrices, ord=2, axis=(-2, -1))
