"""Text out of a stream of token ids, and stop strings found in a stream of text, whatever the chunks are."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from engine.text.tokenizer import BYTE_PIECE, Tokenizer


class StreamDecoder:
    """Decodes ids one by one; what it returns, joined, is ``tokenizer.decode(all ids, skip_special)``.

    Args:
        tokenizer: of the model.
        skip_special: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._anchor: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this id completes: maybe none, never half a character."""
        if token_id in self._skip:
            return ""
        if self._tokenizer.byte_level:
            return self._utf8.decode(self._tokenizer.id_to_bytes(token_id))
        piece = self._tokenizer.token(token_id)
        if piece is not None and BYTE_PIECE.fullmatch(piece):
            self._pending.append(token_id)
            return ""
        text = self._release([*self._pending, token_id])
        self._pending = []
        return text

    def flush(self) -> str:
        """What is left at the end; incomplete bytes become U+FFFD."""
        if self._tokenizer.byte_level:
            return self._utf8.decode(b"", final=True)
        text = self._release(self._pending) if self._pending else ""
        self._pending = []
        return text

    def _release(self, ids: list[int]) -> str:
        """Text of ``ids`` after the id before them, which decides about the leading space."""
        known = self._tokenizer.decode(self._anchor) if self._anchor else ""
        text = self._tokenizer.decode([*self._anchor, *ids])[len(known) :]
        self._anchor = ids[-1:]
        return text


class StopMatcher:
    """Holds back text that may yet turn out to be a stop string.

    The stop that is complete first ends the text; of two that are complete at the same character, the longer. So the
    result does not depend on how the text was cut into chunks.

    Args:
        stops: strings that end the text; empty ones are ignored.

    Attributes:
        matched: the stop that was reached.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._hit = False

    def push(self, text: str) -> tuple[str, bool]:
        """Text that can be shown now, and whether a stop was reached; the stop and what follows it are dropped."""
        if self._hit:
            return "", True
        self._held += text
        found = [(self._held.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in self._held]
        if found:
            end, negative_length = min(found)
            self.matched = self._held[end + negative_length : end]
            shown, self._held, self._hit = self._held[: end + negative_length], "", True
            return shown, True
        keep = self._open_suffix()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, False

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        shown, self._held = self._held, ""
        return shown

    def _open_suffix(self) -> int:
        """Length of the longest end of the held text that begins a stop."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
