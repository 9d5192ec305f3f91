"""The commands ``errors`` and ``metrics``."""

import json
import math

import numpy as np
import pytest
import xarray as xr

from goodteacher import Status, sweep
from goodteacher.experiments.commands.main import main
from goodteacher.experiments.sweeps.dynamics import Ascent
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


# Degenerate prompts, and rollouts ---------------------------------------------------------

DEGENERATE = {
    "rewards": [[1.0, 0.2, -1.0], [1.0, -1.0, 0.0], [0.5, 0.5, 0.5]],
    "ground_truth_rewards": [[1.0, -0.5, -1.0], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0]],
    "initial_policy_probabilities": [[0.2, 0.5, 0.3]] * 3,
}


def outcome(command, file, tmp_path, *options):
    output = tmp_path / "out.json"
    assert main([command, str(file), *options, "--output", str(output), "--overwrite"]) == 0
    return json.loads(output.read_text())


def test_degenerate_prompts_stop_nothing(write, tmp_path, capsys):
    file = write(**DEGENERATE)
    found = outcome("run", file, tmp_path, "--goal", "0.9")
    assert found["prompt_status"] == ["reached", "never: nothing to gain", "never: no signal"]
    assert "Prompt 1: the ground truth is the same for all outputs." in capsys.readouterr().out
    assert outcome("run", file, tmp_path, "--gamma", "0.5")["prompt_status"][1:] == found["prompt_status"][1:]
    ascent = outcome("run", file, tmp_path, "--goal", "0.9", "--dynamics", "ascent", "--steps", "10")
    assert ascent["prompt_status"][1] == "never: nothing to gain"

    found = outcome("errors", file, tmp_path)
    assert found["status"] == ["reached", "never: nothing to gain", "never: no signal"]
    assert found["category"][1] == ["none"] * 3
    assert found["log10_time_ratio"][0][1] > 0
    assert "Prompt 1: the ground truth is the same" in capsys.readouterr().out

    found = outcome("metrics", file, tmp_path)
    assert found["status"] == ["finished", "never: nothing to gain", "finished"]
    assert found["prompts"]["pairwise"]["acc"] == [1.0, None, 0.0]
    assert found["mean"]["pairwise"]["acc"] == 0.5
    assert found["mean"]["one_vs_many"]["acc"] == 0.5
    assert found["prompts"]["on_policy_accuracy_where_truth_differs"] == [1.0, None, 0.0]
    assert found["mean"]["on_policy_accuracy_where_truth_differs"] == pytest.approx(0.5)


def test_a_prompt_has_one_status_whatever_the_command(write, tmp_path):
    """Under the flow and through ascent, of a share and of an increase, alone and in a sweep."""
    truth = [[1.0, -0.5, -1.0], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.7, 0.0, 0.0]]
    rewards = [[1.0, 0.2, -1.0], [1.0, -1.0, 0.0], [0.5, 0.5, 0.5], [-1.0, 0.5, 1.0], [1.0, 0.0, 0.0]]
    policy = [[0.2, 0.5, 0.3]] * 4 + [[0.9, 0.05, 0.05]]
    file = write(rewards=rewards, ground_truth_rewards=truth, initial_policy_probabilities=policy)
    never = [f"never: {why}" for why in ("nothing to gain", "no signal", "at rest at an optimum")]
    out = "never: out of reach"
    for options, text, last in (
        (["--goal", "0.5"], "share_time:0.5", "reached"),
        (["--gamma", "0.3"], "increase_time:0.3", out),
    ):
        expected = ["reached", *never, last]
        found = outcome("run", file, tmp_path, *options)
        assert found["prompt_status"] == expected
        assert outcome("errors", file, tmp_path, *options)["status"] == expected
        data = sweep(f"file:{file}", {"rewards[0,0]": [1.0]}, [text], store=tmp_path / text)
        name = text.partition(":")[0]
        assert [Status(code).title for code in data[f"{name}_status"].values.ravel()] == expected
        times = [math.inf if time is None else time for time in found["hitting_time"]]
        np.testing.assert_allclose(data[name].values.ravel(), times)
    ascent = ["--dynamics", "ascent", "--steps", "10", "--gamma", "0.3"]
    single = outcome("run", file, tmp_path, *ascent)["prompt_status"]
    data = sweep(
        f"file:{file}",
        {"rewards[0,0]": [1.0]},
        ["increase_time:0.3"],
        store=tmp_path / "ascent",
        dynamics=Ascent(10),
    )
    assert [Status(code).title for code in data.increase_time_status.values.ravel()] == single
    assert single[1::3] == [never[0], out]


def test_a_relative_goal_is_a_share_of_what_is_possible(write, tmp_path):
    file = write(**DEGENERATE)
    share = outcome("run", file, tmp_path, "--goal", "0.5")["hitting_time"][0]
    way = 1.0 - (0.2 - 0.25 - 0.3)
    assert outcome("run", file, tmp_path, "--gamma", str(0.5 * way))["hitting_time"][0] == pytest.approx(
        share
    )
    assert outcome("errors", file, tmp_path, "--goal", "0.5")["hitting_time"][0] == pytest.approx(share)


def test_a_screenful_the_most_harmful_first(write, tmp_path, capsys):
    rewards = [[1.0, 0.1 * i, -1.0] for i in range(30)]
    contents = {"rewards": rewards, "ground_truth_rewards": [[1.0, 0.0, -1.0]] * 30}
    file = write(**contents, initial_policy_probabilities=[[0.2, 0.5, 0.3]] * 30)
    found = outcome("errors", file, tmp_path)
    printed = capsys.readouterr().out
    assert len(found["category"]) == 30
    first = next(line for line in printed.splitlines() if "0*" in line)
    assert int(first.split()[0]) >= 10  # where the second output is above the best
    assert len(printed.splitlines()) <= 41
    assert "23 more prompts: --rows 30 prints them too" in printed
    outcome("errors", file, tmp_path, "--rows", "30")
    assert "more prompts" not in capsys.readouterr().out
    for command in ("run", "metrics"):
        outcome(command, file, tmp_path, "--rows", "7")
        assert "23 more prompts" in capsys.readouterr().out


def test_a_screenful_of_a_prompt_with_many_outputs(write, tmp_path, capsys):
    many, best, worst = 200, 150, 170
    truth, rewards = np.zeros(many), np.linspace(-1.0, 0.0, many)
    truth[best], rewards[best], rewards[worst] = 1.0, 1.0, 0.9
    policy = np.full(many, 1.0 / many)
    contents = {"rewards": [rewards.tolist()], "ground_truth_rewards": [truth.tolist()]}
    file = write(**contents, initial_policy_probabilities=[policy.tolist()])
    outcome("errors", file, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 43
    assert {f"{best}*", f"{worst}"} <= {word for line in lines for word in line.split()}
    assert "166 more outputs: --rows 1 prints them too" in lines
    outcome("errors", file, tmp_path, "--rows", "1")
    assert len(capsys.readouterr().out.splitlines()) > many


@pytest.fixture
def rollouts(tmp_path):
    rows = ["prompt,correct,rm,other"]
    for prompt, truth, rewards in [
        ("a", "1000", (9, 2, 2, 2)),
        ("b", "0100", (5, 1, 9, 9)),
        ("c", "1111", (1, 2, 3, 4)),
        ("d", "0011", (3, 3, 3, 3)),
    ]:
        rows += [f"{prompt},{g},{r},{-r}" for g, r in zip(truth, rewards, strict=True)]
    path = tmp_path / "rollouts.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_rollouts_are_taken_by_every_command(rollouts, tmp_path, capsys):
    found = outcome("run", rollouts, tmp_path, "--goal", "0.9")
    assert found["prompt_status"][0] == "reached"
    assert found["prompt_status"][2:] == ["never: nothing to gain", "never: no signal"]
    np.testing.assert_allclose(found["initial"]["probabilities"][0][:2], [0.75, 0.25])
    assert found["initial"]["reward_variance"][0] == pytest.approx(0.75 * 0.25 * 49)
    other = outcome("run", rollouts, tmp_path, "--goal", "0.9", "--reward", "other")
    assert other["prompt_status"][0] == "never: at rest at an optimum"
    found = outcome("metrics", rollouts, tmp_path)
    assert found["prompts"]["on_policy_accuracy_where_truth_differs"][:3] == [1.0, 0.0, None]
    found = outcome("errors", rollouts, tmp_path)
    assert found["status"][2] == "never: nothing to gain"
    given = np.array([value for row in found["rewards"] for value in row if value is not None])
    assert np.abs(given).max() < 3  # on the scale of the truth
    capsys.readouterr()
    store = tmp_path / "store"
    axes = ["--axis", "prompt=range:0:4", "--axis", "reward=rm,other", "--measure", "variance"]
    assert main(["sweep", f"rollouts:{rollouts}", *axes, "--store", str(store)]) == 0
    data = xr.open_zarr(store)
    np.testing.assert_allclose(data.variance.sel(prompt=0, reward="rm"), 0.75 * 0.25 * 49)
    np.testing.assert_allclose(data.variance.sel(prompt=3), 0.0)
    assert main(["show", str(store)]) == 0
    assert "2 of 2 chunks" in capsys.readouterr().out


def test_prompts_and_outputs_of_rollouts_are_called_by_their_names(tmp_path, capsys):
    """Outputs by their answers where they are known and differ, else by their first draw in the file."""
    long = "an answer that begins as another one does and "
    rows = [
        *(("87 + 70", "157", 1, 0.5), ("87 + 70", "156", 0, 1), ("87 + 70", "157", 1, 0.5)),
        *(("same", "3", 1, 1), ("same", "3", 1, 1)),
        *(("long", "", 0, 1), ("long", f"{long}wrong", 0, 1), ("long", "?", 0, "none")),
        *(("long", f"{long}right", 1, 0.5), ("long", "4", 1, 2)),
    ]
    path = tmp_path / "r.csv"
    path.write_text("\n".join(["prompt,answer,correct,rm", *(",".join(map(str, row)) for row in rows)]))
    shown = f"{long[:37]}..."
    answers = [["157", "156"], ["3", "3, again"], ["draw 0", f"{shown} (draw 1)", f"{shown} (draw 3)", "4"]]
    for command, options in (("run", ["--goal", "0.5"]), ("errors", []), ("metrics", [])):
        found = outcome(command, path, tmp_path, *options, "--answer", "answer")
        assert found["prompt_names"] == ["87 + 70", "same", "long"]
        assert [sorted(of) for of in found["output_names"]] == [sorted(of) for of in answers]
        printed = capsys.readouterr().out
        assert "  87 + 70  " in printed
        assert "Prompt same: the ground truth is the same for all outputs" in printed
        if command != "metrics":
            place = found["itinerary"][0][0]["output"]
            name = found["output_names"][0][place]
            assert f"prompt 87 + 70: most probable in turn are outputs {name} (at the start)" in printed
        if command == "run":
            final, initial = (np.array(found[of]["probabilities"][0][:2]) for of in ("final", "initial"))
            gained = found["output_names"][0][int((final - initial).argmax())]
            assert f" {gained} (+" in printed
        if command == "errors":
            assert f" {shown} (draw 3)" in printed
            assert " 157*" in printed
            right = found["output_names"][0].index("157")
            assert found["initial_policy_probabilities"][0][right] == pytest.approx(2 / 3)
    capsys.readouterr()
    found = outcome("errors", path, tmp_path)
    draws = [["draw 0", "draw 1"], ["draw 0", "draw 0, again"], ["draw 0", "draw 3", "draw 4"]]
    assert [sorted(of) for of in found["output_names"]] == draws
    assert "at output draw " in capsys.readouterr().out
    assert "prompt_names" not in outcome("metrics", "examples/proxy.json", tmp_path)


@pytest.fixture
def without_truth(tmp_path):
    path = tmp_path / "without.csv"
    path.write_text("prompt,rm,other\na,9,1\na,2,1\nb,5,1\nb,1,4\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["errors"], "errors are what differs from it"),
        (["run", "--goal", "0.5"], "--goal is of it"),
        (["run", "--gamma", "0.5"], "--gamma is of it"),
    ],
)
def test_without_a_truth_the_reward_is_not_its_own(without_truth, capsys, arguments, what):
    command, *options = arguments
    assert main([command, str(without_truth), *options]) == 2
    captured = capsys.readouterr()
    assert f"has no ground truth, and {what}; name a column that has it with --truth" in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_without_a_truth_what_needs_none_goes_on(without_truth, tmp_path, capsys):
    found = outcome("run", without_truth, tmp_path, "--horizon", "10")
    assert "There is no ground truth" in capsys.readouterr().out
    for state in ("initial", "final"):
        assert found[state]["expected_ground_truth_reward"] == [None, None]
        assert found[state]["on_policy_accuracy"] == [None, None]
    assert found["final"]["expected_proxy_reward"][0] > found["initial"]["expected_proxy_reward"][0] == 5.5

    found = outcome("metrics", without_truth, tmp_path)
    assert "There is no ground truth" in capsys.readouterr().out
    assert found["status"] == ["not known"] * 2
    assert found["best_outputs"] is None
    assert found["prompts"]["reward_variance"] == [3.5**2, 4.0]
    assert found["mean"]["reward_variance"] == (3.5**2 + 4.0) / 2
    assert found["mean"]["uniform_accuracy"] is None
    assert found["prompts"]["pairwise"]["acc"] == [None, None]

    sweep = ["sweep", f"rollouts:{without_truth}", "--axis", "prompt=0,1", "--measure", "variance"]
    assert main([*sweep, "--store", str(tmp_path / "store")]) == 0
    assert "There is no ground truth" in capsys.readouterr().out
    np.testing.assert_allclose(xr.open_zarr(tmp_path / "store").variance, [3.5**2, 4.0])
    assert main([*sweep, "--measure", "uniform_accuracy", "--store", str(tmp_path / "other")]) == 2
    assert "measure 'uniform_accuracy' is of the ground truth" in capsys.readouterr().err


def test_an_increase_that_some_prompts_do_not_have_room_for(write, capsys):
    """Those have a status; where all have none, one sentence names what there is room for."""
    truth, policy = [[1.0, 0.0]] * 2, [[0.5, 0.5], [0.2, 0.8]]
    file = write(rewards=truth, ground_truth_rewards=truth, initial_policy_probabilities=policy)
    assert main(["run", file, "--gamma", "0.6"]) == 0
    printed = capsys.readouterr().out
    assert "never: out of reach" in printed
    assert (
        "Prompt 0: no policy has the expectation that is asked for; a goal that is a share of what" in printed
    )
    assert main(["run", file, "--gamma", "0.9"]) == 2
    said = capsys.readouterr().err
    assert (
        "gamma is 0.9, which is not reachable: no policy raises the ground truth reward by more than 0.8"
        in said
    )
    assert "(prompt 1); give less, or a goal, the share of what is possible" in said
