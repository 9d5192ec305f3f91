"""Files of other programs are recognised by their keys; bad rows are counted, and nothing else stops."""

import gzip
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from goodteacher.experiments.rollouts.collection import TOO_FEW, Rollouts
from goodteacher.experiments.rollouts.formats import FORMATS, recognise
from goodteacher.experiments.rollouts.gathering import LEFT_OUT
from goodteacher.experiments.rollouts.intake import read_rollouts
from goodteacher.experiments.rollouts.layouts import Columns
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
    write("rollouts/step_4/0/traces.jsonl", rows)
    found = read_rollouts([write("rollouts/step_4/1/traces.jsonl", rows[:1]).parents[2]])
    assert found.prompts == ("3, 1", "3, 2", "4, 1", "4, 2")  # policies of two steps are two
    assert found.counts.tolist() == [2, 2, 4, 2]
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
    twice = {key: [*of, of[0]] for key, of in columns.items()}
    third = write("b/two.json", {**twice, "scores": [[9] * 4, [None, 1, 1, 1], [8] * 4]})
    found = read_rollouts([second, third])
    assert found.names == (f"{second.parent.name}/two", "b/two")
    assert by_prompt(found, "b/two") == [[9] * 4, [1] * 3]
    assert found.skipped == {"stands twice": 4, "b/two is missing or no number": 1}
    assert found.places[0] == f"{third}, row 3: stands twice"


def test_reward_bench(write):
    found = read_rollouts(
        [write("m_all.jsonl", [{"chosen": 1.5, "rejected": 0.5}, {"chosen": 0, "rejected": 2}])]
    )
    assert (by_prompt(found), truths(found)) == ([[1.5, 0.5], [0, 2]], [[1, 0]] * 2)
    write("two/m-1.5_all.jsonl", [{"chosen": 1, "rejected": 2}, {"chosen": 3, "rejected": 4}])
    folder = write("two/m-1.6_all.jsonl", [{"chosen": 5, "rejected": 6}, {"chosen": 7, "rejected": 8}]).parent
    found = read_rollouts([folder])
    assert found.names == ("m-1.5_all", "m-1.6_all")
    assert by_prompt(found, "m-1.6_all") == [[5, 6], [7, 8]]
    assert truths(found) == [[1, 0]] * 2


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


def test_of_several_filters_one_is_read(write):
    """Records of one document with several filters are the same draws."""

    def samples(*filters):
        record = {"resps": [["a", "b", "c"]], "filtered_resps": ["4", "5", "4"], "exact_match": [1, 0, 1]}
        return [{"doc_id": i, "target": "4", **record, "filter": name} for i in (0, 1) for name in filters]

    write("s/samples_easy_2025.jsonl", samples("strict", "flexible"))
    folder = write("s/samples_very_hard_2025.jsonl", samples("none")).parent
    found = read_rollouts([folder])
    assert found.prompts == ("easy, 0", "easy, 1", "very_hard, 0", "very_hard, 1")
    assert by_prompt(found) == [[1, 0, 1]] * 4
    assert found.skipped == {"of another filter than strict": 6}
    assert found.places[0].endswith("samples_easy_2025.jsonl, record 2: of another filter than strict")


def test_reasoning_gym(write):
    completions = [{"model_answer": a, "score": s} for a, s in [("u", 0.5), ("v", 1.0), ("u", 0.5)]]
    results = [{"question": "q", "expected_answer": "v", "completions": completions}] * 2
    path = write("r.json", {"completions_per_prompt": 3, "results": results})
    found = read_rollouts([path])
    assert by_prompt(found) == [[0.5, 1.0, 0.5]] * 2
    assert answers(found)[0] == answers(found)[2] != answers(found)[1]
    assert not is_instance_file(path)


BAD_RECORDS = {
    "prime-rl": (
        [
            {"traces": [None, *({"rewards": {"a": a}, "group": {"id": 1}} for a in (0, 1, 2))]},
            {"traces": None},
            {"traces": [{"rewards": None, "group": 7}, {"rewards": [], "group": {"id": 1}}]},
        ],
        {
            "a trace is no object": 1,
            "traces is no list of values": 1,
            "has no prompt": 1,
            "a is missing or no number": 1,
        },
    ),
    "RewardBench 2": (
        [
            {"id": "b", "scores": None, "num_correct": 1},
            {"id": "c", "scores": [1], "num_correct": None},
            {"id": "d", "scores": [1], "num_correct": "many"},
            {"id": "a", "scores": [0, 1, 2], "num_correct": 1},
        ],
        {"scores is no list of values": 1, "num_correct is no whole number": 2},
    ),
    "reward-bench": (
        [
            {"id": 0, "chosen": "u", "rejected": "v"},
            {"id": 1, "chosen": "u", "rejected": "v", "scores_chosen": 0, "scores_rejected": 1},
            {"id": 1, "chosen": 2, "rejected": None},
        ],
        {
            "chosen is a text, and no score of it stands under scores_chosen": 1,
            "score is missing or no number": 1,
        },
    ),
    "PPE best of K": (
        [
            {"question_id": "q", "prompt": "p"},
            {"question_id": None, "response_1": "a", "scores": [True]},
            {"question_id": "q", "response_1": "a", "scores": None},
            {"question_id": "q", "response_1": "a", "scores": [True, 0, True], "rm": [0, 1, 2]},
        ],
        {"scores is no list of values": 2, "has no question_id": 1},
    ),
    "lm-evaluation-harness": (
        [
            {"error": "timeout"},
            {"doc_id": None, "resps": [["a"]], "filtered_resps": ["a"], "acc": 1.0},
            {"doc_id": 0, "resps": [["a"] * 3], "filtered_resps": ["a"] * 3, "acc": [0, 1, 2]},
        ],
        {"resps is no list of values": 1, "has no doc_id": 1},
    ),
    "reasoning-gym-eval": (
        [{"completions": None}, 3, {"completions": [None, *({"score": i} for i in range(3))]}],
        {"completions is no list of values": 1, "is not an object": 1, "a completion is no object": 1},
    ),
    "verl": (
        [{"error": "timeout"}, *({"input": "p", "output": "", "score": i, "step": 1} for i in range(3))],
        {"has no prompt": 1},
    ),
    "NeMo Gym": (
        [{"error": "timeout"}, *({"reward": i, "_ng_task_index": 2} for i in range(3))],
        {"has no prompt": 1},
    ),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_one_bad_record_changes_neither_the_format_nor_what_is_read_of_others(write, name):
    records, skipped = BAD_RECORDS[name]
    contents = {"results": records} if name == "reasoning-gym-eval" else records
    found = read_rollouts([write("x.json", json.dumps(contents))])
    assert (found.recognised["format"], by_prompt(found)) == (name, [[0, 1, 2]])
    assert found.skipped == skipped
    if name == "RewardBench 2":
        columns = {key: [record[key] for record in records] for key in records[0]}
        assert read_rollouts([write("c.json", columns)]).skipped == skipped
    if name != "reasoning-gym-eval":
        assert read_rollouts([write("x.jsonl", records)]).skipped == skipped


@pytest.mark.parametrize("name", ["prime-rl", "RewardBench 2", "PPE best of K", "lm-evaluation-harness"])
def test_a_record_of_something_else_is_left_out(write, name):
    records = [*BAD_RECORDS[name][0], None, {"results": 3}, {"id": [1], "traces": {}, "scores": [2]}]
    found = read_rollouts([write("x.json", json.dumps(records))])
    assert by_prompt(found) == [[0, 1, 2]]
    assert found.skipped["is not an object"] == 1
    assert not any("object has no attribute" in reason for reason in found.skipped)


def test_records_that_are_none_are_left_out(write):
    records = [{"prompt": "a", "score": 1}, None, {"prompt": "a", "score": 2}, [3]]
    found = read_rollouts([write("x.json", json.dumps(records))])
    assert (by_prompt(found), found.skipped) == ([[1, 2]], {"is not an object": 2})
    assert "record 2" in found.places[0]


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


def test_numbered_columns_are_draws_though_a_prompt_stands_twice(write, monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", 4)
    frame = pd.DataFrame(
        {"prompt": list("abcaa"), "score": 9.0, "score_1": range(5), "score_2": range(5, 10)}
    )
    found = read_rollouts([write("w.csv", frame)])
    assert (found.names, found.prompts) == (("score",), ("a", "b", "c"))
    assert [sorted(each) for each in by_prompt(found)] == [[0, 3, 4, 5, 8, 9], [1, 6], [2, 7]]
    judges = frame.drop(columns="score").assign(prompt=list("abbaa"))  # two of one draw
    assert read_rollouts([write("l.csv", judges)]).names == ("score_1", "score_2")
    unnamed = frame[["score_1", "score_2"]]
    found = read_rollouts([write("u.csv", unnamed), write("v.csv", unnamed)])
    assert by_prompt(found) == [[i, i + 5] for i in range(5)] * 2
    assert found.prompts[4].startswith("row 6 of ")


def test_one_list_that_is_short_or_missing_is_its_prompts_alone(write, monkeypatch):
    lists = [
        {"prompt": "a", "judge": [1, 2, 3], "correct": [0, 0, 1], "text": ["u", "v", "w"]},
        {"prompt": "b", "judge": None, "correct": [1, 0, 1], "text": ["u", "v", "w"]},
        {"prompt": "c", "judge": [4, 5, 6], "correct": [0, 1], "text": ["u", "v"]},
        {"prompt": "d", "judge": [7, 8], "correct": None, "text": ["u", "v"]},
        {"prompt": "e", "judge": [9, 10], "correct": [1, 0], "text": None},
    ]
    for rows in (2, 100):
        monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", rows)
        for name, contents in (("w.jsonl", lists), ("w.parquet", pd.DataFrame(lists))):
            found = read_rollouts([write(name, contents)], Columns(answer="text"))
            assert (found.names, found.prompts) == (("judge",), ("a", "c", "d", "e"))
            assert by_prompt(found) == [[1, 2, 3], [4, 5, 6], [7, 8], [9, 10]]
            np.testing.assert_array_equal(found.truth, [0, 0, 1, *[np.nan] * 5, 1, 0])
            assert found.skipped == {"judge is missing or no number": 3}
            assert "row 2" in found.places[0]
            assert len(np.unique(answers(found))) == 4


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
        "score is missing or no number": 2,
        "has too many fields": 1,
        TOO_FEW: 1,
    }
    assert any(place.endswith("bad.csv, row 5: score is missing or no number") for place in found.places)
    assert any("line 9: has too many fields" in place for place in found.places)
    assert any(place.endswith(f"bad.csv, row 8: {TOO_FEW}") for place in found.places)
    good = [json.dumps({"prompt": "a", "score": score}) for score in (1, None, 2)]
    lines = f"{good[0]}\nnot json\n[1]\n\n{good[1]}\n{good[2]}\n"
    found = read_rollouts([write("bad.jsonl", lines)])
    assert by_prompt(found) == [[1, 2]]
    assert found.skipped == {"is not a JSON object": 2, "score is missing or no number": 1}
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


def test_ids_and_answers_do_not_depend_on_what_else_is_in_their_column(write, monkeypatch):
    """Neither on an empty cell, which makes numbers of a column floats, nor on the kind of file."""
    monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", 3)
    ids, given = [5, 6, 7, 5, 6, 7, 5, 6, 7], [1, 2, 1, 1, 2, 1, 1, 2, 1]
    whole = pd.DataFrame({"id": ids, "answer": given, "judge": np.arange(9.0)})
    gaps = whole.astype({"id": "Int64", "answer": "Int64"})
    gaps.loc[4, "id"] = gaps.loc[3, "answer"] = None
    floats = gaps.astype({"id": float, "answer": float})
    texts = whole.astype({"id": str, "answer": str}).to_dict("records")
    paths = [write("a.csv", whole), write("b.csv", gaps), write("c.csv", floats), write("d.parquet", gaps)]
    paths += [write("e.parquet", floats), write("f.jsonl", texts)]
    columns = json.loads(str(gaps.to_json()))
    rows = [{name: of[str(i)] for name, of in columns.items()} for i in range(len(gaps))]
    paths += [write("g.jsonl", rows), write("h.json", columns)]
    found = read_rollouts(paths, Columns(answer="answer"))
    assert found.prompts == ("5", "6", "7")
    assert found.counts.tolist() == [24, 18, 24]
    assert found.skipped == {"has no prompt": 6}
    assert len(np.unique(answers(found))) == 3  # one of them for what has none
    both = read_rollouts([write("x.csv", "id,judge\n007,1\n7,2\n007,3\n7,4\n1.50,5\n1.5,6\n")])
    assert both.prompts == ("007", "7", "1.5")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("x.csv", "prompt,score\n", "nothing usable: no rows"),
        ("x.csv", "", "is not a table of comma-separated values"),
        ("x.csv", "prompt,score\na,1\nb,2\n", "nothing usable: 2 x alone in its group"),
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


def test_in_a_folder_what_holds_no_rollouts_is_left_out_and_named(write, tmp_path):
    verl = [{"input": "p", "output": "", "score": float(i), "step": 1} for i in range(2)]
    write("f/1.jsonl", verl)
    write("f/2.jsonl", verl)
    strays = {
        "f/0.jsonl": "",
        "f/a.json": '{"lr": 1}',
        "f/b.parquet": "torn",
        "f/c.csv": "",
        "f/d.csv": "step,loss\n1,2\n",
        "f/e.csv": "prompt,score\na,1\na,2\n",
        "f/f.jsonl": "no\n",
        "f/0/g.json": "{",
        "f/0/h.jsonl": json.dumps({"input": "p", "output": "", "score": "none", "step": 1}),
    }
    for name, text in strays.items():
        write(name, text)
    found = read_rollouts([tmp_path / "f"])
    assert (found.recognised["format"], by_prompt(found)) == ("verl", [[0, 1, 0, 1]])
    assert found.skipped == {LEFT_OUT: len(strays)}
    assert len(found.places) == len(strays)
    assert all(LEFT_OUT in place and "\n" not in place for place in found.places)
    del strays["f/e.csv"]  # a table of rollouts, but for verl's beside it
    for name, text in strays.items():
        only = write(f"only/{name}", text)
        with pytest.raises(ValueError, match=f"nothing usable.*: 1 x .*{only.name}") as caught:
            read_rollouts([only.parent])
        assert "\n" not in str(caught.value)
        only.unlink()
    table, folder = write("t.csv", "prompt,score\na,1\na,2\n"), write("v/1.jsonl", verl).parent
    with pytest.raises(
        ValueError, match=r"nothing usable in the folder .* is verl, not a table as other files"
    ):
        read_rollouts([table, folder])
    for name in ("f/b.parquet", "f/c.csv", "f/a.json"):  # it is asked for by its name
        with pytest.raises(ValueError, match=name):
            read_rollouts([tmp_path / "f/1.jsonl", tmp_path / name])


def test_columns_that_appear_late_are_found(write, monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.rollouts.intake._ROWS", 4)
    rows = [{"prompt": i // 2, "judge": float(i)} for i in range(12)]
    late = [row | ({"correct": i % 2, "rare": 1.0} if i >= 8 else {}) for i, row in enumerate(rows)]
    frame = pd.DataFrame(late)
    write("folder/1.csv", frame[:8].drop(columns=["correct", "rare"]))
    folder = write("folder/2.csv", frame[8:]).parent
    for path in (write("t.jsonl", late), write("t.csv", frame), write("t.parquet", frame), folder):
        for columns in (Columns(), Columns(truth="correct")):
            found = read_rollouts([path], columns)
            assert (found.names, found.recognised["columns"]["truth"]) == (("judge",), "correct")
            np.testing.assert_array_equal(found.truth, [np.nan] * 8 + [0, 1] * 2)
            rare, missing = found.notes
            assert rare == "rare is not taken for a reward: only 4 of 12 rows have it."
            assert missing.startswith("8 of 12 draws have no ground truth: the first is ")
        named = read_rollouts([path], Columns(rewards=("rare",)))
        assert named.skipped == ({LEFT_OUT: 1} if path is folder else {"rare is missing or no number": 8})
    every = [row | ({"often": 1.0} if i >= 4 else {}) for i, row in enumerate(rows)]
    assert read_rollouts([write("e.jsonl", every)]).names == ("judge", "often")


def test_a_truth_or_reward_that_is_no_number_is_refused(write):
    frame = LONG.assign(correct=["no", "yes", "no", "yes"], text="a long text", empty=np.nan)
    path = write("t.csv", frame)
    message = "no value of the truth correct is a number, such as 'no' in .*t.csv, row 2; name a column"
    with pytest.raises(ValueError, match=message):
        read_rollouts([path], Columns(truth="correct"))
    with pytest.raises(ValueError, match="no value of the reward text is a number, such as 'a long text'"):
        read_rollouts([path], Columns(rewards=("first", "text")))
    with pytest.raises(ValueError, match="no value of the truth empty is a number: it is empty"):
        read_rollouts([path], Columns(truth="empty"))
    guessed = read_rollouts([path])
    assert guessed.truth is None
    assert guessed.notes[0].startswith("correct is not taken for the ground truth: 'no' in ")
    some = read_rollouts([write("s.csv", LONG.assign(correct=["unknown", 1, 0, 1]))])
    assert some.notes[0].startswith("1 of 4 draws have no ground truth: the first is ")
    assert some.notes[0].endswith("s.csv, row 2.")


def test_words_in_place_of_a_reward_are_named(write):
    """With a value, its place, and what to do; true and false are numbers."""
    words = pd.DataFrame({"prompt": list("aabb"), "judge": ["yes", "no"] * 2, "correct": [1, 0, 0, 1]})
    (note,) = read_rollouts([path := write("w.csv", words)]).notes
    assert note.startswith("correct is taken for the reward too: no other column is mostly of numbers (judge")
    assert f"judge has 'yes' in {path}, row 2: numbers, such as 1 and 0, would be" in note
    alone = write("a.csv", words.drop(columns="correct"))
    message = "no column of numbers is left to be a reward: judge has 'yes' in .*a.csv, row 2: write numbers"
    with pytest.raises(ValueError, match=message):
        read_rollouts([alone])
    with pytest.raises(ValueError, match=r"is a number, such as 'yes' in .*write 1 and 0 for such words"):
        read_rollouts([path], Columns(rewards=("judge",)))
    for true, false in (("true", "False"), ("TRUE", " false ")):
        found = read_rollouts([write("t.csv", words.replace({"judge": {"yes": true, "no": false}}))])
        assert (found.names, by_prompt(found), found.notes) == (("judge",), [[1, 0], [1, 0]], ())


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_as_spreadsheets_write_them(write, encoding, separator):
    frame = LONG.assign(problem=["1, ä; 2|", "1, ä; 2|", "ß\n3", "ß\n3"], **{"a, b; c|d": "x"})
    text = "" if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    text += frame.to_csv(index=False, sep=separator)
    path = write("t.csv", "")
    path.write_bytes(text.encode(encoding))
    found = read_rollouts([path])
    assert (found.names, by_prompt(found, "second")) == (("first", "second"), [[4, 3], [2, 1]])
    assert (found.prompts, truths(found)) == (("1, ä; 2|", "ß 3"), [[1, 0], [0, 1]])
    path.with_suffix(".tsv.gz").write_bytes(gzip.compress(text.encode(encoding)))
    assert by_prompt(read_rollouts([path.with_suffix(".tsv.gz")]), "second") == [[4, 3], [2, 1]]


def test_what_separates_fields_is_told_by_the_first_row_too(write):
    found = read_rollouts([write("t.csv", 'prompt;r (0, 0.5, 1 or 2);judge\n1,5?;1;2\n1,5?;"2";3\n')])
    assert (found.names, by_prompt(found, "judge")) == (("r (0, 0.5, 1 or 2)", "judge"), [[2, 3]])
    trailing = read_rollouts([write("t.csv", "prompt,judge\na,1,\na,2,\n")])
    assert by_prompt(trailing) == [[1, 2]]
    for text in ("prompt,judge\na,0,5\na,0,75\n", "prompt,judge\na and, yes, b,1\nc,2\n"):
        with pytest.raises(ValueError, match=r"t.csv has \d values in its first row and 2 names in its"):
            read_rollouts([write("t.csv", text)])
    path = write("t.csv", "")
    path.write_bytes("prompt,judge\na,1\na,2\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"t.csv is not in UTF-8, nor in UTF-16 with .*; save it as UTF-8"):
        read_rollouts([path])


def test_decimal_commas_are_refused_where_they_are_used(write):
    frame = LONG.assign(price=["1,5", "2,5", "-,5", "4,0"])
    commas = write("c.csv", "\ufeff" + frame.to_csv(index=False, sep=";", decimal=","))
    message = r"the reward first has a decimal comma, '0,1' in .*c.csv, row 2; write numbers with a point"
    with pytest.raises(ValueError, match=message):
        read_rollouts([commas])
    few = frame.astype({"second": object})
    few.loc[3, "second"] = "0,5"
    path = write("f.csv", few)
    with pytest.raises(ValueError, match=r"the reward second has a decimal comma, '0,5' in .*f.csv, row 5"):
        read_rollouts([path], Columns(rewards=("first", "second")))
    with pytest.raises(ValueError, match=r"the truth second has a decimal comma"):
        read_rollouts([path], Columns(rewards=("first",), truth="second"))
    assert by_prompt(read_rollouts([path], Columns(rewards=("first",)))) == [[0.1, 0.2], [0.3, 0.4]]


def test_files_of_a_folder_with_different_rewards_are_read_together(write, tmp_path):
    """What is compared is compared on the same draws: those without a reward are counted."""

    def judged(name, prompts, *rewards):
        frame = pd.DataFrame({"prompt": np.repeat(list(prompts), 2), "correct": [0, 1] * len(prompts)})
        return write(name, frame.assign(**{reward: np.arange(float(len(frame))) for reward in rewards}))

    folder = judged("f/1.csv", "abc", "x", "y").parent
    other = judged("f/2.csv", "de", "x")
    for paths in ([folder], sorted(folder.iterdir())):
        found = read_rollouts(paths)
        assert (found.names, found.prompts) == (("x", "y"), ("a", "b", "c"))
        assert found.skipped == {"y is missing or no number": 4}
        assert found.places[0] == f"{other}, row 2: y is missing or no number"
        named = read_rollouts(paths, Columns(rewards=("x",)))
        assert (named.prompts, named.skipped) == (("a", "b", "c", "d", "e"), {})
    judged("f/2.csv", "defg", "x")  # now most rows have x alone
    found = read_rollouts([folder])
    assert (found.names, len(found.prompts)) == (("x",), 7)
    assert found.notes == ("y is not taken for a reward: only 6 of 14 rows have it.",)
    judged("f/2.csv", "abc", "z")
    message = f"no draw has all rewards, .*: x is in {folder}/1.csv, y is in {folder}/1.csv, z is in {other}"
    with pytest.raises(ValueError, match=message) as caught:
        read_rollouts([folder])
    assert "\n" not in str(caught.value)
    assert read_rollouts([folder], Columns(rewards=("x", "y"))).prompts == ("a", "b", "c")


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
    assert recognise(dict.fromkeys(("rewards", "ground_truth_rewards"))) is None
    assert recognise({"results": {"gsm8k": {"acc": 1.0}}}) is None
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


def test_what_is_left_out_of_arrays_and_tables_is_named():
    mask = [[True, True], [True, False]]
    found = Rollouts.from_arrays([[1.0, 2.0], [3.0, 4.0]], mask=mask, prompts=["x", "y"])
    assert found.places == (f"prompt y: {TOO_FEW}",)
    frame = pd.DataFrame(
        {
            "step": [1, 1, 1, 1, None],
            "p": [*"ab", None, *"aa"],
            "r": [1, 2, 3, None, 5.0],
            "t": [1, 0, 1, 0, None],
        }
    )
    found = Rollouts.from_frame(frame, prompt="p", rewards="r", truth="t")
    assert (found.prompts, by_prompt(found)) == (("a",), [[1, 5]])
    assert found.skipped == {"has no prompt": 1, "r is missing or no number": 1, TOO_FEW: 1}
    assert found.places == ("row 2: has no prompt", "row 3: r is missing or no number", f"row 1: {TOO_FEW}")
    assert found.notes == ("1 of 2 draws have no ground truth: the first is row 4.",)
    both = Rollouts.from_frame(frame.fillna({"r": 0.0}), prompt=["step", "p"], rewards=["r"])
    assert (both.prompts, both.skipped) == (("1, a",), {"has no prompt": 2, TOO_FEW: 1})


@pytest.mark.parametrize("columns", [{"rewards": []}, {"prompt": []}])
def test_a_table_without_named_columns(columns):
    with pytest.raises(ValueError, match="names no column; give at least one"):
        Rollouts.from_frame(LONG, **{"prompt": "problem", "rewards": "first", **columns})


def test_prompts_of_very_different_numbers_of_draws_waste_no_memory():
    number = np.concatenate([np.zeros(5000, int), np.repeat(np.arange(1, 1001), 2)])
    found = Rollouts.from_draws(
        number, {"r": np.arange(7000.0)}, None, None, prompts=[str(i) for i in range(1001)], place=str
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
