"""What stands in a user's file is printed as it stands, by every command that prints names."""

import pandas as pd
import pytest

from goodteacher import Rollouts, diagnose
from goodteacher.experiments.commands.main import main
from goodteacher.experiments.reports.page import page

REWARD = "judge[/b]"
PROMPT = "[INST] Maximise f on [a,b] [/INST] :smile:"


@pytest.fixture
def file(tmp_path):
    rows = [(f"{PROMPT} {i}", g, r) for i in range(2) for g, r in ((1, 0.5), (0, 0.9), (0, 0.1))]
    path = tmp_path / "[red]rollouts.csv"
    pd.DataFrame(rows, columns=["prompt", "correct", REWARD]).to_csv(path, index=False)
    return path


def test_of_diagnose(file, capsys):
    assert main(["diagnose", str(file), "--estimator", "natural", "--resamples", "5"]) == 0
    printed = capsys.readouterr().out
    assert f"  {PROMPT} 0 " in printed  # in the table
    assert printed.count(REWARD) > 4  # in sentences, headers and cells


@pytest.mark.parametrize("command", ["run", "errors", "metrics"])
def test_of_files(file, capsys, command):
    assert main([command, str(file), "--reward", REWARD]) == 0
    assert main([command, str(file), "--reward", REWARD.replace("judge", "juge")]) == 2
    assert f"did you mean {REWARD}" in capsys.readouterr().err


def test_of_sweeps(file, tmp_path, capsys):
    what, store = f"rollouts:{file}", tmp_path / "store"
    axis = f"reward={REWARD}"
    assert main(["sweep", what, "--axis", axis, "--measure", "variance", "--store", str(store)]) == 0
    assert main(["show", str(store)]) == 0
    printed = capsys.readouterr().out
    assert f"rollouts:{file}" in printed
    assert f"  {REWARD}  " in printed


def test_of_the_report():
    rollouts = Rollouts.from_arrays({"<b>judge": [[1.0, 0.2, 0.1]]}, [[1.0, 0.0, 0.0]], prompts=[PROMPT])
    html = page(diagnose(rollouts, estimator="natural", resamples=5), rollouts)
    assert PROMPT in html
    # Pictures take some tags for markup where they are not escaped.
    assert '"name":"\\u003cb\\u003ejudge"' not in html
