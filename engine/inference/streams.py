"""Outputs on their way from the engine's thread to the tasks that asked for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

from engine.inference.request import Output, Request
from fw_sdk.types import FwError


class OutputStream:
    """The outputs of one request, as an asynchronous iterator.

    Leaving it early (``aclose``, the end of ``async with``, or losing the last reference) cancels the request. An
    output with an error is raised as that error.
    """

    def __init__(self, request_id: str, cancel: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self.event_loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Output | FwError] = asyncio.Queue()
        self._over = False

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> Output:
        if self._over:
            raise StopAsyncIteration
        item = await self._items.get()
        if isinstance(item, Output) and item.error is None:
            self._over = item.finished
            return item
        self._over = True
        error = item if isinstance(item, FwError) else item.error
        assert error is not None
        raise error

    async def __aenter__(self) -> OutputStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the request unless it is over."""
        if not self._over:
            self._over = True
            self._cancel(self.request_id)

    def __del__(self) -> None:
        if not self._over:
            self._cancel(self.request_id)

    def put(self, item: Output | FwError) -> None:
        """Hand over an item; in the stream's own event loop."""
        self._items.put_nowait(item)


class Streams:
    """The streams of requests that are not over, by request id; for any thread.

    A stream that nobody holds any more is not kept alive here.

    Args:
        cancel: told the ids of requests that nobody waits for any more.
    """

    def __init__(self, cancel: Callable[[str], None]) -> None:
        self._cancel = cancel
        self._streams: WeakValueDictionary[str, OutputStream] = WeakValueDictionary()
        self._lock = threading.RLock()  # a stream may be collected, and so cancelled, while this thread has it

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._streams

    def open(self, requests: Sequence[Request]) -> list[OutputStream]:
        """A stream for each; in the event loop that iterates over them."""
        streams = [OutputStream(request.id, self._cancel) for request in requests]
        with self._lock:
            self._streams.update(zip((request.id for request in requests), streams, strict=True))
        return streams

    def close(self, request_id: str) -> None:
        """Forget one that nobody reads."""
        with self._lock:
            self._streams.pop(request_id, None)

    def ids(self) -> list[str]:
        """Of all requests that are not over."""
        with self._lock:
            return list(self._streams)

    def fail(self, request_ids: Iterable[str], error: Callable[[], FwError]) -> None:
        """End these requests, each with an error of its own."""
        self.send([(request_id, error(), True) for request_id in request_ids])

    def deliver(self, outputs: Iterable[Output]) -> None:
        """Hand outputs to their streams."""
        self.send([(output.request_id, output, output.finished) for output in outputs])

    def send(self, items: list[tuple[str, Output | FwError, bool]]) -> None:
        """Hand items (request id, item, whether it is the last) to their streams, waking each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[OutputStream, Output | FwError]]] = {}
        with self._lock:
            for request_id, item, last in items:
                stream = self._streams.pop(request_id, None) if last else self._streams.get(request_id)
                if stream is not None:
                    by_loop.setdefault(stream.event_loop, []).append((stream, item))
        for event_loop, pairs in by_loop.items():
            try:
                event_loop.call_soon_threadsafe(_put_all, pairs)
            except RuntimeError:  # that event loop is closed
                for stream, _ in pairs:
                    self._cancel(stream.request_id)


def _put_all(pairs: list[tuple[OutputStream, Output | FwError]]) -> None:
    for stream, item in pairs:
        stream.put(item)
