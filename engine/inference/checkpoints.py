"""Sharing of equal prefixes where layers have a recurrent state: a prefix can be resumed only with its state.

Keys and values stay where they are when more tokens come; a recurrent state is overwritten by every token. So states
are stored at the ends of pages, as checkpoints, and a hit resumes at the deepest page whose whole prefix and whose
state are known. Which ends get a checkpoint:

* the last full page of the prompt that a request with the same prompt could use,
* where the prompt left what was known: others may leave it there as well, as below a common system prompt,
* every ``interval`` pages,
* while tokens are generated, the last full page: a passing one, which the next replaces. An agent's next turn begins
  with this turn's answer.

Running sequences and checkpoints take their slots from one pool. A checkpoint goes when its page goes, or when its slot
is needed and it has been unused for longest.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from engine.inference.pages import PagePool
from engine.inference.prefix import Chain, Match, PrefixIndex, Save, Tokens, page_key


@dataclass(slots=True)
class _Checkpoint:
    slot: int
    passing: bool


class CheckpointIndex(PrefixIndex):
    """A ``PrefixIndex`` whose entries carry recurrent states.

    A sequence's pages become known when they are computed, not when they are planned: nobody could resume from them in
    the same step. A page that is known by then as another page is given up for that one, so that what comes after it
    can become known.

    Args:
        pool: pages.
        states: slots of recurrent states.
        page_size: tokens per page.
        interval: pages from one regular checkpoint to the next.
        enabled: whether anything is shared; without it, slots are still handed out.
    """

    def __init__(
        self, pool: PagePool, states: PagePool, page_size: int, *, interval: int = 32, enabled: bool = True
    ) -> None:
        super().__init__(pool, page_size, enabled=enabled)
        self.states = states
        self.interval = interval
        self._checkpoints: OrderedDict[bytes, _Checkpoint] = OrderedDict()
        self._restores: list[tuple[int, int]] = []

    @property
    def checkpoints(self) -> int:
        """How many states are stored."""
        return len(self._checkpoints)

    def match(self, tokens: Tokens, root: bytes) -> Match:
        """Hold the pages of the longest known prefix, up to the deepest page with a state.

        ``stopped`` is ``no_state`` if more pages were known than can be resumed.
        """
        found = super().match(tokens, root)
        chain, pages = found.chain, found.pages
        chain.indexed_pages = len(pages)
        keys = [self._keys[page] for page in pages]
        while keys and keys[-1] not in self._checkpoints:
            keys.pop()
            self._let_go(pages.pop())
        chain.length = len(keys)
        chain.key = keys[-1] if keys else root
        return Match(pages, chain, "no_state" if len(keys) < chain.indexed_pages else found.stopped)

    def begin(self, chain: Chain) -> bool:
        """Take a slot for an admitted sequence, and have the state it resumes from copied there."""
        source = self._use(chain.key)
        chain.slot = self._take_slot()
        if chain.slot is None:
            return False
        if source is not None:
            self._restores.append((source, chain.slot))
        return True

    def restores(self) -> tuple[tuple[int, int], ...]:
        """The state copies (from, to) that come before the step; asked once.

        In this order, because a slot may change hands between two of them: a checkpoint that was copied can give
        way to a sequence that is admitted in the same step.
        """
        restores, self._restores = tuple(self._restores), []
        return restores

    def register(self, tokens: Tokens, pages: array[int], chain: Chain) -> None:
        """Nothing: pages become known in ``computed``."""

    def plan(self, chain: Chain, start: int, end: int, prompt: int) -> None:
        """Choose a slot for each state worth keeping, the most useful first, while there are any."""
        if not self.enabled or chain.length is None:
            return
        size = self.page_size
        turn, latest = (prompt - 1) // size * size, end // size * size
        lasting = [turn, chain.indexed_pages * size]
        stride = self.interval * size
        regular = range((start // stride + 1) * stride, end + 1, stride)
        wanted = dict.fromkeys([*lasting, *([latest] if latest > turn else []), *regular])
        saves: list[Save] = []
        for position in wanted:
            if start < position <= end:
                slot = self._take_slot()
                if slot is None:
                    break
                saves.append(Save(position, slot, position not in lasting and position % stride != 0))
        chain.saves = tuple(saves)

    def computed(self, tokens: Tokens, pages: array[int], chain: Chain) -> None:
        """The step is computed: the full pages of ``tokens`` become known, with the states just stored."""
        waiting = {save.position: save for save in chain.saves}
        chain.saves = ()
        if self.enabled and chain.length is not None:
            for content in self._contents(tokens[chain.length * self.page_size :]):
                if not self._extend(chain, content, pages):
                    break
                save = waiting.pop(chain.length * self.page_size, None)
                if save is not None:
                    self._store(chain, save)
        for save in waiting.values():
            self.states.release(save.slot)

    def release(self, pages: array[int], chain: Chain) -> None:
        """Give back pages and slots."""
        super().release(pages, chain)
        for slot in (chain.slot, *(save.slot for save in chain.saves)):
            if slot is not None:
                self.states.release(slot)
        chain.slot, chain.saves = None, ()

    def clear(self) -> None:
        """Forget every page, held or not; checkpoints go with their pages."""
        super().clear()
        self._restores.clear()

    def check_integrity(self, chains: Iterable[Chain] = ()) -> None:
        """Raise unless the pages are in order, each slot has one holder and each checkpoint has its page."""
        super().check_integrity()
        chains = tuple(chains)
        if any(chain.slot is None for chain in chains):
            raise RuntimeError("a running sequence has no slot for its state")
        held = [chain.slot for chain in chains if chain.slot is not None]
        held += [save.slot for chain in chains for save in chain.saves]
        self.states.check_integrity([*held, *(found.slot for found in self._checkpoints.values())])
        if any(key not in self._entries for key in self._checkpoints):
            raise RuntimeError("a state is stored for a page that is not known")

    def _extend(self, chain: Chain, content: bytes, pages: array[int]) -> bool:
        """Make the next page known, or share the one that is; False if the hash belongs to other tokens."""
        assert chain.length is not None
        key, own = page_key(chain.key, content), pages[chain.length]
        entry = self._entries.get(key)
        if entry is None:
            self._learn(own, key, chain.key, content)
        elif entry.tokens != content or entry.parent != chain.key:
            chain.length = None
            return False
        elif entry.page != own:
            self._hold(entry.page)
            pages[chain.length] = entry.page
            self._let_go(own)
        chain.key = key
        chain.length += 1
        return True

    def _store(self, chain: Chain, save: Save) -> None:
        """Keep a state for the last known page of ``chain``, in place of the passing one before it."""
        present = self._checkpoints.get(chain.key)
        if present is not None:
            self.states.release(save.slot)
            present.passing = present.passing and save.passing
            self._checkpoints.move_to_end(chain.key)
            return
        self._checkpoints[chain.key] = _Checkpoint(save.slot, save.passing)
        before = self._checkpoints.get(chain.passing) if chain.passing is not None else None
        if before is not None and before.passing:
            assert chain.passing is not None
            self._drop(chain.passing)
        chain.passing = chain.key if save.passing else None

    def _use(self, key: bytes) -> int | None:
        """The slot of a checkpoint, which from now on is the last to go; None if there is none."""
        found = self._checkpoints.get(key)
        if found is None:
            return None
        found.passing = False
        self._checkpoints.move_to_end(key)
        return found.slot

    def _take_slot(self) -> int | None:
        """A free slot, or that of the checkpoint unused for longest; None if running sequences have them all."""
        if self.states.free == 0:
            if not self._checkpoints:
                return None
            self._drop(next(iter(self._checkpoints)))
        return self.states.take()

    def _drop(self, key: bytes) -> None:
        self.states.release(self._checkpoints.pop(key).slot)

    def _forget(self, page: int) -> None:
        key = self._keys[page]
        if key in self._checkpoints:
            self._drop(key)
        super()._forget(page)
