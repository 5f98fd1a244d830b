"""The split is decided by what a row asks, and by nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.rows import Row, is_heldout, prompt_key, read_rows
from fw_sdk.types import Split


def row(line, question, answer="a"):
    data = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    return Row(line, data)


@given(questions=st.lists(st.text(max_size=8), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_equal_prompts_are_on_one_side_and_both_sides_make_the_whole(tmp_path_factory, questions, seed):
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    rows = [row(number, question, f"answer {number}") for number, question in enumerate(questions, 1)]
    path.write_text("".join(json.dumps(item.data) + "\n" for item in rows))
    sides = {split: read_rows(path, split, heldout_fraction=0.3, split_seed=seed) for split in Split}
    assert [item.line for item in sides[Split.ALL]] == list(range(1, len(rows) + 1))
    together = sorted(sides[Split.TRAIN] + sides[Split.HELDOUT], key=lambda item: item.line)
    assert together == sides[Split.ALL]
    keys = {split: {prompt_key(item) for item in sides[split]} for split in (Split.TRAIN, Split.HELDOUT)}
    assert not keys[Split.TRAIN] & keys[Split.HELDOUT]


def test_the_fraction_is_kept_on_the_whole():
    share = sum(is_heldout(row(1, f"question {number}"), 0.2, 0) for number in range(5000)) / 5000
    assert 0.18 < share < 0.22


def test_ground_truth_is_the_field_or_the_last_answer():
    assert row(1, "q", "yes").ground_truth == "yes"
    assert Row(1, {**row(1, "q").data, "ground_truth": [1]}).ground_truth == [1]
    assert Row(1, {"messages": [{"role": "user", "content": "q"}]}).ground_truth is None
    assert row(1, "q").prompt == [{"role": "user", "content": "q"}]
