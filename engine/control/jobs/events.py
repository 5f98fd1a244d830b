"""Waiting for jobs: long polls and server-sent events, woken by the store and not by a clock."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from engine.control.store import Store
from fw_sdk.types import Job, JobEvent

KEEP_ALIVE_S = 15.0
BATCH = 500


class Changes:
    """Tells coroutines that a job changed, from whatever thread changed it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on ``loop`` from now on."""
        self._loop, self.closing = loop, False

    def close(self) -> None:
        """Let every wait end now, because the daemon ends."""
        self.closing = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    def notify(self, job_id: str) -> None:
        """Wake those who watch a job; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, job_id)

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change of the job; clear it before looking."""
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _wake(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()


async def wait_for_end(store: Store, changes: Changes, job_id: str, timeout_s: float) -> Job:
    """The job once it has ended, or as it is after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    with changes.watch(job_id) as changed:
        while True:
            changed.clear()
            job = await store.run(store.jobs.get, job_id)
            left = deadline - time.monotonic()
            if job.state.ended or left <= 0 or changes.closing:
                return job
            await _wait(changed, left)


async def stream_events(store: Store, changes: Changes, job_id: str, after: int) -> AsyncIterator[str]:
    """Server-sent events from ``after`` on; ends behind the last event of an ended job, and when that is deleted."""
    generation = None
    with changes.watch(job_id) as changed:
        while not changes.closing:
            changed.clear()
            job, events = await store.run(store.jobs.follow, job_id, after, BATCH)
            if job is None or generation not in (None, job.generation):
                return
            generation = job.generation
            for event in events:
                yield format_event(event)
                after = event.seq
            if job.state.ended and not events:
                return
            if not events and not await _wait(changed, KEEP_ALIVE_S):
                yield ": keep-alive\n\n"


def format_event(event: JobEvent) -> str:
    """One event in the format of ``text/event-stream``."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(event.to_wire(), ensure_ascii=False)}\n\n"


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
