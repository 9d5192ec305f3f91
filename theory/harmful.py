"""Harmful reward errors, and what does not stall (arXiv:2604.25872, Section 3).

Harmful I, reward hacking: an output that the proxy puts above all others wins, whatever the ground truth
says. Tabular gradient flow converges to a best output of what is trained on (Agarwal et al.,
arXiv:1908.00261); so the expected ground truth reward ends at that of the output hacked. Harmful II,
stalling: an output that the proxy overrates into the middle holds the flow up for the time of the stalling
law, whose inverse is the gain of :mod:`goodteacher.theory.beneficial`. Under natural gradient neither the
best output's rarity nor a middling output costs more than a logarithm: there ``pi_t`` is proportional to
``pi_0 exp(r t)``, so that ``pi_t(*) = 1/2`` when ``sum_z pi_0(z) exp((r_z - r_*) t) = eps`` over the others,
of which the middling one is a term, and which is at most ``(1 - eps) exp(-b t)``.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from goodteacher.sim.flow import Control, final_policies
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory.closed_forms import natural_gradient_flow
from goodteacher.theory.draws import Source, random_logits, random_mask, without
from goodteacher.theory.error_kinds import Category, categories, trained_on
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement

# Harmful I ----------------------------------------------------------------------

_SHAPE = (1, 8)
_HACKED = 1  # the output; the first one is the best of the ground truth
_CERTAIN = 1e-6  # of the policy at the end


def _hacking(source: Source) -> Instance:
    """A proxy that is right, or nearly, but for one bad output that it puts on top."""
    exists = random_mask(source, _SHAPE)
    index = jnp.arange(_SHAPE[1])
    rest = source.uniform(-1.0, 0.8, _SHAPE)
    truth = jnp.where(index == 0, 0.9, jnp.where(index == _HACKED, -1.0, rest))
    noise = 0.05 * source.uniform(-1.0, 1.0, _SHAPE)
    proxy = jnp.where(index == _HACKED, 0.95 + source.log_uniform(1e-2, 1.0), truth + noise)
    instance = Instance(proxy, truth, start=Parameters(random_logits(source, _SHAPE, high=3.0)))
    return without(instance, exists)


class Ended(NamedTuple):
    """A problem, where its flow has come to, and what the error is by rule."""

    instance: Instance
    log_probabilities: Float[Array, "prompts outputs"]
    category: Array


def _observe(instances: Instance) -> Ended:
    # The slowest stalls here take less than 1e40.
    found, _ = final_policies(instances, Control(horizon=1e60))
    return Ended(instances, found, _category(instances))


@jax.jit
@jax.vmap
def _category(instance: Instance) -> Array:
    return categories(instance)[0, _HACKED]


def _ends_at(output: Callable[[Instance], Array]) -> Judge:
    """That the policy and its expected ground truth reward end at an output."""

    def judge(ended: Ended) -> Sides:
        instance, log_p, category = ended
        policy, truth = jnp.exp(log_p[0]), instance.ground_truth_rewards[0]
        at = output(instance)
        short = (policy * jnp.abs(truth - truth[at])).sum() + 1.0 - policy[at]
        # A rare one may be called negligible: the best output of the ground truth then wins first.
        rightly = (category == Category.HARMFUL_I) | (category == Category.BENIGN_II)
        return Sides(jnp.where(rightly, short, jnp.inf), jnp.asarray(_CERTAIN))

    return judge


def _below_the_best(instance: Instance) -> Instance:
    """The bad output just below the best one: it does not win."""
    top = instance.rewards[0, 0]
    return trained_on(instance, instance.rewards.at[0, _HACKED].set(top - 0.01))


HACKING = Statement(
    name="harmful_error_hacking",
    title="Harmful errors I: what the proxy puts above all others wins, and with it the bad reward",
    assumptions="one prompt, tabular policy, λ = 0; one output has the best proxy reward alone",
    citation="arXiv:2604.25872, Section 3; convergence: arXiv:1908.00261",
    formula="r_P(y) > r_P(z), z ≠ y: π_t(y) → 1 and V_G → r_G(y), whatever r_G(y); by rule "
    "harmful I, or benign II where it is rare",
    draw=_hacking,
    judge=_ends_at(lambda instance: jnp.asarray(_HACKED)),
    observe=_observe,
    sabotages=MappingProxyType(
        {
            "it ends at the best output of the ground truth": _ends_at(lambda instance: jnp.asarray(0)),
            "the bad output just below the best": Dropped(_below_the_best),
        }
    ),
)

# Natural gradient ----------------------------------------------------------------


def natural_gradient_time_bounds(
    log_probabilities: Float[Array, " outputs"],
    rewards: Float[Array, " outputs"],
    *,
    constant: Number = 1.0,
    gap: Number = -1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """``ln(pi_0(m) / eps) / b`` and ``ln((1 - eps) / eps) / b``: between these the best output has one half.

    Under natural policy gradient; ``m`` is any output of the second best reward, ``b`` what that lacks to the
    best one's, of probability ``eps < 1/2``. Derived above.

    Args:
        log_probabilities: of the initial policy; the first output is the best.
        rewards: of the outputs.
        constant: 1.
        gap: exponent of ``b``.
    """
    others = jnp.isfinite(log_probabilities).at[0].set(False)
    ranked = jnp.where(others, rewards, -jnp.inf)
    middling = jnp.where(ranked == ranked.max(), log_probabilities, -jnp.inf).max()
    lead = (rewards[0] - ranked.max()) ** gap
    log_eps = log_probabilities[0]
    latest = jnp.log1p(-jnp.exp(log_eps)) - log_eps
    return constant * lead * jnp.maximum(middling - log_eps, 0.0), constant * lead * latest


_BISECTIONS = 80


def _rare(source: Source) -> Instance:
    exists = random_mask(source, _SHAPE)
    lead, index = source.log_uniform(1e-3, 1.5), jnp.arange(_SHAPE[1])
    middling = 1.0 - lead
    lower = middling - source.log_uniform(1e-3, 1.0, _SHAPE)
    rewards = jnp.where(index == 0, 1.0, jnp.where(index == 1, middling, lower))
    log_eps = jnp.log(source.log_uniform(1e-12, 0.4))
    others = jnp.where(exists & (index > 0), random_logits(source, _SHAPE, high=4.0), -jnp.inf)
    start = jax.nn.log_softmax(others) + jnp.log1p(-jnp.exp(log_eps))
    start = jnp.where(index == 0, log_eps, jnp.where(exists, start, 0.0))
    return without(Instance(rewards, start=Parameters(start)), exists)


class Halved(NamedTuple):
    """A problem, and when its best output has a probability of one half under natural gradient."""

    instance: Instance
    time: Float[Array, ""]


@jax.jit
@jax.vmap
def _observe_halved(instance: Instance) -> Halved:
    log_p, rewards = instance.reference_log_probabilities[0], instance.rewards[0]

    def closer(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        won = natural_gradient_flow(log_p[None], rewards[None], middle[None])[0, 0] >= jnp.log(0.5)
        return jnp.where(won, low, middle), jnp.where(won, middle, high)

    ends = jax.lax.fori_loop(0, _BISECTIONS, closer, (jnp.zeros(()), jnp.asarray(1e6)))
    return Halved(instance, ends[1])


_Bounds = Callable[[Array, Array], tuple[Array, Array]]


def _upper_judge(bounds: _Bounds) -> Judge:
    def judge(halved: Halved) -> Sides:
        instance, time = halved
        _, most = bounds(instance.reference_log_probabilities[0], instance.rewards[0])
        return Sides(time * (1.0 - 1e-12), most)

    return judge


def _lower_judge(bounds: _Bounds) -> Judge:
    def judge(halved: Halved) -> Sides:
        instance, time = halved
        least, _ = bounds(instance.reference_log_probabilities[0], instance.rewards[0])
        return Sides(least, time)

    return judge


def _natural(
    name: str, title: str, formula: str, judge: Callable[[_Bounds], Judge], sabotages: dict[str, _Bounds]
) -> Statement:
    return Statement(
        name=name,
        title=title,
        assumptions="one prompt, tabular policy, natural gradient, λ = 0; one best output of probability "
        "ε, m the second best",
        citation="derived here, theory/harmful.py",
        formula=formula,
        draw=_rare,
        judge=Formula(natural_gradient_time_bounds, judge),
        observe=_observe_halved,
        sabotages=MappingProxyType({of: judge(bounds) for of, bounds in sabotages.items()}),
        bound=True,
    )


def _exchanged(log_p: Array, rewards: Array) -> tuple[Array, Array]:
    least, most = natural_gradient_time_bounds(log_p, rewards)
    return most, least


NATURAL_AT_MOST = _natural(
    "natural_gradient_at_most",
    "Natural gradient does not stall: the best output wins in a time logarithmic in its rarity",
    "t(π(*) = 1/2) ≤ ln((1−ε)/ε) / (r* − r_m)",
    _upper_judge,
    {"no later than for the middling output alone": _exchanged},
)
NATURAL_AT_LEAST = _natural(
    "natural_gradient_at_least",
    "Natural gradient is held up by the middling output for a logarithmic time",
    "t(π(*) = 1/2) ≥ ln(π₀(m)/ε) / (r* − r_m)",
    _lower_judge,
    {"as late as if all others were middling": _exchanged},
)

STATEMENTS = (HACKING, NATURAL_AT_MOST, NATURAL_AT_LEAST)
