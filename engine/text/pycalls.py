"""A list of calls in Python's syntax, ``[search(query="x", limit=3), now()]``: keyword arguments with literals only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import regex

from engine.text.json_text import DECODER

NAME = regex.compile(r"[A-Za-z_]\w*(?:[-.]\w+)*")
NUMBER = regex.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
STRING = regex.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", regex.DOTALL)
ESCAPE = regex.compile(r"\\(u[0-9a-fA-F]{4}|.)", regex.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
MAX_DEPTH = 64


def parse_calls(text: str) -> list[dict[str, Any]]:
    """The calls as ``{"name": …, "arguments": {…}}``; ValueError for anything else."""
    reader = _Reader(text)
    reader.expect("[")
    calls = reader.items("]", reader.call)
    if reader.peek():
        reader.fail("something follows the list")
    return calls


class _Reader:
    """A recursive-descent reader."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def fail(self, reason: str) -> NoReturn:
        raise ValueError(f"{reason} at {self._at}")

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self.fail(f"{character!r} is wanted")
        self._at += 1

    def match(self, pattern: regex.Pattern[str], what: str) -> regex.Match[str]:
        self.peek()
        found = pattern.match(self._text, self._at)
        if found is None:
            self.fail(f"{what} is wanted")
        self._at = found.end()
        return found

    def items(self, closing: str, item: Callable[[], Any]) -> list[Any]:
        """Items with commas between them, up to ``closing``."""
        found: list[Any] = []
        while self.peek() != closing:
            if found:
                self.expect(",")
            found.append(item())
        self._at += 1
        return found

    def call(self) -> dict[str, Any]:
        name = self.match(NAME, "a function")[0]
        self.expect("(")
        return {"name": name, "arguments": self._unique(self.items(")", self._argument))}

    def _argument(self) -> tuple[str, Any]:
        key = self.match(NAME, "an argument's name")[0]
        self.expect("=")
        return key, self._value(0)

    def _value(self, depth: int) -> Any:
        character = self.peek()
        if depth > MAX_DEPTH:
            self.fail("nested too deep")
        if character in ("'", '"') and character:
            return self._string()
        if character == "[":
            self._at += 1
            return self.items("]", lambda: self._value(depth + 1))
        if character == "{":
            self._at += 1
            return self._unique(self.items("}", lambda: self._pair(depth + 1)))
        if character == "-" or character.isdigit():
            return self._number()
        word = self.match(NAME, "a value")[0]
        if word not in CONSTANTS:
            self.fail(f"{word[:40]!r} is no value")
        return CONSTANTS[word]

    def _number(self) -> Any:
        return DECODER.decode(self.match(NUMBER, "a number")[0])

    def _pair(self, depth: int) -> tuple[str, Any]:
        self.peek()
        key = self._string()
        self.expect(":")
        return key, self._value(depth)

    def _string(self) -> str:
        found = self.match(STRING, "a string")
        body = found[1] if found[1] is not None else found[2]
        plain = ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else ESCAPES.get(m[1], m[1]), body)
        # two escapes may be the halves of one character beyond the first plane
        return str(plain).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.fail("a name comes twice")
        return found
