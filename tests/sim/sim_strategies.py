"""Random problems for the tests of `sim`: Hypothesis strategies, and whole batches at once."""

from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st
from jaxtyping import Array

from goodteacher.sim import integrated
from goodteacher.sim.batching import as_batch
from goodteacher.sim.flow import Control, HittingTime
from goodteacher.sim.goals import Goal
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.lines import Position, base, lines, width

PROMPTS, OUTPUTS, FEATURES = 3, 5, 4
# Five, four and two outputs.
MASK = np.array([[True] * 5, [True] * 4 + [False], [False, True, False, True, False]])


def beneficial_errors(initial_probability: float = 0.05, **optional: Any) -> Instance:
    """The published five outputs (arXiv:2604.25872), trained on the ground truth."""
    rest = (0.5 - initial_probability) / 3
    probabilities = [initial_probability, 0.5, rest, rest, rest]
    return Instance([1.0, 0.8, -1.0, -1.0, -1.0], start=probabilities, **optional)


def stack(*trees: Any) -> Any:
    """A batch of pytrees of one shape."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def random_data(
    seed: int, scale: float = 2.0, features: bool = False, masked: bool = False, regularized: bool = False
) -> dict[str, Any]:
    """Arguments of an :class:`Instance` of three prompts; logits have a standard deviation of ``scale``."""
    rng = np.random.default_rng(seed)
    shape = (PROMPTS, OUTPUTS)
    data: dict[str, Any] = {
        "rewards": rng.uniform(-1, 1, shape),
        "ground_truth_rewards": rng.uniform(-1, 1, shape),
        "prompt_weights": rng.uniform(0.1, 1, PROMPTS),
    }
    if features:
        data["output_features"] = rng.normal(size=(*shape, FEATURES))
        data["temperature"] = rng.uniform(0.5, 2)
        data["initial_policy_weights"] = scale * rng.normal(size=FEATURES)
    else:
        data["initial_policy_weights"] = scale * rng.normal(size=shape)
    if regularized:
        data["reference_policy_logits"] = scale * rng.normal(size=shape)
        for kind in ("kl", "forward_kl", "entropy"):
            data[f"{kind}_coefficient"] = rng.uniform(0, 1)
    if masked:
        data["mask"] = MASK
    return data


def random_tabular(count: int, outputs: int, seed: int, prompts: int = 1, scale: float = 2.0) -> Instance:
    """A batch of ``count`` tabular instances, each with a proxy and a ground truth of its own."""
    rng = np.random.default_rng(seed)
    shape = (count, prompts, outputs)
    return jax.vmap(lambda proxy, truth, logits: Instance(proxy, truth, start=Parameters(logits)))(
        rng.uniform(-1, 1, shape), rng.uniform(-1, 1, shape), scale * rng.normal(size=shape)
    )


def numbers(bound: float) -> st.SearchStrategy[float]:
    """Floats between ``-bound`` and ``bound``."""
    return st.floats(-bound, bound, allow_subnormal=False)


def nested(elements: st.SearchStrategy[Any], *shape: int) -> st.SearchStrategy[Any]:
    """Lists of lists of the given shape."""
    for size in reversed(shape):
        elements = st.lists(elements, min_size=size, max_size=size)
    return elements


def probability_rows(prompts: int, outputs: int) -> st.SearchStrategy[list[list[float]]]:
    """Rows of positive numbers that sum to one, over twelve orders of magnitude."""

    def normalized(exponents: list[list[float]]) -> list[list[float]]:
        rows = 10.0 ** np.asarray(exponents)
        return (rows / rows.sum(-1, keepdims=True)).tolist()

    return nested(st.floats(-12.0, 0.0), prompts, outputs).map(normalized)


@st.composite
def instance_dictionaries(draw: st.DrawFn) -> dict[str, Any]:
    """Contents of valid instance files: either policy, either start, any optional keys."""
    prompts, outputs = draw(st.sampled_from([(1, 2), (3, 4)]))  # each shape costs compilation
    rows = nested(numbers(1.0), prompts, outputs)
    logits = nested(numbers(30.0), prompts, outputs)
    coefficient = st.floats(0.0, 2.0)
    masked_row = nested(st.booleans(), outputs - 2).map(lambda rest: [True, *rest, True])
    optional: dict[str, st.SearchStrategy[Any]] = {
        "reference_policy_logits": logits,
        "kl_coefficient": coefficient,
        "forward_kl_coefficient": coefficient,
        "entropy_coefficient": coefficient,
        "prompt_weights": nested(st.floats(0.01, 5.0), prompts),
    }
    data: dict[str, Any] = {"rewards": draw(rows), "ground_truth_rewards": draw(rows)}
    match draw(st.sampled_from(["logits", "probabilities", "features"])):
        case "logits":
            data["initial_policy_weights"] = draw(logits)
            optional["mask"] = nested(masked_row, prompts)
        case "probabilities":
            data["initial_policy_probabilities"] = draw(probability_rows(prompts, outputs))
        case "features":
            dimension = draw(st.sampled_from([1, 3]))
            data["output_features"] = draw(nested(numbers(2.0), prompts, outputs, dimension))
            data["initial_policy_weights"] = draw(nested(numbers(3.0), 1, dimension))
            optional["mask"] = nested(masked_row, prompts)
            optional["temperature"] = st.floats(0.1, 10.0)
    for key, strategy in optional.items():
        if draw(st.booleans()):
            data[key] = draw(strategy)
    return data


# Integrated, whether the flow can be solved or not


def integrated_time(instance: Instance, goal: Goal, control: Control | None = None) -> HittingTime:
    """As ``hitting_time``."""
    return integrated.hitting_time(instance, goal, control or Control())


def integrated_times(
    instances: Instance, goals: Goal, control: Control | None = None, *, lanes: int = 128
) -> HittingTime:
    """As ``hitting_times``."""
    control = control or Control()
    horizons = np.broadcast_to(control.horizon, len(instances.rewards))
    return integrated.hitting_times(instances, goals, horizons, control, min(lanes, len(horizons)))


def integrated_path(instance: Instance, times: np.ndarray, control: Control | None = None) -> Array:
    """As ``trajectory``."""
    instances, rows = as_batch((instance, times))
    return integrated.trajectories(instances, rows, control or Control())[0]


MANY_LINES = 300


def random_lines(outputs, inertia=1.0):
    """Flows as lines, so many of them."""
    rng = np.random.default_rng(0)
    shape = (outputs, MANY_LINES)
    logits = rng.normal(size=shape) * rng.choice([0.5, 2.0, 5.0], MANY_LINES)
    powers = None if inertia == 1.0 else np.where(rng.uniform(size=shape) < 0.5, 1.0, inertia)
    return lines(logits, rng.uniform(-1.0, 1.0, shape), powers)


def anywhere(flow):
    """From breakpoints to far from them, into what is next to no probability."""
    rng = np.random.default_rng(1)
    anchor = rng.integers(0, 1000, MANY_LINES) % (flow.last + 1)
    return Position(anchor, 10.0 ** rng.uniform(-2, 2, MANY_LINES) * width(base(flow, anchor)))
