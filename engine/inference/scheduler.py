"""Which tokens are computed next: a pure decision over sequences and pages, without torch and without phases.

Each step brings computed tokens closer to known tokens under a budget. Sequences with one token to go (those that
generate) get one each; what is left goes to longer runs of tokens in chunks, in order of their turn.

Sequences stand in queues, one per tenant and priority, and run in order of arrival: those that run are always the first
of their queue. Across queues a sequence has a precedence, and all decisions about room follow from it:

* first its urgency, which is its priority (smaller is more urgent), less one for every ``patience`` steps that it
  waited as the head of its queue while nothing of the queue ran, down to the smallest priority that is there;
* then its turn, which is how many stand before it in its queue. So each tenant's first request comes before anyone's
  second, and a tenant with a hundred requests gives up the room of its last to another's first.

One that waits takes room from those with a later precedence, the last of them first, and never from an equal one. Among
equals the tenant with the fewest computed tokens goes first, then who came first: long prompts of two tenants take
turns chunk by chunk. What is preempted is computed again later.

Nobody starves. The sequence that is first in precedence is never asked for its pages, so it always advances. A head
that waits becomes as urgent as any and keeps what it gained; the tokens it is behind or ahead are counted from a time
that goes on while others are served, at which newcomers begin; so only finitely many can come before it.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
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


class Precedence(NamedTuple):
    """Who keeps its pages when there are too few; smaller comes first."""

    urgency: int
    turn: int


@dataclass(eq=False)
class TenantQueue:
    """The sequences of one tenant and one priority, by id in order of arrival; all that run stand before all others."""

    tenant: str
    priority: int
    running: OrderedDict[str, Sequence] = field(default_factory=OrderedDict)
    waiting: OrderedDict[str, Sequence] = field(default_factory=OrderedDict)

    @property
    def head(self) -> Sequence:
        """The one of those that wait whose turn is next."""
        return next(iter(self.waiting.values()))

    @property
    def last(self) -> Sequence:
        """The one of those that run that came last."""
        return next(reversed(self.running.values()))


class Scheduler:
    """Sequences that wait and sequences that run, and the pages that the latter hold.

    Args:
        prefix: the pages.
        max_running: sequences that may hold pages at the same time.
        max_batched_tokens: tokens per step, at least ``max_running``.
        spare_rows: rows of logits per step, besides one for each that runs.
        patience: steps of waiting that count as one priority.

    Attributes:
        running: the sequences that hold pages, by id.
        preemptions: how often one of them had to give them up.
    """

    def __init__(
        self,
        prefix: PrefixIndex,
        *,
        max_running: int,
        max_batched_tokens: int,
        spare_rows: int = 1,
        patience: int = 500,
    ) -> None:
        self.prefix = prefix
        self.max_running = max_running
        self.max_batched_tokens = max_batched_tokens
        self.spare_rows = spare_rows
        self.patience = patience
        self.running: dict[str, Sequence] = {}
        self.preemptions = 0
        self._queues: dict[tuple[str, int], TenantQueue] = {}
        self._served: dict[str, float] = {}
        self._time = 0.0  # tokens that a tenant with its fair share would have had
        self._floor = 0

    @property
    def waiting(self) -> list[Sequence]:
        """The sequences that hold nothing; queue by queue."""
        return [sequence for queue in tuple(self._queues.values()) for sequence in tuple(queue.waiting.values())]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its ``limit`` must fit into the pool."""
        tenant, priority = sequence.request.tenant, sequence.request.priority
        self._served.setdefault(tenant, self._time)
        queue = self._queues.setdefault((tenant, priority), TenantQueue(tenant, priority))
        queue.waiting[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence that is finished or cancelled; its pages are given back."""
        queue = self._queue_of(sequence)
        if self.running.pop(sequence.id, None) is not None:
            del queue.running[sequence.id]
            self._give_back(sequence)
        else:
            del queue.waiting[sequence.id]
        if not (queue.running or queue.waiting):
            del self._queues[queue.tenant, queue.priority]
            if not any(other.tenant == queue.tenant for other in self._queues.values()):
                del self._served[queue.tenant]

    def schedule(self) -> StepPlan:
        """Decide the next step. Afterwards ``advance`` must be called with the plan once it is computed."""
        self._floor = min((queue.priority for queue in self._queues.values()), default=0)
        for queue in self._queues.values():
            if not queue.running:
                queue.head.waited += 1
        running = tuple(self.running.values())
        generating = [sequence for sequence in running if sequence.pending == 1 and not sequence.complete]
        for sequence in generating:
            if sequence.id in self.running:
                self._grow(sequence)
        generating = [sequence for sequence in generating if sequence.id in self.running]
        left = _Left(self.max_batched_tokens - len(generating), self.spare_rows)
        slices = self._fill(left)
        # After those: none of what has a slice gives up its pages any more. One that did, and came back, has its slice.
        present = self.running.keys() - {item.sequence.id for item in slices}
        for sequence in generating:
            if sequence.id in present:
                slices.append(self._slice(sequence, 1 + self._guesses(sequence, left)))
        return StepPlan(tuple(slices), self.prefix.restores())

    def advance(self, plan: StepPlan) -> None:
        """Record that the plan's tokens are computed."""
        for item in plan.slices:
            sequence = item.sequence
            sequence.computed = item.end
            known = min(item.end, sequence.known)
            whole = item.end >= len(sequence.request.prompt)
            sequence.scored = sequence.limit if whole else max(sequence.scored, known)
            if sequence.chain is not None:
                self.prefix.computed(sequence.tokens[:known], sequence.pages, sequence.chain)
            self._served[sequence.request.tenant] += item.count
        if plan.slices:
            self._time += plan.tokens / len(self._served)
        for tenant, tokens in self._served.items():  # who asked for little has saved up no more than one step
            self._served[tenant] = max(tokens, self._time - self.max_batched_tokens)

    def forget_prefixes(self) -> None:
        """Stop sharing what is in the pages now, because some of it may be wrong."""
        self.prefix.clear()
        for sequence in self.running.values():
            self.unshare(sequence)

    def unshare(self, sequence: Sequence) -> None:
        """Stop sharing what comes into the sequence's pages from now on."""
        if sequence.chain is not None:
            sequence.chain.length = None

    def check_integrity(self) -> None:
        """Raise unless every page is accounted for and every queue is in order."""
        held = [page for sequence in self.running.values() for page in sequence.pages]
        self.prefix.pool.check_integrity([*held, *self.prefix.known_pages()])
        self.prefix.check_integrity(sequence.chain for sequence in self.running.values() if sequence.chain)
        for queue in self._queues.values():
            members = [*queue.running.values(), *queue.waiting.values()]
            arrivals = [sequence.arrival for sequence in members]
            waits = [sequence.waited for sequence in members]
            if not members or arrivals != sorted(arrivals) or waits != sorted(waits, reverse=True):
                raise RuntimeError(f"a queue is out of order: arrivals {arrivals}, waits {waits}")
        if {name for queue in self._queues.values() for name in queue.running} != set(self.running):
            raise RuntimeError("the queues and the running sequences differ")
        if {queue.tenant for queue in self._queues.values()} != set(self._served):
            raise RuntimeError("the queues and the tenants differ")
        for sequence in self.running.values():
            if len(sequence.pages) * self.prefix.page_size < sequence.computed:
                raise RuntimeError(f"{sequence.id} computed {sequence.computed} tokens in {len(sequence.pages)} pages")
        if any(sequence.pages or sequence.computed for sequence in self.waiting):
            raise RuntimeError("a waiting sequence holds pages")

    def _queue_of(self, sequence: Sequence) -> TenantQueue:
        return self._queues[sequence.request.tenant, sequence.request.priority]

    def _precedence(self, sequence: Sequence, turn: int) -> Precedence:
        urgency = sequence.request.priority - sequence.waited // self.patience
        return Precedence(max(urgency, self._floor), turn)

    def _order(self, sequence: Sequence, turn: int) -> tuple[Precedence, float, int]:
        """In which order sequences get the step's tokens."""
        return self._precedence(sequence, turn), self._served[sequence.request.tenant], sequence.arrival

    def _turns(self) -> Iterator[tuple[int, Sequence]]:
        """The running sequences, each with its turn."""
        for queue in self._queues.values():
            yield from enumerate(queue.running.values())

    def _last(self) -> tuple[Precedence, Sequence]:
        """The running sequence that is last in precedence, the youngest of equals: the next to give up its pages."""
        ends = [(len(queue.running) - 1, queue.last) for queue in self._queues.values() if queue.running]
        turn, sequence = max(ends, key=lambda end: (self._precedence(end[1], end[0]), end[1].arrival))
        return self._precedence(sequence, turn), sequence

    def _fill(self, left: _Left) -> list[Slice]:
        """Slices for longer runs of tokens, of sequences that run and of those that can be admitted now, in order."""
        runs = sorted((self._order(item, turn), item) for turn, item in self._turns() if item.pending > 1)
        behind, slices, full = deque(runs), list[Slice](), False
        while left.tokens > 0:
            heads = [] if full else [queue for queue in self._queues.values() if queue.waiting]
            best = min(heads, key=lambda queue: self._order(queue.head, len(queue.running)), default=None)
            if best is not None and not (behind and behind[0][0] < self._order(best.head, len(best.running))):
                sequence = best.head
                full = not self._admit(best)
                if full:  # nobody overtakes the one that waits for room
                    continue
            elif behind:
                sequence = behind.popleft()[1]
                if sequence.id not in self.running or any(item.sequence is sequence for item in slices):
                    continue  # it gave up its pages in this step, and may have been admitted again
            else:
                break
            slices += self._chunk(sequence, left)
        return slices

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

    def _guesses(self, sequence: Sequence, left: _Left) -> int:
        """How many of a sequence's guesses are computed: as many as take nothing that others could want."""
        size = self.prefix.page_size
        count = min(sequence.drafted, left.tokens, left.rows)
        missing = -(-(sequence.known + count) // size) - len(sequence.pages)
        if missing > 0 and self.prefix.available >= missing + len(self.running):
            sequence.pages.extend(self.prefix.take(missing))
        sequence.drafted = min(count, len(sequence.pages) * size - sequence.known)
        left.tokens -= sequence.drafted
        left.rows -= sequence.drafted
        return sequence.drafted

    def _slice(self, sequence: Sequence, count: int) -> Slice:
        end = sequence.computed + count
        known = min(end, sequence.known)  # guesses stay out of the index
        # Known before it is computed: a later slice of the same step may read these pages, because every layer writes
        # all keys and values of a step before any of them is read.
        if sequence.chain is not None:
            self.prefix.register(sequence.tokens[:known], sequence.pages, sequence.chain)
            self.prefix.plan(sequence.chain, sequence.computed, known, len(sequence.request.prompt))
        last = sequence.known + sequence.placeholders - 1
        first = max(sequence.computed, min(sequence.scored, last))
        return Slice(sequence, sequence.computed, count, rows=max(0, end - first))

    def _missing(self, sequence: Sequence, held: int) -> int:
        return max(0, -(-(sequence.known + sequence.placeholders) // self.prefix.page_size) - held)

    def _grow(self, sequence: Sequence) -> None:
        """Get the page for one more token, preempting from the last in precedence on, maybe ``sequence`` itself."""
        missing = self._missing(sequence, len(sequence.pages))
        while self.prefix.available < missing:
            _, victim = self._last()
            self._preempt(victim)
            if victim is sequence:
                return
        sequence.pages.extend(self.prefix.take(missing))

    def _preempt(self, victim: Sequence) -> None:
        """Back to the front of those that wait in its queue; it was the last of those that run."""
        queue = self._queue_of(victim)
        del self.running[victim.id], queue.running[victim.id]
        self._give_back(victim)
        victim.preemptions += 1
        self.preemptions += 1
        queue.waiting[victim.id] = victim
        queue.waiting.move_to_end(victim.id, last=False)

    def _admit(self, queue: TenantQueue) -> bool:
        """Move the head of a queue to the running ones, with pages for all it knows; False if there is no room."""
        sequence, precedence = queue.head, self._precedence(queue.head, len(queue.running))
        if len(self.running) >= self.max_running and self._last()[0] <= precedence:
            return False
        # The last known token is always computed: its output is needed.
        root = root_key(sequence.adapter_id, sequence.request.tenant)
        # So are tokens whose logits are wanted, which no page holds.
        found = self.prefix.match(sequence.tokens[: min(sequence.known - 1, sequence.scored)], root)
        pages, chain = found.pages, found.chain
        missing = self._missing(sequence, len(pages))
        if not self._make_room(missing, precedence) or not self.prefix.begin(chain):
            self.prefix.release(pages, chain)
            return False
        pages.extend(self.prefix.take(missing))
        sequence.pages, sequence.chain = pages, chain
        sequence.computed = (chain.length or 0) * self.prefix.page_size
        if sequence.preemptions == 0:
            sequence.cached, sequence.cache_miss = sequence.computed, found.stopped
            sequence.admitted_s = time.perf_counter()
            self.prefix.count(sequence.known, sequence.cached)
        del queue.waiting[sequence.id]
        self.running[sequence.id] = queue.running[sequence.id] = sequence
        return True

    def _make_room(self, pages: int, precedence: Precedence) -> bool:
        """Room for a sequence of ``precedence`` by preempting what comes after it; False if that would not be enough.

        One page per running sequence is left over, so that what was just admitted is not preempted at once.
        """
        if self._has_room(pages, len(self.running), 0):
            return True
        behind = [sequence for turn, sequence in self._turns() if self._precedence(sequence, turn) > precedence]
        if not self._has_room(pages, len(self.running) - len(behind), sum(len(item.pages) for item in behind)):
            return False
        while behind and not self._has_room(pages, len(self.running), 0):
            self._preempt(self._last()[1])
            behind.pop()
        return self._has_room(pages, len(self.running), 0)

    def _has_room(self, pages: int, running: int, more: int) -> bool:
        """Whether one with that many new pages fits beside ``running`` others if ``more`` pages were given back."""
        return running < self.max_running and self.prefix.available + more >= pages + running

    def _give_back(self, sequence: Sequence) -> None:
        assert sequence.chain is not None
        self.prefix.release(sequence.pages, sequence.chain)
        del sequence.pages[:]
        sequence.chain = None
        sequence.computed = sequence.drafted = 0
