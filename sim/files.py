"""Instance files: the published JSON format (arXiv:2604.25872) with optional keys for what it lacks."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from goodteacher.sim.autoregressive import (
    MLP,
    Autoregressive,
    Sequences,
    TokenFunction,
    TokenLinear,
    TokenTable,
    token_mlp,
)
from goodteacher.sim.instance import Instance, Parameters, Probabilities, Regularizer, verified
from goodteacher.sim.names import unknown
from goodteacher.sim.policies import LinearSoftmax, Policy, Tabular
from goodteacher.sim.validation import finite, jax_array, scalar

REQUIRED = ("rewards", "ground_truth_rewards")
START = ("initial_policy_weights", "initial_policy_probabilities")
REGULARIZATION = ("kl_coefficient", "forward_kl_coefficient", "entropy_coefficient")
VERIFIER = ("true_positive_rate", "false_positive_rate")
_AS_IT_STANDS = ("reference_policy_logits", "prompt_weights", "mask", "reward_variances")
OPTIONAL = ("output_features", "temperature", "token_policy", *REGULARIZATION, *VERIFIER, *_AS_IT_STANDS)
_TOKEN_POLICIES = {"table": (), "linear": ("features",), "mlp": ("width", "depth")}
_KNOWN = (*REQUIRED, *START, *OPTIONAL)


def read_instance(path: str | os.PathLike[str], *, nearest: bool = False) -> Instance:
    """Reads an instance file.

    Keys are those of the published format, ``rewards`` and ``ground_truth_rewards`` ``[prompts][outputs]``,
    one of ``initial_policy_weights`` ``[[features]]`` and ``initial_policy_probabilities``
    ``[prompts][outputs]``, and ``output_features`` ``[prompts][outputs][features]`` (without them the policy
    is tabular and weights are logits ``[prompts][outputs]``); and any of :data:`OPTIONAL`, as
    :class:`goodteacher.sim.instance.Instance` takes them.

    With ``true_positive_rate`` and ``false_positive_rate`` the rewards are those of a verifier that errs, of
    a ground truth of 0 and 1: they are left out, and random.

    An autoregressive policy (:mod:`goodteacher.sim.autoregressive`) stands under ``token_policy``: an object
    with ``vocabulary``, ``length`` and a ``kind``: ``table``; ``linear``, with ``features``
    ``[prompts][prefixes][vocabulary][features]``; or ``mlp``, with ``width`` and ``depth``. Then
    ``initial_policy_weights`` are ``[[parameters]]``, flat.

    Args:
        path: the file.
        nearest: as of :class:`goodteacher.sim.instance.Probabilities`.

    Raises:
        ValueError: if the file cannot be read or does not hold a valid instance.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; give a JSON instance file") from error
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    except ValueError as error:  # an integer with more digits than Python converts
        raise ValueError(f"{path} holds a number that cannot be read: {error}") from error
    try:
        return from_dictionary(data, nearest=nearest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_instance_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an instance file, good or bad, not of something else with numbers in it.

    That is any ``.json`` but one that holds other things than an object with a key of instance files.
    """
    if Path(path).suffix != ".json":
        return False
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True  # for the reader to say what is wrong
    return not isinstance(data, list) and not (
        isinstance(data, dict) and data and not data.keys() & {*_KNOWN}
    )


def from_dictionary(data: Any, *, nearest: bool = False) -> Instance:
    """An instance from the contents of an instance file; see :func:`read_instance`.

    Raises:
        ValueError: if it is not a valid instance.
    """
    if not isinstance(data, dict):
        raise ValueError(f"the file holds a {type(data).__name__}, not an object with named fields")
    _check_keys(data, _KNOWN)
    if any(key in data for key in VERIFIER):
        data = _verified(data)
    for key in REQUIRED:
        if key not in data:
            raise ValueError(f"key {key} is missing; give rewards per prompt and output")
    if not any(key in data for key in START):
        raise ValueError(f"one of the keys {' and '.join(START)} is missing; give one")
    for key, value in data.items():
        if value is None:
            raise ValueError(f"{key} is null; give a value or leave the key out")
    return Instance(
        data["rewards"],
        data["ground_truth_rewards"],
        _start(data, nearest),
        policy=_policy(data),
        regularizer=Regularizer(*[data.get(key, 0.0) for key in REGULARIZATION]),
        **{key: data[key] for key in _AS_IT_STANDS if key in data},
    )


def _verified(data: dict[str, Any]) -> dict[str, Any]:
    """With the rewards of a verifier in the place of its rates."""
    rates = {key: data[key] for key in VERIFIER if key in data}
    if len(rates) < len(VERIFIER):
        raise ValueError(f"one of the keys {' and '.join(VERIFIER)} is missing; give both")
    for key in ("rewards", "reward_variances"):
        if key in data:
            raise ValueError(f"{key} and {VERIFIER[0]} are both given; give one")
    if "ground_truth_rewards" not in data:
        raise ValueError("key ground_truth_rewards is missing; give rewards per prompt and output")
    rewards, variances = verified(data["ground_truth_rewards"], *rates.values(), mask=data.get("mask"))
    kept = {key: value for key, value in data.items() if key not in VERIFIER}
    return {**kept, "rewards": rewards, "reward_variances": variances}


def _start(data: dict[str, Any], nearest: bool) -> Probabilities | Parameters:
    given = [key for key in START if key in data]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are both given; give one")
    if "initial_policy_weights" in data:
        return Parameters(data["initial_policy_weights"])
    return Probabilities(data["initial_policy_probabilities"], nearest)


def _policy(data: dict[str, Any]) -> Policy | None:
    if "token_policy" in data:
        if "output_features" in data:
            raise ValueError("token_policy and output_features are both given; give one")
        prompts = len(Instance(data["rewards"], mask=data.get("mask")).rewards)
        return _token_policy(data["token_policy"], prompts)
    if "output_features" in data:
        return LinearSoftmax(data["output_features"], data.get("temperature", 1.0))
    if not np.equal(scalar("temperature", data.get("temperature", 1.0), "positive"), 1.0):
        raise ValueError("temperature is given without output_features; scale the tabular logits instead")
    return None


def _check_keys(data: dict[Any, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            raise unknown("key", key, known)


def _token_policy(data: Any, prompts: int) -> Autoregressive:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _TOKEN_POLICIES:
        raise ValueError(
            f"token_policy needs a kind; give an object with one of {', '.join(_TOKEN_POLICIES)}"
        )
    keys = ("kind", "vocabulary", "length", *_TOKEN_POLICIES[kind])
    try:
        _check_keys(data, keys)
        for key in keys:
            if key not in data:
                raise ValueError(f"key {key} is missing; give {', '.join(keys)}")
        sequences = Sequences(prompts, data["vocabulary"], data["length"])
        match kind:
            case "table":
                return TokenTable(sequences)
            case "linear":
                return TokenLinear(sequences, jax_array(finite("features", data["features"], ndim=4)))
            case _:
                return token_mlp(sequences, data["width"], data["depth"], jax.random.key(0))[0]
    except ValueError as error:
        raise ValueError(f"token_policy: {error}") from error


def _describe(policy: Autoregressive) -> dict[str, Any]:
    """What stands under ``token_policy``.

    Raises:
        ValueError: for a function of one's own.
    """
    sequences = policy.sequences
    common = {"vocabulary": sequences.vocabulary, "length": sequences.length}
    match policy:
        case TokenTable():
            return {"kind": "table", **common}
        case TokenLinear():
            return {"kind": "linear", **common, "features": np.asarray(policy.features).tolist()}
        case TokenFunction(apply=MLP(width=width, depth=depth)):
            return {"kind": "mlp", **common, "width": width, "depth": depth}
    raise ValueError(
        "policy is a token function of one's own; instance files hold tables, linear ones and MLPs"
    )


def to_dictionary(instance: Instance) -> dict[str, Any]:
    """What an instance file of this instance holds: plain lists and numbers.

    Raises:
        ValueError: for a policy that the format cannot express.
    """

    def listed(array: Any) -> Any:
        return np.asarray(array).tolist()

    policy = instance.policy
    if not isinstance(policy, Tabular | LinearSoftmax | Autoregressive):
        raise ValueError(
            f"policy is a {type(policy).__name__}; instance files hold tabular and linear softmax ones, and "
            "token policies"
        )
    start = instance.initial_parameters
    data: dict[str, Any] = {
        "rewards": listed(instance.rewards),
        "ground_truth_rewards": listed(instance.ground_truth_rewards),
        "initial_policy_weights": listed(np.atleast_2d(np.asarray(start))),
    }
    if isinstance(policy, LinearSoftmax):
        data["output_features"] = listed(policy.features)
        data["temperature"] = listed(policy.temperature)
    if isinstance(policy, Autoregressive):
        data["token_policy"] = _describe(policy)
    if instance.regularizer is not None:
        regularizer = instance.regularizer
        coefficients = (regularizer.kl, regularizer.forward_kl, regularizer.entropy)
        data |= dict(zip(REGULARIZATION, map(listed, coefficients), strict=True))
    reference, mask = np.asarray(instance.reference_log_probabilities), instance.mask
    as_read = Instance(instance.rewards, start=Parameters(start), policy=policy, mask=mask)
    if not np.array_equal(reference, as_read.reference_log_probabilities):
        data["reference_policy_logits"] = listed(np.where(np.isfinite(reference), reference, 0.0))
    if not (np.asarray(instance.prompt_weights) == 1.0 / instance.prompt_weights.size).all():
        data["prompt_weights"] = listed(instance.prompt_weights)
    if instance.mask is not None:
        data["mask"] = listed(instance.mask)
    if instance.reward_variances is not None:
        data["reward_variances"] = listed(instance.reward_variances)
    return data


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuses a path that cannot or must not be written, before anything is computed.

    Raises:
        ValueError: if it exists and is not to be overwritten, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give another path, or overwrite it")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}: permission denied; give another path")


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, and those that it is in, if it does not exist.

    Raises:
        ValueError: if that is not possible.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path}: {error.strerror or error}; give another") from error


def write_json(path: str | os.PathLike[str], data: Any, *, overwrite: bool = False) -> None:
    """Writes strict JSON, whole or not at all.

    Raises:
        ValueError: as :func:`check_writable`, or if the disk refuses.
    """
    check_writable(path, overwrite=overwrite)
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def write_instance(instance: Instance, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes an instance file that :func:`read_instance` reads back exactly.

    Raises:
        ValueError: as :func:`check_writable` and :func:`to_dictionary`.
    """
    write_json(path, to_dictionary(instance), overwrite=overwrite)
