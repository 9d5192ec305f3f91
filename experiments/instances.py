"""The published instances (arXiv:2604.25872) as functions of their scalar parameters.

Outputs are always in the order ``y*``, ``y_med``, low ones. Under ``jax.vmap`` over scalar parameters each
builder gives a batch; values are checked when they are concrete.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from goodteacher.sim.instance import Instance
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.validation import Numbers

BEST, MIDDLING = 0, 1  # positions of y* and y_med among the outputs

TRAINED_ON = ("ground_truth", "proxy")

SIMILARITIES: Mapping[str, float] = MappingProxyType(
    {"orthogonal": 0.0, "negative": -(0.5**0.5), "positive": 0.5**0.5}
)


def beneficial_errors(
    initial_probability: Numbers = 0.05,
    middling_reward: Numbers = 0.8,
    middling_probability: Numbers = 0.5,
    low_outputs: int = 3,
    trained_on: str = "ground_truth",
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
        options: further arguments of :class:`goodteacher.sim.instance.Instance`, such as ``kl_coefficient``.

    Returns:
        A tabular instance (unless ``options`` has features) of shape ``[1, 2 + low_outputs]``.

    Raises:
        ValueError: naming the parameter that is out of range.
    """
    _check_count("low_outputs", low_outputs)
    if trained_on not in TRAINED_ON:
        raise ValueError(f"trained_on is {trained_on!r}; give one of {', '.join(TRAINED_ON)}")
    _check_between("initial_probability", initial_probability, 0, 1)
    _check_between("middling_probability", middling_probability, 0, 1)
    _check_between("middling_reward", middling_reward, -1, 1)
    taken = jnp.asarray(initial_probability, float) + jnp.asarray(middling_probability, float)
    _check_between("initial_probability + middling_probability", taken, 0, 1)

    def outputs(best: Numbers, middling: Numbers, low: Numbers) -> Array:
        return jnp.stack([jnp.asarray(value, float) for value in (best, middling, *[low] * low_outputs)])

    truth = outputs(1.0, middling_reward, -1.0)
    return Instance(
        truth if trained_on == "ground_truth" else outputs(1.0, -1.0, -1.0),
        truth,
        start=outputs(initial_probability, middling_probability, (1.0 - taken) / low_outputs),
        **options,
    )


def feature_similarity(
    similarity: Numbers = "orthogonal",
    initial_probability: Numbers = 0.05,
    middling_reward: Numbers = 0.8,
    middling_probability: Numbers = 0.5,
    low_outputs: int = 3,
    trained_on: str = "ground_truth",
    **options: Any,
) -> Instance:
    """:func:`beneficial_errors` with features: those of ``y*`` and ``y_med`` are at a given angle.

    ``feature(y*) = 1.5 e_1``, ``feature(y_med) = c e_1 + sqrt(1 - c^2) e_2`` and ``e_3, e_4, ...`` for the
    low outputs (arXiv:2604.25872, Appendices A.1 and C).

    Args:
        similarity: ``c``, the cosine between the two features, strictly between -1 and 1; or
            ``"orthogonal"``, ``"negative"`` or ``"positive"`` for the published 0, ``-sqrt(1/2)`` and
            ``sqrt(1/2)``.
        initial_probability, middling_reward, middling_probability, low_outputs, trained_on, options:
            as for :func:`beneficial_errors`.

    Raises:
        ValueError: naming the parameter that is out of range.
    """
    if isinstance(similarity, str):
        if similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity is {similarity!r}; give a cosine or one of {', '.join(SIMILARITIES)}"
            )
        similarity = SIMILARITIES[similarity]
    _check_between("similarity", similarity, -1, 1)
    cosine = jnp.asarray(similarity, float)

    _check_count("low_outputs", low_outputs)
    middling = jnp.stack([cosine, jnp.sqrt(1.0 - cosine**2)])
    features = jnp.eye(2 + low_outputs).at[BEST, 0].set(1.5).at[MIDDLING, :2].set(middling)
    return beneficial_errors(
        initial_probability,
        middling_reward,
        middling_probability,
        low_outputs,
        trained_on,
        policy=LinearSoftmax(features[None]),
        **options,
    )


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value}; give a whole number of at least 1")


def _check_between(name: str, value: Numbers, low: float, high: float) -> None:
    if isinstance(value, Tracer):
        return
    try:
        inside = low < float(value) < high
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ValueError(f"{name} is {value}; give a number strictly between {low} and {high}")
