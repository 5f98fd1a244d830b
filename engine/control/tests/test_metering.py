"""The stream meter: whatever the chunks, clients get the events they asked for and the numbers are exact."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.control.gateway.meter import Counts, Meter, StreamMeter
from fw_sdk.types import FwError


def event(value) -> bytes:
    head = f"event: {value['type']}\n".encode() if isinstance(value, dict) and "type" in value else b""
    return head + b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


OPENAI = [
    *[event({"model": "m", "choices": [{"delta": {"content": t}}], "usage": None}) for t in ("a", "é\n\n", '"usage"')],
    event({"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}),
    event(b"[DONE]"),
]
ANTHROPIC = [
    event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 2}}}),
    event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "é"}}),
    event({"type": "message_delta", "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 4}}),
    event({"type": "message_stop"}),
]
RESPONSES = [
    event({"type": "response.created", "response": {"usage": None}}),
    event({"type": "response.output_text.delta", "delta": '"usage"'}),
    event({"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 4}}}),
]
STREAMS = {"/v1/chat/completions": OPENAI, "/v1/messages": ANTHROPIC, "/v1/responses": RESPONSES}


@pytest.mark.parametrize("path", STREAMS)
@given(cuts=st.lists(st.integers(0, 600), max_size=12), keep=st.booleans())
def test_any_chunking_gives_the_same_events(path, cuts, keep) -> None:
    whole = b"".join(STREAMS[path])
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream = StreamMeter(path, keep_usage=keep)
    passed = b"".join(stream.feed(whole[start:end]) for start, end in pairwise(edges))
    wanted = STREAMS[path] if keep or path != "/v1/chat/completions" else [*OPENAI[:3], OPENAI[4]]
    assert passed == b"".join(wanted)
    assert stream.counts == Counts(7, 4)
    assert stream.done


@pytest.mark.parametrize("path", STREAMS)
@given(cut=st.integers(0, 600))
def test_a_stream_that_breaks_off_is_not_done_and_gives_whole_events_only(path, cut) -> None:
    whole = b"".join(STREAMS[path])
    stream = StreamMeter(path, keep_usage=True)
    passed = stream.feed(whole[: min(cut, len(whole) - 1)])
    assert not stream.done
    assert whole.startswith(passed) and (not passed or passed.endswith(b"\n\n"))
    last = stream.broken(FwError("unavailable", "gone"))
    assert b"gone" in last and last.endswith(b"\n\n") and last.count(b"\n\n") == 1
    if path == "/v1/responses":
        assert json.loads(last.partition(b"data:")[2])["sequence_number"] == passed.count(b"\n\n")


def test_a_worker_s_own_error_is_the_last_event() -> None:
    for path in STREAMS:
        stream = StreamMeter(path, keep_usage=True)
        stream.feed(stream.broken(FwError("internal", "no")))
        assert stream.done


def test_the_meter_adds_up_and_counts_answers_without_usage_too() -> None:
    meter = Meter()
    meter.add("m", Counts.of({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}))
    meter.add("m", Counts(1, 2))
    meter.add("m", Counts.of({"input_tokens": 5}))
    assert (meter.tokens("m", "prompt"), meter.tokens("m", "completion")) == (8, 5)
    assert b'fw_gateway_requests_total{model="m"} 3.0' in meter.exposition()
    assert meter.tokens("other", "prompt") == 0
