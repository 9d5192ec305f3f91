"""Which measure of a reward model foretells how much it teaches: accuracies, harm-aware ones, variance."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

from goodteacher.experiments.datasets import Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.statistics import rank_correlation
from goodteacher.figures.style import BLACK, GREY, ORANGE, PAGE, letter, paper
from goodteacher.sim.ascent import ascend
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.metrics import comparisons, measure, one_vs_many_accuracy, pairwise_accuracy
from goodteacher.sim.objective import expected_reward

FAMILIES = ("scales differ", "one scale")
_TITLES = {
    "acc": "Acc",
    "acc_w": "Acc-W",
    "hacc": "HAcc",
    "hacc_w": "HAcc-W",
    "acc_all": "Acc, one vs all",
    "acc_w_all": "Acc-W, one vs all",
    "variance": "reward variance",
}
MEASURES = tuple(_TITLES)
_LOOKS = {"scales differ": (BLACK, "o"), "one scale": (ORANGE, "s")}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        policies: initial policies, each with a ground truth of its own.
        models: reward models for each of them.
        prompts, outputs: of every problem.
        spread: standard deviation of the initial logits.
        smallest_scale: of a reward model's rewards, where scales differ; log-uniform up to one.
        kl_coefficient: of all runs.
        updates, learning_rate: the budget of exact gradient ascent.
        resamples: of the bootstrap over policies.
        seed: of all random numbers.
    """

    policies: int = 30
    models: int = 60
    prompts: int = 6
    outputs: int = 6
    spread: float = 1.5
    smallest_scale: float = 0.05
    kl_coefficient: float = 0.01
    updates: int = 1_000
    learning_rate: float = 0.2
    resamples: int = 2_000
    seed: int = 0


def _instance(settings: Settings, key: Array, policy_key: Array, rescale: Array) -> Instance:
    """A random reward model: the ground truth, blurred more or less, and sometimes wrong about one output."""
    shape = settings.prompts, settings.outputs
    of_truth, of_start = jax.random.split(policy_key)
    truth = jax.random.uniform(of_truth, shape, minval=-1.0)
    start = settings.spread * jax.random.normal(of_start, shape)
    of_noise, of_share, of_scale, of_error, of_output = jax.random.split(key, 5)
    share = jax.random.uniform(of_share)
    rewards = (1.0 - share) * truth + share * jax.random.uniform(of_noise, shape, minval=-1.0)
    wrong = jnp.arange(settings.outputs) == jax.random.randint(
        of_output, (settings.prompts, 1), 0, settings.outputs
    )
    kind = jax.random.randint(of_error, (), 0, 3)  # no further error, one output overrated, or underrated
    rewards = jnp.where(wrong & (kind > 0), jnp.where(kind == 1, 1.0, -1.0), rewards)
    scale = settings.smallest_scale ** jax.random.uniform(of_scale)
    return Instance(
        jnp.where(rescale, scale, 1.0) * rewards,
        truth,
        start=Parameters(start),
        regularizer=Regularizer(kl=settings.kl_coefficient),
    )


def _evaluate(settings: Settings, instance: Instance) -> dict[str, Array]:
    """One model on one policy: its measures at the start, and the increase of ground truth reward."""
    start = instance.initial_parameters
    compared = comparisons(instance, start)
    pairs, groups = pairwise_accuracy(compared)._asdict(), one_vs_many_accuracy(compared)
    found = ascend(instance, optax.sgd(settings.learning_rate), settings.updates)
    before, after = (
        expected_reward(instance.probabilities(parameters), instance.ground_truth_rewards).mean()
        for parameters in (start, found.parameters)
    )
    variance = measure(instance, start, ("proxy_reward_variance",))["proxy_reward_variance"].mean()
    # Against all others HAcc is Acc: if all are below the mean, the best one is above it.
    whole = {"acc_all": groups.acc, "acc_w_all": groups.acc_w}
    return {**pairs, **whole, "variance": variance, "increase": after - before}


def run(settings: Settings) -> Data:
    """Every measure of every model, the increase it leads to, and their rank correlation over models."""
    of_policies, of_models = jax.random.split(jax.random.key(settings.seed))
    policies = jax.random.split(of_policies, settings.policies)
    models = jax.random.split(of_models, (settings.policies, settings.models))
    shape = (len(FAMILIES), *models.shape)
    family, policy, model = np.unravel_index(np.arange(math.prod(shape)), shape)

    @jax.jit
    def draw() -> Instance:
        # One by one: random numbers of many keys at once take many times as long to compile.
        return jax.lax.map(
            lambda keys: _instance(settings, *keys), (models[policy, model], policies[policy], family == 0)
        )

    @jax.jit
    @jax.vmap
    def evaluate(instance: Instance) -> dict[str, Array]:
        return _evaluate(settings, instance)

    flat = jax.device_get(evaluate(draw()))
    found = {name: values.reshape(shape) for name, values in flat.items()}

    axes = ("family", "policy", "model")
    labels = {name: f"{_TITLES[name]} of the reward model under the initial policy" for name in MEASURES}
    values = {name: variable(axes, found[name], text) for name, text in labels.items()}
    values["increase"] = variable(axes, found["increase"], "increase of expected ground truth reward")
    names = {"family": list(FAMILIES)}

    def correlations(family: int) -> np.ndarray:
        increase = found["increase"][family]
        return rank_correlation(np.stack([found[name][family] for name in MEASURES]), increase)

    each = np.stack([correlations(family) for family in range(len(FAMILIES))])
    aware, plain = (each[:, MEASURES.index(name)] for name in ("hacc", "acc"))
    random = np.random.default_rng(settings.seed)
    chosen = random.integers(settings.policies, size=(settings.resamples, settings.policies))

    def mean(axes: tuple[str, ...], of_policies: np.ndarray, what: str) -> dict[str, xr.Variable]:
        """With its interval; the policies are the last axis."""
        low, high = np.quantile(of_policies[..., chosen].mean(-1), (0.025, 0.975), axis=-1)
        return {
            "mean": variable(axes, of_policies.mean(-1), f"{what}, mean over policies"),
            "low": variable(axes, low, "lower end of its 95 % bootstrap interval"),
            "high": variable(axes, high, "upper end of its 95 % bootstrap interval"),
        }

    return {
        "correlations": xr.Dataset(
            mean(("family", "measure"), each, "rank correlation"),
            {**names, "measure": list(MEASURES)},
        ),
        "harm_aware": xr.Dataset(
            mean(("family",), aware - plain, "rank correlation of HAcc less that of Acc"), names
        ),
        "models": xr.Dataset(values, names),
    }


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Correlations with their intervals; where accuracy fails, and where variance does."""
    correlations, models = data["correlations"], data["models"]
    canvas = Figure(figsize=(PAGE, 2.9))
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.5, 1.0, 1.0))
    rows = np.arange(len(MEASURES))[::-1]
    for family, shift in zip(FAMILIES, (0.13, -0.13), strict=True):
        color, marker = _LOOKS[family]
        of = correlations.sel(family=family)
        left.hlines(rows + shift, of["low"], of["high"], color=color, lw=1.2)
        left.plot(of["mean"], rows + shift, marker, color=color, mfc="white", label=family)
    left.axvline(0.0, color=GREY, lw=0.6)
    left.set(xlabel="Rank correlation with the increase", yticks=rows, yticklabels=list(_TITLES.values()))
    left.set(xlim=(min(-0.05, float(correlations["low"].min()) - 0.05), 1.0))
    place = {"loc": "upper left", "bbox_to_anchor": (0.17, 1.0), "borderaxespad": 0.0}
    left.legend(**place, handlelength=0.8, handletextpad=0.4)
    left.set_title("what foretells the teaching")

    panels = ((middle, "hacc", "scales differ", BLACK), (right, "variance", "one scale", ORANGE))
    for ax, name, family, color in panels:
        of = models.sel(family=family)
        ax.plot(
            of[name].values.ravel(), of["increase"].values.ravel(), ".", color=color, ms=2.2, mew=0, alpha=0.5
        )
        ax.axhline(0.0, color=GREY, lw=0.6)
        ax.set(xlabel=_TITLES[name][0].upper() + _TITLES[name][1:])
    middle.set(ylabel="Increase of ground truth reward", title="accurate, yet slow")
    right.set_title("varied, yet wrong")
    right.sharey(middle)
    best = models.sel(family="scales differ")
    middle.set_xlim(float(best["hacc"].min()) - 0.02, 1.02)
    letter((left, middle, right))
    return canvas


def caption(data: Data, settings: Settings) -> str:
    """What is seen, with the numbers."""
    correlations = data["correlations"]

    def mean(family: str, *names: str) -> str:
        return listed(correlations["mean"].sel(family=family, measure=list(names)).values)

    def gain(family: str) -> str:
        of = data["harm_aware"].sel(family=family)
        return f"{float(of['mean']):.2f} [{float(of['low']):.2f}, {float(of['high']):.2f}]"

    four = ("acc", "acc_w", "hacc", "hacc_w")
    return (
        f"{settings.models} random reward models for each of {settings.policies} policies and ground "
        f"truths; {settings.updates} updates of exact gradient ascent with a little KL regularization. "
        "(a) Rank correlation of each measure, taken before training, with the increase of the expected "
        "ground truth reward, over the models of a policy; mean over policies with 95 % bootstrap intervals. "
        f"Where models differ in scale, it is {mean('scales differ', *four)} for Acc, Acc-W, HAcc, HAcc-W, "
        f"and {mean('scales differ', 'variance')} for the reward variance; where all have one scale, "
        f"{mean('one scale', *four)}, and {mean('one scale', 'variance')}. Paired by policy, HAcc has "
        f"{gain('scales differ')} and {gain('one scale')} more than Acc. (b) Accuracy fails where "
        "rewards hardly differ; a point is a model. (c) Variance fails where all models have enough of it. "
        "Measures: arXiv:2604.25872, Section 4, which reports correlations below 0.4 for language models."
    )


EXPERIMENT = Experiment(
    name="harm_aware_accuracy",
    title="Which measure of a reward model foretells how much it teaches",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
