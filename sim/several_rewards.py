"""Several rewards: normalised and then summed (GDPO, arXiv:2601.05242), or the other way round (GRPO).

In the limit of large groups the mean update of a tabular policy is ``pi(y)`` times an advantage. Of the sum
``r = sum_k w_k r_k`` that is ``(r - V) / (sd(r) + epsilon)``: the gradient of the sum on another clock
(:class:`goodteacher.sim.clocks.Grpo`). Normalised one by one it is ``sum_k w_k (r_k - V_k) / (sd(r_k) +
epsilon)``: every reward is on a clock of its own, and the path is another one, of no objective. (GDPO then
divides by a deviation of the whole batch, a factor that all prompts have in common, which changes no path.)

Between two outputs ``sd(r_k) = |d_k| sqrt(p (1-p))`` with the difference ``d_k`` of the reward: if
``epsilon`` is zero only the signs count, ``sum_k w_k sign(d_k)``. Outputs are put to the vote of the rewards,
weighted by ``w``, however much each of them has to gain (derived for this project). With an ``epsilon``
magnitudes count again where ``p`` is close to 0 or 1, and a policy may come to rest in between. Of three and
more outputs majorities may go in circles, as Condorcet's do, and so may the policy.

Of groups of ``G`` samples all is linear in what each reward makes of them: the mean update of :class:`Gdpo`
is the sum, with the weights, of those of :class:`goodteacher.sim.clocks.Grpo` by each reward.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from goodteacher.sim.clocks import Group
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import advantage, gradient
from goodteacher.sim.sampling import inverse_cdf, logit_estimate, weighing
from goodteacher.sim.validation import Numbers, finite, jax_array, scalar

Advantages = Callable[[Array, Array, Array, ArrayLike], Array]


def normalised_then_summed(
    log_p: Float[Array, " outputs"],
    rewards: Float[Array, "kinds outputs"],
    weights: Float[Array, " kinds"],
    epsilon: ArrayLike,
) -> Float[Array, " outputs"]:
    """Advantages of GDPO; a reward without a spread has none.

    Args:
        log_p: of the policy.
        rewards: of every kind.
        weights: of the kinds.
        epsilon: that is added to the standard deviations.
    """
    p = jnp.exp(log_p)
    return weights @ jax.vmap(lambda of_kind: _normalised(p, of_kind, epsilon))(rewards)


def summed_then_normalised(
    log_p: Float[Array, " outputs"],
    rewards: Float[Array, "kinds outputs"],
    weights: Float[Array, " kinds"],
    epsilon: ArrayLike,
) -> Float[Array, " outputs"]:
    """Advantages of GRPO of the weighted sum. Args as for :func:`normalised_then_summed`."""
    return _normalised(jnp.exp(log_p), weights @ rewards, epsilon)


def _normalised(p: Array, rewards: Array, epsilon: ArrayLike) -> Array:
    above = advantage(p, rewards)
    variance = (p * above**2).sum()
    # Without a spread all advantages are zero, whatever they are divided by.
    return above / (jnp.sqrt(jnp.where(variance > 0, variance, 1.0)) + epsilon)


class Gdpo(eqx.Module):
    """Rewards of several kinds: in each group of samples normalised one by one, and then summed.

    An estimator for :func:`goodteacher.sim.learning.learn`. The other way round is a clock of the summed
    reward. GDPO's last division, by the deviation of all advantages of a batch, is left out.

    Attributes:
        rewards: of every kind.
        weights: of the kinds.
        of: how a group is normalised, and its size.
    """

    rewards: Float[Array, "kinds prompts outputs"]
    weights: Float[Array, " kinds"]
    of: Group

    def __init__(self, rewards: Numbers, weights: Numbers, of: Group):
        """Validates the numbers.

        Raises:
            ValueError: for numbers that are not finite, or shapes that do not fit.
        """
        kinds, shares = finite("rewards", rewards, ndim=3), finite("weights", weights, ndim=1)
        if len(kinds) != len(shares):
            raise ValueError(f"rewards has {len(kinds)} kinds, weights has {len(shares)}; give a weight each")
        self.rewards, self.weights, self.of = jax_array(kinds), jax_array(shares), of

    def check(self, instance: Instance) -> None:
        """Refuses a problem that it is not for.

        Raises:
            ValueError: if its prompts and outputs are others, if something regularises, or if the problem's
                own rewards are random.
        """
        if self.rewards.shape[1:] != instance.rewards.shape:
            raise ValueError(
                f"rewards has shape {list(self.rewards.shape)} and the problem has prompts and outputs "
                f"{list(instance.rewards.shape)}; give [kinds, prompts, outputs]"
            )
        if instance.regularizer is not None or instance.reward_variances is not None:
            raise ValueError(
                "the problem is regularised or has random rewards, which are part of none of several; give "
                "it without"
            )

    def sampled_gradient(
        self,
        instance: Instance,
        parameters: Float[Array, "..."],
        uniforms: Float[Array, "prompts group"],
    ) -> Float[Array, "..."]:
        """The update of a group of samples.

        Args:
            instance: the problem, whose own rewards do not count.
            parameters: of the policy.
            uniforms: independent uniform numbers in [0, 1), one per sample.
        """
        logits, rule = instance.logits(parameters), weighing(self.of)
        samples = inverse_cdf(jax.nn.softmax(logits), uniforms)

        def of_kind(rewards: Array) -> Array:
            return logit_estimate(_with_rewards(instance, rewards), logits, samples, rule)

        estimate = jnp.tensordot(self.weights, jax.vmap(of_kind)(self.rewards), 1)
        return instance.policy.pullback(parameters, estimate)

    def gradient(self, instance: Instance, parameters: Float[Array, "..."]) -> Float[Array, "..."]:
        """The exact mean of :meth:`sampled_gradient`, or its limit for large groups.

        Raises:
            ValueError: as :meth:`check`, and if the mean of a kind is not known, see
                :mod:`goodteacher.sim.clocks`.
        """
        self.check(instance)
        every = [_with_rewards(instance, rewards).following(self.of) for rewards in self.rewards]
        means = jnp.stack([gradient(each, parameters) for each in every])
        return jnp.tensordot(self.weights, means, 1)

    @property
    def title(self) -> str:
        """In words."""
        return f"GDPO, {len(self.weights)} rewards, each by {self.of.title}"


def _with_rewards(instance: Instance, rewards: Float[Array, "prompts outputs"]) -> Instance:
    return eqx.tree_at(lambda i: i.rewards, instance, rewards)


def updated(
    advantages: Advantages,
    start: Numbers,
    rewards: Numbers,
    weights: Numbers,
    *,
    learning_rate: float,
    updates: int,
    epsilon: float = 0.0,
) -> Float[Array, " outputs"]:
    """Logits of a tabular policy of one prompt after exact updates.

    Args:
        advantages: :func:`normalised_then_summed` or :func:`summed_then_normalised`.
        start: logits.
        rewards: ``[kinds, outputs]``.
        weights: ``[kinds]``.
        learning_rate: of every update.
        updates: how many.
        epsilon: that is added to standard deviations.

    Raises:
        ValueError: for numbers that are not finite, shapes that do not fit, a rate that is not positive, or
            updates or an epsilon that are negative.
    """
    logits, kinds = finite("start", start, ndim=1), finite("rewards", rewards, ndim=2)
    shares = finite("weights", weights, ndim=1)
    if kinds.shape != (len(shares), len(logits)):
        raise ValueError(
            f"rewards has shape {list(kinds.shape)}; give a row of {len(logits)} outputs for each of "
            f"{len(shares)} weights"
        )
    if updates < 0:
        raise ValueError(f"updates is {updates}; it must be not negative")
    numbers = (
        scalar("learning_rate", learning_rate, "positive"),
        scalar("epsilon", epsilon, "not negative"),
    )
    arrays = (jnp.asarray(of, float) for of in (logits, kinds, shares, *numbers))
    return _updated(advantages, *arrays, jnp.asarray(updates))


@partial(jax.jit, static_argnums=0)
def _updated(
    advantages: Advantages,
    logits: Array,
    rewards: Array,
    weights: Array,
    rate: Array,
    epsilon: Array,
    updates: Array,
) -> Array:
    def update(_: Array, logits: Array) -> Array:
        log_p = jax.nn.log_softmax(logits)
        return logits + rate * jnp.exp(log_p) * advantages(log_p, rewards, weights, epsilon)

    return jax.lax.fori_loop(0, updates, update, logits)
