"""The engine's thread and its bridge to asyncio: requests go in from any task, outputs come back to it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

from engine.inference.engine import Engine, EngineStats
from engine.inference.request import Output, Request
from fw_sdk.types import FwError

log = logging.getLogger(__name__)

T = TypeVar("T")


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


def _put_all(pairs: list[tuple[OutputStream, Output | FwError]]) -> None:
    for stream, item in pairs:
        stream.put(item)


class EngineLoop:
    """Runs an engine in its own thread.

    Everything that touches the engine happens between two steps in that thread. If a step raises, the loop is dead:
    every request gets an error, new ones are refused, ``error`` says why, and it does not start again.

    Args:
        engine: from now on used by this loop alone.
        max_requests: requests at the same time, waiting ones included; more are refused.
    """

    def __init__(self, engine: Engine, *, max_requests: int = 512) -> None:
        self.engine = engine
        self.max_requests = max_requests
        self.error: BaseException | None = None
        self._commands: list[Callable[[], None]] = []
        self._streams: WeakValueDictionary[str, OutputStream] = WeakValueDictionary()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after the step it is in; requests that are left get an error."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and self.error is None

    @property
    def stats(self) -> EngineStats:
        """Counters of the engine."""
        return self.engine.stats

    def submit(self, request: Request) -> OutputStream:
        """Queue a request; call it in the event loop that iterates over the result.

        Raises:
            FwError: at once, whatever ``Engine.check`` raises, ``resource_exhausted`` if the queue is full,
                ``unavailable`` if the loop is dead.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[OutputStream]:
        """As ``submit``, for several at once: all of them are queued or none."""
        for request in requests:
            self.engine.check(request)
        with self._wake:
            self._refuse_if_dead()
            if len(requests) > self.max_requests:
                raise FwError(
                    "invalid_argument",
                    f"{len(requests)} answers in one request; {self.max_requests} are allowed",
                    not_done="nothing was generated",
                    hint="send several requests",
                )
            if len(self._streams) + len(requests) > self.max_requests:
                raise FwError(
                    "resource_exhausted",
                    f"{len(self._streams)} requests are running or waiting; {self.max_requests} are allowed",
                    not_done="nothing was generated",
                    hint="try again in a second",
                    details={"retryAfterS": 1},
                )
            streams = [OutputStream(request.id, self._cancel_soon) for request in requests]
            self._streams.update(zip((request.id for request in requests), streams, strict=True))
            self._commands.append(lambda: self._add(requests))
            self._wake.notify()
        return streams

    async def load_adapter(self, name: str, path: str) -> None:
        """``Engine.load_adapter`` under traffic: the files are read aside, only the last moment is between steps."""
        source, weights = await asyncio.to_thread(self.engine.read_adapter, path)
        await self._call(lambda: self.engine.install_adapter(name, source, weights))

    async def unload_adapter(self, name: str) -> None:
        """``Engine.unload_adapter`` between steps."""
        await self._call(lambda: self.engine.unload_adapter(name))

    async def _call(self, action: Callable[[], T]) -> T:
        """Run ``action`` in the engine's thread and return or raise what it does."""
        event_loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = event_loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def command() -> None:
            try:
                result = action()
            except FwError as error:
                event_loop.call_soon_threadsafe(settle, None, error)
            else:
                event_loop.call_soon_threadsafe(settle, result, None)

        with self._wake:
            self._refuse_if_dead()
            self._commands.append(command)
            self._wake.notify()
        while not future.done():
            await asyncio.wait([future], timeout=1.0)
            self._refuse_if_dead()
        return future.result()

    def _refuse_if_dead(self) -> None:
        if self._stopping or not self.alive:
            raise self._dead()

    def _dead(self) -> FwError:
        reason = "is shutting down" if self.error is None else f"died: {type(self.error).__name__}: {self.error}"
        return FwError(
            "unavailable",
            f"the engine {reason}",
            not_done="the answer is incomplete or was not begun",
            hint="start the worker again; its log has the traceback" if self.error else "start the worker again",
        )

    def _cancel_soon(self, request_id: str) -> None:
        with self._wake:
            self._streams.pop(request_id, None)
            self._commands.append(lambda: self.engine.cancel(request_id))
            self._wake.notify()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._deliver(self.engine.step())
        except BaseException as error:
            log.critical("the engine's thread died", exc_info=error)
            self.error = error
        self._fail_all()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do, run the commands; False when the thread must end."""
        with self._wake:
            while not (self._commands or self._stopping or self.engine.has_work):
                self._wake.wait()
            commands, self._commands = self._commands, []
        if self._stopping:
            return False
        for command in commands:
            command()
        return True

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            try:
                self.engine.add(request)
            except FwError as error:  # what it needs has gone since it was checked
                self._send([(request.id, error, True)])

    def _deliver(self, outputs: list[Output]) -> None:
        self._send([(output.request_id, output, output.finished) for output in outputs])

    def _send(self, items: list[tuple[str, Output | FwError, bool]]) -> None:
        """Hand items (request id, item, whether it is the last) to their streams, waking each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[OutputStream, Output | FwError]]] = {}
        with self._wake:
            for request_id, item, last in items:
                stream = self._streams.pop(request_id, None) if last else self._streams.get(request_id)
                if stream is not None:
                    by_loop.setdefault(stream.event_loop, []).append((stream, item))
        for event_loop, pairs in by_loop.items():
            try:
                event_loop.call_soon_threadsafe(_put_all, pairs)
            except RuntimeError:  # that event loop is closed
                for stream, _ in pairs:
                    self._cancel_soon(stream.request_id)

    def _fail_all(self) -> None:
        with self._wake:
            self._stopping = True
            left = list(self._streams)
        self._send([(request_id, self._dead(), True) for request_id in left])
