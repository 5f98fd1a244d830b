"""The plain values below the transports: events, delays, errors, files."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk import exceptions
from fw_sdk.calls import ServerSentEvent, SseParser
from fw_sdk.files import dataset_upload, evaluator_source, id_from, local_path
from fw_sdk.retries import FIRST_DELAY_S, LONGEST_DELAY_S, delay_s, retry_after_s
from fw_sdk.types import CODES, FwError
from fw_sdk.types.base import ID_PATTERN

LINE = st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]))


EVENT = st.tuples(st.lists(LINE, min_size=1, max_size=3), st.from_regex(r"[a-z]*", fullmatch=True), st.integers(1, 999))


@given(st.lists(EVENT, max_size=4), st.integers(1, 7), st.sampled_from(["\n", "\r\n"]))
def test_events_survive_the_wire_in_any_pieces(sent, size, end):
    lines = []
    for data, kind, number in sent:
        named = [f"event: {kind}"] if kind else []
        lines += [": a comment", f"id: {number}", *named, *(f"data: {line}" for line in data), ""]
    wire = "".join(f"{line}{end}" for line in lines).encode()
    parser = SseParser()
    got = [event for start in range(0, len(wire), size) for event in parser.feed(wire[start : start + size])]
    assert got == [ServerSentEvent("\n".join(data), kind or "message", str(number)) for data, kind, number in sent]


@given(st.integers(0, 30))
def test_delays_double_with_jitter_and_stay_under_the_limit(attempt):
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt)
    assert 0.75 * longest <= delay_s(attempt, {}) <= longest


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "2"}, 2), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25)],
)
def test_what_the_server_asks_for_is_honoured(headers, seconds):
    assert delay_s(0, headers) == seconds


def test_a_date_is_understood_and_nonsense_is_not():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)
    assert 3 < retry_after_s({"retry-after": soon}) <= 5
    for value in ("tomorrow", "-1", "86400", "nan", ""):
        assert retry_after_s({"retry-after": value}) is None


def test_every_code_has_its_class_and_every_class_its_code():
    assert set(exceptions.BY_CODE) == set(CODES)
    assert len(set(exceptions.BY_CODE.values())) == len(CODES)
    for code, kind in exceptions.BY_CODE.items():
        error = exceptions.typed(FwError(code, "m", not_done="n", hint="h", param="p", details={"a": 1}))
        assert type(error) is kind and isinstance(error, FwError)
        back = exceptions.from_response(error.http_status, error.control_plane_body(), "r")
        assert type(back) is kind and back.to_dict() == {**error.to_dict(), "requestId": "r"}
        back = exceptions.from_response(error.http_status, error.openai_body(), None)
        assert type(back) is kind and back.to_dict() == error.to_dict()


@given(st.text(max_size=100))
def test_ids_made_of_names_are_ids(stem):
    assert ID_PATTERN.match(id_from(stem, "dataset"))


def test_a_misspelt_path_names_the_nearest_file(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(FwError, match=r"Did you mean '.*/train\.jsonl'\?") as caught:
        local_path(tmp_path / "trian.jsonl", "dataset file", not_done="nothing was done")
    assert caught.value.code == "not_found" and caught.value.not_done == "nothing was done"
    with pytest.raises(FwError, match="similar name"):
        local_path(tmp_path / "zzz.bin", "dataset file", not_done="")
    (tmp_path / "examples").mkdir()
    with pytest.raises(FwError, match=r"Did you mean '.*/examples'\?"):
        local_path(tmp_path / "exmaples" / "train.jsonl", "dataset file", not_done="")


def test_rows_become_jsonl_and_what_is_no_json_is_refused():
    rows = [{"messages": [{"role": "user", "content": "zwölf\n"}]}, {"messages": []}]
    upload = dataset_upload(iter(rows), not_done="")
    assert [json.loads(line) for line in upload.source.decode().splitlines()] == rows
    for bad in ([{"score": float("nan")}], [{"value": object()}], {"messages": []}):
        with pytest.raises(FwError, match=r"not JSON|list of dicts"):
            dataset_upload(bad, not_done="")


def test_an_evaluator_is_a_path_or_a_source(tmp_path):
    source = "def evaluate(messages, **row):\n    return 1.0\n"
    assert evaluator_source(source, not_done="") == (source, None)
    path = tmp_path / "exact.py"
    path.write_text(source)
    assert evaluator_source(str(path), not_done="") == (source, "exact")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FwError, match="UTF-8"):
        evaluator_source(path, not_done="")
    with pytest.raises(FwError, match="folder"):
        evaluator_source(tmp_path, not_done="")
