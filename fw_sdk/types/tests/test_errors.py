"""One error, the same fields in every envelope."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk.types import CODES, CreateDataset, FwError, PullModel, TrainingConfig, not_found, parse_request, resource_id


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
    for bad in ("", "../x", "A", "accounts/local/datasets/d", "a/b", "-a", "a" * 64):
        with pytest.raises(FwError):
            resource_id(bad, "models")


def test_not_found_names_the_nearest():
    assert "Did you mean 'smollm2-135m'?" in not_found("model", "smolm2-135", ["smollm2-135m", "x"], "").message
    assert "Known: a, b" in not_found("model", "zzz", ["b", "a"], "").message
    assert "There is no model yet" in not_found("model", "zzz", [], "").message
