"""Different prompts have different names, and names are short."""

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from goodteacher.experiments.rollouts import naming
from goodteacher.experiments.rollouts.collection import Rollouts
from goodteacher.experiments.rollouts.intake import read_rollouts
from goodteacher.experiments.rollouts.naming import Names

BEFORE = "<|system|> You are a helpful assistant: reason step by step, and end with the answer. <|user|> "
AFTER = " <|end|> <|assistant|> Let us think step by step, and then say what the answer is, in a box."
SUMS = [f"What is {a} + {b}?" for a in (1, 12, 13) for b in (7, 70)]


def names(texts):
    found = Names()
    for text in texts:
        found.add(text)
    return list(found)


def test_what_differs_is_shown_of_prompts_that_begin_and_end_alike():
    found = names([BEFORE + each + AFTER for each in SUMS])
    for name, each in zip(found, SUMS, strict=True):
        assert each in name
        assert name.startswith("...")
        assert len(name) <= 80
    several = [BEFORE * 3 + kind + each + AFTER for kind in ("Add. ", "Work out: " * 9) for each in SUMS]
    found = names([*several, "a short one"])
    assert found[-1] == "a short one"
    for name, text in zip(found, several, strict=False):
        assert next(each for each in SUMS if each in text).removeprefix("What is") in name


def test_prompts_of_several_steps_say_which_step():
    texts = [f"{step}, {BEFORE}{each}{AFTER}" for step in (0, 1) for each in SUMS]
    found = names(texts)
    for name, text in zip(found[7:], texts[7:], strict=True):  # the first ones differ otherwise
        assert name.startswith(text[:2])
        assert next(each for each in SUMS if each in text).removeprefix("What is") in name
    assert len(set(found)) == len(found)


@given(st.lists(st.text(alphabet="ab ", min_size=60, max_size=300), unique=True, max_size=30), st.booleans())
def test_names_differ_whatever_the_texts(texts, forgetful):
    kept, naming._KEPT = naming._KEPT, 200 if forgetful else naming._KEPT
    try:
        found = names(texts)
    finally:
        naming._KEPT = kept
    assert len(set(found)) == len(texts)
    assert all(len(name) <= 80 + len(" (30)") for name in found)


def test_what_is_alike_on_one_line_is_numbered():
    assert names(["a b", "a\nb", "a  b"]) == ["a b", "a b (2)", "a b (3)"]


def test_files_and_tables_name_prompts_so(tmp_path):
    frame = pd.DataFrame({"prompt": [BEFORE + each + AFTER for each in SUMS] * 2, "r": range(2 * len(SUMS))})
    path = tmp_path / "r.csv"
    frame.to_csv(path, index=False)
    for found in (read_rollouts([path]), Rollouts.from_frame(frame, prompt="prompt", rewards="r")):
        assert len(set(found.prompts)) == len(SUMS)
        assert all(each in name for name, each in zip(found.prompts, SUMS, strict=True))
