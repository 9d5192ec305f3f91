"""Files of other programs are recognised by their keys; bad rows are counted, and nothing else stops."""

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from goodteacher.experiments.rollouts.collection import TOO_FEW, Rollouts
from goodteacher.experiments.rollouts.formats import FORMATS, Columns, recognise
from goodteacher.experiments.rollouts.intake import read_rollouts
from goodteacher.sim.files import is_instance_file


def by_prompt(rollouts, name=None):
    """The rewards of each prompt."""
    row = rollouts.rewards[0 if name is None else rollouts.names.index(name)]
    return [row[a:b].tolist() for a, b in zip(rollouts.starts[:-1], rollouts.starts[1:], strict=True)]


def answers(rollouts):
    """Codes of the answers of all draws."""
    assert rollouts.answers is not None
    return rollouts.answers


def truths(rollouts):
    return [
        rollouts.truth[a:b].tolist() for a, b in zip(rollouts.starts[:-1], rollouts.starts[1:], strict=True)
    ]


@pytest.fixture
def write(tmp_path):
    def write(name, contents):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match contents:
            case str():
                path.write_text(contents)
            case pd.DataFrame():
                contents.to_parquet(path) if name.endswith("parquet") else contents.to_csv(path, index=False)
            case dict():
                path.write_text(json.dumps(contents))
            case _:
                path.write_text("".join(json.dumps(record) + "\n" for record in contents))
        return path

    return write


def test_trl(write):
    for step in (0, 1):
        frame = pd.DataFrame(
            {
                "step": step,
                "prompt": ["a", "a", "b", "b"],
                "completion": ["x", "y", "z", "w"],
                "accuracy_reward": [1.0, 0.0, 0.0, step],
                "format_reward": [0.5, 0.5, 1.0, 0.0],
                "advantage": [0.7, -0.7, 0.0, 0.0],
            }
        )
        folder = write(f"completions/completions_{step:05d}.parquet", frame).parent
    found = read_rollouts([folder])
    assert found.recognised["format"] == "TRL"
    assert found.names == ("accuracy_reward", "format_reward")
    assert found.prompts == ("0, a", "0, b", "1, a", "1, b")  # policies of two steps are two
    assert by_prompt(found) == [[1, 0], [0, 0], [1, 0], [0, 1]]
    assert found.truth is None


def test_trl_with_conversations_and_a_truth(write):
    frame = pd.DataFrame(
        {
            "step": 0,
            "prompt": [[{"role": "user", "content": "hi"}]] * 3,
            "completion": ["x"] * 3,
            "reward": [1.0, 0.0, 0.5],
            "correct": [True, False, None],
            "advantage": 0.0,
        }
    )
    found = read_rollouts([write("c.parquet", frame)])
    assert found.recognised["columns"]["truth"] == "correct"
    np.testing.assert_array_equal(found.truth, [1, 0, np.nan])


def test_verl(write):
    rows = [
        {"input": q, "output": "...", "gts": "3", "score": s, "step": 7, "acc": s > 0, "pred": str(s)}
        for q, s in [("p", 1.0), ("q", -1.0), ("p", -1.0), ("q", -1.0), ("p", 1.0)]
    ]
    found = read_rollouts([write("7.jsonl", rows)])
    assert found.recognised["format"] == "verl"
    assert by_prompt(found) == [[1, -1, 1], [-1, -1]]
    assert truths(found) == [[1, 0, 1], [0, 0]]
    assert answers(found)[0] == answers(found)[2] != answers(found)[1]


def test_nemo_gym(write):
    rows = [
        {
            "responses_create_params": {},
            "response": {},
            "reward": r,
            "_ng_task_index": t,
            "_ng_rollout_index": i,
        }
        for i, (t, r) in enumerate([(3, 1.0), (3, 0.0), (5, 0.0), (5, 0.0)])
    ]
    found = read_rollouts([write("x_rollouts.jsonl", rows)])
    assert (found.recognised["format"], by_prompt(found)) == ("NeMo Gym", [[1, 0], [0, 0]])


def test_prime_rl(write):
    rows = [
        {"traces": [{"rewards": {"a": 1.0, "b": 0.2}}, {"rewards": {"a": 0.0, "b": 0.4}}], "group": {"id": g}}
        for g in (1, 2)
    ]
    found = read_rollouts([write("rollouts/step_3/0/traces.jsonl", rows)])
    assert found.names == ("a", "b")
    assert by_prompt(found, "b") == [[0.2, 0.4]] * 2
    rows = [{"traces": [{"rewards": 1.0, "group": {"id": 9}}, {"rewards": 0.0, "group": {"id": 9}}]}]
    assert by_prompt(read_rollouts([write("t.jsonl", rows)])) == [[1, 0]]


def test_reward_bench_2_files_are_reward_models_on_the_same_draws(write):
    columns = {"id": ["a", "b"], "subset": ["m", "m"], "text": [["x"] * 4] * 2, "num_correct": [1, 2]}
    first = write("one.json", {**columns, "scores": [[4, 3, 2, 1], [1, 1, 0, 0]]})
    second = write("two.json", {**columns, "scores": [[[0.5], [0.1], [0.2], [0.3]], [5, 6, 7, 8]]})
    alone = read_rollouts([first])
    assert (alone.names, alone.recognised["format"]) == (("scores",), "RewardBench 2")
    found = read_rollouts([first, second])
    assert found.names == ("one", "two")
    assert by_prompt(found, "one") == [[4, 3, 2, 1], [1, 1, 0, 0]]
    assert by_prompt(found, "two") == [[0.5, 0.1, 0.2, 0.3], [5, 6, 7, 8]]
    assert truths(found) == [[1, 0, 0, 0], [1, 1, 0, 0]]


def test_reward_bench(write):
    found = read_rollouts(
        [write("m_all.jsonl", [{"chosen": 1.5, "rejected": 0.5}, {"chosen": 0, "rejected": 2}])]
    )
    assert (by_prompt(found), truths(found)) == ([[1.5, 0.5], [0, 2]], [[1, 0]] * 2)


def test_best_of_k(write):
    record = {"question_id": 4, "prompt": "p", "response_1": "a", "response_2": "b", "scores": [True, False]}
    found = read_rollouts([write("k.jsonl", [{**record, "rm": [0.3, 0.9]}])])
    assert (found.names, by_prompt(found), truths(found)) == (("rm",), [[0.3, 0.9]], [[1, 0]])
    found = read_rollouts([write("k.parquet", pd.DataFrame([record]))])
    assert (found.names, by_prompt(found)) == (("scores",), [[1, 0]])  # the truth as the teacher


def test_lm_evaluation_harness(write):
    common = {"doc_id": 0, "target": "4", "resps": [["a", "b", "c"]], "metrics": ["exact_match"]}
    rows = [
        {**common, "filtered_resps": ["4", "5", "4"], "exact_match": 1.0},
        {**common, "doc_id": 1, "filtered_resps": ["1", "2", "3"], "exact_match": [0, 1, 0]},
        {**common, "doc_id": 2, "target": None, "filtered_resps": ["x"], "exact_match": 0.0},
    ]
    found = read_rollouts([write("samples_t.jsonl", rows)])
    assert by_prompt(found) == [[1, 0, 1], [0, 1, 0]]
    assert answers(found)[0] == answers(found)[2]
    assert found.skipped == {"3 responses have one metric together": 1}
    assert "record 3" in found.places[0]


def test_reasoning_gym(write):
    completions = [{"model_answer": a, "score": s} for a, s in [("u", 0.5), ("v", 1.0), ("u", 0.5)]]
    results = [{"question": "q", "expected_answer": "v", "completions": completions}] * 2
    path = write("r.json", {"completions_per_prompt": 3, "results": results})
    found = read_rollouts([path])
    assert by_prompt(found) == [[0.5, 1.0, 0.5]] * 2
    assert answers(found)[0] == answers(found)[2] != answers(found)[1]
    assert not is_instance_file(path)


LONG = pd.DataFrame(
    {
        "problem": [0, 0, 1, 1],
        "solution": [0, 1, 0, 1],
        "author": ["m", "n", "m", "n"],
        "correct": [1, 0, 0, 1],
        "first": [0.1, 0.2, 0.3, 0.4],
        "second": [4.0, 3.0, 2.0, 1.0],
    }
)


def test_any_long_table(write):
    for name in ("t.csv", "t.parquet"):
        found = read_rollouts([write(name, LONG)])
        assert (found.names, found.recognised["format"]) == (("first", "second"), "table")
        assert truths(found) == [[1, 0], [0, 1]]
    rows = LONG.to_dict("records")
    path = write("t.json", json.dumps(rows))
    assert by_prompt(read_rollouts([path]), "second") == [[4, 3], [2, 1]]
    chosen = read_rollouts(
        [write("t.jsonl", rows)], Columns(("first",), truth="second", prompt="author", answer="solution")
    )
    assert chosen.prompts == ("m", "n")
    assert (by_prompt(chosen), truths(chosen)) == ([[0.1, 0.3], [0.2, 0.4]], [[4, 2], [3, 1]])


def test_any_wide_table(write):
    numbered = pd.DataFrame(
        {"prompt": ["a", "b"], "score_1": [1, 3], "score_2": [2, 4], "truth_1": 0, "truth_2": 1}
    )
    found = read_rollouts([write("w.csv", numbered)])
    assert (found.names, by_prompt(found), truths(found)) == (("score",), [[1, 2], [3, 4]], [[0, 1]] * 2)
    lists = [
        {"prompt": "a", "r": [1, 2, 3], "truth": [0, 0, 1]},
        {"prompt": "b", "r": [4, 5], "truth": [1, 0]},
    ]
    found = read_rollouts([write("w.jsonl", lists)])
    assert (by_prompt(found), truths(found)) == ([[1, 2, 3], [4, 5]], [[0, 0, 1], [1, 0]])


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst"])
def test_compressed(write, tmp_path, ending):
    rows = LONG.to_dict("records")
    plain = write("t.jsonl", rows).read_bytes()
    path = tmp_path / f"z.jsonl.{ending}"
    if ending == "gz":
        path.write_bytes(gzip.compress(plain))
    else:
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write(plain)
    assert by_prompt(read_rollouts([path])) == [[0.1, 0.2], [0.3, 0.4]]


def test_bad_rows_are_counted_and_named_and_left_out(write):
    text = "prompt,score\na,1\na,2\n,3\nb,x\nb,4\nb,5\nc,6\nd,7,8\nd,9\nd,inf\nd,10\n"
    found = read_rollouts([write("bad.csv", text)])
    assert by_prompt(found) == [[1, 2], [4, 5], [9, 10]]
    assert found.skipped == {
        "has no prompt": 1,
        "score is not a number": 2,
        "has too many fields": 1,
        TOO_FEW: 1,
    }
    assert any(place.endswith("bad.csv, row 5: score is not a number") for place in found.places)
    assert any("line 9: has too many fields" in place for place in found.places)
    good = [json.dumps({"prompt": "a", "score": score}) for score in (1, None, 2)]
    lines = f"{good[0]}\nnot json\n[1]\n\n{good[1]}\n{good[2]}\n"
    found = read_rollouts([write("bad.jsonl", lines)])
    assert by_prompt(found) == [[1, 2]]
    assert found.skipped == {"is not a JSON object": 2, "score is not a number": 1}
    assert any("line 2: is not a JSON object" in place for place in found.places)


def test_a_million_rows_are_read_part_by_part(write, monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", 3)
    prompts = np.arange(20) % 7
    frame = pd.DataFrame({"prompt": [f"{p}" * 300 for p in prompts], "r": np.arange(20.0)})
    for name in ("t.csv", "t.parquet"):
        found = read_rollouts([write(name, frame)])
        assert by_prompt(found) == [np.arange(20.0)[prompts == p].tolist() for p in range(7)]
        assert found.prompts[1].startswith("111")
        assert len(found.prompts[1]) == 80


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("x.csv", "prompt,score\n", "nothing usable: no rows"),
        ("x.csv", "", "is not a table of comma-separated values"),
        ("x.csv", "prompt,score\na,1\nb,2\n", "nothing usable: 2 rows alone in its group"),
        ("x.csv", "prompt,text\na,u\na,v\n", "no column of numbers is left to be a reward"),
        ("x.csv", "u,v\n1,2\n", "no column says which prompt a row is of"),
        ("x.jsonl", "no\n", "nothing usable: 1 x is not a JSON object"),
        ("x.json", "{", "is not a JSON file"),
        ("x.json", '{"u": 3}', "holds no rollouts that are recognised"),
        ("x.txt", "", "of no kind that is read"),
        ("x.parquet", "", "cannot read"),
    ],
)
def test_a_file_with_nothing_usable_says_why(write, name, contents, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_rollouts([write(name, contents)])
    assert "\n" not in str(caught.value).strip()


def test_columns_and_files_that_there_are_not(write, tmp_path):
    path = write("t.csv", LONG)
    for columns in (Columns(("frist",)), Columns(truth="corect"), Columns(prompt="prolbem")):
        with pytest.raises(ValueError, match="is unknown; did you mean"):
            read_rollouts([path], columns)
    with pytest.raises(ValueError, match="No such file"):
        read_rollouts([tmp_path / "none.csv"])
    with pytest.raises(ValueError, match="no file of rollouts"):
        read_rollouts([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no CSV"):
        read_rollouts([tmp_path / "empty"])
    other = write("v.jsonl", [{"input": "p", "output": "", "score": 1.0, "step": 1}] * 2)
    with pytest.raises(ValueError, match=r"is verl, the files before it are table; give one kind"):
        read_rollouts([path, other])


def test_no_pickle_is_loaded(tmp_path):
    """Neither by its name, nor as what another name promises."""

    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    for name in ("x.pkl", "x.csv", "x.jsonl", "x.json", "x.parquet"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ValueError, match=r"x\.|nothing usable"):
            read_rollouts([path])


def test_instance_files_are_no_rollouts(write):
    assert is_instance_file(write("i.json", {"rewards": [[1]]}))
    assert is_instance_file(write("bad.json", "{"))
    assert not is_instance_file("some.csv")
    assert not is_instance_file(write("l.json", "[]"))
    assert recognise({"rewards", "ground_truth_rewards"}) is None
    assert len({each.name for each in FORMATS}) == len(FORMATS)


# The value ---------------------------------------------------------------------------


def test_from_arrays_and_from_a_table_are_the_same():
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0]], bool)
    rewards = {"a": np.arange(9.0).reshape(3, 3), "b": np.ones((3, 3))}
    truth = np.where(mask, np.eye(3), np.nan)
    first = Rollouts.from_arrays(rewards, truth, mask=mask, prompts=["x", "y", "z"])
    where = np.nonzero(mask)
    frame = pd.DataFrame({"p": np.array(["x", "y", "z"])[where[0]], "t": truth[where]})
    frame = frame.assign(**{name: of[where] for name, of in rewards.items()})
    second = Rollouts.from_frame(frame, prompt="p", rewards=["a", "b"], truth="t")
    for each in (first, second):
        assert (each.names, each.prompts, each.skipped) == (("a", "b"), ("x", "y"), {TOO_FEW: 1})
        assert by_prompt(each) == [[0, 1, 2], [3, 5]]
        np.testing.assert_array_equal(each.truth, [1, 0, 0, 0, 0])
    batch = next(first.batches())
    assert batch.mask.sum(1).tolist() in ([3, 2], [2])


def test_sums_and_choices_of_rewards():
    both = Rollouts.from_arrays({"a": [[1.0, 2.0]], "b": [[3.0, 5.0]]})
    summed = both.with_sum({"a": 2.0, "b": -1.0})
    assert summed.names[2] == "2 a + -1 b"
    assert by_prompt(summed, summed.names[2]) == [[-1.0, -1.0]]
    assert summed.choose(["b"]).names == ("b",)
    with pytest.raises(ValueError, match="reward 'c' is unknown"):
        both.with_sum({"c": 1.0})
    with pytest.raises(ValueError, match="finite"):
        both.with_sum({"a": np.inf})
    with pytest.raises(ValueError, match="reward 'c' is unknown"):
        both.choose(["c"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0], [2.0]],), "nothing usable"),
        (([1.0, 2.0],), "levels of nesting"),
        (([[1.0, 2.0]], [[1.0]]), r"truth has shape \[1, 1\] but rewards has shape \[1, 2\]"),
        (({},), "names none"),
    ],
)
def test_bad_arrays(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rollouts.from_arrays(*arguments)


def test_prompts_of_very_different_numbers_of_draws_waste_no_memory():
    number = np.concatenate([np.zeros(5000, int), np.repeat(np.arange(1, 1001), 2)])
    found = Rollouts.from_draws(
        number, {"r": np.arange(7000.0)}, None, None, prompts=[str(i) for i in range(1001)]
    )
    cells = sum(batch.mask.size for batch in found.batches())
    assert cells < 2 * 7000 + 8192
    seen = np.concatenate([batch.prompts for batch in found.batches()])
    assert sorted(seen) == list(range(1001))


def test_draws_are_numbered_as_they_stand_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", 3)
    rows = ["a,1", "b,1", "a,?", "a,3", ",7", "b,2", "a,4"]
    path = tmp_path / "r.csv"
    path.write_text("\n".join(["prompt,score", *rows]))
    found = read_rollouts([path])
    assert found.draw_numbers.tolist() == [0, 2, 3, 0, 1]
    assert found.rewards[0].tolist() == [1, 3, 4, 1, 2]
    some = Rollouts.from_arrays([[np.nan, 1.0, 2.0, 3.0]], mask=[[True, True, False, True]])
    assert some.draw_numbers.tolist() == [1, 2]
