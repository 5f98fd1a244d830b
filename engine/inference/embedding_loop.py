"""The embedding engine's thread: inputs of all callers share its batches, each caller in turn."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.inference.embedding import NOT_DONE, EmbeddingEngine, Embeddings, Floats, cut
from fw_sdk.types import FwError

log = logging.getLogger(__name__)

MAX_WAITING_TOKENS = 1 << 20
RETRY_AFTER_S = 1


@dataclass(eq=False)
class _Ask:
    """One caller's inputs. ``left`` are the numbers that no batch has yet, the shortest last."""

    ids: list[list[int]]
    left: list[int]
    vectors: Floats
    missing: int
    future: asyncio.Future[Floats]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def settle(self, error: FwError | None = None) -> None:
        """Hand the vectors, or what went wrong, to the caller; nothing if the caller has gone."""

        def deliver() -> None:
            if not self.future.done():
                self.future.set_result(self.vectors) if error is None else self.future.set_exception(error)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(deliver)


@dataclass(frozen=True)
class EmbeddingStats:
    """For metrics. Gauge: waiting (inputs); the rest only grow."""

    waiting: int
    inputs: int
    tokens: int


class EmbeddingLoop:
    """An ``EmbeddingEngine`` for asyncio. ``start`` it once; ``stop`` ends its thread.

    Args:
        engine: what computes; only this object may use it while the thread runs, apart from its ``tokenize``.
        max_waiting_tokens: above so many tokens in the queue new callers are refused.
    """

    def __init__(self, engine: EmbeddingEngine, *, max_waiting_tokens: int = MAX_WAITING_TOKENS) -> None:
        self.engine = engine
        self._limit = max_waiting_tokens
        self._asks: deque[_Ask] = deque()
        self._waiting_tokens = self._inputs = self._tokens = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fw-embedding", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whoever still waits gets ``unavailable``."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        for ask in self._asks:
            ask.settle(FwError("unavailable", "The worker is stopping.", not_done=NOT_DONE))
        self._asks.clear()

    @property
    def alive(self) -> bool:
        """Whether inputs are being answered."""
        return self._thread.is_alive() and not self._stopping

    @property
    def stats(self) -> EmbeddingStats:
        """Counters as of now."""
        with self._changed:
            return EmbeddingStats(sum(len(ask.left) for ask in self._asks), self._inputs, self._tokens)

    async def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
    ) -> Embeddings:
        """Embed the inputs in one batch with what others ask for. Cancelling it drops what is not begun.

        Raises:
            FwError: as there; ``resource_exhausted`` if too much waits; ``unavailable`` while stopping.
        """
        self.engine.check_dimensions(dimensions)
        ids = await asyncio.to_thread(self.engine.tokenize, inputs, truncate=truncate)
        counts = tuple(map(len, ids))
        order = sorted(range(len(ids)), key=counts.__getitem__, reverse=True)
        vectors = np.empty((len(ids), self.engine.width), np.float32)
        ask = _Ask(ids, order, vectors, len(ids), asyncio.get_running_loop().create_future())
        self._enter(ask, sum(counts))
        try:
            return Embeddings(cut(await ask.future, dimensions), counts)
        finally:
            self._leave(ask)

    def _enter(self, ask: _Ask, tokens: int) -> None:
        with self._changed:
            if not self.alive:
                raise FwError("unavailable", "The embedding thread does not run.", not_done=NOT_DONE)
            if self._asks and self._waiting_tokens + tokens > self._limit:
                raise FwError(
                    "resource_exhausted",
                    f"{self._waiting_tokens} tokens wait to be embedded; the queue takes {self._limit}.",
                    not_done=NOT_DONE,
                    hint=f"try again in {RETRY_AFTER_S} s",
                    details={"retryAfterS": RETRY_AFTER_S},
                )
            self._asks.append(ask)
            self._waiting_tokens += tokens
            self._changed.notify()

    def _leave(self, ask: _Ask) -> None:
        with self._changed:
            self._waiting_tokens -= sum(len(ask.ids[number]) for number in ask.left)
            ask.left.clear()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch:
                continue
            try:
                self._compute(batch)
            except Exception as error:
                log.exception("a batch of embeddings failed")
                failure = FwError("internal", f"{type(error).__name__}: {error}", not_done=NOT_DONE)
                for ask in {id(ask): ask for ask, _ in batch}.values():
                    ask.settle(failure)

    def _next_batch(self) -> list[tuple[_Ask, int]] | None:
        """Waiting inputs within the budget, one of each caller in turn; None once stopped."""
        budget = self.engine.max_batched_tokens
        batch: list[tuple[_Ask, int]] = []
        with self._changed:
            self._changed.wait_for(lambda: self._asks or self._stopping)
            if self._stopping:
                return None
            tokens = 0
            while self._asks:
                ask = self._asks.popleft()
                if not ask.left:
                    continue
                length = len(ask.ids[ask.left[-1]])
                if batch and tokens + length > budget:
                    self._asks.appendleft(ask)
                    break
                batch.append((ask, ask.left.pop()))
                self._asks.append(ask)
                tokens += length
            self._waiting_tokens -= tokens
            self._inputs += len(batch)
            self._tokens += tokens
        return batch

    def _compute(self, batch: list[tuple[_Ask, int]]) -> None:
        batch.sort(key=lambda item: len(item[0].ids[item[1]]))
        vectors = self.engine.compute([ask.ids[number] for ask, number in batch])
        finite = np.isfinite(vectors.sum(axis=1))
        for row, (ask, number) in enumerate(batch):
            if not finite[row]:
                ask.settle(FwError("internal", "the model's vector is not a finite number", not_done=NOT_DONE))
            ask.vectors[number] = vectors[row]
            ask.missing -= 1
            if not ask.missing:
                ask.settle()
