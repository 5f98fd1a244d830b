"""The stream meter: whatever the chunks, clients get the events they asked for and the numbers are exact."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.control.metering import Meter, StreamMeter


def event(value) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def events(model: str) -> tuple[list[bytes], bytes]:
    texts = ("a", "é\n\n", '"usage"', '"sha256:w"')
    tokens = [event({"model": model, "choices": [{"delta": {"content": text}}], "usage": None}) for text in texts]
    return tokens, event({"model": model, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}})


TOKENS, USAGE = events("sha256:w")
RENAMED, RENAMED_USAGE = events("mein Modell ü")
DONE = event(b"[DONE]")


@given(cuts=st.lists(st.integers(0, 600), max_size=12), keep=st.booleans())
def test_any_chunking_gives_the_same_events(cuts, keep) -> None:
    whole = b"".join([*TOKENS, USAGE, DONE])
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream = StreamMeter("sha256:w", "mein Modell ü", keep_usage=keep)
    passed = b"".join(stream.feed(whole[start:end]) for start, end in pairwise(edges))
    assert passed == b"".join([*RENAMED, *([RENAMED_USAGE] if keep else []), DONE])
    assert stream.usage == {"prompt_tokens": 7, "completion_tokens": 4}
    assert stream.done


@given(cut=st.integers(0, 600))
def test_a_stream_that_breaks_off_is_not_done_and_gives_whole_events_only(cut) -> None:
    whole = b"".join([*TOKENS, USAGE, DONE])
    stream = StreamMeter("sha256:w", "mein Modell ü", keep_usage=True)
    passed = stream.feed(whole[: min(cut, len(whole) - 1)])
    assert not stream.done
    renamed = b"".join([*RENAMED, RENAMED_USAGE, DONE])
    assert renamed.startswith(passed) and (not passed or passed.endswith(b"\n\n"))


def test_the_meter_adds_up_and_counts_answers_without_usage_too() -> None:
    meter = Meter()
    meter.add("m", {"prompt_tokens": 7, "completion_tokens": 3})
    meter.add("m", {"prompt_tokens": 1, "completion_tokens": 2})
    meter.add("m", None)
    assert (meter.tokens("m", "prompt"), meter.tokens("m", "completion")) == (8, 5)
    assert b'fw_gateway_requests_total{model="m"} 3.0' in meter.exposition()
    assert meter.tokens("other", "prompt") == 0
