"""The published instances (arXiv:2604.25872) as functions of their scalar parameters.

Outputs are always in the order ``y*``, ``y_med``, low ones. Under ``jax.vmap`` over scalar parameters each
builder gives a batch; values are checked when they are concrete.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from goodteacher.experiments.domains import Choice, Count, NotNegative, Number, Probability, Reward, checked
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.validation import Numbers
from goodteacher.theory.draws import without

BEST, MIDDLING = 0, 1  # positions of y* and y_med among the outputs

TRAINED_ON = ("ground_truth", "proxy")
TrainedOn = Annotated[str, Choice(TRAINED_ON)]

SIMILARITIES: Mapping[str, float] = MappingProxyType(
    {"orthogonal": 0.0, "negative": -(0.5**0.5), "positive": 0.5**0.5}
)


@checked
def beneficial_errors(
    initial_probability: Probability = 0.05,
    middling_reward: Reward = 0.8,
    middling_probability: Probability = 0.5,
    low_outputs: Count = 3,
    trained_on: TrainedOn = "ground_truth",
    kl_coefficient: NotNegative = 0.0,
    **options: Any,
) -> Instance:
    """One prompt with a best output, a middling one that holds the flow up, and low ones.

    The ground truth rewards are ``(1, middling_reward, -1, ..., -1)``. The proxy errs on one output only:
    it gives ``y_med`` the low reward too, which is beneficial (arXiv:2604.25872, Theorems 1 and 2).

    Args:
        initial_probability: of ``y*``.
        middling_reward: ground truth reward of ``y_med``, between -1 and 1.
        middling_probability: initial probability of ``y_med``; the low outputs share the rest equally.
        low_outputs: how many there are.
        trained_on: ``"ground_truth"`` or ``"proxy"``: what ``rewards`` of the instance holds.
        kl_coefficient: of the divergence from the initial policy.
        options: further arguments of :class:`goodteacher.sim.instance.Instance`; a ``regularizer`` stands
            instead of the coefficient.

    Returns:
        A tabular instance (unless ``options`` has another policy) of shape ``[1, 2 + low_outputs]``.

    Raises:
        ValueError: naming the parameter that is out of range.
    """
    taken = jnp.asarray(initial_probability, float) + jnp.asarray(middling_probability, float)
    if not isinstance(taken, Tracer):
        Number(0, 1).check("initial_probability + middling_probability", taken)

    def outputs(best: Numbers, middling: Numbers, low: Numbers) -> Array:
        return jnp.stack([jnp.asarray(value, float) for value in (best, middling, *[low] * low_outputs)])

    truth = outputs(1.0, middling_reward, -1.0)
    return Instance(
        truth if trained_on == "ground_truth" else outputs(1.0, -1.0, -1.0),
        truth,
        start=outputs(initial_probability, middling_probability, (1.0 - taken) / low_outputs),
        **{"regularizer": Regularizer(kl=kl_coefficient), **options},
    )


def padded(
    most: int,
    outputs: Numbers,
    initial_probability: Numbers,
    middling_reward: Numbers = 0.8,
    trained_on: str = "ground_truth",
) -> Instance:
    """:func:`beneficial_errors` with any number of outputs in one shape.

    Args:
        most: outputs of the shape.
        outputs: how many of them exist, at least three; may be traced.
        initial_probability, middling_reward, trained_on: of the instance; ``y_med`` starts at 0.5.
    """
    # What the absent outputs hold is taken from the others in proportion.
    middling = 0.5
    low = (1.0 - middling - initial_probability) / (outputs - 2)
    total = initial_probability + middling + (most - 2) * low
    whole = beneficial_errors(
        initial_probability / total,
        middling_reward,
        middling_probability=middling / total,
        low_outputs=most - 2,
        trained_on=trained_on,
    )
    return without(whole, jnp.arange(most)[None] < outputs)


@checked
def feature_similarity(
    similarity: Reward = 0.0,
    initial_probability: Probability = 0.05,
    middling_reward: Reward = 0.8,
    middling_probability: Probability = 0.5,
    low_outputs: Count = 3,
    trained_on: TrainedOn = "ground_truth",
    kl_coefficient: NotNegative = 0.0,
    **options: Any,
) -> Instance:
    """:func:`beneficial_errors` with features: those of ``y*`` and ``y_med`` are at a given angle.

    ``feature(y*) = 1.5 e_1``, ``feature(y_med) = c e_1 + sqrt(1 - c^2) e_2`` and ``e_3, e_4, ...`` for the
    low outputs (arXiv:2604.25872, Appendices A.1 and C).

    Args:
        similarity: ``c``, the cosine between the two features, strictly between -1 and 1; the published ones
            are :data:`SIMILARITIES`.
        initial_probability, middling_reward, middling_probability, low_outputs, trained_on: as for
            :func:`beneficial_errors`.
        kl_coefficient, options: likewise.

    Raises:
        ValueError: naming the parameter that is out of range.
    """
    cosine = jnp.asarray(similarity, float)
    middling = jnp.stack([cosine, jnp.sqrt(1.0 - cosine**2)])
    features = jnp.eye(2 + low_outputs).at[BEST, 0].set(1.5).at[MIDDLING, :2].set(middling)
    return beneficial_errors(
        initial_probability,
        middling_reward,
        middling_probability,
        low_outputs,
        trained_on,
        kl_coefficient,
        policy=LinearSoftmax(features[None]),
        **options,
    )
