"""Which tokens a grammar lets come next: masks of one bit per token, for known tokens and for drafts behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fw_sdk.types import FwError

Words = npt.NDArray[np.uint32]
"""[ceil(vocabulary / 32)]: bit t % 32 of word t / 32 is set if token t may come next."""


class Matcher(Protocol):
    """A grammar on its way through one answer."""

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    def mask(self) -> Words:
        """Tokens that may come next; those that end the answer only where it may end."""
        ...

    def accept(self, token: int) -> None:
        """Go on by a token; raises if it may not come next."""
        ...

    def rollback(self, count: int) -> None:
        """Take back the last ``count`` tokens accepted."""
        ...


class Grammar(Protocol):
    """A compiled grammar; requests may share it."""

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        ...


def masks_along(matcher: Matcher, drafts: Sequence[int], ends: frozenset[int]) -> list[Words | None]:
    """Masks for the next token and for the one behind each draft; the matcher is left where it was.

    A draft that may not come next, or that ends the answer, is the last that matters: no token is drawn behind it. The
    rows behind it have None.

    Raises:
        FwError: ``internal`` if the grammar lets nothing follow.
    """
    masks: list[Words | None] = []
    taken = 0
    try:
        for draft in (*drafts, None):
            words = np.array(matcher.mask())
            if not words.any():
                raise FwError("internal", "the grammar lets no token follow", not_done="the answer is incomplete")
            masks.append(words)
            if draft is None or draft in ends or not _has(words, draft):
                break
            matcher.accept(draft)
            taken += 1
            if matcher.finished:
                break
    finally:
        if taken:
            matcher.rollback(taken)
    return masks + [None] * (len(drafts) + 1 - len(masks))


def allowed(words: Sequence[Words], vocabulary: int) -> npt.NDArray[np.bool_]:
    """Masks as ``[n, vocabulary]`` booleans; tokens behind a mask's last word are not allowed."""
    packed = np.stack(words).astype("<u4", copy=False).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=vocabulary, bitorder="little").view(np.bool_)


def _has(words: Words, token: int) -> bool:
    return token >> 5 < len(words) and bool(words[token >> 5] >> (token & 31) & 1)
