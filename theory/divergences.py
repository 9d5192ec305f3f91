"""Two bounds on Kullback-Leibler divergences and their terms (arXiv:2503.15477, Lemmas 3 and 4)."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.objective import entropy, kl_divergence
from goodteacher.theory.draws import Source, random_logits, random_mask, without
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Judge, Sides, Statement

_Bound = Callable[[Float[Array, "*batch outputs"]], Float[Array, "..."]]


def divergence_upper_bound(
    log_q: Float[Array, "*batch outputs"], *, constant: Number = 1.0, power: Number = 1.0
) -> Float[Array, "*batch"]:
    """``ln(1 / min q)``, in nats: no less than ``KL(p || q)`` for any ``p``. arXiv:2503.15477, Lemma 3.

    Approached by a ``p`` that puts all its mass on the rarest output of ``q``. The numbers are a constant and
    the power of the logarithm.
    """
    return constant * (-jnp.where(jnp.isfinite(log_q), log_q, 0.0).min(-1)) ** power


def divergence_term_upper_bound(
    log_q: Float[Array, "*batch outputs"], *, constant: Number = 0.5 / np.e, power: Number = 2.0
) -> Float[Array, "*batch outputs"]:
    """``q^2 / (2 e)``: no less than ``-p^2 ln(p / q)`` for any ``p``. arXiv:2503.15477, Lemma 4.

    Attained at ``p = q / sqrt(e)``. The numbers are the constant and the power of ``q``.
    """
    return constant * jnp.exp(power * log_q)


# Statements -------------------------------------------------------------------


_SHAPE = (2, 16)


def _policies(source: Source) -> Instance:
    """The initial policy is ``p``, the reference is ``q``."""
    instance = Instance(source.uniform(-1.0, 1.0, _SHAPE), start=Parameters(random_logits(source, _SHAPE)))
    return without(instance, random_mask(source, _SHAPE), random_logits(source, _SHAPE))


def _judge(smaller: Callable[[Array, Array], Array]) -> Callable[[_Bound], Judge]:
    return partial(_bounded, smaller)


def _bounded(smaller: Callable[[Array, Array], Array], bound: _Bound) -> Judge:
    def judge(instance: Instance) -> Sides:
        log_p = instance.log_probabilities(instance.initial_parameters)
        log_q = instance.reference_log_probabilities
        return Sides(smaller(log_p, log_q), bound(log_q)).tightest()

    return judge


def _term(log_p: Array, log_q: Array) -> Array:
    present = jnp.isfinite(log_p)
    return jnp.where(present, -jnp.exp(2.0 * log_p) * jnp.where(present, log_p - log_q, 0.0), 0.0)


def _on_itself(instance: Instance) -> Sides:
    log_p = instance.log_probabilities(instance.initial_parameters)
    term = _term(log_p, instance.reference_log_probabilities)
    return Sides(term, divergence_term_upper_bound(log_p)).tightest()


DIVERGENCE = Statement(
    name="divergence_bound",
    title="No divergence exceeds the largest surprise of its reference",
    assumptions="any two distributions on one finite set, q positive",
    citation="arXiv:2503.15477, Lemma 3",
    formula="KL(p‖q) ≤ ln(1 / min_y q(y))",
    draw=_policies,
    judge=Formula(divergence_upper_bound, _judge(kl_divergence)),
    sabotages=MappingProxyType(
        {
            "entropy of q": _bounded(kl_divergence, entropy),
            "number of outputs for 1 / min q": _bounded(
                kl_divergence, lambda q: jnp.log(jnp.isfinite(q).sum(-1))
            ),
        }
    ),
    bound=True,
    smooth=True,
)

DIVERGENCE_TERM = Statement(
    name="divergence_term_bound",
    title="No output where a policy falls short of the reference adds much to p² ln(q/p)",
    assumptions="any two distributions on one finite set, q positive; output by output",
    citation="arXiv:2503.15477, Lemma 4",
    formula="−p² ln(p/q) ≤ q² / (2e)",
    draw=_policies,
    judge=Formula(divergence_term_upper_bound, _judge(_term)),
    sabotages=MappingProxyType({"p for q": _on_itself}),
    bound=True,
    smooth=True,
)

STATEMENTS = (DIVERGENCE, DIVERGENCE_TERM)
