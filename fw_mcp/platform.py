"""What every tool shares: the connection to the daemon, the workspace, and how long a call may take."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context

from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError, Model

SHORT_WAIT_S = 45.0
LONG_WAIT_S = 600.0
SILENT_CALL_S = 50.0
"""No call lasts longer whose client shows no progress."""
REPORT_EVERY_S, ALIVE_EVERY_S = 2.0, 5.0
CLEAN_UP_S = 10.0

ToolContext = Context[Any, Any]
Connect = Callable[[], Awaitable[AsyncClient]]
T = TypeVar("T")


@dataclass(frozen=True)
class Begun:
    """A model, the job that makes it, if it is not READY, and whether this call began that job."""

    model: Model
    job_id: str | None = None
    started: bool = False


@dataclass
class Platform:
    """The daemon as the tools see it.

    Attributes:
        connect: opens a client; called again after the daemon was lost.
        workspace: the folder in which files may be named.
        read_only: whether nothing may be started, stored or stopped.
    """

    connect: Connect
    workspace: Workspace
    read_only: bool = False
    _client: AsyncClient | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _holders: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncClient]:
        """The shared client; when the daemon proves unreachable the next call connects anew."""
        async with self._opening:
            if self._client is None:
                self._client = await self.connect()
            client = self._client
        try:
            yield client
        except FwError as error:
            if error.code == "unavailable" and self._client is client:
                self._client = None
            raise

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def check_may_write(self, what: str) -> None:
        """Raise ``permission_denied`` on a server that only reads; ``what`` was wanted, as in "store rows"."""
        if self.read_only:
            raise FwError(
                "permission_denied",
                f"This server only reads, so it does not {what}.",
                not_done="Nothing was changed.",
                hint="a person can start the server without --read-only, or use the owner's token",
            )

    def hold(self, job_id: str) -> None:
        """A client was told of the job, so no call of another one may cancel it."""
        self._holders[job_id] += 1

    @asynccontextmanager
    async def following(self, client: AsyncClient, beginning: Coroutine[Any, Any, Begun]) -> AsyncIterator[Begun]:
        """While a call begins a job and waits for it.

        If the call is cancelled, a job that it started is as well, unless somebody else was told of it or waits too.
        """
        task = asyncio.create_task(beginning)
        held: list[str] = []
        try:
            begun = await asyncio.shield(task)
            held += [begun.job_id] if begun.job_id else []
            self._holders.update(held)
            yield begun
        except asyncio.CancelledError:
            self._holders.subtract(held)
            held = []
            with anyio.move_on_after(CLEAN_UP_S, shield=True), suppress(FwError):
                begun = await task
                if begun.job_id and begun.started and not self._holders[begun.job_id]:
                    await client.jobs.cancel(begun.job_id)
            raise
        finally:
            self._holders.subtract(held)


def wants_progress(ctx: ToolContext) -> bool:
    """Whether the client sent a progress token."""
    meta = ctx.request_context.meta
    return meta is not None and meta.get("progress_token") is not None


def longest_wait_s(ctx: ToolContext) -> float:
    """Seconds that a call may wait: minutes where the client shows progress, else less than many clients bear."""
    return LONG_WAIT_S if wants_progress(ctx) else SHORT_WAIT_S


@dataclass
class Reporter:
    """Progress of one call: at once, then no more often than every two seconds, and never backwards.

    Attributes:
        began: when the call came, on the monotonic clock.
    """

    ctx: ToolContext
    began: float = field(default_factory=time.monotonic)
    _last: float = -1.0
    _reported_at: float = float("-inf")

    async def report(self, done: float, total: float | None, message: str) -> None:
        """Tell the client ``done`` of ``total`` and a one-line message."""
        now = time.monotonic()
        if now - self._reported_at < REPORT_EVERY_S:
            return
        self._reported_at = now
        self._last = max(self._last + 1e-3, done)
        await self.ctx.report_progress(self._last, total, message)

    async def alive(self, message: str) -> None:
        """Say that the call still runs, as far as it had come, unless it said something itself just now."""
        if time.monotonic() - self._reported_at >= ALIVE_EVERY_S:
            await self.report(self._last + 1e-3, None, message)

    def left_s(self) -> float:
        """Seconds that the call may still wait."""
        return max(0.0, self.began + longest_wait_s(self.ctx) - time.monotonic())


_REPORTER: ContextVar[Reporter] = ContextVar("reporter")


def reporter_of(ctx: ToolContext) -> Reporter:
    """The one reporter of the call that runs."""
    return _REPORTER.get(Reporter(ctx))


async def watched(ctx: ToolContext, tool: str, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of a call's ``work``, with a sign of life where the client shows progress, else within
    ``SILENT_CALL_S``. When the call ends otherwise, cancelled by its client or too late, ``work`` is cancelled.

    Raises:
        FwError: ``deadline_exceeded``.
    """
    reporter = Reporter(ctx)
    token = _REPORTER.set(reporter)
    task = asyncio.create_task(work)
    _REPORTER.reset(token)
    shown = wants_progress(ctx)
    try:
        while not task.done():
            spent_s = time.monotonic() - reporter.began
            if not shown and spent_s >= SILENT_CALL_S:
                raise _too_long(tool)
            pause_s = ALIVE_EVERY_S if shown else SILENT_CALL_S - spent_s
            await asyncio.wait({task}, timeout=pause_s)
            if not task.done() and shown:
                await reporter.alive(f"{tool} still runs, for {time.monotonic() - reporter.began:.0f} s now")
        return task.result()
    finally:
        task.cancel()
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            await asyncio.wait({task})


def _too_long(tool: str) -> FwError:
    return FwError(
        "deadline_exceeded",
        f"{tool} took longer than {SILENT_CALL_S:g} s, and this client shows no progress meanwhile.",
        not_done="It was stopped; what it had stored by then stays stored.",
        hint=f"{tool}(...) on less at once, with a smaller limit or fewer rows",
    )
