"""Random problems of autoregressive policies for statements: tables, linear next-token logits, and an MLP."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.autoregressive import Autoregressive, Sequences, TokenFunction, TokenLinear, token_mlp
from goodteacher.sim.instance import Instance
from goodteacher.theory.draws import Source, random_logits, random_rewards

SEQUENCES = Sequences(prompts=2, vocabulary=2, length=2)
"""All sequences of which these problems are: of two tokens, after two prompts."""
SHAPE = (SEQUENCES.prompts, SEQUENCES.outputs)
_TOKENS = (SEQUENCES.prompts, SEQUENCES.prefixes, SEQUENCES.vocabulary)
_SIZE = int(np.prod(_TOKENS))
_FEW = 3  # features of a policy that is not a table


@cache
def mlp_policy() -> TokenFunction:
    """A small neural network that gives the logits of the next token."""
    with jax.ensure_compile_time_eval():
        return token_mlp(SEQUENCES, width=3, depth=1, key=jax.random.key(0))[0]


def random_linear_policy(source: Source) -> TokenLinear:
    """A table in half of the draws; else few features, shared by all prefixes and prompts."""
    few = jnp.pad(source.normal((*_TOKENS, _FEW)), ((0, 0),) * 3 + ((0, _SIZE - _FEW),))
    table = jnp.eye(_SIZE).reshape(*_TOKENS, _SIZE)
    scale = source.log_uniform(0.3, 3.0)
    return TokenLinear(SEQUENCES, scale * jnp.where(source.bernoulli(), table, few))


def random_scaled_rewards(source: Source) -> Float[Array, "prompts outputs"]:
    """Of any scale up to one."""
    return source.log_uniform(1e-4, 1.0) * random_rewards(source, SHAPE)


def random_parameters(source: Source, policy: Autoregressive) -> Float[Array, " parameters"]:
    """From nearly uniform to nearly deterministic; no logit beyond 50, lest a variance underflow."""
    parameters = random_logits(source, (policy.size,), low=1e-3)
    return parameters / jnp.maximum(jnp.abs(policy.next_token_logits(parameters)).max() / 50.0, 1.0)


def stretched(instance: Instance) -> Instance:
    """The same policy by features a thousand times as long: ``J`` is that much larger."""
    policy = instance.policy
    assert isinstance(policy, TokenLinear)
    return eqx.tree_at(
        lambda i: (i.policy.features, i.initial_parameters),
        instance,
        (1e3 * policy.features, instance.initial_parameters / 1e3),
    )
