"""The engine's thread and its bridge to asyncio: requests go in from any task, outputs come back to it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.inference.adapters import Key, Recipe, Resident
from engine.inference.engine import Engine
from engine.inference.pulse import Health, Pulse
from engine.inference.reload import UpdateMode
from engine.inference.request import Request
from engine.inference.stats import EngineStats
from engine.inference.streams import OutputStream, Streams
from fw_sdk.types import FwError

__all__ = ["EngineLoop", "OutputStream"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FAILURES = 3
FAILURES_WITHIN_S = 60.0


class EngineLoop:
    """Runs an engine in its own thread.

    Everything that touches the engine happens between two steps in that thread. If a step raises, every request that
    the engine has gets an error of its own, the engine begins anew with an empty cache, and the thread goes on. After
    ``MAX_FAILURES`` within ``FAILURES_WITHIN_S`` seconds it gives up: new requests are refused, ``health`` says why.

    Args:
        engine: from now on used by this loop alone.
        max_requests: requests at the same time, waiting ones included; more are refused.
        stall_s: seconds after which a step counts as hanging.
    """

    def __init__(self, engine: Engine, *, max_requests: int = 512, stall_s: float = 120.0) -> None:
        self.engine = engine
        self.max_requests = max_requests
        self.error: BaseException | None = None
        self._pulse = Pulse(stall_s=stall_s)
        self._failures: list[float] = []
        self._gave_up = False
        self._streams = Streams(self._cancel_soon)
        self._wake = threading.Condition()
        self._commands: deque[Callable[[], object]] = deque()
        self._when_idle: list[Callable[[], None]] = []
        self._held: list[Request] = []
        self._absent: dict[Key, list[Request]] = {}
        self._reader = ThreadPoolExecutor(1, "adapters")
        self._in_engine: tuple[str, ...] = ()
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
        self._reader.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._gave_up

    @property
    def health(self) -> Health:
        """How it is doing."""
        error = None if self.error is None else repr(self.error)
        rest = (error, self.engine.restarts, self._pulse.step_s)
        if not self.alive:
            return Health("dead", *rest)
        return Health("stalled" if self._pulse.stalled else "ok", *rest)

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
        """Submit several at once: all of them are queued or none."""
        for request in requests:
            self.engine.check(request)
        with self._wake:
            self._refuse_if_dead()
            self._refuse_if_full(len(requests))
            streams = self._streams.open(requests)
            self._command(lambda: self._add_all(requests))
        return streams

    async def load_adapter(self, name: str, path: str, *, mode: UpdateMode | None = None) -> int:
        """``Engine.load_adapter`` under traffic: the files are read aside, only the last moment is between steps.

        Args:
            name: the adapter's name.
            path: its folder.
            mode: with one, the name may have other weights, which these replace; see ``Engine.install_adapter``.

        Returns:
            the version that tokens are stamped with from now on.
        """
        source, weights = await asyncio.to_thread(self.engine.read_adapter, path)

        def install() -> int:
            self._streams.deliver(self.engine.install_adapter(name, source, weights, mode=mode))
            return self.engine.adapters[name].version

        return await self._call(install)

    async def unload_adapter(self, name: str) -> None:
        """``Engine.unload_adapter`` between steps."""
        await self._call(lambda: self.engine.unload_adapter(name))

    async def update_weights(self, path: str, *, mode: UpdateMode = "wait") -> int:
        """Put other weights in place of the base's; they are read aside, while requests are answered.

        Args:
            path: weights of the same architecture, in a format that can be held as the present ones are.
            mode: what becomes of requests that have begun; with ``wait``, new ones wait until those are finished.

        Returns:
            the version that tokens are stamped with from now on.

        Raises:
            FwError: what ``Engine.read_weights`` raises.
        """
        model = await asyncio.to_thread(self.engine.read_weights, path)

        def install() -> int:
            self._streams.deliver(self.engine.install_weights(model, abort=mode == "abort"))
            return self.engine.weight_version

        return await self._call(install, idle=mode == "wait")

    async def _call(self, action: Callable[[], T], *, idle: bool = False) -> T:
        """Run ``action`` in the engine's thread, ``idle`` when no request is left, and return or raise what it does."""
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
            except Exception as error:  # noqa: BLE001  it is the caller's
                event_loop.call_soon_threadsafe(settle, None, error)
            else:
                event_loop.call_soon_threadsafe(settle, result, None)

        with self._wake:
            self._refuse_if_dead()
            self._command(lambda: self._when_idle.append(command) if idle else command())
        while not future.done():
            await asyncio.wait([future], timeout=1.0)
            self._refuse_if_dead()
        return future.result()

    def _command(self, command: Callable[[], object]) -> None:
        """Have the engine's thread run ``command`` before its next step."""
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _refuse_if_full(self, wanted: int) -> None:
        present = len(self._streams)
        if wanted > self.max_requests:
            raise FwError(
                "invalid_argument",
                f"{wanted} answers in one request; {self.max_requests} are allowed",
                not_done="nothing was generated",
                hint="send several requests",
            )
        if present + wanted > self.max_requests:
            seconds = self._pulse.wait_s(self.engine.backlog)
            raise FwError(
                "resource_exhausted",
                f"{present} requests are running or waiting; {self.max_requests} are allowed",
                not_done="nothing was generated",
                hint=f"try again in {seconds} s",
                details={"retryAfterS": seconds},
            )

    def _refuse_if_dead(self) -> None:
        if self._stopping or not self.alive:
            raise self._dead()

    def _dead(self) -> FwError:
        reason = f"died: {type(self.error).__name__}: {self.error}" if self._gave_up else "is shutting down"
        return FwError(
            "unavailable",
            f"the engine {reason}",
            not_done="the answer is incomplete or was not begun",
            hint="start the worker again; its log has the traceback" if self._gave_up else "start the worker again",
        )

    def _failed(self) -> FwError:
        return FwError(
            "unavailable",
            f"a step of the engine failed: {type(self.error).__name__}: {self.error}",
            not_done="the answer is incomplete",
            hint="send the request again: the engine has begun anew",
        )

    def _cancel_soon(self, request_id: str) -> None:
        self._streams.close(request_id)
        self._command(lambda: self.engine.cancel(request_id))

    def _run(self) -> None:
        while not self._gave_up:
            try:
                if not self._prepare():
                    break
                self._step()
            except BaseException as error:
                log.critical("a step of the engine failed", exc_info=error)
                self._recover(error)
        with self._wake:
            self._stopping = True
        self._streams.fail(self._streams.ids(), self._dead)

    def _step(self) -> None:
        before = self.engine.computed_tokens
        self._pulse.begin()
        outputs = self.engine.step()
        self._pulse.end(self.engine.computed_tokens - before)
        self._streams.deliver(outputs)

    def _prepare(self) -> bool:
        """Wait until there is something to do, run the commands; False when the thread must end."""
        with self._wake:
            while not (self._commands or self._stopping or self._when_idle or self.engine.has_work):
                self._wake.wait()
            commands = len(self._commands)
        if self._stopping:
            return False
        self._in_engine = self.engine.requests
        for _ in range(commands):
            self._commands.popleft()()
        if self._when_idle and not self.engine.has_work:
            self._change()
        self._in_engine = self.engine.requests
        return True

    def _change(self) -> None:
        """Do what waited for all requests to be finished, then let those in that came meanwhile."""
        actions, self._when_idle = self._when_idle, []
        for action in actions:
            action()
        held, self._held = self._held, []
        self._add_all(held)

    def _recover(self, error: BaseException) -> None:
        """Tell those whose requests are lost, and begin anew, unless that was done too often of late."""
        self._pulse.stop()
        self.error = error
        now = time.monotonic()
        self._failures = [moment for moment in self._failures if now - moment < FAILURES_WITHIN_S] + [now]
        if len(self._failures) >= MAX_FAILURES:
            self._gave_up = True
            return
        try:
            lost = {*self._in_engine, *self.engine.requests}
            self.engine.restart()
        except BaseException as again:
            log.critical("the engine cannot begin anew", exc_info=again)
            self._gave_up = True
            return
        self._streams.fail(lost, self._failed)

    def _add_all(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._add(request)

    def _add(self, request: Request) -> None:
        """Give a request to the engine; hold it back before a change of weights, or until its adapter is in memory."""
        if request.id not in self._streams:
            return
        if self._when_idle:
            self._held.append(request)
            return
        try:
            recipe = self.engine.adapters.recipe(request)
            if recipe is not None and self.engine.adapters.find(recipe) is None:
                self._fetch(recipe, request)
            else:
                self.engine.add(request)
        except FwError as error:  # what it needs has gone since it was checked
            self._streams.send([(request.id, error, True)])
        except Exception as error:
            log.exception("a request cannot be added")
            bug = FwError("internal", f"{type(error).__name__}: {error}", not_done="nothing was generated")
            self._streams.send([(request.id, bug, True)])

    def _fetch(self, recipe: Recipe, request: Request) -> None:
        """Have an adapter read in another thread, once for all that want it."""
        waiting = self._absent.setdefault(recipe.key, [])
        waiting.append(request)
        if len(waiting) == 1:
            self._reader.submit(self._read, recipe)

    def _read(self, recipe: Recipe) -> None:
        try:
            read: Resident | FwError = self.engine.adapters.read(recipe)
        except FwError as error:
            read = error
        except Exception as error:
            log.exception("an adapter cannot be read")
            read = FwError("internal", f"the adapter cannot be read: {type(error).__name__}: {error}")
        self._command(lambda: self._arrived(recipe, read))

    def _arrived(self, recipe: Recipe, read: Resident | FwError) -> None:
        requests = self._absent.pop(recipe.key)
        if isinstance(read, FwError):
            fields = read.to_dict()
            self._streams.fail([request.id for request in requests], lambda: FwError.from_dict(fields))
            return
        self.engine.adapters.keep(recipe, read)
        self._add_all(requests)
        self.engine.adapters.trim()  # maybe all of them have left
