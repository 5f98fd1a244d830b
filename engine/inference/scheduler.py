"""Which tokens are computed next: a pure decision over sequences and pages, without torch and without phases.

Each step brings computed tokens closer to known tokens under a budget. Sequences with one token to go (those that
generate) come first and get one each; what is left goes to longer runs of tokens, oldest first, in chunks. Order is
first come, first served, everywhere: a younger sequence never overtakes an older one that waits for room. When pages
run out, the youngest gives up its pages and is computed again later; the oldest is never asked to, so it always
advances, and so in turn does everyone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from engine.inference.prefix import PrefixIndex, root_key
from engine.inference.sequence import Sequence


class Row(NamedTuple):
    """One row of logits: of the token that stands, or will stand, at ``position`` of the sequence."""

    sequence: Sequence
    position: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Compute the tokens ``start … start+count`` of a sequence; logits are wanted after the last ``rows`` of them."""

    sequence: Sequence
    start: int
    count: int
    rows: int

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.start + self.count

    def logits(self) -> list[Row]:
        """The rows of logits that it gives, in order."""
        return [Row(self.sequence, position) for position in range(self.end - self.rows + 1, self.end + 1)]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes. The slices are in no particular order; no sequence has two.

    Attributes:
        slices: of the sequences.
        restores: recurrent states to copy first, (from, to) slots, in this order.
    """

    slices: tuple[Slice, ...]
    restores: tuple[tuple[int, int], ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(item.count for item in self.slices)


@dataclass(slots=True)
class _Left:
    """What a step still has room for."""

    tokens: int
    rows: int


class Scheduler:
    """Sequences that wait and sequences that run, and the pages that the latter hold.

    Args:
        prefix: the pages.
        max_running: sequences that may hold pages at the same time.
        max_batched_tokens: tokens per step, at least ``max_running``.
        spare_rows: rows of logits per step, besides one for each that runs.
    """

    def __init__(self, prefix: PrefixIndex, *, max_running: int, max_batched_tokens: int, spare_rows: int = 0) -> None:
        self.prefix = prefix
        self.max_running = max_running
        self.max_batched_tokens = max_batched_tokens
        self.spare_rows = spare_rows
        self.waiting: OrderedDict[str, Sequence] = OrderedDict()
        self.running: OrderedDict[str, Sequence] = OrderedDict()
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its ``limit`` must fit into the pool."""
        self.waiting[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence that is finished or cancelled; its pages are given back."""
        if self.running.pop(sequence.id, None) is not None:
            self._give_back(sequence)
        else:
            self.waiting.pop(sequence.id, None)

    def schedule(self) -> StepPlan:
        """Decide the next step. Afterwards ``advance`` must be called with the plan once it is computed."""
        slices: list[Slice] = []
        for sequence in tuple(self.running.values()):
            if sequence.pending == 1 and sequence.id in self.running and self._make_room(sequence):
                slices.append(self._slice(sequence, 1))
        left = _Left(self.max_batched_tokens - len(slices), self.spare_rows)
        for sequence in self.running.values():
            if left.tokens > 0 and sequence.pending > 1:
                slices += self._chunk(sequence, left)
        while left.tokens > 0 and (admitted := self._admit()) is not None:
            slices += self._chunk(admitted, left)
        return StepPlan(tuple(slices), self.prefix.restores())

    def advance(self, plan: StepPlan) -> None:
        """Record that the plan's tokens are computed."""
        for item in plan.slices:
            sequence = item.sequence
            sequence.computed = item.end
            sequence.scored = max(sequence.scored, min(item.end, sequence.known))
            if sequence.chain is not None:
                self.prefix.computed(sequence.tokens[: item.end], sequence.pages, sequence.chain)

    def forget_prefixes(self) -> None:
        """Stop sharing what is in the pages now, because some of it may be wrong."""
        self.prefix.clear()
        for sequence in self.running.values():
            if sequence.chain is not None:
                sequence.chain.length = None

    def check_integrity(self) -> None:
        """Raise unless every page is accounted for and the order of arrival holds."""
        held = [page for sequence in self.running.values() for page in sequence.pages]
        self.prefix.pool.check_integrity([*held, *self.prefix.known_pages()])
        self.prefix.check_integrity(sequence.chain for sequence in self.running.values() if sequence.chain)
        arrivals = [sequence.arrival for sequence in (*self.running.values(), *self.waiting.values())]
        if arrivals != sorted(arrivals):
            raise RuntimeError(f"sequences are out of order: {arrivals}")
        for sequence in self.running.values():
            if len(sequence.pages) * self.prefix.page_size < sequence.computed:
                raise RuntimeError(f"{sequence.id} computed {sequence.computed} tokens in {len(sequence.pages)} pages")
        if any(sequence.pages or sequence.computed for sequence in self.waiting.values()):
            raise RuntimeError("a waiting sequence holds pages")

    def _chunk(self, sequence: Sequence, left: _Left) -> list[Slice]:
        """As many of the pending tokens as there is room for in the step: one slice or none."""
        count = min(sequence.pending, left.tokens)
        if sequence.scored < sequence.known - 1:
            count = min(count, max(0, sequence.scored - sequence.computed) + left.rows)
        if count == 0:
            return []
        found = self._slice(sequence, count)
        left.tokens -= count
        left.rows -= max(0, found.rows - 1)
        return [found]

    def _slice(self, sequence: Sequence, count: int) -> Slice:
        end = sequence.computed + count
        # Known before it is computed: a later slice of the same step may read these pages, because every layer writes
        # all keys and values of a step before any of them is read.
        if sequence.chain is not None:
            self.prefix.register(sequence.tokens[:end], sequence.pages, sequence.chain)
            self.prefix.plan(sequence.chain, sequence.computed, end, len(sequence.request.prompt))
        first = max(sequence.computed, min(sequence.scored, sequence.known - 1))
        return Slice(sequence, sequence.computed, count, rows=max(0, end - first))

    def _missing(self, sequence: Sequence, held: int) -> int:
        return max(0, -(-sequence.known // self.prefix.page_size) - held)

    def _make_room(self, sequence: Sequence) -> bool:
        """Get the page for one more token, preempting from the youngest on; False if that was ``sequence``."""
        missing = self._missing(sequence, len(sequence.pages))
        while self.prefix.available < missing:
            victim = next(reversed(self.running.values()))
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.pages.extend(self.prefix.take(missing))
        return True

    def _preempt(self, victim: Sequence) -> None:
        del self.running[victim.id]
        self._give_back(victim)
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting[victim.id] = victim
        self.waiting.move_to_end(victim.id, last=False)

    def _admit(self) -> Sequence | None:
        """Move the oldest waiting sequence to the running ones, with pages for all it knows; None if there is no room.

        One page per running sequence is left over, so that what was just admitted is not preempted at once.
        """
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        sequence = next(iter(self.waiting.values()))
        # The last known token is always computed: its output is needed.
        root = root_key(sequence.adapter_id, sequence.request.tenant)
        # So are tokens whose logits are wanted, which no page holds.
        found = self.prefix.match(sequence.tokens[: min(sequence.known - 1, sequence.scored)], root)
        pages, chain = found.pages, found.chain
        missing = self._missing(sequence, len(pages))
        if self.prefix.available < missing + len(self.running) or not self.prefix.begin(chain):
            self.prefix.release(pages, chain)
            return None
        pages.extend(self.prefix.take(missing))
        sequence.pages, sequence.chain = pages, chain
        sequence.computed = (chain.length or 0) * self.prefix.page_size
        if sequence.preemptions == 0:
            sequence.cached, sequence.cache_miss = sequence.computed, found.stopped
            self.prefix.count(sequence.known, sequence.cached)
        del self.waiting[sequence.id]
        self.running[sequence.id] = sequence
        return sequence

    def _give_back(self, sequence: Sequence) -> None:
        assert sequence.chain is not None
        self.prefix.release(sequence.pages, sequence.chain)
        del sequence.pages[:]
        sequence.chain = None
        sequence.computed = 0
