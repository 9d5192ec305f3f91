"""Random problems of autoregressive policies for statements: tables, linear next-token logits, and an MLP."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.autoregressive import Autoregressive, Sequences, TokenFunction, TokenLinear, token_mlp
from goodteacher.theory.draws import Source, random_logits, random_rewards

SEQUENCES = Sequences(prompts=2, vocabulary=2, length=3)
"""All sequences of which most of these problems are: of three tokens, after two prompts."""
OF_MORE_PROMPTS = Sequences(prompts=4, vocabulary=2, length=3)
"""The same after four prompts, for what is claimed of a mean over prompts."""
_FEW = 3  # features of a policy that is not a table


@cache
def mlp_policy(sequences: Sequences = SEQUENCES) -> TokenFunction:
    """A small neural network that gives the logits of the next token."""
    with jax.ensure_compile_time_eval():
        return token_mlp(sequences, width=3, depth=1, key=jax.random.key(0))[0]


def random_linear_policy(source: Source, sequences: Sequences = SEQUENCES) -> TokenLinear:
    """A table in a third of the draws; in another few features, shared by all prefixes and prompts; in the
    last one feature, opposite for the two tokens, with which the bounds are tightest."""
    tokens = (sequences.prompts, sequences.prefixes, sequences.vocabulary)
    size = int(np.prod(tokens))
    few = jnp.pad(source.normal((*tokens, _FEW)), ((0, 0),) * 3 + ((0, size - _FEW),))
    table = jnp.eye(size).reshape(*tokens, size)
    opposite = jnp.zeros((*tokens, size)).at[..., 0].set(jnp.array([1.0, -1.0]))
    scale = source.log_uniform(1e-2, 1e2)
    return TokenLinear(sequences, scale * jnp.stack([table, few, opposite])[source.integer(0, 2)])


def random_scaled_rewards(
    source: Source, sequences: Sequences = SEQUENCES
) -> Float[Array, "prompts outputs"]:
    """Of any scale up to one; in a third of the draws by how many tokens are the first one."""
    shape = (sequences.prompts, sequences.outputs)
    count = (sequences.tokens() == 0).sum(-1) / sequences.length
    counted = jnp.broadcast_to(2.0 * count - 1.0, shape)
    rewards = random_rewards(source, shape)
    return source.log_uniform(1e-4, 1.0) * jnp.where(source.bernoulli(1 / 3), counted, rewards)


def random_parameters(
    source: Source, policy: Autoregressive, largest: float = 50.0
) -> Float[Array, " parameters"]:
    """From nearly uniform to nearly deterministic; no logit beyond the largest, lest a variance underflow."""
    parameters = random_logits(source, (policy.size,), low=1e-3)
    return parameters / jnp.maximum(jnp.abs(policy.next_token_logits(parameters)).max() / largest, 1.0)
