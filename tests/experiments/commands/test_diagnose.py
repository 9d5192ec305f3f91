"""The command ``diagnose``: what is printed, in which order, and what its files hold."""

import json

import numpy as np
import pandas as pd
import pytest

from goodteacher.experiments.commands.main import main
from goodteacher.experiments.rollouts.verdicts import RARE, Verdict

KEYS = ["prompts", "draws", "skipped", "recognised", "answer", "rewards"]
OF_A_REWARD = [
    *("within_variance", "between_variance", "covariance", "accuracy", "accuracy_where_truth_differs"),
    *("harm_aware_accuracy", "share_with_spread", "verdicts", "median_time", "median_time_on_truth"),
    *("peak", "rank", "beats_next"),
]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(30), 8)
    truth = (rng.random(240) < rng.random(30)[prompt]).astype(float)
    noise = rng.normal(size=240)
    return pd.DataFrame(
        {"prompt": prompt, "correct": truth, "good": truth + 0.3 * noise, "noise": noise, "other": 5 * noise}
    )


@pytest.fixture
def run(tmp_path, capsys, table):
    def run(*options, frame=table):
        path, out, csv = tmp_path / "r.csv", tmp_path / "out.json", tmp_path / "prompts.csv"
        frame.to_csv(path, index=False)
        files = ["--output", str(out), "--table", str(csv), "--overwrite", "--estimator", "natural"]
        assert main(["diagnose", str(path), *files, "--resamples", "50", *map(str, options)]) == 0
        refuse = pytest.fail
        return json.loads(out.read_text(), parse_constant=refuse), pd.read_csv(csv), capsys.readouterr().out

    return run


def test_answer_tables_and_files_in_their_order(run):
    result, prompts, printed = run("--reward", "good", "noise", "--group", 2, 8)
    assert list(result) == KEYS
    assert (result["prompts"], result["draws"], result["skipped"]) == (30, 240, {})
    assert list(result["rewards"]) == ["good", "noise"]
    good = result["rewards"]["good"]
    assert list(good) == OF_A_REWARD
    for name in OF_A_REWARD[:6]:
        assert list(good[name]) == ["value", "low", "high"]
        assert good[name]["low"] <= good[name]["value"] <= good[name]["high"]
    assert list(good["share_with_spread"]) == ["2", "8"]
    assert list(good["verdicts"]) == [verdict.title for verdict in Verdict if verdict not in RARE]
    assert sum(good["verdicts"].values()) == 30
    assert (good["rank"], result["rewards"]["noise"]["rank"]) == (1, 2)
    assert good["beats_next"] > 0.9
    assert result["rewards"]["noise"]["beats_next"] is None
    first, *_ = printed.splitlines()
    assert first == result["answer"]
    places = [
        printed.index(word) for word in ("variance within", "verdict", "matter most", "groups with spread")
    ]
    assert places == sorted(places)
    assert "Read as table: prompt as prompt; good, noise as rewards; correct as truth" in printed
    assert prompts.prompt.tolist() == list(range(30))
    of_prompts, of_rewards = {"draws", "truth_at_start"}, {"verdict", "reward_variance", "hitting_time"}
    of_rewards |= {"accuracy", "accuracy_where_truth_differs", "harm_aware_accuracy", "share_with_spread_8"}
    assert of_prompts | {f"{of}:{name}" for of in of_rewards for name in ("good", "noise")} <= set(prompts)
    assert not of_rewards & set(prompts)
    for name in ("good", "noise"):
        counts = prompts[f"verdict:{name}"].value_counts().to_dict()
        assert counts == {of: n for of, n in result["rewards"][name]["verdicts"].items() if n}
    assert prompts["accuracy:good"].mean() == pytest.approx(good["accuracy"]["value"])


def test_there_is_a_peak_only_where_the_truth_falls_again(run):
    """The second reward puts the best draw above all, so that the truth still rises at the budget."""
    frame = pd.DataFrame(
        {"prompt": "p", "correct": [1, 0, 0, 0], "hacked": [1, 1.2, -3, -3], "sound": [1, 0, 0, 0]}
    )
    result, _, printed = run("--scale", "none", "--budget", 20, frame=frame)
    peak = result["rewards"]["hacked"]["peak"]
    assert list(peak) == ["time", "kl", "truth"]
    assert 0 < peak["time"] < 20
    assert peak["truth"] > 0.4
    assert result["rewards"]["sound"]["peak"] is None
    header, rows = next((line, i) for i, line in enumerate(printed.splitlines()) if "peak at KL" in line)
    at = header.index("peak at KL") + len("peak at KL")
    cells = {line.split()[0]: line[:at].split()[-1] for line in printed.splitlines()[rows + 2 : rows + 4]}
    assert cells == {"sound": "-", "hacked": f"{peak['kl']:.3g}"}


def test_one_reward_without_a_truth(run, table):
    result, _, printed = run("--reward", "good", frame=table.drop(columns="correct"))
    good = result["rewards"]["good"]
    assert good["within_variance"]["value"] > 0
    assert [good[name] for name in ("accuracy", "covariance", "rank", "peak", "median_time")] == [None] * 5
    assert "Without a ground truth" in printed.splitlines()[0]
    assert "have a signal" in printed
    assert "no truth" not in printed
    assert "Without a ground truth it is not known what a reward teaches: only how far it leads." in printed
    assert "KL then" in printed


def test_without_a_truth_the_prompts_of_the_largest_variance_are_listed(run, table):
    _, prompts, printed = run("--reward", "good", frame=table.drop(columns="correct").assign(flat=1.0))
    lines = printed.splitlines()
    first = lines.index(
        next(line for line in lines if line.startswith("Prompts worth training on with good"))
    )
    listed = [line.split()[0] for line in lines[first + 4 : first + 14]]
    largest = prompts.sort_values("reward_variance:good", ascending=False).prompt.head(10)
    assert listed == [str(name) for name in largest]
    assert not lines[first + 14].strip()
    _, _, printed = run("--reward", "flat", frame=table.drop(columns="correct").assign(flat=1.0))
    assert "worth training on" not in printed


def test_the_report_is_a_page(run, tmp_path):
    path = tmp_path / "report.html"
    result, _, _ = run("--reward", "good", "--report", path)
    assert result["answer"] in path.read_text(encoding="utf-8")


def test_weighted_sums_stand_beside_each_alone(run):
    result, _, _ = run("--weights", "good=2", "other=0.1")
    assert list(result["rewards"]) == ["good", "other", "2 good + 0.1 other"]
    result, _, _ = run("--reward", "noise", "--weights", "good=2", "noise=-1")
    assert list(result["rewards"]) == ["noise", "2 good + -1 noise"]


def test_what_is_left_out_is_said(run, table):
    spoiled = table.assign(good=table.good.astype(object))
    spoiled.loc[3, "good"] = "n/a?"
    result, _, printed = run("--reward", "good", frame=spoiled)
    assert result["skipped"] == {"good is missing or no number": 1}
    assert "Rows left out: 1 good is missing or no number." in printed
    assert "row 5" in printed


def test_missing_truths_are_said(run, table):
    result, _, printed = run(
        "--reward", "good", frame=table.assign(correct=table.correct.where(table.index > 2))
    )
    note = "3 of 240 draws have no ground truth"
    assert result["recognised"]["notes"][0].startswith(note)
    assert note in printed


def test_under_grpo_all_times_are_those_of_its_clock(run):
    """Rewards of a verifier: the path is that of the gradient, and times are shorter."""
    asked = "--reward", "correct", "--truth", "correct", "--group", 8, "--scale", "none"
    plain, _, _ = run(*asked, "--estimator", "gradient")
    clocked, _, printed = run(*asked, "--estimator", "grpo", "--preset", "trl")
    plain, clocked = plain["rewards"]["correct"], clocked["rewards"]["correct"]
    assert list(clocked["share_with_spread"]) == ["8"]
    assert "G = 8" in printed
    assert clocked["within_variance"] == plain["within_variance"]
    assert clocked["median_time"] < plain["median_time"]


def test_a_reward_that_the_estimator_cannot_follow_stops_no_other(run, table):
    frame = table.assign(verifier=(table.good > 0.5).astype(float))
    result, _, printed = run(
        *("--reward", "good", "verifier", "--scale", "none", "--estimator", "pass_at_k", "--k", 4),
        frame=frame,
    )
    followed, other = result["rewards"]["verifier"], result["rewards"]["good"]
    assert (followed["rank"], other["rank"]) == (1, None)
    assert other["verdicts"]["not known"] == 30 - other["verdicts"]["no signal"]
    assert other["covariance"]["value"] > 0
    assert other["median_time"] is other["peak"] is None
    assert printed.startswith("verifier is a ")
    assert "The flow of good is not known: its rewards take more than two values" in printed
    assert "(good): there is no frontier" not in printed


def test_what_holds_a_prompt_up_is_told_as_it_stands_in_the_file(run):
    """By the number that the draw has there, although one before it is left out, and by its answer."""
    rows = [
        ("p", "?", 0, "none"),
        ("p", 1.0, 1, "42"),
        ("p", 3.0, 0, "a [wrong] answer, and no short one at all"),
    ]
    rows += [("p", 3.0, 0.5, rows[2][3]), ("q", 2.0, 1, "1"), ("q", 1.0, 0, "2")]
    frame = pd.DataFrame(rows, columns=["prompt", "good", "correct", "answer"])
    _, prompts, printed = run("--answer", "answer", "--scale", "none", frame=frame)
    (line,) = (line for line in printed.splitlines() if line.startswith("  p "))
    short = "a [wrong] answer, and no short one at..."
    assert f" 2 {short} 3 0.25 never " in " ".join(line.split())
    assert "its answer" in printed
    held = prompts[prompts.prompt == "p"].iloc[0]
    assert held[["held_by:good", "held_by_answer:good", "held_by_truth:good"]].tolist() == [2, short, 0.25]
    _, prompts, printed = run("--scale", "none", frame=frame.drop(columns="answer"))
    assert "its answer" not in printed
    assert prompts[prompts.prompt == "p"].iloc[0]["held_by:good"] == 2


@pytest.mark.parametrize("estimator", ["natural", "gradient"])
def test_one_prompt_of_two_draws_says_what_it_cannot_tell(run, table, estimator):
    few = pd.DataFrame({"prompt": ["p", "p"], "good": [1.0, 0.2], "correct": [1.0, 0.0]})
    result, _, printed = run("--reward", "good", "--estimator", estimator, frame=few)
    assert "fewer than three draws (good): there is no frontier" in printed
    assert "nan" not in printed
    assert result["rewards"]["good"]["between_variance"] is None
    assert result["rewards"]["good"]["within_variance"]["low"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reward", "godo"], "did you mean good"),
        (["--goal", "1.5"], "goal is 1.5"),
        (["--group", "1"], "a group has size 1"),
        (["--group", "2.5"], "--group has 2.5; give whole numbers"),
        (["--group", "inf"], "--group has inf, and gradient has no groups"),
        (["--group", "2", "8", "--estimator", "grpo"], "--group is 2 8; give the one that grpo has"),
        (["--estimator", "grop"], "did you mean grpo"),
        (["--weights", "good"], "--weights has 'good'; give NAME=NUMBER"),
        (["--weights", "good=1", "good=2"], "--weights has good twice; give it one weight"),
        (["--budget", "0"], "budget is 0.0"),
    ],
)
def test_bad_input(tmp_path, capsys, table, options, message):
    path = tmp_path / "r.csv"
    table.to_csv(path, index=False)
    assert main(["diagnose", str(path), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_bad_files(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path / "none.csv")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "x.csv").write_text("prompt,score\na,1\n")
    assert main(["diagnose", str(tmp_path / "x.csv")]) == 2
    assert "nothing usable: 1 x alone in its group" in capsys.readouterr().err
