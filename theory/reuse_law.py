"""Where samples that serve many updates leave a policy (RE(S), arXiv:2609.36945).

The mean update on samples of ``q`` is ``q(y) r(y) - (E_q r) pi(y)``. Of positive rewards it is zero at one
policy alone, ``pi(y) = q(y) r(y) / E_q r`` (derived here): the policy that is as likely as a weight by
reward makes it. A batch that is used up thus multiplies the odds of two outputs by the ratio of their
rewards, whatever the others do, and nothing stalls; with rewards 0 and 1 one batch is enough.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.reuse import stale_gradient
from goodteacher.theory.draws import Source, random_logits
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Judge, Sides, Statement

_OUTPUTS = 5
_ROUNDING = 1e-14


class Batch(NamedTuple):
    """A policy that draws samples, and their rewards."""

    logits: Float[Array, " outputs"]
    rewards: Float[Array, " outputs"]

    @property
    def instance(self) -> Instance:
        """Both."""
        return Instance(self.rewards[None], start=Parameters(self.logits[None]))


def _draw(source: Source) -> Batch:
    logits = random_logits(source, (_OUTPUTS,), high=5.0)
    return Batch(logits, source.uniform(0.05, 1.0, (_OUTPUTS,)))


def used_up(logits: Array, rewards: Array, *, power: Number = 1.0) -> Array:
    """Log-probabilities at which updates on samples of a policy come to rest."""
    return jax.nn.log_softmax(logits + power * jnp.log(rewards))


def _at_rest(law: Callable[..., Array]) -> Judge:
    def judge(batch: Batch) -> Sides:
        update = stale_gradient(law(*batch), jax.nn.log_softmax(batch.logits), batch.rewards)
        return Sides(jnp.abs(update).max(), jnp.asarray(_ROUNDING))

    return judge


_JUDGE = Formula(used_up, _at_rest)

STATEMENTS = (
    Statement(
        name="stale_samples_used_up",
        title="Samples that serve updates until nothing changes multiply odds by the ratio of rewards",
        assumptions="one prompt, tabular policy; positive rewards; exact updates on samples of one policy",
        citation="theory/reuse_law.py (derived for this project); the update: arXiv:2609.36945",
        formula="q(y) r(y) − (E_q r) π(y) = 0 at π = q r / E_q r, r > 0",
        draw=_draw,
        judge=_JUDGE,
        sabotages=MappingProxyType(
            {
                **_JUDGE.off_by_a_tenth(),
                "odds times the difference of rewards": _at_rest(
                    lambda logits, rewards: jax.nn.log_softmax(logits + rewards - rewards.min())
                ),
            }
        ),
    ),
)
