"""The answer that most rows want, and when there is none."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evals.constant import MAX_DISTINCT, MIN_ROWS, commonest_answer, constant_baseline, distinct_answers
from engine.evals.evaluators import EvaluatorProcess
from engine.jobs.rows import Row
from fw_sdk.types import RowScore

HALF = """
def evaluate(messages, ground_truth=None, **row):
    return 1.0 if messages[-1]["content"] == ground_truth else 0.5 * (len(messages) == 2)
"""

DIVIDES = """
SCORE_RANGE = (-1, 2)

def evaluate(messages, ground_truth=None, **row):
    return float(messages[-1]["content"] == ground_truth) / row["place"]
"""


def row(line, text, **fields):
    answer = {"role": "assistant", "content": text, **fields}
    return Row(line, {"messages": [{"role": "user", "content": str(line)}, answer]})


@given(st.lists(st.sampled_from(["a", " a", "b", "c\n", "d"]), max_size=40))
def test_it_is_a_most_common_text_with_its_share(texts):
    found = commonest_answer([row(number, text) for number, text in enumerate(texts, 1)])
    counted = Counter(text.strip() for text in texts)
    if len(texts) < MIN_ROWS or max(counted.values()) == 1:
        assert found is None
    else:
        assert found is not None
        answer, share = found
        assert counted[answer] == max(counted.values()) and share == counted[answer] / len(texts)


def test_there_is_none_for_many_texts_calls_and_rows_without_an_answer():
    labels = [row(number, "a") for number in range(1, 31)]
    assert commonest_answer(labels) == ("a", 1.0)
    assert commonest_answer([*labels, *(row(40 + n, str(n)) for n in range(MAX_DISTINCT))]) is None
    assert commonest_answer([*labels, row(40, None, tool_calls=[{"id": "1"}])]) is None
    assert (
        commonest_answer([*labels, Row(40, {"messages": [{"role": "user", "content": "x"}], "ground_truth": "a"})])
        is None
    )


def test_it_is_scored_by_the_evaluator_on_every_row(tmp_path):
    source = tmp_path / "evaluator.py"
    source.write_text(HALF)
    rows = [row(number, "ab"[number % 4 == 0]) for number in range(1, 13)]
    with EvaluatorProcess(source, "evaluate", 5.0) as evaluator:
        found = constant_baseline(evaluator, rows)
    assert found is not None and found.to_wire() == {"answer": "a", "share": 0.75, "mean": 0.75 + 0.25 * 0.5}


@pytest.mark.parametrize(("failing", "mean"), [(1, 0.75 + 2.0 / 100), (3, None)])
def test_rows_that_cannot_be_scored_do_not_lower_the_bar(tmp_path, failing, mean):
    """A crash counts as the best score there is; a bar of which more than 2 % are crashes is none."""
    source = tmp_path / "evaluator.py"
    source.write_text(DIVIDES)
    rows = [row(n, "ab"[n % 4 == 0]) for n in range(1, 101)]
    for n, item in enumerate(rows):
        item.data["place"] = 0 if item.messages[-1]["content"] == "b" and n < 4 * failing else 1
    with EvaluatorProcess(source, "evaluate", 5.0) as evaluator:
        found = constant_baseline(evaluator, rows)
    assert (found.mean if found else None) == (mean and pytest.approx(mean))


def test_answers_are_counted_without_the_spaces_around_them():
    given = [RowScore(index=n, line=n, output=text) for n, text in enumerate(["a", " a\n", "b"])]
    assert distinct_answers([*given, RowScore(index=3, line=3, error="too long")]) == 2
    assert distinct_answers([*given, RowScore(index=3, line=3, score=0.0, output="")]) == 3
