import json
import os
import re
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_strategies import beneficial_errors, instance_dictionaries
from test_policies import Bigram

from goodteacher.sim.autoregressive import Autoregressive, Sequences, token_function
from goodteacher.sim.files import (
    OPTIONAL,
    REQUIRED,
    check_writable,
    from_dictionary,
    read_instance,
    to_dictionary,
    write_instance,
    write_json,
)
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import LinearSoftmax

PUBLISHED = """{
  "initial_policy_probabilities": [[0.05, 0.5, 0.15, 0.15, 0.15]],
  "output_features": [[[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]],
  "rewards": [[1.0, -1.0, -1.0, -1.0, -1.0]],
  "ground_truth_rewards": [[1.0, 0.8, -1.0, -1.0, -1.0]]
}"""
VALID: dict[str, Any] = {
    "rewards": [[1.0, 0.0]],
    "ground_truth_rewards": [[1.0, 0.0]],
    "initial_policy_weights": [[0.0, 1.0]],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file that the examples of a property test write in turn."""
    return tmp_path_factory.mktemp("instances") / "instance.json"


def test_published_format(path):
    path.write_text(PUBLISHED)
    instance = read_instance(path)
    assert isinstance(instance.policy, LinearSoftmax)
    np.testing.assert_array_equal(instance.policy.features[0], np.eye(5))
    np.testing.assert_array_equal(instance.rewards, [[1.0, -1.0, -1.0, -1.0, -1.0]])
    np.testing.assert_array_equal(instance.ground_truth_rewards, [[1.0, 0.8, -1.0, -1.0, -1.0]])
    p = instance.probabilities(instance.initial_parameters)
    np.testing.assert_allclose(p, [[0.05, 0.5, 0.15, 0.15, 0.15]], rtol=1e-14)


@given(instance_dictionaries())
def test_round_trip_is_exact(path, data):
    instance = from_dictionary(data)
    write_instance(instance, path, overwrite=True)
    assert eqx.tree_equal(read_instance(path), instance)


def test_round_trip_notices_the_last_digit(path):
    instance = beneficial_errors()
    write_instance(instance, path, overwrite=True)
    nudged = eqx.tree_at(lambda i: i.rewards, instance, replace_fn=lambda r: jnp.nextafter(r, 2.0))
    assert not eqx.tree_equal(read_instance(path), nudged)


def test_optional_keys_are_written_only_when_needed():
    assert to_dictionary(from_dictionary(VALID)) == VALID
    full = VALID | {
        "output_features": [[[1.0, 0.0], [0.0, 1.0]]],
        "temperature": 2.0,
        "reference_policy_logits": [[0.0, 1.0]],
        "kl_coefficient": 0.1,
        "forward_kl_coefficient": 0.2,
        "entropy_coefficient": 0.3,
        "mask": [[True, True]],
        "reward_variances": [[0.1, 0.0]],
    }
    written = to_dictionary(from_dictionary(full))
    assert {*written} == {*full}
    rates = "true_positive_rate", "false_positive_rate"  # written as what they make of rewards
    assert {*full, "prompt_weights", "token_policy", *rates} == {*VALID, *OPTIONAL}
    two = from_dictionary({key: value * 2 for key, value in VALID.items()} | {"prompt_weights": [1.0, 3.0]})
    assert to_dictionary(two)["prompt_weights"] == [0.25, 0.75]


def test_a_policy_that_the_format_lacks():
    instance = Instance([[1.0, 0.0, 0.0, 0.0]], policy=Bigram(), start=Parameters([0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="policy is a Bigram; instance files hold tabular and linear"):
        to_dictionary(instance)


TOKENS: dict[str, Any] = {
    "rewards": [[1.0, 0.0, 0.5, 0.2]] * 2,
    "ground_truth_rewards": [[1.0, 0.0, 0.0, 0.0]] * 2,
    "token_policy": {"kind": "table", "vocabulary": 2, "length": 2},
    "initial_policy_weights": [[0.1 * k for k in range(12)]],
}
LINEAR = {
    "kind": "linear",
    "vocabulary": 2,
    "length": 2,
    "features": np.arange(36.0).reshape(2, 3, 2, 3).tolist(),
}
KINDS: dict[str, dict[str, Any]] = {
    "table": TOKENS,
    "linear": TOKENS | {"token_policy": LINEAR, "initial_policy_weights": [[0.1, -0.2, 0.3]]},
    "mlp": TOKENS
    | {
        "token_policy": {"kind": "mlp", "vocabulary": 2, "length": 2, "width": 2, "depth": 1},
        "initial_policy_weights": [[0.1 * k for k in range(20)]],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_token_policies(path, kind):
    data = KINDS[kind]
    instance = from_dictionary(data)
    assert isinstance(instance.policy, Autoregressive)
    assert to_dictionary(instance) == data
    write_instance(instance, path, overwrite=True)
    again = read_instance(path)
    assert eqx.tree_equal(again, instance)
    assert not eqx.tree_equal(again, from_dictionary(TOKENS | {"kl_coefficient": 0.1}))
    probabilities = instance.probabilities(instance.initial_parameters)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-14)


def test_a_token_function_of_ones_own_cannot_be_written():
    policy, flat = token_function(Sequences(1, 2, 1), lambda weights, *_: weights, np.zeros(2))
    instance = Instance([[1.0, 0.0]], policy=policy, start=Parameters(flat))
    with pytest.raises(
        ValueError, match="policy is a token function of one's own; instance files hold tables"
    ):
        to_dictionary(instance)


def tokens(**changes: Any) -> dict[str, Any]:
    return TOKENS | {"token_policy": LINEAR | changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            TOKENS | {"token_policy": "mlp"},
            "token_policy needs a kind; give an object with one of table, lin",
        ),
        (tokens(kind="tabel"), "token_policy needs a kind"),
        (
            tokens(width=3),
            "token_policy: key 'width' is unknown; known are kind, vocabulary, length, fea",
        ),
        (tokens(kind="mlp", features=1), "token_policy: key 'features' is unknown"),
        (
            TOKENS | {"token_policy": {"kind": "table", "length": 2}},
            "token_policy: key vocabulary is missing",
        ),
        (tokens(length=2.0), "token_policy: length is 2.0; give a whole number from 1"),
        (tokens(length=40), r"token_policy: 2 \*\* 40 outputs for each of 2 prompts take 17,600 GB"),
        (tokens(features=[[[[1.0]]]]), r"token_policy: features has shape \[1, 1, 1, 1\]; give \[2, 3, 2, "),
        (tokens(features=[["a"]]), "token_policy: features must hold numbers only"),
        (tokens(), r"initial_policy_weights has shape \[1, 12\] but the policy has size 3; give \[\[3 numb"),
        (
            TOKENS | dict.fromkeys(REQUIRED, [[1.0, 0.0]] * 2),
            r"policy gives logits of shape \[2, 4\] but rewards has shape",
        ),
        (
            TOKENS | {"output_features": [[[1.0]]]},
            "token_policy and output_features are both given; give one",
        ),
    ],
)
def test_bad_token_policies(data, message):
    with pytest.raises(ValueError, match=message):
        from_dictionary(data)


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in VALID.items() if key not in keys}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without("rewards"), "key rewards is missing; give rewards per prompt and output"),
        (without("ground_truth_rewards"), "key ground_truth_rewards is missing"),
        (
            without("initial_policy_weights"),
            "one of the keys initial_policy_weights and initial_policy_probabilities is missing; give one",
        ),
        (VALID | {"reward": 1}, "key 'reward' is unknown; did you mean rewards"),
        (VALID | {"kl_coeficient": 0.1}, "key 'kl_coeficient' is unknown; did you mean kl_coefficient"),
        (VALID | {"qqq": 1}, "key 'qqq' is unknown; known are rewards, .*, mask"),
        (VALID | {"nearest": True}, "key 'nearest' is unknown"),
        (VALID | {"policy": None}, "key 'policy' is unknown"),
        (VALID | {"mask": None}, "mask is null; give a value or leave the key out"),
        ([1, 2], "the file holds a list, not an object with named fields"),
        ("text", "the file holds a str, not an object"),
        (VALID | {"initial_policy_probabilities": [[0.5, 0.5]]}, "are both given; give one"),
        (VALID | {"rewards": [[1.0, 0.0], [1.0]]}, "rewards has rows of different lengths"),
    ],
)
def test_bad_contents(path, data, message):
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
        read_instance(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JSON file: Expecting value"),
        (PUBLISHED[:-3].encode(), "is not a JSON file"),
        (b"rewards: [1, 2]", "is not a JSON file"),
        (b"\xff\xfe\x00", "is not a text file in UTF-8; give a JSON instance file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b"1" * 5000, "holds a number that cannot be read"),
    ],
)
def test_files_that_are_not_instance_files(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_instance(path)


def test_a_number_beyond_double_precision(path):
    path.write_text(json.dumps(VALID).replace("1.0", "1e400"))
    with pytest.raises(ValueError, match=r"rewards\[0\]\[0\] is inf; give finite numbers"):
        read_instance(path)


def test_nearest_is_passed_on(path):
    data = without("initial_policy_weights") | {
        "initial_policy_probabilities": [[0.3, 0.7]],
        "output_features": [[[1.0], [1.0]]],
    }
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"or ask for the nearest"):
        read_instance(path)
    instance = read_instance(path, nearest=True)
    np.testing.assert_allclose(instance.probabilities(instance.initial_parameters), 0.5)


def test_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*none\.json: No such file"):
        read_instance(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory"):
        read_instance(tmp_path)


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match=r"out\.json exists; give another path, or overwrite it"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": 2}, overwrite=True)
    assert json.loads(path.read_text()) == {"a": 2}
    assert [*tmp_path.iterdir()] == [path]


def test_unwritable_paths(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="it is a folder; give a file"):
        check_writable(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"the folder .*none does not exist; make it first"):
        check_writable(tmp_path / "none" / "out.json")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a user who is not root
    with pytest.raises(ValueError, match=r"cannot write .*out\.json: permission denied; give another path"):
        check_writable(tmp_path / "out.json")


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(ValueError, match=r"cannot write .*out\.json: No space left on device"):
        write_json(path, {"a": 2}, overwrite=True)
    assert [*tmp_path.iterdir()] == [path]
    assert json.loads(path.read_text()) == {"a": 1}


def test_only_strict_json_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "out.json", {"time": float("nan")})
    assert [*tmp_path.iterdir()] == []


def deep(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def fresh_junk() -> tuple[Any, ...]:
    """Anew each time, because a mutation may change what an earlier one has put in."""
    return (
        *(None, True, 0, -1, 10**25, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")),
        *("", "0.5", "NaN", {}, {"a": 1}, [], [[]], [[[]]], deep(40), deep(70), deep(500)),
        *([1.0], [1e308], [5e-324], [10**400, 0.5], [1, "a", None], [True, False], [[0.5, [0.5]]]),
        *([[0.5, 0.5], [1.0]], [[1.0, 10**400]], [[1e308, 1e308]], [[-1e308, 1e308]], [["0.5", "0.5"]]),
        *([[5e-324, 1.0]], [[1e308] * 5] * 5, [[[1e308] * 5] * 5] * 5),
    )


JUNK = fresh_junk()
any_junk = st.integers(0, len(JUNK) - 1).map(lambda i: fresh_junk()[i]) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=2)
    ),
    max_leaves=5,
)


@st.composite
def mutated_dictionaries(draw: st.DrawFn) -> Any:
    """A valid instance with one to three keys dropped or renamed, or subtrees replaced by junk."""
    data: Any = json.loads(json.dumps(draw(instance_dictionaries())))
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        key = draw(st.sampled_from(sorted(data)))
        match draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "add"])):
            case "drop":
                del data[key]
            case "rename":
                data[draw(st.text(max_size=4)) + key[1:]] = data.pop(key)
            case "add":
                data[draw(st.sampled_from(OPTIONAL))] = draw(any_junk)
            case _:
                parent, at = data, key
                while isinstance(parent[at], list) and parent[at] and draw(st.booleans()):
                    parent, at = parent[at], draw(st.integers(0, len(parent[at]) - 1))
                parent[at] = draw(any_junk)
    return data


def outcome(path: Any) -> Instance | str:
    """What a file holds, or why it is refused; any exception but a ValueError propagates."""
    try:
        return read_instance(path)
    except ValueError as error:
        return str(error)


def is_proper(found: Instance | str) -> bool:
    """An instance that one can start from, or a refusal in one line that names the file."""
    if isinstance(found, str):
        return "instance.json" in found and len(found.splitlines()) == 1
    start = found.probabilities(found.initial_parameters)
    return bool((jnp.abs(start.sum(1) - 1.0) < 1e-9).all() & jnp.isfinite(found.rewards).all())


@pytest.mark.parametrize("key", [*VALID, *OPTIONAL, "initial_policy_probabilities"])
@pytest.mark.parametrize("features", [False, True])
def test_junk_under_every_key_raises_only_value_errors(path, key, features):
    data = VALID | ({"output_features": [[[1.0, 0.0], [0.0, 1.0]]]} if features else {})
    if key == "initial_policy_probabilities":
        data = {name: value for name, value in data.items() if name != "initial_policy_weights"}
    for junk in JUNK:
        path.write_text(json.dumps(data | {key: junk}))
        assert is_proper(outcome(path))


@pytest.mark.parametrize("key", ["kind", "vocabulary", "length", "features", "width", "depth"])
@pytest.mark.parametrize("kind", KINDS)
def test_junk_in_a_token_policy_raises_only_value_errors(path, kind, key):
    data = KINDS[kind]
    for junk in JUNK:
        path.write_text(json.dumps(data | {"token_policy": data["token_policy"] | {key: junk}}))
        assert is_proper(outcome(path))


@settings(max_examples=300)
@given(mutated_dictionaries())
def test_mutated_contents_raise_only_value_errors(path, data):
    path.write_text(json.dumps(data))
    assert is_proper(outcome(path))


@settings(max_examples=200)
@given(st.data())
def test_mutated_bytes_raise_only_value_errors(path, data):
    content = bytearray(PUBLISHED.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 20))
        junk = data.draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [b"1e400", b"-", b"NaN", b"null", b"[", b"]]", b"9" * 5000, b'"', b"{}", b",,", b"e"]
            )
        )
        content[start:end] = junk
    path.write_bytes(content)
    assert is_proper(outcome(path))


def test_the_fuzz_notices_whatever_is_not_proper(path, monkeypatch):
    path.write_text(PUBLISHED)
    valid = outcome(path)
    assert isinstance(valid, Instance)
    assert is_proper(valid)
    for broken in (
        eqx.tree_at(lambda i: i.initial_parameters, valid, replace_fn=lambda leaf: leaf * np.nan),
        eqx.tree_at(lambda i: i.rewards, valid, replace_fn=lambda leaf: leaf / 0.0),
        "instance.json:\nrewards are missing",
        "rewards are missing",
    ):
        assert not is_proper(broken)

    path.write_text(PUBLISHED.replace("0.05", "0.5"))
    refusal = outcome(path)
    assert isinstance(refusal, str)
    assert "initial_policy_probabilities" in refusal

    def crash(*_, **__):
        raise TypeError("unsupported")

    monkeypatch.setattr("goodteacher.sim.files.Instance", crash)
    with pytest.raises(TypeError):
        outcome(path)
