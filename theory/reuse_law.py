"""Where samples that serve many updates leave a policy (RE(S), arXiv:2609.36945).

The mean update on samples of ``q`` is ``q(y) r(y) - (E_q r) pi(y)``. Of positive rewards it is zero at one
policy alone, ``pi(y) = q(y) r(y) / E_q r`` (derived here): the policy that is as likely as a weight by
reward makes it. A batch that is used up thus multiplies the odds of two outputs by the ratio of their
rewards, whatever the others do, and nothing stalls; with rewards 0 and 1 one batch is enough.

So many updates does an escape from the middling output take, the best one being rare at first, ``eps =
pi_0(*)``. With fresh samples, ``S = 1``, the stalling law (:mod:`goodteacher.theory.stalling`) over the
learning rate ``eta``: ``eps^-(K-1)``. The best output comes to rest like ``exp(-r_* eps eta s)`` after ``s``
updates of the first batch, and sooner in later ones. With ``S = 4 / (eta r_* eps)`` all are used up but for
``exp(-4)``, and ``ln(odds of the end / odds of the start) / ln(r_* / r_m)`` batches are enough, odds being
those against the middling output: ``eps^-1 ln(1/eps)``, whatever ``K``.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.reuse import stale_gradient, updates_until
from goodteacher.theory.draws import Source, random_logits
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.stalling import log_time, small_parameter
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

USED_UP = Statement(
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
)

# Updates until escape --------------------------------------------------------------------

_MOST_UPDATES = 100_000
_FRESH_RATE, _STALE_RATE = 8.0, 3.0
_LEAST_WORK, _MOST_WORK = 500.0, 2000.0  # updates with fresh samples
_LATE = 10.0  # updates between the end of the stall and that of the escape
_USED = 4.0  # S times the learning rate, the best reward and eps
_TYPICAL = 1 / 40  # of eps
_BATCHES = 1.5  # by which those that are needed are no whole number, and not all used up


class Escape(NamedTuple):
    """A rare best output, the first, and a middling one, the second; and what is waited for, and how.

    Attributes:
        log_start: log-probabilities; ``-inf`` for an output that does not exist.
        rewards: of the outputs.
        level: of the expected reward.
        rate: of every update.
        reuses: updates for each batch.
    """

    log_start: Float[Array, " outputs"]
    rewards: Float[Array, " outputs"]
    level: Float[Array, ""]
    rate: Float[Array, ""]
    reuses: Int[Array, ""]

    @property
    def instance(self) -> Instance:
        """The problem, of the outputs that exist."""
        exists = np.isfinite(self.log_start)
        return Instance(self.rewards[None, exists], start=Parameters(self.log_start[None, exists]))


class Escaped(NamedTuple):
    """An escape, and how many updates it took."""

    escape: Escape
    updates: Float[Array, ""]


def _log_others(source: Source) -> Float[Array, " outputs"]:
    """Log-probabilities of the middling and of one or two low outputs, none of them rare."""
    exists = jnp.arange(3) < source.integer(2, 3)
    weights = jnp.where(exists, source.uniform(0.5, 1.0, (3,)), 0.0)
    return jnp.log(weights / weights.sum())


def _with_rare(log_eps: Array, log_others: Array) -> Array:
    return jnp.concatenate([log_eps[None], log_others + jnp.log1p(-jnp.exp(log_eps))])


def _draw_fresh(source: Source) -> Escape:
    log_others = _log_others(source)
    gap, drop = source.uniform(0.6, 1.0), source.uniform(0.3, 0.5, (2,))
    middling = 1.0 - gap
    rewards = jnp.concatenate([jnp.stack([jnp.ones(()), middling]), middling - drop])
    # As rare as makes so many updates: the law is a power of eps.
    work = source.log_uniform(_LEAST_WORK, _MOST_WORK)
    common = jnp.concatenate([jnp.zeros(1), log_others])
    power = jnp.isfinite(log_others).sum()
    log_eps = (log_time(common, rewards) - jnp.log(_FRESH_RATE * work)) / power
    level = 1.0 - gap * source.uniform(0.2, 0.8)
    return Escape(
        _with_rare(log_eps, log_others), rewards, level, jnp.asarray(_FRESH_RATE), jnp.ones((), int)
    )


def _draw_stale(source: Source) -> Escape:
    log_others, best, reuses = _log_others(source), source.uniform(0.7, 1.0), source.integer(40, 120)
    start = _with_rare(jnp.log(_USED / (_STALE_RATE * best * reuses)), log_others)
    share = source.uniform(0.5, 0.8)  # of the best output at the level, where the low ones are gone
    growth = (jnp.log(share) - jnp.log1p(-share) + start[1] - start[0]) / source.uniform(10.0, 30.0)
    middling = best * jnp.exp(-growth)
    low = middling * (1.0 - source.uniform(0.4, 0.8, (2,)))
    rewards = jnp.concatenate([jnp.stack([best, middling]), low])
    level = share * best + (1.0 - share) * middling
    return Escape(start, rewards, level, jnp.asarray(_STALE_RATE), reuses)


@jax.jit
@jax.vmap
def _observe(escape: Escape) -> Escaped:
    start, rewards, level, rate, reuses = escape
    update = updates_until(start, rewards, level, rate, reuses, _MOST_UPDATES).update
    return Escaped(escape, jnp.where(update < 0, jnp.nan, update))


def fresh_updates(escape: Escape, *, power: Number = 1.0) -> Float[Array, ""]:
    """Updates until escape if each has samples of its own; ``eps`` to ``power`` times ``1 - K``."""
    return jnp.exp(log_time(escape.log_start, escape.rewards, rarity=power)) / escape.rate


def _log_odds(escape: Escape, log_eps: ArrayLike) -> Array:
    """By how much those of the best output against the middling one rise."""
    middling, best = escape.rewards[1], escape.rewards[0]
    odds = (escape.level - middling) / (best - escape.level)
    return jnp.log(odds) + escape.log_start[1] - log_eps


def stale_updates(escape: Escape, *, power: Number = 1.0) -> Float[Array, ""]:
    """Updates until escape by batches that are used up: ``eps^-power ln(1/eps)``."""
    return _used_up_one_by_one(escape, _log_odds(escape, escape.log_start[0]), power)


def _used_up_one_by_one(escape: Escape, log_odds: Array, power: Number = 1.0) -> Array:
    best, middling = escape.rewards[0], escape.rewards[1]
    each = _USED * jnp.exp(-power * escape.log_start[0]) / (escape.rate * best)
    return each * log_odds / jnp.log(best / middling)


def _larger_logarithm(escape: Escape) -> Array:
    return _used_up_one_by_one(escape, _log_odds(escape, escape.log_start[0]) ** 1.1)


def _no_logarithm(escape: Escape) -> Array:
    return _used_up_one_by_one(escape, _log_odds(escape, np.log(_TYPICAL)))


def _fresh(law: Callable[[Escape], Array]) -> Judge:
    def judge(escaped: Escaped) -> Sides:
        escape, updates = escaped
        tolerance = small_parameter(escape.log_start, escape.rewards) + _LATE / updates
        return Sides(jnp.abs(updates / law(escape) - 1.0), tolerance)

    return judge


def _stale(law: Callable[[Escape], Array]) -> Judge:
    def judge(escaped: Escaped) -> Sides:
        escape, updates = escaped
        return Sides(jnp.abs(updates - law(escape)), _BATCHES * escape.reuses)

    return judge


_FRESH, _STALE = Formula(fresh_updates, _fresh), Formula(stale_updates, _stale)
_CITATION = "arXiv:2609.36945 (RE(S)), with constants: theory/reuse_law.py (derived for this project)"

FRESH = Statement(
    name="fresh_samples_stall",
    title="With fresh samples the updates until escape grow like ε^−(K−1)",
    assumptions="one prompt, tabular policy; one best, one middling output, a rare best one; K = 3, 4; exact "
    "updates at the rate η = 8, each on samples of its own, S = 1",
    citation=_CITATION,
    formula="T = (1 + O(ε)) π₀(m) Π_j [(r_m−r_j) π₀(j)] / [η K (K−1) (r*−r_m)^(K−1) ε^(K−1)]; |O(ε)| ≤ σ + "
    "10/T, σ as in the stalling law",
    draw=_draw_fresh,
    judge=_FRESH,
    observe=_observe,
    sabotages=MappingProxyType(
        {
            **_FRESH.off_by_a_tenth(),
            "a tenth more": _fresh(lambda escape: 1.1 * fresh_updates(escape)),
        }
    ),
)

STALE = Statement(
    name="stale_samples_escape",
    title="With samples that are used up the updates until escape grow like ε^−1 ln(1/ε)",
    assumptions="one prompt, tabular policy; positive rewards; one best, one middling output, a rare best "
    "one; K = 3, 4; exact updates at the rate η = 3, S = 4 / (η r* ε) on the samples of a batch",
    citation=_CITATION,
    formula="T = S (n + O(1)), n = ln(odds / odds₀) / ln(r*/r_m), odds those of y* against y_m, odds₀ ∝ ε; "
    "|O(1)| ≤ 3/2",
    draw=_draw_stale,
    judge=_STALE,
    observe=_observe,
    sabotages=MappingProxyType(
        {
            **_STALE.off_by_a_tenth(),
            "logarithm dropped": _stale(_no_logarithm),
            "logarithm to the power 1.1": _stale(_larger_logarithm),
            "odds times the difference of rewards": _stale(
                lambda escape: (
                    stale_updates(escape)
                    * jnp.log(escape.rewards[0] / escape.rewards[1])
                    / (escape.rewards[0] - escape.rewards[1])
                )
            ),
        }
    ),
)

STATEMENTS = (USED_UP, FRESH, STALE)
