"""Small networks over the images of a prompt, as policies, as scores, and along their tangent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.experiments.miniature.digits import PIXELS
from goodteacher.sim.autoregressive import Autoregressive, Sequences
from goodteacher.sim.policies import Policy


class ImageNetwork(Autoregressive):
    """One hidden layer of tanh over the pixels, and a logit for every next token after every prefix.

    Parameters are both layers' weights and biases, flat: that of the hidden layer first.

    Attributes:
        images: what the prompts show.
        sequences: of the answers: one token of a hundred, or two of ten.
        width: of the hidden layer.
    """

    images: Float[Array, "prompts pixels"]
    sequences: Sequences = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def _heads(self) -> int:
        return self.sequences.prefixes * self.sequences.vocabulary

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return (self.images.shape[-1] + 1) * self.width + (self.width + 1) * self._heads

    def initial(self, numbers: Float[Array, " numbers"]) -> Float[Array, " parameters"]:
        """Weights of variance one over the number of inputs, from normal numbers; biases are zero."""
        (first, first_bias), (second, second_bias) = self._layers(numbers)
        scaled = first * self.images.shape[-1] ** -0.5, second * self.width**-0.5
        return _flat(scaled[0], 0.0 * first_bias, scaled[1], 0.0 * second_bias)

    def _layers(self, parameters: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        pixels, width, heads = self.images.shape[-1], self.width, self._heads
        ends = [pixels * width, (pixels + 1) * width, (pixels + 1 + heads) * width]
        first, first_bias, second, second_bias = jnp.split(parameters, ends)
        return (first.reshape(pixels, width), first_bias), (second.reshape(width, heads), second_bias)

    def _hidden(self, parameters: Array) -> Float[Array, "prompts width"]:
        weights, bias = self._layers(parameters)[0]
        return jnp.tanh(self.images @ weights + bias)

    def next_token_logits(
        self, parameters: Float[Array, " parameters"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """Of the network."""
        weights, bias = self._layers(parameters)[1]
        logits = self._hidden(parameters) @ weights + bias
        return logits.reshape(-1, self.sequences.prefixes, self.sequences.vocabulary)

    def logits(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts outputs"]:
        """As of any such policy; of a single token those of the network, not normalised."""
        if self.length == 1:
            return self.next_token_logits(parameters)[:, 0]
        return super().logits(parameters)

    def jacobian_norms(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts prefixes"]:
        """Spectral norms of the Jacobian of the next token's logits, by its Gram matrix.

        With ``h`` the hidden layer and ``x`` the pixels it is ``(1 + |h|^2) I + (1 + |x|^2) W D^2 W^T``, of
        which ``W`` are the rows of the second layer that belong to the prefix and ``D = diag(1 - h^2)``.
        """
        hidden, weights = self._hidden(parameters), self._layers(parameters)[1][0]
        weights = weights.reshape(self.width, self.sequences.prefixes, self.sequences.vocabulary)
        through = jnp.einsum("xh,hpv->xphv", 1.0 - hidden**2, weights)
        largest = jnp.linalg.eigvalsh(through @ through.mT)[..., -1]
        of_input, of_hidden = ((1.0 + (each**2).sum(-1))[:, None] for each in (self.images, hidden))
        return jnp.sqrt(of_hidden + of_input * largest)

    def sharpened(
        self, parameters: Float[Array, " parameters"], by: ArrayLike
    ) -> Float[Array, " parameters"]:
        """Parameters of a policy whose logits are ``by`` times as large."""
        first = (self.images.shape[-1] + 1) * self.width
        return jnp.where(jnp.arange(self.size) < first, parameters, jnp.asarray(by) * parameters)


class Tangent(Policy):
    """A policy linear in its parameters about those of another one: its neural tangent kernel, exactly.

    Parameters are displacements of those of the other policy.

    Attributes:
        of: the policy.
        about: its parameters.
        start: log-probabilities without a displacement; those of a model policy, too.
    """

    of: Policy
    about: Float[Array, " parameters"]
    start: Float[Array, "prompts outputs"]

    def logits(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts outputs"]:
        """Those at the start and the velocity that a displacement gives."""
        return self.start + self.of.pushforward(self.about, parameters)


class Alone(Policy):
    """Prompts that do nothing to each other, linear in parameters of their own.

    Attributes:
        start: log-probabilities without a displacement.
        roots: of each prompt; the logits move by its product with the prompt's row of parameters.
    """

    start: Float[Array, "prompts outputs"]
    roots: Float[Array, "prompts outputs outputs"]

    def logits(self, parameters: Float[Array, "prompts outputs"]) -> Float[Array, "prompts outputs"]:
        """Those at the start and what the parameters add."""
        return self.start + jnp.einsum("xyz,xz->xy", self.roots, parameters)


class SplitTable(Policy):
    """A logit of its own for every output of every prompt: nothing is shared.

    Parameters are the logits of all splits, ``[splits, prompts, outputs]``, of which one is seen.

    Attributes:
        split: that one.
    """

    split: int = eqx.field(static=True)

    def logits(self, parameters: Float[Array, "splits prompts outputs"]) -> Float[Array, "prompts outputs"]:
        """Those of the split."""
        return parameters[self.split]

    def jacobian_norms(
        self, parameters: Float[Array, "splits prompts outputs"]
    ) -> Float[Array, "prompts prefixes"]:
        """One."""
        return jnp.ones((parameters.shape[1], 1))


@dataclass(frozen=True)
class Networks:
    """Policies that are a network over the images, which all prompts share.

    Attributes:
        tokens: 1 for a softmax over all answers, 2 for a policy that says one digit after the other.
        width: of the hidden layer.
    """

    tokens: int = 1
    width: int = 16

    def network(self, images: Float[Array, "prompts pixels"]) -> ImageNetwork:
        """What is fitted with supervision, over some prompts."""
        return network(images, self.tokens, self.width)

    def policy(self, images: Float[Array, "splits prompts pixels"], split: int) -> Policy:
        """What is trained on rewards, over the prompts of a split."""
        return self.network(images[split])

    def start(
        self, images: Float[Array, "splits prompts pixels"], fitted: Float[Array, " parameters"]
    ) -> Float[Array, "..."]:
        """Its initial parameters, from those of the fitted network."""
        return fitted

    def alone(
        self, images: Float[Array, "splits prompts pixels"], split: int, about: Float[Array, "..."]
    ) -> Alone:
        """Linearised, without what prompts do to each other: the diagonal blocks of the tangent kernel.

        Args:
            images: of all prompts.
            split: of which.
            about: parameters.
        """

        def root(image: Array) -> tuple[Array, Array]:
            policy = self.network(image[None])
            jacobian = jax.jacrev(policy.logits)(about)[0]
            values, vectors = jnp.linalg.eigh(jacobian @ jacobian.T)
            return jax.nn.log_softmax(policy.logits(about)[0]), vectors * jnp.sqrt(jnp.maximum(values, 0.0))

        return Alone(*jax.lax.map(root, images[split]))


@dataclass(frozen=True)
class Tables(Networks):
    """A table that starts where the fitted network is: the same policy, but prompts share nothing."""

    def policy(self, images: Float[Array, "splits prompts pixels"], split: int) -> Policy:
        """The table of a split."""
        return SplitTable(split)

    def start(
        self, images: Float[Array, "splits prompts pixels"], fitted: Float[Array, " parameters"]
    ) -> Float[Array, "splits prompts outputs"]:
        """What the network says of all prompts."""
        return jnp.stack([jax.nn.log_softmax(self.network(of).logits(fitted)) for of in images])

    def alone(
        self,
        images: Float[Array, "splits prompts pixels"],
        split: int,
        about: Float[Array, "splits prompts outputs"],
    ) -> Alone:
        """As it is: prompts do nothing to each other."""
        prompts, outputs = about.shape[1:]
        return Alone(about[split], jnp.broadcast_to(jnp.eye(outputs), (prompts, outputs, outputs)))


def _flat(*arrays: Array) -> Array:
    return jnp.concatenate([each.ravel() for each in arrays])


def network(images: Float[Array, "prompts pixels"], tokens: int, width: int) -> ImageNetwork:
    """A policy over a hundred answers.

    Args:
        images: of the prompts.
        tokens: 1 or 2 of an answer.
        width: of the hidden layer.

    Raises:
        ValueError: for another number of tokens, or a width below 1.
    """
    if tokens not in (1, 2):
        raise ValueError(f"tokens is {tokens}; give 1, for a hundred answers at once, or 2, for two digits")
    if width < 1:
        raise ValueError(f"width is {width}; give at least 1")
    sequences = Sequences(images.shape[-2], {1: 100, 2: 10}[tokens], tokens)
    return ImageNetwork(images=images, sequences=sequences, width=width)


def initial_size(kind: Networks) -> int:
    """How many parameters a network over pairs of digits has."""
    return kind.network(jnp.zeros((1, 2 * PIXELS))).size


def supervised(
    policy: ImageNetwork,
    labels: Int[Array, " prompts"],
    weights: Float[Array, " parameters"],
    updates: int,
    learning_rate: float = 0.01,
) -> Float[Array, " parameters"]:
    """Fitted to labels by maximum likelihood, with Adam from random weights.

    Args:
        policy: its images are those of the labels.
        labels: an answer for each prompt.
        weights: normal numbers that become the initial ones.
        updates: of Adam.
        learning_rate: of Adam.
    """

    def loss(parameters: Array) -> Array:
        log_p = jax.nn.log_softmax(policy.logits(parameters))
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()

    return minimised(loss, policy.initial(weights), updates, optax.adam(learning_rate))


def minimised(
    loss: Callable[[Float[Array, " parameters"]], Float[Array, ""]],
    start: Float[Array, " parameters"],
    updates: int,
    transformation: optax.GradientTransformation,
) -> Float[Array, " parameters"]:
    """Parameters after so many updates down a loss."""

    def update(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state = carry
        step, state = transformation.update(jax.grad(loss)(parameters), state, parameters)
        return (jnp.asarray(optax.apply_updates(parameters, step)), state), None

    return jax.lax.scan(update, (start, transformation.init(start)), None, updates)[0][0]
