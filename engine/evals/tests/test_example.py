"""The shipped example: its rows answer themselves, its sides are apart, its evaluator keeps BFCL's rules."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evals.evaluators import EvaluatorProcess, check_source
from engine.evals.overlap import overlap
from engine.jobs.rows import read_rows

FOLDER = Path(__file__).parents[3] / "examples" / "function-calling"
TRAIN, HELDOUT = read_rows(FOLDER / "train.jsonl"), read_rows(FOLDER / "heldout.jsonl")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evaluator, build = load("evaluator"), load("build")
EXACT = {"score": 1.0, "valid_json": 1.0, "right_name": 1.0}


def score(answer, alternatives, name="f"):
    text = answer if isinstance(answer, str) else json.dumps({"name": "f", "arguments": answer})
    truth = {"name": name, "arguments": alternatives}
    return evaluator.evaluate([{"role": "assistant", "content": text}], truth)


def test_three_hundred_rows_to_train_and_a_hundred_held_out():
    assert (len(TRAIN), len(HELDOUT)) == (300, 100)
    assert len({row.data["id"] for row in TRAIN + HELDOUT}) == 400
    assert overlap(HELDOUT, TRAIN).shared == 0
    names = [{row.ground_truth["name"].lower() for row in rows} for rows in (TRAIN, HELDOUT)]
    assert not names[0] & names[1]


@pytest.mark.parametrize("rows", [TRAIN, HELDOUT], ids=["train", "heldout"])
def test_every_row_answers_itself_exactly(rows):
    for row in rows:
        assert evaluator.evaluate(row.messages, **{k: v for k, v in row.data.items() if k != "messages"}) == EXACT
        assert [message["role"] for message in row.messages] == ["system", "user", "assistant"]


def test_the_prompt_shows_the_whole_function_and_the_form_of_the_answer():
    for row in TRAIN + HELDOUT:
        system, user = (message["content"] for message in row.prompt)
        function = json.loads(user.removeprefix("Function: ").split("\nQuestion: ")[0])
        assert function["name"] == row.ground_truth["name"]
        assert set(function["parameters"]["properties"]) == set(row.ground_truth["arguments"])
        assert set(function["parameters"]["required"]) <= set(json.loads(row.messages[-1]["content"])["arguments"])
        assert '{"name":...,"arguments":{...}}' in system


def test_it_scores_in_its_sandbox():
    check_source((FOLDER / "evaluator.py").read_text())
    row = HELDOUT[0]
    with EvaluatorProcess(FOLDER / "evaluator.py") as process:
        assert process.score(row.messages, row.ground_truth, row.data).score == 1.0
        wrong = [*row.prompt, {"role": "assistant", "content": "I would call it."}]
        assert process.score(wrong, row.ground_truth, row.data).score == 0.0


RULES = [
    ({"a": "April 1, 2024"}, {"a": ["april 1 2024"]}, 1),
    ({"a": "it's"}, {"a": ['it"s']}, 1),
    ({"a": "x y"}, {"a": ["x z", "X.Y"]}, 1),
    ({"a": 5}, {"a": [5.0]}, 1),
    ({"a": 5.0}, {"a": [5]}, 0),
    ({"a": True}, {"a": [1]}, 0),
    ({"a": 1}, {"a": [True]}, 0),
    ({"a": 1}, {"a": ["1"]}, 0),
    ({"a": [1, "B c"]}, {"a": [[1, "bc"]]}, 1),
    ({"a": [2, 1]}, {"a": [[1, 2]]}, 0),
    ({"a": [1]}, {"a": [[1, 2]]}, 0),
    ({"a": {"k": "V"}}, {"a": [{"k": ["v", "w"], "o": ["", 1]}]}, 1),
    ({"a": {"k": "v", "z": 1}}, {"a": [{"k": ["v"]}]}, 0),
    ({}, {"a": [1]}, 0),
    ({}, {"a": [1, ""]}, 1),
    ({"a": ""}, {"a": [1, ""]}, 0),
    ({"a": ""}, {"a": ["x", ""]}, 1),
    ({"a": 1, "b": 2}, {"a": [1]}, 0),
    ({"a": None}, {"a": [1]}, 0),
]


@pytest.mark.parametrize(("given_arguments", "alternatives", "expected"), RULES)
def test_rules(given_arguments, alternatives, expected):
    assert score(given_arguments, alternatives)["score"] == expected


def test_only_one_json_object_is_an_answer():
    call = '{"name":"f","arguments":{}}'
    assert score(f"```json\n{call}\n```", {}) == EXACT == score(f"  {call}\n", {})
    for text in (
        f"Sure: {call}",
        call * 2,
        call[:-1],
        '{"name":"f"}',
        '{"name":1,"arguments":{}}',
        "[]",
        "",
        "[" * 9_999,
    ):
        assert score(text, {}) == {"score": 0.0, "valid_json": 0.0, "right_name": 0.0}
    assert score(call, {}, name="g") == {"score": 0.0, "valid_json": 1.0, "right_name": 0.0}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from("ab"), JSON).map(lambda a: json.dumps({"name": "f", "arguments": a}))
)
def test_any_text_gets_a_score(text):
    result = score(text, {"a": [1, 2.5, "", "x"], "b": [{"k": [True]}, [[1], "y"]]})
    assert set(result) == set(EXACT) and all(value in (0.0, 1.0) for value in result.values())


def test_types_are_written_as_json_schema_and_nothing_else_changes():
    schema = {
        "type": "dict",
        "properties": {"x": {"type": "float", "description": "d", "default": 1}},
        "required": ["x"],
    }
    mapped = build.json_schema({**schema, "extra": [{"type": "dict"}]})
    assert mapped == {
        "type": "object",
        "properties": {"x": {"type": "number", "description": "d", "default": 1}},
        "required": ["x"],
        "extra": [{"type": "dict"}],
    }
    assert build.json_schema({"type": "array", "items": {"type": "tuple"}}) == {
        "type": "array",
        "items": {"type": "array"},
    }
    assert build.json_schema({"type": "any"}) == {}
