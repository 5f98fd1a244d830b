"""One error, the same fields in every envelope."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk.types import (
    CODES,
    CreateDataset,
    FwError,
    PullModel,
    TrainingConfig,
    nearest,
    not_found,
    parse_request,
    resource_id,
)


@given(
    code=st.sampled_from(sorted(CODES)),
    message=st.text(min_size=1),
    not_done=st.text(),
    hint=st.text(),
    retryable=st.none() | st.booleans(),
)
def test_fields_survive_the_wire(code, message, not_done, hint, retryable):
    error = FwError(code, message, not_done=not_done, hint=hint, retryable=retryable, details={"line": 3})
    again = FwError.from_dict(error.to_dict())
    assert again.to_dict() == error.to_dict()
    assert error.control_plane_body()["details"][0] == error.to_dict()
    assert error.openai_body()["error"]["code"] == code


def test_every_code_has_a_status_and_an_exit_code_of_the_design():
    for code, facts in CODES.items():
        assert 400 <= facts.http < 600, code
        assert facts.exit_code in {1, 2, 3, 4, 5, 6, 7, 8, 9}, code
        assert 1 <= facts.grpc <= 16, code


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (PullModel, {"sorce": "x"}, "unknown field 'sorce' (did you mean 'source'?)"),
        (PullModel, {}, "'source' is missing"),
        (TrainingConfig, {"learningrate": 1}, "did you mean 'learningRate'?"),
        (TrainingConfig, {"epochs": 0}, "'epochs': input should be greater than or equal to 1, got 0"),
        (CreateDataset, [], "input should be"),
    ],
)
def test_a_mistake_in_a_request_is_one_sentence(kind, body, says):
    with pytest.raises(FwError) as caught:
        parse_request(kind, body, not_done="Nothing was done.")
    assert says in str(caught.value)
    assert caught.value.code == "invalid_argument"
    assert caught.value.not_done == "Nothing was done."


def test_names():
    assert resource_id("accounts/local/models/m-1", "models") == resource_id("m-1", "models") == "m-1"
    for bad in (
        "",
        "../x",
        "A",
        "accounts/local/datasets/d",
        "a/b",
        "-a",
        "a" * 64,
        "a\n",
        "a\n\n",
        "\n",
        "a\r",
        "a\0",
        "\ud800",
        "ä",
        "a ",
        "١",
    ):
        with pytest.raises(FwError):
            resource_id(bad, "models")


def test_not_found_names_the_nearest():
    assert "Did you mean 'smollm2-135m'?" in not_found("model", "smolm2-135", ["smollm2-135m", "x"], "").message
    assert "Known: a, b" in not_found("model", "zzz", ["b", "a"], "").message
    assert "There is no model yet" in not_found("model", "zzz", [], "").message


def test_whatever_a_user_wrote_can_be_said_in_utf_8():
    error = FwError("not_found", "No model '\ud800'", not_done="\udfff", hint="\ud801", param="\ud802")
    assert all(text.encode() for text in (str(error), error.text(), error.not_done, error.hint, error.param))
    with pytest.raises(FwError) as caught:
        parse_request(PullModel, {"source": "x", "\ud800": 1}, not_done="")
    json.dumps(caught.value.openai_body(), ensure_ascii=False).encode()
    with pytest.raises(FwError) as caught:
        resource_id("x" * 10_000 + "\n", "models")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("nope.jsonl", ["bad.jsonl"], None),
        ("trian.jsonl", ["bad.jsonl", "train.jsonl", "heldout.jsonl"], "train.jsonl"),
        ("train.json", ["train.jsonl", "rain.py"], "train.jsonl"),
        ("learningrate", ["learningRate", "loraRank"], "learningRate"),
        ("rank", ["learning_rate", "lora_rank", "batch_size"], "lora_rank"),
        ("warmup_steps", ["learning_rate_warmup_steps", "checkpoint_interval_steps"], "learning_rate_warmup_steps"),
        ("smollm2", ["smollm2-360m-instruct", "smollm2-135m", "qwen3-0.6b"], "smollm2-135m"),
        ("training.jsonl", ["heldout.jsonl", "train.jsonl"], "train.jsonl"),
        ("train.jsonl", ["tr.jsonl"], None),
        ("x", ["y"], None),
        ("cat", ["dog"], None),
        ("", ["a"], None),
        ("support-tuned", ["billing-tuned"], None),
        ("a" * 100_000, ["b" * 99_999, "abc"], None),
    ],
)
def test_near_words(word, known, near):
    assert nearest(word, known) == near


WORD = st.text("abcdefghij", min_size=4, max_size=12)


@given(WORD, st.data())
def test_one_slip_in_a_word_finds_it(word, data):
    at = data.draw(st.integers(0, len(word) - 1))
    slips = [word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word[:at] + "x" + word[at + 1 :]]
    swapped = word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
    for slip in (*slips, swapped, word.upper(), word):
        assert nearest(slip, [word, "zzzzzzzz"]) == word or len(slip) < 3


@given(WORD, st.lists(st.text("klmnopqr", min_size=1, max_size=12)))
def test_words_without_a_common_letter_are_never_near(word, known):
    assert nearest(word, known) is None and nearest(f"{word}.jsonl", [f"{name}.jsonl" for name in known]) is None


@given(st.text(max_size=12), st.lists(st.text(max_size=12)))
def test_the_near_word_is_a_known_one_and_a_known_word_is_its_own(word, known):
    assert nearest(word, known) in (None, *known)
    assert nearest(word, [*known, word]).casefold() == word.casefold()
