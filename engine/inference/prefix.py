"""Sharing of equal prefixes: full pages found again by content, kept until their room is needed.

A page's key is a hash over its parent's key and its own tokens; the first parent says whose pages they are. A hit
counts only if the stored tokens are the wanted ones, so that a collision of hashes costs a computation and never a
wrong answer.

Pages are all that a prefix needs where every layer attends to keys and values; layers with a sliding window keep
theirs in the same pages, so this holds for them too. Models with recurrent layers use ``CheckpointIndex``, which needs
a state beside the pages.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.inference.pages import PagePool

Tokens = npt.NDArray[np.int32]
MissReason = Literal["first_seen", "evicted", "no_state", "disabled"]


@dataclass(frozen=True, slots=True)
class Save:
    """A recurrent state to store: as it is after the sequence's first ``position`` tokens, in ``slot``.

    A ``passing`` one goes when the sequence stores a later one, unless another sequence has used it by then.
    """

    position: int
    slot: int
    passing: bool


@dataclass(slots=True)
class Chain:
    """How far a sequence's pages are in the index, and what it holds there besides pages.

    Attributes:
        key: key of the last of its pages that is in the index, or its root.
        length: how many of its pages are; None once one of them was already there as another page, since from then on
            its pages have no registered parent.
        slot: where its recurrent state is; None in a model that has none.
        indexed_pages: pages of its tokens that the index knew when it was admitted, with or without a state after them.
        saves: states that the step in progress stores.
        passing: key of the last passing state that it stored.
    """

    key: bytes
    length: int | None = 0
    slot: int | None = None
    indexed_pages: int = 0
    saves: tuple[Save, ...] = ()
    passing: bytes | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What is known of a sequence's tokens.

    Attributes:
        pages: of the longest prefix that can be resumed; they are held.
        chain: the position in the index after them.
        stopped: why it ends there; None if all full pages were found.
    """

    pages: array[int]
    chain: Chain
    stopped: MissReason | None


@dataclass(frozen=True, slots=True)
class _Entry:
    page: int
    parent: bytes
    tokens: bytes


class PrefixIndex:
    """Full pages by content, on top of a pool.

    The index itself holds one reference to each page it knows. A page that nobody else holds can be evicted; the one
    unused for longest goes first. A sequence that holds a page holds its parents too and gives the children back
    first, so a child always goes before its parent, and every known page has its whole chain.

    With ``enabled=False`` nothing is ever kept and the pool is used as it is.
    """

    def __init__(self, pool: PagePool, page_size: int, *, enabled: bool = True) -> None:
        self.pool = pool
        self.page_size = page_size
        self.enabled = enabled
        self.queries = 0
        self.hits = 0
        self._entries: dict[bytes, _Entry] = {}
        self._keys: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._remembered = 4 * pool.total

    @property
    def available(self) -> int:
        """Pages that ``take`` could hand out now: free ones and those that can be evicted."""
        return self.pool.free + len(self._idle)

    @property
    def used(self) -> int:
        """Pages that some sequence holds."""
        return self.pool.total - self.available

    def match(self, tokens: Tokens, root: bytes) -> Match:
        """Hold the pages of the longest known prefix of ``tokens`` and return them; full pages only.

        Args:
            tokens: ``[n]`` int32.
            root: whose keys and values are wanted, as ``root_key`` names them.
        """
        chain = Chain(root)
        pages: array[int] = array("i")
        if not self.enabled:
            return Match(pages, chain, "disabled")
        stopped: MissReason | None = None
        for content in self._contents(tokens):
            key = page_key(chain.key, content)
            entry = self._entries.get(key)
            if entry is None or entry.tokens != content or entry.parent != chain.key:
                stopped = self._why_missing(key)
                break
            self._hold(entry.page)
            pages.append(entry.page)
            chain.key = key
        chain.length = len(pages)
        return Match(pages, chain, stopped)

    def count(self, queries: int, hits: int) -> None:
        """Add to the statistics: prompt tokens looked up and found."""
        self.queries += queries
        self.hits += hits

    def register(self, tokens: Tokens, pages: array[int], chain: Chain) -> None:
        """Make known the full pages of ``tokens`` that are not yet, and advance ``chain``.

        Args:
            tokens: ``[n]`` int32, the tokens whose keys and values stand (or will, at the end of this step) in
                ``pages``.
            pages: the sequence's pages.
            chain: its position in the index, as ``match`` gave it.
        """
        if not self.enabled or chain.length is None:
            return
        for content in self._contents(tokens[chain.length * self.page_size :]):
            page, key = pages[chain.length], page_key(chain.key, content)
            if key in self._entries:
                chain.length = None
                return
            self._learn(page, key, chain.key, content)
            chain.key = key
            chain.length += 1

    def begin(self, chain: Chain) -> bool:
        """What an admitted sequence needs besides pages; False if that is not to be had now."""
        return True

    def plan(self, chain: Chain, start: int, end: int, prompt: int) -> None:
        """Decide what is stored besides pages while the tokens ``start … end`` of a sequence are computed.

        Args:
            chain: the sequence's; gets its ``saves``.
            start: first token computed in this step.
            end: one after the last.
            prompt: tokens of its prompt.
        """

    def computed(self, tokens: Tokens, pages: array[int], chain: Chain) -> None:
        """Take note that ``tokens`` are computed, and of what ``plan`` had stored."""

    def restores(self) -> tuple[tuple[int, int], ...]:
        """The states to copy, (from, to), one after another, before the step is computed; handed out once."""
        return ()

    def take(self, count: int) -> array[int]:
        """``count`` pages with one reference each, evicting what must go. The caller has checked ``available``."""
        while self.pool.free < count:
            page, _ = self._idle.popitem(last=False)
            self._evicted[self._keys[page]] = None
            self._forget(page)
        while len(self._evicted) > self._remembered:
            self._evicted.popitem(last=False)
        return array("i", (self.pool.take() for _ in range(count)))

    def release(self, pages: array[int], chain: Chain) -> None:
        """Give back all that a sequence holds; its pages children first."""
        for page in reversed(pages):
            self._let_go(page)

    def clear(self) -> None:
        """Forget every page, held or not: what is in them cannot be trusted any more."""
        self._idle.clear()
        for page in list(self._keys):
            self._forget(page)

    def known_pages(self) -> Iterable[int]:
        """The pages the index holds."""
        return self._keys.keys()

    def check_integrity(self, chains: Iterable[Chain] = ()) -> None:
        """Raise unless the entries form whole chains and exactly the pages held by nobody else can be evicted.

        Args:
            chains: of the running sequences.
        """
        idle = {page for page in self._keys if self.pool.references(page) == 1}
        if idle != set(self._idle):
            raise RuntimeError(f"evictable pages {sorted(self._idle)} should be {sorted(idle)}")
        if {entry.page: key for key, entry in self._entries.items()} != self._keys:
            raise RuntimeError("the index by key and the index by page differ")
        for entry in self._entries.values():
            if entry.parent not in self._entries and not entry.parent.startswith(_ROOT):
                raise RuntimeError(f"page {entry.page} is known but its parent is not")

    def _why_missing(self, key: bytes) -> MissReason:
        return "evicted" if key in self._evicted else "first_seen"

    def _hold(self, page: int) -> None:
        self.pool.hold(page)
        self._idle.pop(page, None)

    def _let_go(self, page: int) -> None:
        if self.pool.release(page) == 1 and page in self._keys:
            self._idle[page] = None

    def _learn(self, page: int, key: bytes, parent: bytes, content: bytes) -> None:
        self.pool.hold(page)
        self._entries[key] = _Entry(page, parent, content)
        self._keys[page] = key
        self._evicted.pop(key, None)

    def _forget(self, page: int) -> None:
        del self._entries[self._keys.pop(page)]
        self.pool.release(page)

    def _contents(self, tokens: Tokens) -> Iterator[bytes]:
        width = self.page_size * tokens.itemsize
        data = tokens.tobytes()
        return (data[start : start + width] for start in range(0, len(data) - width + 1, width))


_ROOT = b"root of adapter "


def root_key(adapter_id: int, tenant: str = "") -> bytes:
    """The parent of first pages: whose keys and values they are. Longer than any page's key, so that it cannot be one.

    Args:
        adapter_id: identity of the adapter's weights; 0 is the base.
        tenant: who may share them; nobody finds out from a hit what another tenant has asked.
    """
    return _ROOT + adapter_id.to_bytes(8, "little") + tenant.encode("utf-8", "surrogatepass")


def page_key(parent: bytes, tokens: bytes) -> bytes:
    """The key of a page with these tokens after the page, or the root, with the key ``parent``."""
    return blake2b(parent + tokens, digest_size=16).digest()
