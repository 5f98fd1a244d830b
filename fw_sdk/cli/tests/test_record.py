"""One record for people: in words, on one screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk.cli.record import MAX_LINES, duration, record_lines, size

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=12), JSON, max_size=60))
def test_any_record_fits_a_screen(fields: dict) -> None:
    lines = record_lines(fields)
    assert len(lines) <= MAX_LINES + 1 and all("\n" not in line and len(line) <= 130 for line in lines)


def test_values_are_said_in_words() -> None:
    fields = {
        "name": "accounts/local/models/m",
        "memoryAvailableBytes": 5 * 2**30,
        "createTime": "2026-01-02T03:04:05.000678+00:00",
        "digest": "sha256:" + "ab" * 32,
        "state": "JOB_STATE_COMPLETED",
        "report": {"validRows": 3, "problems": [], "tokens": {"total": 9}},
        "seconds": 125.0,
        "forced": False,
        "spec": {"secret": 1},
        "steps": [{"name": "check"}] * 7,
    }
    lines = dict(line.split("  ", 1) for line in record_lines(fields))
    said = {key.strip(): value.strip() for key, value in lines.items()}
    assert said["name"] == "m" and said["memory available"] == "5.0 GiB" and said["state"] == "COMPLETED"
    assert said["created"].startswith("2026-01-0") and said["digest"] == "sha256:" + "ab" * 6
    assert said["report"] == "valid rows 3" and said["seconds"] == "2 min 5 s" and said["steps"] == "7 entries"
    assert said["forced"] == "no" and "spec" not in said


@pytest.mark.parametrize(
    ("amount", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1.0 TiB"), (2**60, "1048576.0 TiB")]
)
def test_sizes(amount: int, words: str) -> None:
    assert size(amount) == words


@pytest.mark.parametrize(
    ("amount", "words"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (12_000, "3 h 20 min")]
)
def test_durations(amount: float, words: str) -> None:
    assert duration(amount) == words
