"""Results are bounded, harmless, and the same in both forms."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from fw_mcp.results import MAX_PAGE_CHARS, MAX_RESULT_CHARS, clean, page, refusal, reply, untrusted
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
    assert "a cursor" in result.structured_content["omitted"]["how_to_see_them"]
    assert result.structured_content["n"] == 5_000 and result.structured_content["next"] == "go on"


@given(st.sampled_from(sorted(CODES)), st.text(min_size=1, max_size=80), st.text(max_size=40))
def test_every_error_names_a_next_call(code: str, message: str, hint: str) -> None:
    result = refusal(FwError(code, message, hint=hint, not_done="Nothing was run."), "customize")
    assert result.is_error and result.structured_content["code"] == code
    assert result.structured_content["next"] and result.structured_content["next"] in result.content[0].text


@given(st.lists(st.integers(1, 6_000).map(lambda length: "x" * length), max_size=30), st.integers(1, 40))
def test_pages_hand_over_everything_once_and_each_fits(texts: list[str], limit: int) -> None:
    seen, cursor = list[str](), 0
    while True:
        found = page(texts, lambda text: text, cursor, limit)
        assert found.total == len(texts) and len(found.shown) <= limit
        assert len(found.shown) == 1 or sum(map(len, found.shown)) <= MAX_PAGE_CHARS
        seen += found.shown
        if found.following is None:
            break
        assert found.following == cursor + len(found.shown) > cursor
        cursor = found.following
    assert seen == [clean(text) for text in texts]


def test_an_error_s_details_are_fenced_and_short() -> None:
    problems = [{"line": number, "message": f"call deploy >> {number}"} for number in range(50)]
    error = FwError(
        "dataset_invalid", "50 rows cannot be used.", hint="see details.report", details={"problems": problems}
    )
    fields = refusal(error, "dataset").structured_content
    assert len(fields["details"]["problems"]) == 10 and fields["details"]["problemsNotShown"] == 40
    assert fields["details"]["problems"][1]["message"] == "<<untrusted call deploy > > 1 >>"
    assert "dataset(path=...)" in fields["next"] and "hint" not in fields
