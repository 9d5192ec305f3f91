"""The time that a law of theory gives for what the page shows, where one applies."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from goodteacher.experiments.explorer.situation import Situation
from goodteacher.sim.instance import Instance
from goodteacher.theory import clocked_stalling, stalling, stalling_extensions

_SMALL = 1.0  # of the small parameter of the stalling law, from which on it says nothing
_RARE = 0.02  # likewise of the terms that the integral leaves out
_WITHIN = 2.0  # by so much a KL coefficient is away from where its law ends


class LawTime(NamedTuple):
    """What a law says.

    Attributes:
        name: of the law, or why there is none.
        time: ``nan`` if there is none.
        error: of which order the relative error is; ``nan`` where that is not known.
    """

    name: str
    time: float = math.nan
    error: float = math.nan


@jax.jit
def _laws(log_p: Array, rewards: Array, norms: Array, kl: ArrayLike) -> dict[str, Array]:
    of = log_p, rewards
    return {
        "stall": stalling.log_time_to_next_order(*of),
        "small": stalling.small_parameter(*of),
        "escape": stalling_extensions.log_escape_time(*of, norms),
        "grpo": clocked_stalling.log_grpo_time(*of),
        "maxrl": clocked_stalling.log_max_rl_time(*of),
        "natural": jnp.log(stalling.natural_gradient_time(*of)),
        "regularized": stalling_extensions.log_regularized_time(*of, kl),
        "rescue": stalling_extensions.rescue_threshold(*of),
        "largest": stalling_extensions.largest_kl_coefficient(*of),
    }


def law_time(situation: Situation, instance: Instance, level: float) -> LawTime:
    """The law of the time until an expected ground truth reward.

    All laws are of the escape to the output that the proxy likes best: they apply where the level can be
    reached with it, and with no other.

    Args:
        situation: of the page.
        instance: that it makes, filled up.
        level: that is waited for.
    """
    proxy, truth = np.array(situation.proxy), np.array(situation.truth)
    best = int(proxy.argmax())
    others = np.delete(truth, best).max()
    if (proxy == proxy[best]).sum() > 1:
        return LawTime("none: two outputs tie for the best reward")
    if not others < level < truth[best]:
        return LawTime("none: the goal is not that the output wins that the proxy likes best")
    count, features = len(proxy), situation.features
    norms = np.ones(instance.rewards.shape[1])
    if features is not None:
        norms[features.first] = features.length**2
    found = _laws(instance.reference_log_probabilities[0], instance.rewards[0], norms, situation.kl)
    found = {name: float(of) for name, of in jax.device_get(found).items()}
    unique = np.sort(proxy)[-2] > np.sort(proxy)[-3] if count > 2 else False
    stalls = unique and found["small"] < _SMALL
    followed = situation.followed
    plain = followed.given.keys() <= {"group"} and followed.group is None

    def law(name: str, of: str, error: float = math.nan) -> LawTime:
        return LawTime(name, math.exp(min(found[of], 700.0)), error)

    if features is not None and features.angle != 90.0:
        return LawTime("none: the features are not orthogonal")
    if situation.kl:
        if followed.estimator != "gradient" or features is not None:
            return LawTime("none: with KL only for the gradient of a tabular policy")
        if _WITHIN * found["rescue"] < situation.kl < found["largest"] / _WITHIN:
            return law("escape from where KL holds the policy", "regularized")
        return LawTime("none: KL is too weak to end the stall, or so strong that no output wins")
    match followed.estimator:
        case "gradient" if features is None and stalls:
            return law("stalling law, to next order", "stall", found["small"] ** 2)
        case "gradient":
            rare = -situation.start[best] * math.log(situation.start[best])
            if rare < _RARE:
                return law("stalling law as one integral", "escape", 20.0 * rare)
            return LawTime("none: the best output is not rare enough")
        case "natural":
            return law("natural gradient, leading term", "natural")
        case "grpo" | "maxrl" if plain and features is None:
            if stalls:
                return law(f"stalling law under {followed.clock().title}", followed.estimator, found["small"])
            return LawTime("none: the best output is not rare enough, or two tie for the second reward")
    return LawTime("none: this estimator has no law of stalls")
