"""A hostile regular expression costs a bounded time, and a plain one finds what it says."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_sdk.patterns import Pattern
from fw_sdk.types import FwError


@given(st.text(alphabet="abc .*x", min_size=1, max_size=12), st.text(alphabet="ABCabc .*x", max_size=40))
def test_plain_words_are_found_in_any_case(word: str, text: str) -> None:
    import re

    assert Pattern(re.escape(word)).search(text) == (word.lower() in text.lower())


@pytest.mark.parametrize("source", ["(a+)+$", "((((a+)+)+)+)+$", "(a|aa)+$", "(?:a+b?)+$"])
def test_an_expression_that_never_ends_is_given_up_and_lets_others_run(source: str) -> None:
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.05):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    pattern = Pattern(source)
    try:
        with pytest.raises(FwError, match="takes longer than") as caught:
            pattern.among(["a" * 5_000 + "!"] * 50)
    finally:
        stop.set()
        other.join()
    assert caught.value.code == "invalid_argument" and caught.value.param == "grep" and caught.value.hint
    assert ticks, "the interpreter was held"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("(", "unterminated subpattern"),
        ("(((((a{9999}){99}){99}){99}){99})", "multiply to more than"),
        ("a{9999999}", "multiply to more than"),
        ("a{ 9999999 }", "multiply to more than"),
        ("(?P<x>a|(?&x)b)+$", "unknown extension"),
        ("(?R)?a", "unknown extension"),
        ("a" * 201, "the limit is 200"),
    ],
)
def test_an_expression_that_would_take_all_memory_is_not_compiled(source: str, says: str) -> None:
    with pytest.raises(FwError, match=says) as caught:
        Pattern(source)
    assert caught.value.code == "invalid_argument" and caught.value.hint


@given(st.text(alphabet=r"a({[])}|*+?,0123456789\w^$.:<>=!&Rr-", max_size=24))
def test_whatever_is_written_is_searched_or_refused(source: str) -> None:
    try:
        Pattern(source).search("aaaaaaaaaaaaaaaaaaaaaaaaaaaa!")
    except FwError as error:
        assert error.code == "invalid_argument"
