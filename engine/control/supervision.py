"""Supervision: the one loop behind everything that the daemon does in the background again and again."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from fw_sdk.types import FwError, LoopHealth, LoopState

log = logging.getLogger("fw.supervision")

JOIN_S = 2.0
"""How long the end of a thread's loop waits for a tick that hangs."""

REMEMBERED = 1000
"""How many kinds of failures a loop knows to be in the log."""


@dataclass(frozen=True)
class Backoff:
    """Growing pauses between tries: doubled from ``first_s`` up to ``most_s``."""

    first_s: float = 0.5
    most_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row (at least one)."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 32))


@dataclass(frozen=True)
class Facts:
    """What is known about a loop; times are of the monotonic clock.

    Attributes:
        running: whether the loop was started and has not been stopped.
        awaited: when the tick that runs now began, or when the next one is due.
        succeeded: when a tick last ended without a failure.
        failures: ticks in a row that failed, whole or in a part.
        error: the kind of the last failure; its text and traceback are in the log.
    """

    running: bool = False
    awaited: float = 0.0
    succeeded: float | None = None
    failures: int = 0
    error: str | None = None


class Loop:
    """Runs a tick every ``every_s`` seconds until it is stopped, whatever the tick raises.

    A tick that fails is logged with its traceback the first time it fails in that way, and tried again after a pause
    that doubles up to a bound. ``AsyncLoop`` and ``ThreadLoop`` differ only in where the tick runs.

    Args:
        name: what the loop is called in the log and in ``/v1/health``.
        every_s: the pause after a tick that succeeded.
        overdue_s: a tick that runs longer than this, or begins so much too late, makes the loop ``overdue``.
        backoff: the pauses after failures.
    """

    def __init__(self, name: str, every_s: float, *, overdue_s: float = 30.0, backoff: Backoff | None = None) -> None:
        self.name = name
        self._every_s, self._overdue_s = every_s, overdue_s
        self._backoff = backoff or Backoff()
        self._facts = Facts()
        self._logged: set[str] = set()
        self._part_failed = False

    @property
    def health(self) -> LoopHealth:
        """How the loop is; may be asked from any thread."""
        facts, now = self._facts, time.monotonic()
        state = LoopState.OK
        if not facts.running:
            state = LoopState.STOPPED
        elif now - facts.awaited > self._overdue_s:
            state = LoopState.OVERDUE
        elif facts.failures:
            state = LoopState.FAILING
        age_s = None if facts.succeeded is None else now - facts.succeeded
        return LoopHealth(
            name=self.name,
            state=state,
            last_success_age_s=age_s,
            consecutive_failures=facts.failures,
            last_error=facts.error,
        )

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """One of the things that a tick looks at: its failure is logged and leaves the others alone."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            self._part_failed = True
            self._report(error, what)

    def _opened(self) -> None:
        self._facts = replace(self._facts, running=True, awaited=time.monotonic())

    def _closed(self) -> None:
        self._facts = replace(self._facts, running=False)

    def _begin(self) -> None:
        self._part_failed = False
        self._facts = replace(self._facts, awaited=time.monotonic())

    def _end(self, error: BaseException | None) -> float:
        """Note how a tick ended; returns the seconds until the next one."""
        if error is not None:
            self._report(error, self.name)
        facts, now = self._facts, time.monotonic()
        failures = facts.failures + 1 if error is not None or self._part_failed else 0
        if facts.failures and not failures:
            log.info("%s: works again after %d failures", self.name, facts.failures)
        pause_s = self._backoff.pause_s(failures) if error is not None else self._every_s
        succeeded = facts.succeeded if failures else now
        self._facts = replace(facts, awaited=now + pause_s, succeeded=succeeded, failures=failures)
        return pause_s

    def _report(self, error: BaseException, what: str) -> None:
        kind = _kind(error)
        place = f"{what}: {kind} at {_place(error)}"
        if place not in self._logged:
            if len(self._logged) >= REMEMBERED:
                self._logged.clear()
            self._logged.add(place)
            log.error("%s failed and is tried again: %s", what, error, exc_info=error)
        self._facts = replace(self._facts, error=kind)


class AsyncLoop(Loop):
    """A loop on the event loop."""

    _task: asyncio.Task[None] | None = None

    def start(self, tick: Callable[[], Awaitable[None]]) -> None:
        """Begin; the first tick comes at once."""
        self._opened()
        self._task = asyncio.create_task(self._run(tick), name=f"fw-{self.name}")

    async def stop(self) -> None:
        """Cancel the tick that runs, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._closed()

    async def _run(self, tick: Callable[[], Awaitable[None]]) -> None:
        while True:
            self._begin()
            failure: BaseException | None = None
            try:
                await tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
                failure = error
            except asyncio.CancelledError as error:
                if cancelled_from_outside():
                    raise
                failure = error
            await asyncio.sleep(self._end(failure))


def cancelled_from_outside() -> bool:
    """Whether a CancelledError is for the current task itself, not for something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class ThreadLoop(Loop):
    """A loop in a thread of its own."""

    _thread: threading.Thread | None = None
    _stop: threading.Event
    _wake: threading.Event

    def start(self, tick: Callable[[], None]) -> None:
        """Begin; the first tick comes at once."""
        self._stop, self._wake = threading.Event(), threading.Event()
        self._opened()
        arguments = (tick, self._stop, self._wake)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"fw-{self.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let the next tick come at once, unless the loop waits after a failure."""
        if self._thread is not None:
            self._wake.set()

    async def stop(self) -> None:
        """End after the tick that runs; one that hangs is left to the end of the process."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            await asyncio.to_thread(self._thread.join, JOIN_S)
        self._closed()

    def _run(self, tick: Callable[[], None], stop: threading.Event, wake: threading.Event) -> None:
        while not stop.is_set():
            wake.clear()
            self._begin()
            failure = None
            try:
                tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
                failure = error
            pause_s = self._end(failure)
            (wake if failure is None else stop).wait(pause_s)


def _kind(error: BaseException) -> str:
    """A failure's kind without any names or paths in it: ``/v1/health`` shows it to everybody."""
    return f"{type(error).__name__} {error.code}" if isinstance(error, FwError) else type(error).__name__


def _place(error: BaseException) -> str:
    """Where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "nowhere"
