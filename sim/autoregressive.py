"""Autoregressive policies: distributions over every token sequence of a length, exact by enumeration.

``pi(y|x) = prod_l softmax(f(x, y_<l))[y_l]``. Outputs are in lexicographic order, that of
``itertools.product``; prefixes level by level, the empty one first, each level in the same order.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from goodteacher.sim.policies import RANK_TOLERANCE, Policy, spectral_norms

Whole = Any  # a whole number: whatever it is, it is validated and refused in plain words

LARGEST = 2**22  # prompts times outputs: 34 MB for an array of that many numbers
ARRAYS = 180  # of that size, that a hitting time takes at most (measured: table 35, linear 80, MLP 175)
_BATCH = 1024  # Jacobians at a time


@dataclass(frozen=True)
class Sequences:
    """For every prompt, every sequence of ``length`` tokens out of ``vocabulary``.

    Raises:
        ValueError: if a number is not whole or too small, or if there are more than :data:`LARGEST`
            sequences for all prompts together.
    """

    prompts: Whole
    vocabulary: Whole
    length: Whole

    def __post_init__(self) -> None:
        """Validates the numbers."""
        for name, least in {"prompts": 1, "vocabulary": 2, "length": 1}.items():
            _check_whole(name, getattr(self, name), least, LARGEST)
        digits = math.log10(self.prompts) + self.length * math.log10(self.vocabulary)
        if digits > math.log10(LARGEST):
            raise ValueError(
                f"{self.vocabulary} ** {self.length} outputs for each of {self.prompts} prompts take "
                f"{_gigabytes(digits)} for their logits alone, and {_gigabytes(digits + math.log10(ARRAYS))} "
                f"for a hitting time; give at most {LARGEST} outputs in all"
            )

    @property
    def outputs(self) -> int:
        """How many there are for a prompt."""
        return self.vocabulary**self.length

    @property
    def prefixes(self) -> int:
        """How many proper prefixes, of lengths 0 to ``length - 1``."""
        return (self.outputs - 1) // (self.vocabulary - 1)

    def tokens(self) -> Int[np.ndarray, "outputs length"]:
        """The sequences."""
        return self._of(self.length)

    def prefix_tokens(self) -> tuple[Int[np.ndarray, "prefixes tokens"], Int[np.ndarray, " prefixes"]]:
        """The prefixes, filled up with -1 to ``length - 1`` tokens, and their lengths."""
        levels = [self._of(level) for level in range(self.length)]
        padded = [
            np.pad(of, ((0, 0), (0, self.length - 1 - of.shape[1])), constant_values=-1) for of in levels
        ]
        return np.concatenate(padded), np.repeat(np.arange(self.length), [len(of) for of in levels])

    def _of(self, length: int) -> np.ndarray:
        return np.indices((self.vocabulary,) * length).reshape(length, self.vocabulary**length).T


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and least <= value <= most):
        raise ValueError(f"{name} is {repr(value)[:40]}; give a whole number from {least} to {most}")


def _gigabytes(digits: float) -> str:
    """The memory of ``10 ** digits`` numbers."""
    exponent = digits + math.log10(8) - 9
    return f"{float(f'{10**exponent:.3g}'):,.10g} GB" if exponent < 9 else f"1e{exponent:.0f} GB"


class Autoregressive(Policy):
    """A policy that chooses token by token. Its parameters are one flat array.

    A subclass says how parameters become the logits of the next token after every prefix.
    """

    sequences: eqx.AbstractVar[Sequences]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many parameters there are."""

    @abc.abstractmethod
    def next_token_logits(
        self, parameters: Float[Array, " parameters"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """Unnormalised log-probabilities of the next token, for every prompt and prefix."""

    def next_token_jacobian(
        self, parameters: Float[Array, " parameters"], prompt: Int[Array, ""], prefix: Int[Array, ""]
    ) -> Float[Array, "vocabulary parameters"]:
        """Derivative of the logits of the next token, for the indices of a prompt and a prefix."""
        return jax.jacrev(lambda p: self.next_token_logits(p)[prompt, prefix])(parameters)

    @property
    def length(self) -> int:
        """How many tokens an output has."""
        return self.sequences.length

    def logits(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts outputs"]:
        """Log-probabilities of every sequence: those of its tokens added up."""
        log_p = jax.nn.log_softmax(self.next_token_logits(parameters))
        total = jnp.zeros((self.sequences.prompts, 1))
        for level in self._levels(log_p):
            total = (total[..., None] + level).reshape(len(total), -1)
        return total

    def jacobian_norms(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts prefixes"]:
        """Spectral norms of :meth:`next_token_jacobian`."""
        shape = self.sequences.prompts, self.sequences.prefixes

        def norm(at: Array) -> Array:
            return spectral_norms(self.next_token_jacobian(parameters, *jnp.unravel_index(at, shape)))

        return jax.lax.map(norm, jnp.arange(math.prod(shape)), batch_size=_BATCH).reshape(shape)

    def natural_direction(
        self,
        parameters: Float[Array, " parameters"],
        advantages: Float[Array, "prompts outputs"],
        probabilities: Float[Array, "prompts outputs"],
        weights: Float[Array, "prompts outputs"],
    ) -> Float[Array, " parameters"]:
        """The pseudo-inverse Fisher matrix applied to the policy gradient, in bounded memory.

        The score of a token has mean zero given its prefix, so scores at different positions are
        uncorrelated, and the regression on scores of sequences has the same normal equations as that of the
        expected advantage after each token, less that before it, on the scores of tokens. The rows of the
        latter are reduced to a triangle (QR), some prefixes at a time.
        """
        conditional = jax.nn.softmax(self.next_token_logits(parameters))
        after = self._backed_up(advantages, conditional)
        targets = after - (conditional * after).sum(-1, keepdims=True)
        scales = jnp.sqrt(self._backed_up(weights, jnp.ones_like(conditional)))
        shape, vocabulary = conditional.shape[:2], conditional.shape[2]

        def rows(at: Array) -> Array:
            prompt, prefix = jnp.unravel_index(jnp.minimum(at, math.prod(shape) - 1), shape)
            jacobian = self.next_token_jacobian(parameters, prompt, prefix)
            scores = jacobian - conditional[prompt, prefix] @ jacobian
            scale = jnp.where(at < math.prod(shape), scales[prompt, prefix], 0.0)
            return scale[:, None] * jnp.append(scores, targets[prompt, prefix][:, None], axis=1)

        def some(at: Array) -> Array:
            return jax.vmap(rows)(at).reshape(-1, self.size + 1)

        def absorb(triangle: Array, at: Array) -> tuple[Array, None]:
            return jnp.linalg.qr(jnp.concatenate([triangle, some(at)]), mode="r"), None

        # Twice as many rows as columns at a time, or all if there are not that many.
        parts = max(1, math.prod(shape) * vocabulary // (2 * (self.size + 1)))
        at = jnp.arange(parts * -(-math.prod(shape) // parts)).reshape(parts, -1)
        if parts == 1:
            system = some(at[0])
        else:
            system, _ = jax.lax.scan(absorb, jnp.zeros((self.size + 1, self.size + 1)), at)
        return jnp.linalg.lstsq(system[:, :-1], system[:, -1], rcond=RANK_TOLERANCE)[0]

    def _levels(self, values: Array) -> list[Array]:
        """What belongs to the prefixes of each length."""
        counts = [self.sequences.vocabulary**level for level in range(self.length)]
        return jnp.split(values, np.cumsum(counts)[:-1], axis=1)

    def _backed_up(
        self, values: Float[Array, "prompts outputs"], weights: Float[Array, "prompts prefixes vocabulary"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """For every token the sum over what may follow it, weighted by the weights of the tokens that do."""
        found = []
        for level in reversed(self._levels(weights)):
            values = values.reshape(level.shape)
            found.append(values)
            values = (level * values).sum(-1)
        return jnp.concatenate(found[::-1], axis=1)


class TokenTable(Autoregressive):
    """A logit of its own for every next token after every prefix of every prompt.

    Parameters are these logits ``[prompts, prefixes, vocabulary]``, flattened.
    """

    sequences: Sequences = eqx.field(static=True)

    @property
    def size(self) -> int:
        """One for each prompt, prefix and token."""
        return math.prod(self._shape)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.sequences.prompts, self.sequences.prefixes, self.sequences.vocabulary

    def next_token_logits(
        self, parameters: Float[Array, " parameters"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """The parameters themselves."""
        return parameters.reshape(self._shape)

    def jacobian_norms(self, parameters: Float[Array, " parameters"]) -> Float[Array, "prompts prefixes"]:
        """One."""
        return jnp.ones(self._shape[:2])

    def natural_direction(
        self,
        parameters: Float[Array, " parameters"],
        advantages: Float[Array, "prompts outputs"],
        probabilities: Float[Array, "prompts outputs"],
        weights: Float[Array, "prompts outputs"],
    ) -> Float[Array, " parameters"]:
        """The expected advantage after each token, centred for each prefix.

        The scores span all functions of mean zero, so that the regression is exact for any weights.
        """
        after = self._backed_up(advantages, jax.nn.softmax(self.next_token_logits(parameters)))
        return (after - after.mean(-1, keepdims=True)).ravel()


class TokenLinear(Autoregressive):
    """Logits of the next token ``features @ parameters``, parameters shared by all prefixes and prompts.

    Raises:
        ValueError: if the features have another shape.
    """

    sequences: Sequences = eqx.field(static=True)
    features: Float[Array, "prompts prefixes vocabulary features"]

    def __check_init__(self) -> None:
        """Validates the shape."""
        of = self.sequences
        shape = (of.prompts, of.prefixes, of.vocabulary)
        if self.features.ndim != 4 or self.features.shape[:3] != shape or self.size < 1:
            raise ValueError(
                f"features has shape {list(self.features.shape)}; give {[*shape, 'features']}: prompts, "
                "prefixes (the empty one first, then level by level), vocabulary, features"
            )

    @property
    def size(self) -> int:
        """The dimension of the features."""
        return self.features.shape[-1]

    def next_token_logits(
        self, parameters: Float[Array, " features"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """Inner products of features and parameters."""
        return self.features @ parameters

    def next_token_jacobian(
        self, parameters: Float[Array, " features"], prompt: Int[Array, ""], prefix: Int[Array, ""]
    ) -> Float[Array, "vocabulary features"]:
        """The features of the next tokens."""
        return self.features[prompt, prefix]


class TokenFunction(Autoregressive):
    """Logits of the next token by any differentiable function; see :func:`token_function`.

    Attributes:
        sequences: what it is over.
        apply: from parameters, a prompt's index, a prefix ``[length - 1]`` filled up with -1, and the
            prefix's length, to logits ``[vocabulary]``. Hashable.
        unravel: from the flat array to what ``apply`` takes.
        parameter_count: the length of the flat array.
    """

    sequences: Sequences = eqx.field(static=True)
    apply: Callable[..., Float[Array, " vocabulary"]] = eqx.field(static=True)
    unravel: Callable[[Array], Any] = eqx.field(static=True)
    parameter_count: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        """The length of the flat array."""
        return self.parameter_count

    def next_token_logits(
        self, parameters: Float[Array, " parameters"]
    ) -> Float[Array, "prompts prefixes vocabulary"]:
        """The function at every prompt and prefix."""
        of_prefixes = jax.vmap(self._token_logits, in_axes=(None, None, 0, 0))
        of_prompts = jax.vmap(of_prefixes, in_axes=(None, 0, None, None))
        prefixes = map(jnp.asarray, self.sequences.prefix_tokens())
        return of_prompts(parameters, jnp.arange(self.sequences.prompts), *prefixes)

    def next_token_jacobian(
        self, parameters: Float[Array, " parameters"], prompt: Int[Array, ""], prefix: Int[Array, ""]
    ) -> Float[Array, "vocabulary parameters"]:
        """By autodiff of the function at this prompt and prefix alone."""
        tokens, lengths = map(jnp.asarray, self.sequences.prefix_tokens())
        return jax.jacrev(self._token_logits)(parameters, prompt, tokens[prefix], lengths[prefix])

    def _token_logits(self, parameters: Array, *context: Array) -> Array:
        return self.apply(self.unravel(parameters), *context)


def token_function(
    sequences: Sequences, apply: Callable[..., Float[Array, " vocabulary"]], parameters: Any
) -> tuple[TokenFunction, Float[Array, " parameters"]]:
    """A policy of a next-token function of one's own, and its flat parameters.

    For many instances make one policy and use it for all of them.

    Args:
        sequences: what it is over.
        apply: see :class:`TokenFunction`.
        parameters: a pytree of arrays, of which ``apply`` is a differentiable function.

    Raises:
        ValueError: if ``apply`` does not return ``[vocabulary]`` logits.
    """
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), parameters))
    policy = TokenFunction(sequences, apply, unravel, flat.size)
    prefix = jnp.zeros(sequences.length - 1, int)
    found = jax.eval_shape(policy._token_logits, flat, jnp.zeros((), int), prefix, jnp.zeros((), int))
    shape = getattr(found, "shape", None)
    if shape != (sequences.vocabulary,):
        raise ValueError(
            f"apply returns {found} for a prefix; give an array of {sequences.vocabulary} logits, "
            "one per token of the vocabulary"
        )
    return policy, flat


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron shared by all prompts and prefixes, as ``apply`` of a :class:`TokenFunction`.

    Its input is one-hot: the prompt, the tokens of the prefix, and its length. Activations are tanh.

    Attributes:
        sequences: what the policy is over.
        width: of the hidden layers, up to 1000.
        depth: how many hidden layers, up to 10.

    Raises:
        ValueError: for another width or depth.
    """

    sequences: Sequences
    width: Whole
    depth: Whole

    def __post_init__(self) -> None:
        """Validates the numbers."""
        _check_whole("width", self.width, 1, 1000)
        _check_whole("depth", self.depth, 1, 10)

    def network(self, key: Array) -> eqx.nn.MLP:
        """With random weights."""
        of = self.sequences
        inputs = of.prompts + (of.length - 1) * of.vocabulary + of.length
        return eqx.nn.MLP(inputs, of.vocabulary, self.width, self.depth, activation=jnp.tanh, key=key)

    def __call__(
        self,
        weights: eqx.nn.MLP,
        prompt: Int[Array, ""],
        prefix: Int[Array, " tokens"],
        length: Int[Array, ""],
    ) -> Float[Array, " vocabulary"]:
        """Logits of the next token; ``weights`` are the network's arrays alone."""
        of = self.sequences
        structure = eqx.filter_eval_shape(self.network, jax.random.key(0))
        rest = eqx.filter(structure, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True)
        first, *later = eqx.combine(weights, rest).layers
        assert first.bias is not None
        # Apart, so that over all prompts and prefixes either part is computed once.
        by_prompt, by_prefix = jnp.split(first.weight, [of.prompts], axis=1)
        tokens = jax.nn.one_hot(prefix, of.vocabulary).ravel()
        hidden = by_prefix @ jnp.append(tokens, jax.nn.one_hot(length, of.length))
        hidden += by_prompt @ jax.nn.one_hot(prompt, of.prompts) + first.bias
        for layer in later:
            hidden = layer(jnp.tanh(hidden))
        return hidden


def token_mlp(
    sequences: Sequences, width: Whole, depth: Whole, key: Array
) -> tuple[TokenFunction, Float[Array, " parameters"]]:
    """The policy of an :class:`MLP`, and random flat parameters as equinox makes them.

    Raises:
        ValueError: as :class:`MLP`.
    """
    mlp = MLP(sequences, width, depth)
    return token_function(sequences, mlp, eqx.filter(mlp.network(key), eqx.is_array))
