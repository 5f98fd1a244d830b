"""Results are bounded, harmless, and the same in both forms."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from fw_mcp.results import MAX_RESULT_CHARS, clean, refusal, reply, untrusted
from fw_sdk.types import CODES, FwError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@given(st.text(), st.integers(1, 50))
def test_cleaned_text_is_short_and_visible(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit + 40
    assert all(unicodedata.category(char) != "Cc" or char in "\n\t" for char in shown)


def test_terminal_escapes_and_invisible_letters_go() -> None:
    assert clean("a\x1b[31mred\x1b[0m\u200b\u202e\U000e0041b\r\n") == "aredb\n"


@given(st.text(alphabet="<>untrsed \n", max_size=80))
def test_a_fence_cannot_be_closed_from_inside(text: str) -> None:
    fenced = untrusted(text)
    assert fenced.startswith("<<untrusted ") and fenced.endswith(" >>")
    assert ">>" not in fenced[:-2] and "<<untrusted" not in fenced[2:]


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != "next"), TREES, max_size=5))
def test_text_is_the_structured_content(fields: dict) -> None:
    result = reply(fields, "overview()")
    assert json.loads(result.content[0].text) == result.structured_content
    assert result.structured_content["next"] == "overview()"


def test_a_long_result_says_what_it_left_out() -> None:
    result = reply({"rows": [f"row {number} " * 5 for number in range(5_000)], "n": 5_000}, "go on")
    assert len(result.content[0].text) <= MAX_RESULT_CHARS + 100
    left = len(result.structured_content["rows"])
    assert result.structured_content["omitted"]["rows"] == f"{5_000 - left} more entries" and left > 100
    assert result.structured_content["n"] == 5_000 and result.structured_content["next"] == "go on"


@given(st.sampled_from(sorted(CODES)), st.text(min_size=1, max_size=80), st.text(max_size=40))
def test_every_error_names_a_next_call(code: str, message: str, hint: str) -> None:
    result = refusal(FwError(code, message, hint=hint, not_done="Nothing was run."), "customize")
    assert result.is_error and result.structured_content["code"] == code
    assert result.structured_content["next"] and result.structured_content["next"] in result.content[0].text
