"""The command line: every command, every kind of bad input, and what the output file holds."""

import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import goodteacher
from goodteacher.experiments import registry
from goodteacher.experiments.commands.main import COMMANDS, main
from goodteacher.experiments.compilation import keep_compiled
from goodteacher.experiments.experiment import Experiment, Swept
from goodteacher.experiments.instances import TRAINED_ON, beneficial_errors
from goodteacher.experiments.reports import simulation
from goodteacher.experiments.sweeps.builders import BUILDERS
from goodteacher.experiments.sweeps.measures import KINDS
from goodteacher.experiments.sweeps.specification import specify
from goodteacher.sim.ascent import OPTIMIZERS
from goodteacher.sim.clocks import BatchScaled
from goodteacher.sim.files import read_instance
from goodteacher.sim.flow import HORIZON, hitting_time
from goodteacher.sim.goals import reward_increase
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.theory import statements
from goodteacher.theory.draws import Task
from goodteacher.theory.statements import Sides, Statement, collect

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
GROUND_TRUTH, PROXY, TWO_PROMPTS = (EXAMPLES / f"{n}.json" for n in ("ground_truth", "proxy", "two_prompts"))

REWARDS = np.array([1.0, 0.8, -1.0, -1.0, -1.0])
START = np.array([0.05, 0.5, 0.15, 0.15, 0.15])


def run(file, *options, output):
    """What ``goodteacher run`` writes, read as strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert main(["run", str(file), *map(str, options), "--output", str(output)]) == 0
    return json.loads(output.read_text(), parse_constant=refuse)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.json"


@pytest.fixture
def write(tmp_path):
    """Writes an instance file: the two-prompt example with some keys changed."""

    def write(**changes):
        path = tmp_path / "instance.json"
        path.write_text(json.dumps({**json.loads(TWO_PROMPTS.read_text()), **changes}))
        return path

    return write


def refused(capsys, *argv):
    """The one line with which a command line is refused, before anything is printed."""
    assert main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("goodteacher: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def flow_time(gamma):
    """When and where the published instance reaches an increase, by another integrator on probabilities."""

    def velocity(time, p):
        attraction = p * (REWARDS - p @ REWARDS)
        return p * (attraction - p @ attraction)

    def reached(time, p):
        return p @ REWARDS - START @ REWARDS - gamma

    reached.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    solution = solve_ivp(velocity, (0, 1e6), START, "DOP853", events=reached, rtol=1e-12, atol=1e-15)
    return solution.t_events[0][0], solution.y_events[0][0]


# run --------------------------------------------------------------------------------------------------------


def test_hitting_time_of_the_published_instance(output, capsys):
    result = run(GROUND_TRUTH, "--gamma", 0.9, output=output)
    time, probabilities = flow_time(0.9)
    assert 3e4 < time < 4e4
    assert result["hitting_time"] == [pytest.approx(time, rel=1e-8)]
    assert result["time"] == result["hitting_time"][0]
    assert result["status"] == "reached"
    np.testing.assert_allclose(result["final"]["probabilities"][0], probabilities, rtol=1e-6)
    assert result["final"]["expected_ground_truth_reward"] == [pytest.approx(0.9, abs=1e-12)]
    assert f"{time:.6g}" in capsys.readouterr().out


def test_output_file(output):
    result = run(TWO_PROMPTS, "--gamma", 0.1, output=output)
    assert list(result) == [
        "status",
        "time",
        "prompt_status",
        "hitting_time",
        "hitting_time_lower_bound",
        "initial",
        "final",
        "itinerary",
    ]
    measures = [
        "probabilities",
        "expected_proxy_reward",
        "expected_ground_truth_reward",
        "reward_variance",
        "on_policy_accuracy",
        "on_policy_accuracy_where_truth_differs",
    ]
    assert list(result["initial"]) == list(result["final"]) == measures
    given = json.loads(TWO_PROMPTS.read_text())
    for state in (result["initial"], result["final"]):
        p, r, g = (
            np.array(x) for x in (state["probabilities"], given["rewards"], given["ground_truth_rewards"])
        )
        np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-14)
        np.testing.assert_allclose(state["expected_proxy_reward"], (p * r).sum(1), atol=1e-14)
        np.testing.assert_allclose(state["expected_ground_truth_reward"], (p * g).sum(1), atol=1e-14)
        variance = (p * r**2).sum(1) - (p * r).sum(1) ** 2
        np.testing.assert_allclose(state["reward_variance"], variance, atol=1e-14)
    np.testing.assert_allclose(
        result["initial"]["probabilities"], given["initial_policy_probabilities"], rtol=1e-14
    )
    # Each prompt is shown at its own hitting time.
    risen = np.subtract(*(result[s]["expected_ground_truth_reward"] for s in ("final", "initial")))
    np.testing.assert_allclose(risen, 0.1, atol=1e-12)
    assert result["time"] == max(result["hitting_time"]) > min(result["hitting_time"])


def test_prompts_on_the_clock_of_the_batch(tmp_path, capsys):
    """By TRL's scaling of a batch, whose time is that of the solved path; a group is refused."""
    asked = (TWO_PROMPTS, "--kl", 0, "--gamma", 0.1, "--estimator", "grpo", "--preset")
    batch, group = (run(*asked, name, output=tmp_path / name) for name in ("trl-batch", "trl"))
    assert "GRPO, large groups, scaled by the batch: flow" in capsys.readouterr().out
    problem = read_instance(TWO_PROMPTS)
    plain = eqx.tree_at(lambda i: i.regularizer, problem, None, is_leaf=lambda leaf: leaf is None)
    clocked = plain.following(BatchScaled(1e-4))
    expected = hitting_time(clocked, reward_increase(plain, 0.1)).time
    np.testing.assert_allclose(batch["hitting_time"], expected, rtol=1e-12)
    assert batch["status"] == "reached"
    # Of the path nothing changes, of the times all: the prompt whose rewards spread less waits longer.
    np.testing.assert_allclose(
        batch["final"]["probabilities"][0], group["final"]["probabilities"][0], rtol=1e-9
    )
    ratios = np.array(batch["hitting_time"]) / np.array(group["hitting_time"])
    assert ratios[0] < 1 < ratios[1]
    assert [stop["output"] for stop in batch["itinerary"][0]] == [3, 2, 1, 0]
    for more, said in (("--group", "a batch of groups of 8, whose mean"), ("--kl", "regularised")):
        assert main([str(each) for each in ("run", *asked, "trl-batch", more, 8)]) == 2
        assert said in capsys.readouterr().err


def test_without_goal_the_final_state_is_that_at_the_horizon(output):
    result = run(GROUND_TRUTH, "--horizon", 1000, output=output)
    assert (result["status"], result["time"], result["hitting_time"]) == ("finished", 1000.0, [None])
    time, probabilities = flow_time(result["final"]["expected_ground_truth_reward"][0])
    np.testing.assert_allclose(result["final"]["probabilities"][0], probabilities, rtol=1e-6)
    assert time == pytest.approx(
        1000.0, rel=1e-4
    )  # V is flat in the stall, so that it tells the time less well


def test_regularized_flow_goes_to_its_optimum(output):
    result = run(GROUND_TRUTH, "--kl", 0.5, output=output)
    optimum = START * np.exp(REWARDS / 0.5)
    np.testing.assert_allclose(result["final"]["probabilities"][0], optimum / optimum.sum(), atol=1e-6)
    assert (result["status"], result["time"]) == ("finished", HORIZON)


def test_not_reached(output, capsys):
    result = run(TWO_PROMPTS, "--gamma", 0.1, "--horizon", 5, output=output)
    assert result["status"] == "not reached by the horizon"
    assert result["prompt_status"] == ["reached", result["status"]]
    assert result["time"] == 5.0
    assert result["hitting_time"][0] < 5.0
    assert result["hitting_time"][1] is None
    *_, first, _, second, _, note = capsys.readouterr().out.splitlines()
    assert first.rstrip().endswith(" reached")
    assert second.rstrip().endswith(result["status"])
    assert note == "Prompt 1: the goal was still ahead at the end; a larger time would decide."


def test_a_prompt_that_nothing_is_learned_on_says_so(output, write, capsys):
    """Its probabilities are rounded in the last digit, which is printed as no change."""
    rewards = [[0.9, 0.2, -0.5, -1.0], [0.3, 0.3, 0.3, 0.0]]
    result = run(write(rewards=rewards, kl_coefficient=0.0), "--gamma", 0.1, output=output)
    assert result["prompt_status"] == ["reached", "never: no signal"]
    printed = capsys.readouterr().out
    row = [line for line in printed.splitlines() if "never: no signal" in line][-1]
    assert row.split()[-6:] == ["none", "none", "-", "never:", "no", "signal"]
    assert "Prompt 1: the objective does not change with the policy" in printed
    before, after = (result[state]["probabilities"][1] for state in ("initial", "final"))
    np.testing.assert_allclose(before, after, rtol=1e-14)


def test_a_flow_that_rests_short_of_the_goal_says_so(output, write, capsys):
    rewards = [[-1.0, 0.2, -0.5, 0.5], [0.1, 0.3, -0.6, 0.0]]  # the first prompt is taught its worst output
    result = run(write(rewards=rewards, kl_coefficient=0.0), "--gamma", 0.05, output=output)
    assert result["prompt_status"][0] == "never: at rest at an optimum"
    assert "Prompt 0: the policy rests at an optimum short of the goal" in capsys.readouterr().out


@pytest.mark.parametrize(("reward", "told_apart"), [([1.0, *[0.0] * 9], 1.0), ([0.0, *[1.0] * 9], 0.0)])
def test_accuracies_say_their_distribution(reward, told_apart, output, tmp_path):
    """On a binary truth with one right output in ten, a model whose ties are broken by noise."""
    noise = 1e-3 * np.arange(10)
    truth = [1.0, *[0.0] * 9]
    file = tmp_path / "binary.json"
    contents = {
        "rewards": [(np.array(reward) + noise).tolist()],
        "ground_truth_rewards": [truth],
        "initial_policy_probabilities": [[0.1] * 10],
    }
    file.write_text(json.dumps(contents))
    result = run(file, "--horizon", 1, output=output)["initial"]
    assert result["on_policy_accuracy"] == [pytest.approx(0.2 * told_apart)]
    assert result["on_policy_accuracy_where_truth_differs"] == [told_apart]
    assert main(["metrics", str(file), "--output", str(output), "--overwrite"]) == 0
    measured = json.loads(output.read_text())["prompts"]
    for distribution in ("on_policy", "uniform"):
        assert measured[f"{distribution}_accuracy"] == [pytest.approx(0.2 * told_apart)]
        assert measured[f"{distribution}_accuracy_where_truth_differs"] == [told_apart]


@pytest.mark.parametrize(
    ("file", "probability", "tolerance"), [(GROUND_TRUTH, 2.588e-4, 5e-8), (PROXY, 0.99992, 5e-6)]
)
def test_ascent_of_the_published_instance(file, probability, tolerance, output):
    result = run(file, "--dynamics", "ascent", output=output)
    assert (result["status"], result["updates"], result["hitting_time"]) == ("finished", 50_000, [None])
    assert result["final"]["probabilities"][0][0] == pytest.approx(probability, abs=tolerance)


def test_ascent_counts_updates_to_the_goal(output, capsys):
    proxy, logits, updates = np.array([1.0, -1, -1, -1, -1]), np.log(START), 0
    p = START
    while p @ REWARDS - START @ REWARDS < 0.5:
        logits = logits + 0.3 * p * (proxy - p @ proxy)
        p = np.exp(logits) / np.exp(logits).sum()
        updates += 1
    options = ("--dynamics", "ascent", "--learning-rate", 0.3, "--gamma", 0.5, "--steps")
    result = run(PROXY, *options, 200, output=output)
    assert 10 < updates < 200
    assert (result["status"], result["hitting_time"]) == ("reached", [updates])
    assert result["updates"] == 200
    assert f" {updates} " in capsys.readouterr().out
    output.unlink()
    result = run(PROXY, *options, updates - 1, output=output)
    assert (result["status"], result["hitting_time"]) == ("not reached by the horizon", [None])


def test_optimizers_differ(tmp_path):
    finals = set()
    for name in OPTIMIZERS:
        # At this rate backtracking takes shorter steps.
        options = ("--dynamics", "ascent", "--steps", 5, "--learning-rate", 30, "--optimizer", name)
        result = run(GROUND_TRUTH, *options, output=tmp_path / f"{name}.json")
        finals.add(result["final"]["probabilities"][0][0])
    assert all(map(math.isfinite, finals))
    assert len(finals) == len(OPTIMIZERS)


def test_table_is_plain_and_whole_when_piped(capsys):
    assert main(["run", str(TWO_PROMPTS), "--gamma", "0.1"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "\x1b" not in captured.out + captured.err
    assert "…" not in captured.out
    header = next(line for line in lines if "prompt" in line and "policy" in line)
    measures = ("proxy reward", "ground truth reward", "reward variance", "on-policy accuracy")
    for column in (*measures, "hitting time", "status"):
        assert column in header
    (final,) = (line.split() for line in lines if "3 (-0.0627)" in line)
    assert final[6:10] == ["1", "(+0.0377)", "3", "(-0.0627)"]  # gained and lost most
    assert len({len(line) for line in lines[1:] if line.strip()}) == 1


def test_the_lower_bound_of_the_hitting_time(output, write):
    """It does not change when the ground truth is shifted and scaled; with an entropy bonus none is known."""

    def times(gamma, **changes):
        result = run(write(**changes), "--gamma", gamma, "--overwrite", output=output)
        return result["hitting_time_lower_bound"][0], result["hitting_time"][0]

    bound, time = times(0.1)
    assert 0 < 2 * bound <= time
    truth = np.asarray(json.loads(TWO_PROMPTS.read_text())["ground_truth_rewards"])
    scaled = times(0.3, ground_truth_rewards=(3.0 * truth + 5.0).tolist())
    assert scaled == (pytest.approx(bound, rel=1e-9), pytest.approx(time, rel=1e-7))
    assert times(0.1, entropy_coefficient=0.1)[0] is None


def test_nearest(output, write, capsys):
    file = write(output_features=[[[1.0], [0.0], [0.5], [0.0]], [[0.0], [1.0], [0.0], [0.0]]])
    assert "ask for the nearest" in refused(capsys, "run", file)
    result = run(file, "--horizon", 1, "--nearest", output=output)
    assert np.abs(np.subtract(result["initial"]["probabilities"][0], [0.1, 0.2, 0.3, 0.4])).max() > 0.01


def test_overwrite(output, capsys):
    output.write_text("mine")
    assert "exists" in refused(capsys, "run", TWO_PROMPTS, "--output", output)
    assert output.read_text() == "mine"
    assert run(TWO_PROMPTS, "--horizon", 1, "--overwrite", output=output)["status"] == "finished"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_examples(file):
    assert main(["run", str(file), "--gamma", "0.2"]) == 0


@pytest.mark.parametrize("trained_on", TRAINED_ON)
def test_examples_are_the_published_instances(trained_on):
    example, published = (
        read_instance(EXAMPLES / f"{trained_on}.json"),
        beneficial_errors(0.05, trained_on=trained_on),
    )
    np.testing.assert_array_equal(example.rewards, published.rewards)
    np.testing.assert_array_equal(example.ground_truth_rewards, published.ground_truth_rewards)
    start, log_probabilities = example.reference_log_probabilities, published.reference_log_probabilities
    np.testing.assert_allclose(start, log_probabilities, rtol=1e-14)


FLOW, ASCENT = ("--dynamics", "flow"), ("--dynamics", "ascent")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gamma", "5"), ["not reachable", "prompt 0"]),
        (("--goal", "1.5"), ["goal is 1.5", "between 0 and 1"]),
        (("--goal", "0.5", "--gamma", "0.5"), ["--gamma and --goal are both given"]),
        (("--gamma", "-0.1"), ["gamma is -0.1", "positive"]),
        (("--gamma", "0"), ["gamma is 0.0", "positive"]),
        (("--gamma", "nan"), ["gamma is nan"]),
        (("--gamma", "inf"), ["inf"]),
        (("--horizon", "0"), ["horizon is 0.0", "positive"]),
        (("--horizon", "inf"), ["horizon is inf"]),
        (("--kl", "-1"), ["kl_coefficient is -1.0"]),
        (("--kl", "nan"), ["kl_coefficient is nan"]),
        ((*ASCENT, "--optimizer", "sdg"), ["'sdg'", "did you mean sgd"]),
        ((*ASCENT, "--optimizer", "zzz"), ["'zzz'", *OPTIMIZERS]),
        ((*ASCENT, "--learning-rate", "0"), ["learning_rate is 0"]),
        ((*ASCENT, "--learning-rate", "-0.1"), ["learning_rate is -0.1"]),
        ((*ASCENT, "--learning-rate", "nan"), ["learning_rate is nan"]),
        ((*ASCENT, "--steps", "0"), ["steps is 0"]),
        ((*ASCENT, "--steps", "-5"), ["steps is -5"]),
        ((*ASCENT, "--steps", "1" + "0" * 30), ["steps is 1000"]),
        ((*ASCENT, "--horizon", "5"), ["--horizon does not apply to --dynamics ascent"]),
        ((*FLOW, "--steps", "5"), ["--steps does not apply to --dynamics flow"]),
        ((*FLOW, "--learning-rate", "0.1"), ["--learning-rate does not apply"]),
        ((*FLOW, "--optimizer", "sgd"), ["--optimizer does not apply"]),
        (("--output", "/does/not/exist/out.json"), ["/does/not/exist"]),
        (("--output", "/"), ["folder"]),
    ],
)
def test_bad_options(options, words, capsys):
    error = refused(capsys, "run", TWO_PROMPTS, *options)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": [[1, 2]]}, ["'reward'", "did you mean rewards"]),
        ({"rewards": [[1.0, 2.0], [1.0]]}, ["rewards", "mask"]),
        ({"kl_coefficient": -1}, ["kl_coefficient"]),
        ({"initial_policy_probabilities": [[0.1, 0.2, 0.3, 0.5], [0.2, 0.5, 0.3, 0.0]]}, ["sums to 1.1"]),
    ],
)
def test_bad_instances(changes, words, write, capsys):
    error = refused(capsys, "run", write(**changes))
    for word in ["instance.json", *words]:
        assert word in error


def test_bad_files(tmp_path, capsys):
    assert "no.json" in refused(capsys, "run", tmp_path / "no.json")
    assert str(tmp_path) in refused(capsys, "run", tmp_path)
    (tmp_path / "text.json").write_text("rewards: 1")
    assert "not a JSON file" in refused(capsys, "run", tmp_path / "text.json")


@pytest.mark.parametrize("command", [["run", str(TWO_PROMPTS)], ["verify"]], ids=str)
def test_output_is_checked_before_computing(command, tmp_path, monkeypatch, capsys):
    def compute(*arguments, **options):
        raise AssertionError("computed in vain")

    monkeypatch.setattr(simulation.AlongFlow, "follow", compute)
    monkeypatch.setattr(statements, "verify", compute)
    assert "folder" in refused(capsys, *command, "--output", tmp_path)


# figures, list, verify --------------------------------------------------------------------------------------


@pytest.fixture
def one_experiment(monkeypatch):
    def draw(data, settings):
        figure = Figure()
        figure.subplots().plot(data["line"]["y"])
        return figure

    line = xr.Dataset({"y": ("x", [1.0, 4.0, 9.0])})
    experiment = Experiment(
        "square", "A square", None, lambda settings: {"line": line}, draw, lambda data, settings: ""
    )
    monkeypatch.setattr(registry, "find_experiments", lambda: {"square": experiment})


@pytest.mark.usefixtures("one_experiment")
@pytest.mark.parametrize("names", [[], ["square", "square"]])
def test_figures(names, tmp_path, capsys):
    assert main(["figures", *names, "--directory", str(tmp_path / "new")]) == 0
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["square.csv", "square.pdf", "square.png", "square.txt"]
    captured = capsys.readouterr()
    assert captured.out.count("square.png") == 1
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.usefixtures("one_experiment")
def test_bad_figures(tmp_path, capsys):
    assert "did you mean square" in refused(capsys, "figures", "sqare")
    (tmp_path / "file").touch()
    assert "cannot write" in refused(capsys, "figures", "--directory", tmp_path / "file")


@pytest.fixture
def a_sweep(monkeypatch):
    def draw(data, settings):
        figure = Figure()
        figure.subplots().plot(data["sweep"]["entropy"])
        return figure

    def summary(swept, settings):
        return {"sweep": swept[["entropy"]].load()}

    def points(settings):
        return specify("random", {"seed": f"range:0:{settings}"}, ["entropy"])

    def caption(data, settings):
        return ""

    experiment = Experiment("points", "Points", 3, Swept(points, summary), draw, caption, full=5)
    other = Experiment("other", "Without", None, lambda settings: {}, draw, caption)
    monkeypatch.setattr(registry, "find_experiments", lambda: {"points": experiment, "other": other})
    return experiment


@pytest.mark.usefixtures("a_sweep")
def test_figures_from_stores(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["figures", "points"]) == 0
    assert "figures/points.txt from build/sweeps/points (" in capsys.readouterr().out
    assert len((tmp_path / "figures/points.csv").read_text().splitlines()) == 4
    assert main(["figures", "--full"]) == 0
    assert "figures/points_full.txt from build/sweeps/points_full (" in capsys.readouterr().out
    assert len((tmp_path / "figures/points_full.csv").read_text().splitlines()) == 6
    assert len((tmp_path / "figures/points.csv").read_text().splitlines()) == 4


def test_full_figures_refuse_what_does_not_fit(tmp_path, capsys, monkeypatch, a_sweep):
    monkeypatch.chdir(tmp_path)
    assert main(["figures", "--full", "--stores", "s"]) == 0
    monkeypatch.setattr(registry, "find_experiments", lambda: {"points": replace(a_sweep, full=6)})
    before = (tmp_path / "figures/points_full.csv").read_bytes()
    capsys.readouterr()
    assert "s/points_full holds another sweep" in refused(capsys, "figures", "--full", "--stores", "s")
    assert (tmp_path / "figures/points_full.csv").read_bytes() == before
    assert main(["figures", "--full", "--stores", "s", "--overwrite"]) == 0
    assert (tmp_path / "figures/points_full.csv").read_bytes() != before
    capsys.readouterr()
    assert "does not apply without --full" in refused(capsys, "figures", "--overwrite")


@pytest.mark.usefixtures("a_sweep")
def test_full_figures_compute_nothing_for_a_bad_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    places = ("--directory", tmp_path / "file", "--stores", tmp_path / "s")
    assert "file" in refused(capsys, "figures", "--full", *places)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("a_sweep")
def test_only_some_figures_have_a_full_version(capsys):
    assert "other has no full version" in refused(capsys, "figures", "other", "--full")


def test_list(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, entry in [*registry.find_experiments().items(), *statements.find_statements().items()]:
        assert any(line.split() == [name, *entry.title.split()] for line in printed.splitlines())


def uniform(name, margin, sabotage):
    def judge(margin):
        return lambda x: Sides(jnp.ones_like(x), 10.0 ** margin(x))

    return Statement(
        name,
        name,
        "",
        "",
        lambda source: source.uniform(),
        judge(margin),
        {"a": judge(sabotage), "b": judge(lambda x: -1 - x)},
    )


TRUE = uniform("true", lambda x: x, lambda x: x - 0.5)
FALSE = uniform("false", lambda x: x - 0.5, lambda x: x - 0.5)
UNCAUGHT = uniform("uncaught", lambda x: x, lambda x: x)
UNKNOWN = uniform("unknown", lambda x: jnp.full_like(x, jnp.nan), lambda x: x - 0.5)


@pytest.mark.parametrize(
    ("statement", "code", "violations", "caught"),
    [
        (TRUE, 0, 0, "2 of 2"),
        (FALSE, 1, None, "2 of 2"),
        (UNCAUGHT, 1, 0, "1 of 2"),
        (UNKNOWN, 1, 500, "2 of 2"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_verify(statement, code, violations, caught, output, monkeypatch, capsys):
    monkeypatch.setattr(statements, "find_statements", lambda: collect([statement]))
    assert main(["verify", "--instances", "500", "--seed", "3", "--output", str(output)]) == code
    contents = json.loads(output.read_text())
    assert contents["ok"] == (code == 0)
    (report,) = contents["reports"]
    assert (report["instances"], report["seed"]) == (500, 3)
    if violations is None:
        x = np.asarray(TRUE.sample(jax.random.key(3), 500))
        violations = int((x < 0.5).sum())
        assert report["tightest_instance"] == x.min() == x[report["tightest_index"]]
        assert 200 < violations < 300
    assert report["violations"] == violations
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert next(row for row in rows if row[:1] == [statement.name]) == [
        statement.name,
        "500",
        "100",
        "%",
        str(violations),
        f"{float(report['tightest_margin']):.3g}",
        *caught.split(),
    ]


def gap(name, largest):
    """A bound on reward gaps up to one, true if ``largest`` is at least that."""

    def draw(source):
        top = source.uniform()
        instance = Instance(jnp.stack([top, 0.0 * top]), start=Parameters(jnp.zeros((1, 2))))
        return Task(instance, 0.25 * top)

    def judge(task):
        return Sides(task.instance.rewards[0, 0], jnp.asarray(largest))

    return Statement(name, name, "", "", draw, judge, {}, bound=True)


def test_adversarial(tmp_path, monkeypatch, capsys):
    known = collect([gap("sound", 2.0), gap("unsound", 0.75), TRUE])
    monkeypatch.setattr(statements, "find_statements", lambda: known)
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--adversarial", "sound", "--instances", "3000", "--output", "out.json"]) == 0
    row = capsys.readouterr().out.splitlines()[-2].split()
    assert row[0] == "sound"
    assert float(row[3]) == pytest.approx(2.0, rel=1e-3)

    (report,) = json.loads(Path("out.json").read_text())["reports"]
    assert report["factor"] == pytest.approx(2.0, rel=1e-3)
    assert len(report["point"]) == 1
    # What was found can be run as the table says.
    assert row[5] == "tightest/sound.json"
    assert main(["run", row[5], "--gamma", row[4]]) == 0
    assert "reached" in capsys.readouterr().out

    assert "exists" in refused(capsys, "verify", "--adversarial", "sound", "--instances", 3000)
    again = ["verify", "--adversarial", "--instances", "3000", "--overwrite", "--directory", "found"]
    assert main(again) == 1  # all bounds, of which one is false
    assert sorted(path.name for path in Path("found").iterdir()) == ["sound.json", "unsound.json"]
    assert "unsound is violated" in capsys.readouterr().out
    assert "--directory does not apply" in refused(capsys, "verify", "--directory", "found")
    Path("file").touch()
    assert "cannot make the folder" in refused(
        capsys, "verify", "--adversarial", "sound", "--directory", "file/under"
    )


def test_a_violation_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(statements, "find_statements", lambda: collect([gap("unsound", 0.75)]))
    assert main(["verify", "--instances", "100"]) == 1
    *_, sentence, instance = capsys.readouterr().out.splitlines()
    smaller, larger, excess = (float(word.strip(",")) for word in np.array(sentence.split())[[3, 8, 13]])
    assert (larger, excess) == (0.75, pytest.approx(smaller - 0.75, rel=1e-2))
    assert json.loads(instance)["instance"]["rewards"][0][0] == smaller > 0.75


def test_verify_names(monkeypatch, capsys):
    monkeypatch.setattr(statements, "find_statements", lambda: collect([TRUE, FALSE]))
    assert goodteacher.verify("true", 10).statement == "true"
    with pytest.raises(ValueError, match=r"statement 'ture' is unknown; did you mean true$"):
        goodteacher.verify("ture")
    assert main(["verify", "true", "--instances", "10"]) == 0
    assert "false" not in capsys.readouterr().out
    assert main(["verify", "--instances", "100"]) == 1
    assert "false" in capsys.readouterr().out
    assert "did you mean true" in refused(capsys, "verify", "ture")
    assert "known are true, false" in refused(capsys, "verify", "something")
    assert "instances is 0" in refused(capsys, "verify", "--instances", 0)
    assert "seed is -1" in refused(capsys, "verify", "--seed", -1)
    assert "/does/not/exist" in refused(capsys, "verify", "--output", "/does/not/exist/out.json")


# The program ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [["bogus"], ["run"], ["run", "a.json", "--bogus"], ["run", "a.json", "--gamma", "much"]],
    ids=str,
)
def test_bad_usage(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_the_program_alone_prints_its_help(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 0
    printed = capsys.readouterr()
    assert all(command in printed.out for command in COMMANDS)
    assert printed.err == ""


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    assert f"$ goodteacher {' '.join(command)}".strip() in capsys.readouterr().out


def test_help_tells_the_defaults_and_the_optimizers(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    printed = capsys.readouterr().out
    for name in OPTIMIZERS:
        assert name in printed
    assert f"(default: {HORIZON:.0e})".replace("e+", "e") in printed


def test_help_and_the_page_of_sweeps_name_all_there_is(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    printed, page = capsys.readouterr().out, (ROOT / "docs/howto/sweeps.md").read_text()
    for builder in (*BUILDERS, "file:", "rollouts:"):
        assert builder in printed
        assert f"`{builder}" in page
    for form in (kind.form.removesuffix("[:TIME]") for kind in KINDS.values()):
        assert form.removesuffix("_where_truth_differs") in printed
        assert f"`{form}`" in page


def test_version(capsys):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"goodteacher {version}\n"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


HEAVY = ["diffrax", "matplotlib", "optax", "pandas", "scipy", "xarray", "zarr"]


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (["--version"], []),
        (["run", str(EXAMPLES / "ground_truth.json"), "--horizon", "1"], []),
        (["errors", str(EXAMPLES / "proxy.json")], []),
        (["run", str(EXAMPLES / "two_prompts.json"), "--horizon", "1"], ["diffrax", "scipy"]),
        (["metrics", str(EXAMPLES / "proxy.json")], []),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_a_command_imports_what_it_needs(command, needs):
    code = (
        "import sys; from goodteacher.experiments.commands.main import main;"
        f"main({command}); print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    program = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(program, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].split() == needs


@pytest.mark.parametrize(
    ("command", "most"), [(("run", "--gamma", "0.1"), 8), (("errors",), 12), (("metrics",), 3)], ids=str
)
def test_a_command_compiles_little_and_once(command, most, tmp_path):
    """A single operation outside compiled code costs tens of milliseconds, the first time."""
    program = [sys.executable, "-m", "goodteacher", *command, "examples/two_prompts.json"]
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOG_COMPILES": "1"}

    def kept():
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Finished XLA compilation") <= most, done.stderr
        return {path.name for path in (tmp_path / "goodteacher/jax").glob("*-cache")}

    first = kept()
    assert 0 < len(first) <= most
    assert kept() == first


@pytest.fixture
def jax_without_cache():
    """As a process of its own finds it; the tests have a cache of theirs."""
    names = ("dir", "max_size")
    settings = [f"jax_compilation_cache_{name}" for name in names]
    settings.append("jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in settings}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("jax_without_cache")
def test_what_is_compiled_is_kept_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "home/goodteacher/jax")
    assert 0 < jax.config.values["jax_compilation_cache_max_size"] <= 1 << 30
    jax.config.update("jax_compilation_cache_dir", "/mine")
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == "/mine"


@pytest.mark.usefixtures("jax_without_cache")
def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_closed_pipe_is_quiet(option):
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "goodteacher", option]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    program = subprocess.run(argv, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (program.returncode, program.stderr) == (1, b"")


def test_interrupt():
    # The handler is set because a process started in the background would inherit that Ctrl-C is ignored.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from goodteacher.experiments.commands.main import main;"
        f"main(['run', {str(GROUND_TRUTH)!r}, *{ASCENT}, '--steps', '{10**12}'])"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=pipe, stderr=pipe
    ) as program:
        try:
            assert program.stderr is not None
            assert "about" in program.stderr.readline()  # compiled code is running now
            program.send_signal(signal.SIGINT)
            out, error = program.communicate(timeout=10)
        finally:
            program.kill()
    assert (program.returncode, out) == (130, "")
    assert error.splitlines()[-1] == "goodteacher: interrupted"
    assert "Traceback" not in error
