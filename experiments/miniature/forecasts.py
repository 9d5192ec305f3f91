"""What foretells teaching? Forecasts from draws of the initial policy alone, beside what training then does.

Some outputs are drawn for every prompt that is to be trained on; of each draw the reward and the ground truth
are known. A forecast is a number for each reward model, of which only the order matters. The flows are of the
model policy that has the draws as its outputs, with their shares as probabilities.

The rehearsal is the training itself, of the network, on the draws. ``E_pi r`` is the sum of ``pi(y) (r(y) -
b)`` and ``b``, for any ``b``. Of what was not drawn nothing is known, and it counts as the prompt's mean over
draws: with that for ``b``, the sum is over draws alone. It needs their probabilities under the policy that is
trained, by the network, and no further draw, reward or ground truth. The same sum over draws estimates the
ground truth on the way.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from scipy.stats import rankdata

from goodteacher.experiments.miniature.classrooms import ALL, Classroom, Course, classrooms, increases, teach
from goodteacher.experiments.miniature.lessons import ON_POLICY, UNIFORM, Scale, blocks, seeds
from goodteacher.experiments.miniature.networks import Networks, Tangent
from goodteacher.experiments.miniature.training import problem, train
from goodteacher.experiments.miniature.worlds import HELD_OUT_FAMILIES, TRAIN, TUNED, Family
from goodteacher.experiments.rollouts.teaching import GradientFlow, NaturalFlow
from goodteacher.sim import estimates
from goodteacher.sim.metrics import accuracy_where_truth_differs
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.sampling import inverse_cdf

FAMILIES = {**TUNED, **HELD_OUT_FAMILIES}
_TANGENT_UPDATES = 50  # of the linearised flow, whose time is that of the training

# Times of the flows of each prompt by itself, of which the tuned families choose.
NATURAL_TIMES = (0.3, 1.0, 3.0)
GRADIENT_TIMES = (10.0,)
CANDIDATES = (
    "variance",
    ON_POLICY,
    UNIFORM,
    "HAcc",
    "variance and accuracies",
    "covariance",
    "tangent at once",
    "tangent flow",
    "rehearsal",
    *(f"natural flow, {time:g}" for time in NATURAL_TIMES),
    *(f"gradient flow, {time:g}" for time in GRADIENT_TIMES),
    "both flows",
)


class Draws(NamedTuple):
    """Of all prompts of a world's training split.

    Attributes:
        outputs: which were drawn, ``[prompts, draws]``.
        log_shares: of all outputs, ``-inf`` for those that were not, ``[prompts, outputs]``.
    """

    outputs: Int[np.ndarray, "prompts draws"]
    log_shares: Float[np.ndarray, "prompts outputs"]


def known(values: Float[np.ndarray, "*batch prompts outputs"], draws: Draws) -> Float[np.ndarray, "..."]:
    """Values of outputs as far as the draws tell: of those that were not drawn, the prompt's mean over draws.

    Args:
        values: of all outputs.
        draws: of these prompts.
    """
    mean = (np.exp(draws.log_shares) * values).sum(-1, keepdims=True)
    return np.where(np.isfinite(draws.log_shares), values, mean)


def rehearse(
    family: Family, course: Course, of: Classroom, draws: list[Draws]
) -> Float[np.ndarray, "worlds models prompts"]:
    """The gains that a training on the draws alone foretells, prompt by prompt.

    Args:
        family: of the worlds.
        course: of the training that is foretold.
        of: the classrooms.
        draws: of each world.
    """
    rewards, truth = np.array(of.rewards), np.array(of.truth)
    for world, each in enumerate(draws):
        rewards[world, :, TRAIN] = known(rewards[world, :, TRAIN], each)
        truth[world, TRAIN] = known(truth[world, TRAIN], each)
    taught = teach(family, course, of._replace(rewards=jnp.asarray(rewards)), (), ())
    return np.asarray(_gained(family.policy)(of.images, of.start, truth, taught.parameters[:, :, -1]))


@cache
def _gained(kind: Networks) -> Any:
    """By how much expectations of a prompt rise from one policy to others."""

    def gained(images: Array, start: Array, truth: Array, ends: Array) -> Array:
        logits = kind.policy(images, TRAIN).logits
        first = jax.nn.softmax(logits(start))
        return jax.vmap(lambda end: expected_reward(jax.nn.softmax(logits(end)) - first, truth[TRAIN]))(ends)

    return jax.jit(jax.vmap(gained))


def draw(log_p: Float[np.ndarray, "prompts outputs"], count: int, seed: int) -> Draws:
    """Draws from a policy.

    Args:
        log_p: of the policy.
        count: of each prompt.
        seed: decides them.
    """
    uniforms = np.random.default_rng([seed, 2]).random((len(log_p), count))
    outputs = np.asarray(inverse_cdf(jnp.exp(log_p), jnp.asarray(uniforms)))
    shares = (outputs[..., None] == np.arange(log_p.shape[-1])).mean(1)
    with np.errstate(divide="ignore"):
        return Draws(outputs, np.log(shares))


def foretell(
    family: Family, course: Course, of: Classroom, draws: list[Draws]
) -> tuple[Float[np.ndarray, "candidates worlds models"], Float[np.ndarray, "worlds models prompts"]]:
    """All candidates of :data:`CANDIDATES`, and the gains that a rehearsal foretells, prompt by prompt.

    Args:
        family: of the worlds.
        course: of the training that is foretold.
        of: the classrooms.
        draws: of each world.
    """
    rewards, truth = np.asarray(of.rewards[:, :, TRAIN]), np.asarray(of.truth[:, TRAIN])
    logs = np.stack([each.log_shares for each in draws])
    straight, at_once = jax.device_get(
        _tangent(family.policy, course.updates * course.learning_rate)(
            of.images, of.start, logs, truth, rewards
        )
    )
    plain = [_plain(*each) for each in zip(rewards, truth, draws, strict=True)]
    found = {name: np.stack([each[name] for each in plain]) for name in plain[0]}
    found[UNIFORM] = np.asarray(_uniform_accuracy(rewards, truth[:, None]))
    accuracies = 0.5 * (found[ON_POLICY] + found[UNIFORM])
    found["variance and accuracies"] = 0.5 * (found["variance"] + accuracies)
    found["tangent at once"], found["tangent flow"] = at_once, straight.mean(-1)
    gains = rehearse(family, course, of, draws)
    found["rehearsal"] = gains.mean(-1)

    problems, outputs = math.prod(rewards.shape[:-1]), rewards.shape[-1]
    log_p, gold = (
        np.broadcast_to(each[:, None], rewards.shape).reshape(problems, outputs) for each in (logs, truth)
    )
    compact = _drawn_alone(log_p, gold, rewards.reshape(problems, outputs))
    for title, times, flow in (
        ("natural", NATURAL_TIMES, NaturalFlow()),
        ("gradient", GRADIENT_TIMES, GradientFlow()),
    ):
        paths = flow.policies(compact[0], compact[2], np.tile(times, (problems, 1)))
        for i, time in enumerate(times):
            value = (np.exp(paths[:, i]) * compact[1]).sum(-1) - (np.exp(compact[0]) * compact[1]).sum(-1)
            found[f"{title} flow, {time:g}"] = value.reshape(rewards.shape[:-1]).mean(-1)
    # The one knows what prompts share, the other how far a prompt can go.
    ranks = [rankdata(found[name], axis=-1) for name in ("tangent flow", "natural flow, 1")]
    found["both flows"] = np.add(*ranks)
    return np.stack([found[name] for name in CANDIDATES]), gains


def _drawn_alone(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Without the outputs that were not drawn: as many columns as the most that were."""
    order = np.argsort(-arrays[0], axis=-1, kind="stable")
    most = int(np.isfinite(arrays[0]).sum(-1).max())
    return tuple(np.take_along_axis(each, order, -1)[:, :most] for each in arrays)


def _plain(
    rewards: Float[np.ndarray, "models prompts outputs"],
    truth: Float[np.ndarray, "prompts outputs"],
    draws: Draws,
) -> dict[str, Float[np.ndarray, " models"]]:
    """What needs no model of the policy."""
    at = np.broadcast_to(draws.outputs, (len(rewards), *draws.outputs.shape))
    r = np.take_along_axis(rewards, at, -1)
    g = np.broadcast_to(np.take_along_axis(truth, draws.outputs, -1), r.shape)
    mask = np.ones(r.shape, bool)
    pairs = estimates.pairs(r, g, mask)
    decided = pairs.decided.sum(-1)
    return {
        "variance": estimates.variance(r, mask).mean(-1),
        "covariance": estimates.covariance(r, g, mask).mean(-1),
        ON_POLICY: pairs.right_decided.sum(-1) / decided,
        "HAcc": pairs.harmless.sum(-1) / decided,
    }


@jax.jit
def _uniform_accuracy(rewards: Array, truth: Array) -> Array:
    truth = jnp.broadcast_to(truth, rewards.shape)
    return accuracy_where_truth_differs(rewards, truth, jnp.ones(rewards.shape)).mean(-1)


@cache
def _tangent(kind: Networks, time: float) -> Any:
    """Gains of the ground truth of every prompt along the linearised flow, and its mean rate at once."""

    def along(images: Array, start: Array, logs: Array, truth: Array, rewards: Array) -> tuple[Array, Array]:
        drawn = jnp.isfinite(logs)
        policy = Tangent(kind.policy(images, TRAIN), start, jnp.where(drawn, logs, 0.0))
        instance = problem(policy, jnp.zeros_like(start), rewards, truth)
        instance = eqx.tree_at(lambda i: i.mask, instance, drawn, is_leaf=lambda leaf: leaf is None)
        rate, shares = time / _TANGENT_UPDATES, jnp.exp(logs)
        first, last = train(instance, optax.sgd(rate), [1, _TANGENT_UPDATES])
        gains = expected_reward(instance.probabilities(last) - shares, truth)
        # The first step is the gradient of the reward; what the truth gains along it is its rate.
        velocity = policy.pushforward(jnp.zeros_like(start), first / rate)
        return gains, expected_reward(
            shares * (truth - expected_reward(shares, truth)[:, None]), velocity
        ).mean()

    return jax.jit(jax.vmap(jax.vmap(along, (None, None, None, None, 0))))


_SMALL = Scale(worlds=2, prompts=100, updates=100, records=2)


@dataclass(frozen=True)
class Trials:
    """Forecasts that are put to the test.

    Attributes:
        families: of worlds, of :data:`FAMILIES`; those in ``TUNED`` choose among the candidates.
        scale: worlds of each family, and their size.
        draws: of every prompt.
        more: draws of every prompt, by which is seen what a rehearsal lacks.
    """

    families: tuple[str, ...] = ("close", "by digit", "steps, sharp")
    scale: Scale = _SMALL
    draws: int = 16
    more: int = 64


def parts(trials: Trials) -> list[str]:
    """Names of blocks of worlds of a family."""
    return [f"{family}.{block}" for family in trials.families for block in blocks(trials.scale)]


def tried(trials: Trials, part: str) -> dict[str, np.ndarray]:
    """What :func:`trial` gives for a part."""
    family, block = part.rsplit(".", 1)
    return trial(family, trials.scale.course(), seeds(block), trials.draws, trials.more)


def trial(family: str, course: Course, of_worlds: range, count: int, more: int) -> dict[str, np.ndarray]:
    """Forecasts for some worlds, and what training did.

    Args:
        family: of :data:`FAMILIES`.
        course: of the training.
        of_worlds: their seeds.
        count: draws of each prompt.
        more: draws of each prompt, of another rehearsal.

    Returns:
        ``forecasts`` ``[candidates, worlds, models]``; ``gains`` of the rehearsal ``[worlds, models,
        prompts]``, and ``of_more`` with more draws ``[worlds, models]``; ``held_out`` and ``train``, the
        increases of the ground truth ``[worlds, models]``.
    """
    kind = FAMILIES[family]
    of = classrooms(kind, course, of_worlds, ALL)
    log_p = _log_p(kind.policy)(of.images, of.start)
    few, many = (
        [draw(np.asarray(each), n, seed) for each, seed in zip(log_p, of_worlds, strict=True)]
        for n in (count, more)
    )
    forecasts, gains = foretell(kind, course, of, few)
    of_more = rehearse(kind, course, of, many).mean(-1)
    truth = "expected_ground_truth_reward"
    taught = teach(kind, course, of, (truth,), ())
    ends = {name: increases(getattr(taught, name)[truth])[..., -1] for name in ("held_out", "train")}
    return {"forecasts": forecasts, "gains": gains, "of_more": of_more, **ends}


@cache
def _log_p(kind: Networks) -> Any:
    return jax.jit(jax.vmap(lambda images, at: jax.nn.log_softmax(kind.policy(images, TRAIN).logits(at))))
