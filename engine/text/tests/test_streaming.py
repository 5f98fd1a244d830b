"""Streams against the whole: whatever the chunks, the joined pieces are the text."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.text import StopMatcher, StreamDecoder, Tokenizer
from engine.text.tests.strings import MIXED
from engine.text.tests.vocabularies import byte_fallback_tokenizer

ANY_FIXTURE = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def byte_level(tiny_llama_dir):
    return Tokenizer.load(tiny_llama_dir)


@pytest.fixture(scope="module")
def byte_fallback():
    return byte_fallback_tokenizer()


def streamed(tokenizer, ids, skip):
    decoder = StreamDecoder(tokenizer, skip)
    pieces = [decoder.push(number) for number in ids]
    return [*pieces, decoder.flush()]


@ANY_FIXTURE
@given(ids=st.lists(st.integers(0, 511), max_size=40), skip=st.booleans())
def test_any_ids_byte_level(byte_level, ids, skip):
    ids = [number % byte_level.vocab_size for number in ids]
    assert "".join(streamed(byte_level, ids, skip)) == byte_level.decode(ids, skip_special=skip)


@ANY_FIXTURE
@given(ids=st.lists(st.integers(0, 268), max_size=20), skip=st.booleans())
@example(ids=[1, 259, 267, 1, 268, 2], skip=True)
@example(ids=[3 + 0xF0, 3 + 0x9F, 260, 3 + 0xC3, 3 + 0xA9], skip=False)
def test_any_ids_byte_fallback(byte_fallback, ids, skip):
    ids = [number % byte_fallback.vocab_size for number in ids]
    assert "".join(streamed(byte_fallback, ids, skip)) == byte_fallback.decode(ids, skip_special=skip)


@ANY_FIXTURE
@given(text=MIXED)
def test_no_half_characters(byte_level, text):
    pieces = streamed(byte_level, byte_level.encode(text), False)
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_an_emoji_comes_whole(byte_level, byte_fallback):
    for tokenizer in (byte_level, byte_fallback):
        ids = tokenizer.encode("a🚀")
        assert len(ids) >= 4
        pieces = streamed(tokenizer, ids, True)
        assert [piece for piece in pieces if piece] == ["a", "🚀"]


def whole(text, stops):
    """What is shown and whether a stop was hit, found character by character."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))], True
    return text, False


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", max_size=4), max_size=3),
)
@example(chunks=["xabc", "d"], stops=["abcd", "bc"])
@example(chunks=["aab"], stops=["ab", "b"])
def test_stops_do_not_depend_on_the_chunks(chunks, stops):
    matcher = StopMatcher(stops)
    shown, hit = "", False
    for chunk in chunks:
        piece, hit = matcher.push(chunk)
        shown += piece
        if hit:
            break
    shown += matcher.flush()
    assert (shown, hit) == whole("".join(chunks), stops)


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab\n", max_size=20), stops=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=2))
def test_only_what_may_become_a_stop_is_held(text, stops):
    matcher = StopMatcher(stops)
    shown, hit = matcher.push(text)
    if not hit:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_after_a_stop_nothing_is_shown():
    matcher = StopMatcher(["END"])
    assert matcher.push("xEN") == ("x", False)
    assert matcher.push("D y") == ("", True)
    assert matcher.push("more") == ("", True)
    assert matcher.flush() == ""


@ANY_FIXTURE
@given(text=st.text("abcdeé \n🚀", min_size=1, max_size=12))
def test_the_bytes_of_ids_are_the_text(byte_level, byte_fallback, text):
    assert b"".join(map(byte_level.id_to_bytes, byte_level.encode(text))) == text.encode()
    assert b"".join(map(byte_fallback.id_to_bytes, byte_fallback.encode(text))) == f" {text}".encode()
