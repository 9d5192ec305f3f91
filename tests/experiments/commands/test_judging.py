"""The commands ``errors`` and ``metrics``."""

import json
import math

import numpy as np
import pytest

from goodteacher.experiments.commands.main import main
from goodteacher.sim.files import read_instance
from goodteacher.sim.metrics import measure

EXAMPLE = "examples/errors.json"


@pytest.fixture
def write(tmp_path):
    def write(**fields):
        contents = {
            "rewards": [[1.0, -1.0, -0.5]],
            "ground_truth_rewards": [[1.0, 0.8, -1.0]],
            "initial_policy_probabilities": [[0.1, 0.6, 0.3]],
        }
        path = tmp_path / "instance.json"
        path.write_text(json.dumps(contents | fields))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_errors_of_the_example(tmp_path, capsys):
    output = tmp_path / "out.json"
    assert main(["errors", EXAMPLE, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert [[kind for kind in row if kind != "none"] for row in result["category"]] == [
        ["beneficial", "harmful II"],
        ["harmful II", "benign I"],
        ["harmful I", "benign II"],
    ]
    ratios = result["log10_time_ratio"]
    assert ratios[0][1] < -3
    assert 0 < ratios[0][3] < 0.1
    assert ratios[1][2] > 0.3
    assert ratios[2][2] == "inf"
    assert ratios[2][4] is None
    assert result["hitting_time"][2] is None
    assert result["final_ground_truth_reward_change"][2][2] == pytest.approx(-1.4, abs=1e-6)
    time = result["hitting_time"][0] / result["corrected_hitting_time"][0][1]
    assert ratios[0][1] == pytest.approx(math.log10(time))
    together = result["shapley"][0]
    assert together["outputs"] == [1, 3]
    assert np.shape(together["interactions"]) == (2, 2)
    assert "makes it unreachable" in printed
    assert "the most harmful is at output 2 of prompt 2" in printed
    assert main(["errors", EXAMPLE, "--output", str(output)]) == 2
    assert "exists" in capsys.readouterr().err


def test_no_errors_and_several_best_outputs(write, capsys):
    truth = [[1.0, 1.0, -1.0]]
    assert main(["errors", write(rewards=truth, ground_truth_rewards=truth)]) == 0
    printed = capsys.readouterr().out
    assert "No errors: the proxy is the ground truth." in printed
    assert "Prompts with several best outputs (0): y* is the first of them." in printed


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (["--gamma", "2"], {}, "not reachable"),
        (["--gamma", "-1"], {}, "gamma is -1.0; give a positive increase"),
        (["--low", "0.99"], {}, "thresholds are out of order: low is 0.99 and high 0.95"),
        (["--negligible", "-2"], {}, "negligible is -2.0"),
        ([], {"ground_truth_rewards": [[0.5, 0.5, 0.5]]}, "ground_truth_rewards of prompt 0 are all equal"),
    ],
)
def test_bad_input_of_errors(write, capsys, arguments, fields, message):
    assert main(["errors", write(**fields), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_metrics(tmp_path, capsys):
    output = tmp_path / "out.json"
    assert main(["metrics", EXAMPLE, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    instance = read_instance(EXAMPLE)
    names = ("proxy_reward_variance", "on_policy_accuracy")
    expected = measure(instance, instance.initial_parameters, names)
    np.testing.assert_allclose(result["prompts"]["reward_variance"], expected[names[0]])
    np.testing.assert_allclose(result["prompts"]["on_policy_accuracy"], expected[names[1]])
    assert result["mean"]["reward_variance"] == pytest.approx(float(expected[names[0]].mean()))
    # Output 2 of the last prompt is above y*; the other three are below, one of them by a tie wrong.
    assert result["prompts"]["pairwise"]["acc"] == [1.0, 1.0, 0.5]
    assert result["mean"]["pairwise"]["acc"] == pytest.approx(10 / 12)
    assert result["prompts"]["one_vs_many"]["acc"] == [1.0, 1.0, 0.0]
    assert result["mean"]["one_vs_many"]["acc"] == pytest.approx(2 / 3)
    assert "HAcc-W" in capsys.readouterr().out


def test_metrics_of_the_published_proxy(tmp_path):
    """With its one beneficial error it still ranks the best output above all others."""
    output = tmp_path / "out.json"
    assert main(["metrics", "examples/proxy.json", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    for kind in ("pairwise", "one_vs_many"):
        assert list(result["mean"][kind].values()) == [1.0] * 4
    assert result["mean"]["reward_variance"] == pytest.approx(4 * 0.05 * 0.95)


def test_metrics_with_several_best_outputs(write, tmp_path, capsys):
    file, output = write(ground_truth_rewards=[[1.0, 1.0, -1.0]]), tmp_path / "out.json"
    assert main(["metrics", file, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "Prompts with several best outputs (0): y* is the first of them. What ties with it" in printed
    result = json.loads(output.read_text())
    assert result["best_outputs"] == [[0, 1]]
    assert result["prompts"]["pairwise"]["acc"] == [1.0]  # output 0 against output 2 alone
    # The best one is unique.
    assert main(["metrics", write(), "--output", str(output), "--overwrite"]) == 0
    assert "several" not in capsys.readouterr().out
    assert json.loads(output.read_text())["best_outputs"] == [[0]]


def test_bad_input_of_metrics(write, capsys):
    assert main(["metrics", write(ground_truth_rewards=[[0.5, 0.5, 0.5]])]) == 2
    assert "no output is preferred; leave the prompt out" in capsys.readouterr().err
