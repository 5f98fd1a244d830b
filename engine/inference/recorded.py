"""A decode step on fixed memory: what it reads lies in buffers, so that it can be recorded once and replayed.

On a GPU the record is a CUDA graph. On a CPU a replay calls the same function on the same buffers again: that shows
that nothing but the buffers' contents changes from step to step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.inference.scheduler import Slice
from engine.inference.sequence import Sequence as Running

log = logging.getLogger(__name__)

ROWS = (1, 2, 4, *range(8, 257, 8))
"""Sizes that a step's rows are rounded up to; a step with more is not recorded."""

FEWEST_PAGES = 32
FIELDS = 6
NOWHERE = -1

Function = Callable[[], Tensor]


def rows_of(rows: int) -> int | None:
    """The size that holds so many rows; None if none does."""
    return next((size for size in ROWS if size >= rows), None)


def pages_of(pages: int, most: int) -> int:
    """The width of a page table that holds so many pages: a power of two, at most ``most``."""
    return min(most, max(FEWEST_PAGES, 1 << (pages - 1).bit_length()))


class DecodeBuffers:
    """The inputs of a step with one token per sequence, always at the same addresses; int32.

    The host writes into one of two pinned buffers in turn, so that a step can be prepared while the copy of the one
    before it is under way, and one copy brings all of them. Rows that no sequence has point to the spare page.

    Args:
        rows: room for so many sequences.
        pages: width of the page table.
        page_size: tokens per page.
        spare: page that belongs to nobody.
        spare_state: recurrent state that belongs to nobody; any number in a model without.
        device: where the step runs.

    Attributes:
        ids: [rows], tokens; not read where ``sources`` names a row.
        sources: [rows], the row of the step before whose drawn token is this row's; -1 for none.
        slots: [rows], where keys and values go: ``page * page_size + offset``.
        contexts: [rows], tokens of each sequence, its new one included.
        owners: [rows], the adapter of each row, by its slot among those of the step; -1 for the base.
        states: [rows], where each sequence's recurrent state is.
        table: [rows, pages], pages in the order of positions.
    """

    def __init__(
        self, rows: int, pages: int, page_size: int, spare: int, spare_state: int, device: torch.device
    ) -> None:
        self.rows, self.pages = rows, pages
        self._page_size, self._spare, self._spare_state = page_size, spare, spare_state
        size = rows * (FIELDS + pages)
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(size, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        fields = self._device[: FIELDS * rows].view(FIELDS, rows)
        self.ids, self.sources, self.slots, self.contexts, self.owners, self.states = fields
        self.table = self._device[FIELDS * rows :].view(rows, pages)

    def clear(self) -> None:
        """Queue a step of nobody."""
        for field, value in zip(
            (self.ids, self.sources, self.slots, self.contexts, self.owners, self.states, self.table),
            (*self._nobody, self._spare),
            strict=True,
        ):
            field.fill_(value)

    @property
    def _nobody(self) -> tuple[int, ...]:
        """The fields of a row that no sequence has."""
        return 0, NOWHERE, self._spare * self._page_size, 1, NOWHERE, self._spare_state

    def fill(self, slices: Sequence[Slice], drawn: Mapping[Running, int], adapter_slots: Mapping[int, int]) -> None:
        """Queue the inputs of a step.

        Args:
            slices: one token each, at most ``rows`` of them.
            drawn: rows of the step before, by the sequence whose placeholder token it drew.
            adapter_slots: of the adapters among those of the step, by id.
        """
        host = self._hosts[0]
        self._hosts.reverse()
        flat: npt.NDArray[np.int32] = host.numpy()
        fields = flat[: FIELDS * self.rows].reshape(FIELDS, self.rows)
        ids, sources, slots, contexts, owners, states = fields
        table = flat[FIELDS * self.rows :].reshape(self.rows, self.pages)
        fields.T[:], table[:] = self._nobody, self._spare
        for row, item in enumerate(slices):
            sequence, start = item.sequence, item.start
            if start < sequence.known:
                ids[row] = sequence.tokens[start]
            else:
                sources[row] = drawn[sequence]
            contexts[row] = item.end
            owners[row] = adapter_slots.get(sequence.adapter_id, NOWHERE)
            if sequence.chain is not None and sequence.chain.slot is not None:
                states[row] = sequence.chain.slot
            page, offset = divmod(start, self._page_size)
            slots[row] = sequence.pages[page] * self._page_size + offset
            table[row, : page + 1] = sequence.pages[: page + 1]
        self._device.copy_(host, non_blocking=True)


class Records:
    """Recorded functions by key.

    Args:
        device: where they run.
        budget: bytes of device memory that records may take together; what comes later runs unrecorded.

    Attributes:
        last: what ran last; it may be run again, on what the buffers hold.
    """

    def __init__(self, device: torch.device, budget: int = 2 << 30) -> None:
        self._device, self._budget, self._taken = device, budget, 0
        self._pool: Any = None
        self._held: dict[tuple[int, ...], Function] = {}
        self.last: Function | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: tuple[int, ...]) -> bool:
        return key in self._held

    def record(self, key: tuple[int, ...], function: Function) -> None:
        """Record ``function`` unless it is; for that it may be run once, on what the buffers hold.

        Args:
            key: names it; the same key means the same computation on the same memory.
            function: without arguments, and without a look at what a tensor holds.
        """
        if key not in self._held:
            self._held[key] = self._recorded(function) if self._taken < self._budget else function

    def run(self, key: tuple[int, ...]) -> Tensor:
        """The result of what was recorded, which stays valid until the next run of any of them."""
        self.last = self._held[key]
        return self.last()

    def clear(self) -> None:
        """Forget all of them, because something they read has moved."""
        self._held.clear()
        self.last = None
        self._pool, self._taken = None, 0

    def forget(self, field: int) -> None:
        """Forget those whose key has something else than 0 in that place; their memory stays in the pool."""
        self._held = {key: replay for key, replay in self._held.items() if not key[field]}

    def _recorded(self, function: Function) -> Function:
        if self._device.type != "cuda":
            return function
        function()  # compiles and allocates what must not happen inside a graph
        torch.cuda.synchronize(self._device)
        try:
            return self._graph_of(function)
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            log.warning("a step cannot be recorded and runs as it is: %s", error)
            return function

    def _graph_of(self, function: Function) -> Function:
        before = torch.cuda.mem_get_info(self._device)[0]
        graph = torch.cuda.CUDAGraph()
        # Other threads read adapters meanwhile: what they allocate is no business of the graph.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        self._pool = graph.pool()
        self._taken += max(0, before - torch.cuda.mem_get_info(self._device)[0])

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
