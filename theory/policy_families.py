"""For different initial policies different teachers are best (arXiv:2503.15477, Theorems 3 and 6).

Two outputs are good, ``a`` and ``b``. From a policy that gives ``a`` a fair and ``b`` a tiny probability, the
reward that praises ``a`` alone is fast and the reward that praises ``b`` alone is slow, as its variance is
tiny; with ``a`` and ``b`` exchanged it is the other way round. Both kinds of policy have the same expected
ground truth reward. The policy is tabular, and every time is proportional to the number of prompts.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.validation import Numbers
from goodteacher.theory.draws import REGULARIZED_OUTPUTS, Source, Task, random_prompt_weights
from goodteacher.theory.formulas import Formula, Number
from goodteacher.theory.rises import rise_times
from goodteacher.theory.statements import Dropped, Judge, Sides, Statement


class Family(eqx.Module):
    """The policies ``{V_G = value, pi(likely) >= c, pi(rare) <= T^-2}`` over outputs of one prompt.

    :meth:`exchanged` is the other family of the theorem.

    Attributes:
        ground_truth_rewards: ``[outputs]``, in ``[-1, 1]``; at least three.
        value: ``V_G`` of every policy of the family.
        gamma: the increase of ``V_G`` that is waited for.
        likely: index of the good output whose probability is at least ``c``.
        rare: index of the good output whose probability is at most ``T^-2``.
        T: at least 1; the time scale on which the wrong teacher is slow.
        c: in ``(0, 1)``.
    """

    ground_truth_rewards: Float[Array, " outputs"]
    value: Float[Array, ""]
    gamma: Float[Array, ""]
    likely: Int[Array, ""]
    rare: Int[Array, ""]
    T: Float[Array, ""]
    c: Float[Array, ""]

    def __init__(
        self,
        ground_truth_rewards: Numbers,
        *,
        value: Numbers,
        gamma: Numbers,
        likely: Numbers,
        rare: Numbers,
        T: Numbers,
        c: Numbers,
    ):
        """Values are validated when they are concrete.

        Raises:
            ValueError: if there are not three outputs or more, a reward is outside ``[-1, 1]``, gamma outside
                ``(0, 2)``, ``T`` below 1 or ``c`` outside ``(0, 1)``; if the two outputs are the same or
                either is not above ``value + gamma`` in ground truth; if no policy has all the properties.
        """
        self.ground_truth_rewards = jnp.asarray(ground_truth_rewards, float)
        self.value, self.gamma, self.T, self.c = (jnp.asarray(x, float) for x in (value, gamma, T, c))
        self.likely, self.rare = jnp.asarray(likely), jnp.asarray(rare)
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            self._check()

    def _check(self) -> None:
        rewards, count = np.asarray(self.ground_truth_rewards), self.ground_truth_rewards.size
        value, gamma, T, c = (float(x) for x in (self.value, self.gamma, self.T, self.c))
        likely, rare = int(self.likely), int(self.rare)
        if count < 3:
            raise ValueError(f"ground_truth_rewards has {count} outputs; give two good ones and a worse one")
        if not np.all(np.abs(rewards) <= 1):
            raise ValueError(f"ground_truth_rewards are {rewards.tolist()}; give numbers in [-1, 1]")
        if not 0 < gamma < 2:
            raise ValueError(f"gamma is {gamma}; an increase of a reward in [-1, 1] is above 0 and below 2")
        if not 1 <= T < np.inf:
            raise ValueError(f"T is {T}; give a finite number of at least 1")
        if not 0 < c < 1:
            raise ValueError(f"c is {c}; a probability that leaves room for other outputs is in (0, 1)")
        if likely == rare or not {likely, rare} <= set(range(count)):
            raise ValueError(
                f"likely is {likely} and rare is {rare}; give two different outputs of 0 to {count - 1}"
            )
        for name, output in {"likely": likely, "rare": rare}.items():
            if not rewards[output] > value + gamma:
                raise ValueError(
                    f"{name} output {output} has ground truth reward {rewards[output]:.6g}, which must "
                    f"exceed value + gamma = {value + gamma:.6g}; take a better output or lower either"
                )
        lowest = float(self._lowest)
        least = lowest + c * (rewards[likely] - lowest)
        if not value > least:
            most = rewards[[likely, rare]].min() - gamma
            raise ValueError(
                f"value is {value:.6g}, but no policy that gives output {likely} a probability of at least "
                f"c = {c:.6g} has an expected ground truth reward of {least:.6g} or less; "
                + (
                    f"give a value between {least:.6g} and {most:.6g}"
                    if least < most
                    else "lower c: with this gamma it leaves no value at all"
                )
            )

    @property
    def exchanged(self) -> "Family":
        """The family in which the two good outputs change places."""
        return replace(self, likely=self.rare, rare=self.likely)

    @property
    def rho(self) -> Float[Array, ""]:
        """``(V_G + gamma + 1) / (r_G(likely) + 1)``: at that probability of it the increase is certain."""
        return (self.value + self.gamma + 1.0) / (self.ground_truth_rewards[self.likely] + 1.0)

    @property
    def _rest(self) -> Array:
        index = jnp.arange(self.ground_truth_rewards.size)
        return (index != self.likely) & (index != self.rare)

    @property
    def _lowest(self) -> Array:
        return jnp.where(self._rest, self.ground_truth_rewards, jnp.inf).min()

    def member(self, position: Float[Array, " outputs"]) -> Float[Array, " outputs"]:
        """Probabilities of one policy of the family; every one has a position.

        In excess of the reward of the worst output, ``sum_y pi(y) e(y) = e(V_G)`` with ``e >= 0``. First the
        rare output takes a share of what the bounds on both leave it, then the likely one of what the others
        can complete to ``V_G``; the others take the rest in given proportions, moved in a straight line
        towards the worst or the best of them until their mean is right.

        Args:
            position: numbers in ``(0, 1)``: of the rare output, its probability as a share of the
                largest it may have; of the likely output, how far it is from its least to its
                largest probability; of the others, their proportions. One for the rare and zero for the
                likely output put them at ``T^-2`` and ``c``, where these do not decide all the others.

        Returns:
            Positive probabilities that sum to one.
        """
        excess = self.ground_truth_rewards - self._lowest
        wanted = self.value - self._lowest
        of_likely, of_rare = excess[self.likely], excess[self.rare]
        highest = jnp.where(self._rest, excess, -jnp.inf).max()

        rare = position[self.rare] * jnp.minimum(self.T**-2.0, (wanted - self.c * of_likely) / of_rare)
        # The others' mean is theirs at best, and zero at worst.
        gap = of_likely - highest
        at_best = (wanted - rare * of_rare - (1.0 - rare) * highest) / jnp.where(gap > 0, gap, 1.0)
        least = jnp.maximum(self.c, jnp.where(gap > 0, at_best, 0.0))
        most = (wanted - rare * of_rare) / of_likely
        likely = least + position[self.likely] * (most - least)

        others = 1.0 - rare - likely
        mean = (wanted - rare * of_rare - likely * of_likely) / others
        proportions = jnp.where(self._rest, position, 0.0)
        proportions /= proportions.sum()
        present = (proportions * excess).sum()
        end = jnp.where(present > mean, 0.0, highest)
        move = jnp.where(
            present == end, 0.0, (present - mean) / jnp.where(present == end, 1.0, present - end)
        )
        extreme = self._rest & (excess == end)
        proportions = (1.0 - move) * proportions + move * extreme / extreme.sum()

        index = jnp.arange(excess.size)
        return jnp.where(
            index == self.likely, likely, jnp.where(index == self.rare, rare, others * proportions)
        )


def praise(output: ArrayLike, outputs: int) -> Float[Array, " outputs"]:
    """The reward ``+1`` on one output and ``-1`` on all others.

    On the likely output of a :class:`Family` it is the right teacher, on the rare one the wrong teacher.
    """
    return jnp.where(jnp.arange(outputs) == output, 1.0, -1.0)


def right_teacher_time(
    family: Family,
    prompts: ArrayLike = 1,
    *,
    constant: Number = 2.0,
    rho: Number = -3.0,
    count: Number = 1.0,
    probability: Number = -1.0,
    late: Number = 1.0,
) -> Float[Array, ""]:
    """Upper bound ``2 |S| / (1-rho)^3 (1/c - 1/rho)`` on ``t_gamma`` (arXiv:2503.15477, Theorem 6).

    From any policy of the family, under :func:`praise` of the likely output, for a KL coefficient of at most
    :func:`largest_kl_coefficient`. It is Proposition 4 for this one output: its probability ``p`` is at
    least ``c``, and ``V_G >= p (r_G + 1) - 1`` makes it less than ``rho``, so ``delta >= 2 (1-rho)^2``.

    Args:
        family: of the initial policy.
        prompts: ``|S|``, or one over the weight of the prompt.
        constant: 2.
        rho, count, probability: exponents of ``1 - rho``, of ``|S|`` and of ``c``.
        late: of ``1/rho``.
    """
    wait = family.c**probability - late / family.rho
    return constant * jnp.asarray(prompts, float) ** count * (1.0 - family.rho) ** rho * wait


def largest_kl_coefficient(
    family: Family, probabilities: Float[Array, " outputs"], *, constant: Number = 1 / 16
) -> Float[Array, ""]:
    """The ``lambda`` up to which :func:`right_teacher_time` is proved (arXiv:2503.15477, Theorem 6).

    ``c (1-rho)^3 / [16 (1/(2e) + 2 ln(1 / min pi_0))]``. With 4 in the place of 16 it is what the theorem's
    parent gives, Proposition 4 with ``delta >= 2 (1-rho)^2``: its limit is ``p (1-rho) delta / (8 |Y+|
    (...))``.

    Args:
        family: of the initial policy.
        probabilities: the initial policy; zero for an output that does not exist.
        constant: one over 16, or over 4.
    """
    least = jnp.where(probabilities > 0, probabilities, 1.0).min()
    return constant * family.c * (1.0 - family.rho) ** 3 / (0.5 / jnp.e - 2.0 * jnp.log(least))


PARENTS_KL = 1 / 4
"""What Proposition 4 gives for the constant of :func:`largest_kl_coefficient`."""


def wrong_teacher_time(
    family: Family,
    prompts: ArrayLike = 1,
    *,
    constant: Number = 2**-0.5,
    rate: Number = 1 / 2,
    count: Number = 1.0,
    scale: Number = 1.0,
) -> Float[Array, ""]:
    """Lower bound ``|S| / sqrt(2) (1 - exp(-gamma/2)) T`` on ``t_gamma`` (arXiv:2503.15477, Theorem 6).

    From any policy of the family, under :func:`praise` of the rare output, for every KL coefficient.

    Args:
        family: of the initial policy.
        prompts: ``|S|``, or one over the weight of the prompt.
        constant: one over the root of 2.
        rate: of ``gamma``.
        count, scale: exponents of ``|S|`` and ``T``.
    """
    rise = -jnp.expm1(-rate * family.gamma)
    return constant * jnp.asarray(prompts, float) ** count * rise * family.T**scale


def sharp_wrong_teacher_time(
    family: Family,
    prompts: ArrayLike = 1,
    *,
    constant: Number = 1.0,
    rate: Number = 1.0,
    count: Number = 1.0,
    scale: Number = 1.0,
) -> Float[Array, ""]:
    """``|S| (1 - exp(-gamma)) T``: what the sharp form of the theorem's parent gives; up to 2.8 times as
    late.

    The variance of a reward that is 1 on an output of probability ``q`` and -1 elsewhere is ``4 q (1 - q)``,
    and ``q <= T^-2``; so :func:`goodteacher.theory.hitting_time_bound.sharp_hitting_time_lower_bound` is at
    least that. (Proposition 3 itself gives ``|S| (1 - exp(-gamma/2)) T``: the published constant is a root of
    2 weaker.) Derived here. Args as for :func:`wrong_teacher_time`.
    """
    return wrong_teacher_time(family, prompts, constant=constant, rate=rate, count=count, scale=scale)


# Statements -------------------------------------------------------------------

_OUTPUTS = REGULARIZED_OUTPUTS  # of one prompt for each family
_A, _B = 0, 1
_BEYOND = 1e3  # how many times a lower bound the flow is followed


class Start(NamedTuple):
    """A policy of a family and one of the family exchanged, as two prompts, each with its teacher."""

    instance: Instance
    families: Family  # with a leading axis of two


def _start(right: bool, source: Source) -> Start:
    # In excess of the lowest reward: that of the good outputs, then the value below both.
    lowest = -1.0 + source.log_uniform(1e-3, 1.9)
    good = (1.0 - lowest) * source.log_uniform(0.1, 1.0, (2,))
    value = good.min() * source.log_uniform(1e-3, 0.99)
    regularized = source.bernoulli(0.25)
    low = source.uniform(0.0, 1.0 - lowest, (_OUTPUTS - 3,))
    rewards = lowest + jnp.concatenate([good, low, jnp.zeros(1)])
    # A small rise, or nearly all that is certain to be possible.
    nearly, part = source.bernoulli(), source.log_uniform(1e-3, 0.999)
    family = Family(
        rewards,
        value=lowest + value,
        gamma=(good.min() - value) * jnp.where(nearly, 1.0 - part, part),
        likely=_A,
        rare=_B,
        T=1.0 + source.log_uniform(1e-2, 1e6),
        c=value / good.max() * source.log_uniform(1e-3, 0.999),
    )
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), family, family.exchanged)
    # The bounds are tight for a likely output near its least and a rare one near its largest probability.
    position = (source.log_uniform if right else source.uniform)(1e-4, 0.99, (2, _OUTPUTS))
    # In a third of the draws but three outputs count.
    rest = jnp.where(source.bernoulli(1 / 3), 1e-9, position)
    position = jnp.where(jnp.arange(_OUTPUTS) > 2, rest, position)
    probabilities = jax.vmap(Family.member)(both, position)
    if right:
        # Up to the limit that Proposition 4 gives, which is beyond the theorem's own.
        most = jax.vmap(partial(largest_kl_coefficient, constant=PARENTS_KL))(both, probabilities).min()
        part = jnp.where(source.bernoulli(), 0.999, source.uniform(0.0, 0.999))
        kl_coefficient = jnp.where(regularized, most * part, 0.0)
    else:
        # With KL a step is no longer than about its inverse, however long there is to wait.
        kl = source.log_uniform(1e-3, 1.0) / jnp.maximum(1.0, 1e-2 * family.T)
        kl_coefficient = jnp.where(regularized, kl, 0.0)
    praised = both.likely if right else both.rare
    instance = Instance(
        jax.vmap(lambda output: praise(output, _OUTPUTS))(praised),
        jnp.broadcast_to(rewards, probabilities.shape),
        start=Parameters(jnp.log(probabilities)),
        regularizer=Regularizer(kl=kl_coefficient),
        prompt_weights=random_prompt_weights(source, 2),
    )
    return Start(instance, both)


class Taught(NamedTuple):
    """A start, and when the policies of each family have learned."""

    start: Start
    time: Float[Array, " families"]


_Bound = Callable[[Family, Array], Array]


def _bounds(bound: _Bound, start: Start) -> Array:
    return jax.vmap(bound)(start.families, 1.0 / start.instance.prompt_weights)


def _latest(bounds: Array) -> Array:
    """Of the prompts that are trained on."""
    return jnp.where(jnp.isfinite(bounds), bounds, 0.0).max()


@jax.jit
@jax.vmap
def _until_the_bound(start: Start) -> tuple[Task, Array]:
    horizon = 2.0 * _latest(_bounds(right_teacher_time, start))
    return Task(start.instance, start.families.gamma[0]), horizon


@jax.jit
@jax.vmap
def _beyond_the_bound(start: Start) -> tuple[Task, Array]:
    horizon = _BEYOND * _latest(_bounds(sharp_wrong_teacher_time, start))
    return Task(start.instance, start.families.gamma[0]), horizon


def _observe_right(start: Start) -> Taught:
    return Taught(start, rise_times(*_until_the_bound(start)).time)


def _observe_wrong(start: Start) -> Taught:
    return Taught(start, rise_times(*_beyond_the_bound(start)).time)


def _exchange_teachers(start: Start) -> Start:
    return start._replace(
        instance=eqx.tree_at(lambda i: i.rewards, start.instance, start.instance.rewards[::-1])
    )


def _right_judge(bound: _Bound) -> Judge:
    def judge(taught: Taught) -> Sides:
        trained = taught.start.instance.prompt_weights > 0
        return Sides(jnp.where(trained, taught.time, 0.0), _bounds(bound, taught.start)).tightest()

    return judge


def _wrong_judge(bound: _Bound) -> Judge:
    def judge(taught: Taught) -> Sides:
        trained = taught.start.instance.prompt_weights > 0
        bounds = jnp.where(trained, _bounds(bound, taught.start), 0.0)
        # Those that are not regularised are followed to the end, the others to the horizon.
        horizon = _BEYOND * _bounds(sharp_wrong_teacher_time, taught.start)
        reached = taught.time < jnp.inf
        return Sides(bounds, jnp.where(reached, taught.time, horizon), reached).tightest()

    return judge


def _with_much_kl(start: Start) -> Start:
    """Where there is some."""
    return start._replace(
        instance=eqx.tree_at(lambda i: i.regularizer.kl, start.instance, replace_fn=jnp.sign)
    )


RIGHT_TEACHER = Statement(
    name="right_teacher",
    title="A teacher that praises a likely good output is fast",
    assumptions="tabular policy; V_G(0) = V0, π₀(y_b) ≤ T⁻², π₀(y_a) ≥ c; reward 1 on y_a and −1 "
    "elsewhere; λ up to its limit",
    citation="arXiv:2503.15477, Theorem 6 (Theorem 3); the limit of λ with 4 for 16 by Proposition 4",
    formula="t_γ ≤ 2|S|/(1−ρ)³ (1/c − 1/ρ), ρ = (V₀+γ+1)/(r_G(y_a)+1), π₀(y_a) ≥ c, for r = ±1, +1 on y_a "
    "alone, λ ≤ c (1−ρ)³ / [4 (1/(2e) + 2 ln(1/min π₀))] (published with 16)",
    draw=partial(_start, True),
    judge=Formula(right_teacher_time, _right_judge),
    observe=_observe_right,
    sabotages=MappingProxyType(
        {
            "the wrong teacher": Dropped(_exchange_teachers),
            "regularisation without limit": Dropped(_with_much_kl),
        }
    ),
    bound=True,
)


def _wrong_teacher(
    name: str, title: str, citation: str, formula: str, law: Callable[..., Array]
) -> Statement:
    return Statement(
        name=name,
        title=title,
        assumptions="tabular policy; V_G(0) = V0, π₀(y_b) ≤ T⁻², π₀(y_a) ≥ c; reward 1 on y_b and −1 "
        "elsewhere; T ≥ 1; any λ ≥ 0",
        citation=citation,
        formula=formula,
        draw=partial(_start, False),
        judge=Formula(law, _wrong_judge),
        observe=_observe_wrong,
        sabotages=MappingProxyType({"the right teacher": Dropped(_exchange_teachers)}),
        bound=True,
    )


WRONG_TEACHER = _wrong_teacher(
    "wrong_teacher",
    "A teacher that praises a rare good output is slow",
    "arXiv:2503.15477, Theorem 6 (Theorem 3)",
    "t_γ ≥ |S|/√2 (1 − exp(−γ/2)) T, π₀(y_b) ≤ T⁻², for r = ±1, +1 on y_b alone, any λ",
    wrong_teacher_time,
)
SHARP_WRONG_TEACHER = _wrong_teacher(
    "wrong_teacher_sharp",
    "The same by the sharp bound",
    "theory/policy_families.py (derived here)",
    "t_γ ≥ |S| (1 − exp(−γ)) T, π₀(y_b) ≤ T⁻², for r = ±1, +1 on y_b alone, any λ",
    sharp_wrong_teacher_time,
)

STATEMENTS = (RIGHT_TEACHER, WRONG_TEACHER, SHARP_WRONG_TEACHER)
