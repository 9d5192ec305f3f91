"""Two bounds on Kullback-Leibler divergences and their terms (arXiv:2503.15477, Lemmas 3 and 4)."""

from collections.abc import Callable
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import kl_divergence
from goodteacher.theory.draws import Source, random_logits
from goodteacher.theory.statements import Judge, Sides, Statement

_Bound = Callable[[Float[Array, "*batch outputs"]], Float[Array, "..."]]


def divergence_upper_bound(log_q: Float[Array, "*batch outputs"]) -> Float[Array, "*batch"]:
    """``ln(1 / min q)``, in nats: no less than ``KL(p || q)`` for any ``p``. arXiv:2503.15477, Lemma 3.

    Approached by a ``p`` that puts all its mass on the rarest output of ``q``.
    """
    return -log_q.min(-1)


def divergence_term_upper_bound(log_q: Float[Array, "*batch outputs"]) -> Float[Array, "*batch outputs"]:
    """``q^2 / (2 e)``: no less than ``-p^2 ln(p / q)`` for any ``p``. arXiv:2503.15477, Lemma 4.

    Attained at ``p = q / sqrt(e)``.
    """
    return jnp.exp(2.0 * log_q - 1.0) / 2.0


# Statements -------------------------------------------------------------------


def _policies(source: Source) -> Instance:
    """The initial policy is ``p``, the reference is ``q``."""
    shape = (2, 4)
    return Instance(
        source.uniform(-1.0, 1.0, shape),
        start=Parameters(random_logits(source, shape)),
        reference_policy_logits=random_logits(source, shape),
    )


def _judge(smaller: Callable[[Array, Array], Array], bound: _Bound) -> Judge:
    def judge(instance: Instance) -> Sides:
        log_p = instance.log_probabilities(instance.initial_parameters)
        log_q = instance.reference_log_probabilities
        return Sides(smaller(log_p, log_q), bound(log_q)).tightest()

    return judge


def _term(log_p: Array, log_q: Array) -> Array:
    return -jnp.exp(2.0 * log_p) * (log_p - log_q)


DIVERGENCE = Statement(
    name="divergence_bound",
    title="No divergence exceeds the largest surprise of its reference",
    citation="arXiv:2503.15477, Lemma 3",
    formula="KL(p‖q) ≤ ln(1 / min_y q(y))",
    draw=_policies,
    judge=_judge(kl_divergence, divergence_upper_bound),
    sabotages=MappingProxyType(
        {
            "constant 1% smaller": _judge(kl_divergence, lambda q: 0.99 * divergence_upper_bound(q)),
            "entropy of q": _judge(kl_divergence, lambda q: -(jnp.exp(q) * q).sum(-1)),
            "number of outputs for 1 / min q": _judge(kl_divergence, lambda q: jnp.log(float(q.shape[-1]))),
        }
    ),
    bound=True,
    smooth=True,
)

DIVERGENCE_TERM = Statement(
    name="divergence_term_bound",
    title="No output where a policy falls short of the reference adds much to p² ln(q/p)",
    citation="arXiv:2503.15477, Lemma 4",
    formula="−p² ln(p/q) ≤ q² / (2e)",
    draw=_policies,
    judge=_judge(_term, divergence_term_upper_bound),
    sabotages=MappingProxyType(
        {
            "constant 1% smaller": _judge(_term, lambda q: 0.99 * divergence_term_upper_bound(q)),
            "3 for e": _judge(_term, lambda q: jnp.exp(2.0 * q) / 6.0),
            "q³ for q²": _judge(_term, lambda q: jnp.exp(q) * divergence_term_upper_bound(q)),
        }
    ),
    bound=True,
    smooth=True,
)

STATEMENTS = (DIVERGENCE, DIVERGENCE_TERM)
