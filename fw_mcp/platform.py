"""What every tool shares: the connection to the daemon, the workspace, and how long a call may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import Context

from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError

SHORT_WAIT_S = 50.0
LONG_WAIT_S = 600.0
REPORT_EVERY_S = 2.0

ToolContext = Context[Any, Any]
Connect = Callable[[], Awaitable[AsyncClient]]


@dataclass
class Platform:
    """The daemon as the tools see it.

    Attributes:
        connect: opens a client; called again after the daemon was lost.
        workspace: the folder in which files may be named.
        patient: whether a call may take minutes without a sign of life (stdio), else ``SHORT_WAIT_S``.
        read_only: whether nothing may be started, stored or stopped.
    """

    connect: Connect
    workspace: Workspace
    patient: bool
    read_only: bool = False
    _client: AsyncClient | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

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

    def longest_wait_s(self, ctx: ToolContext) -> float:
        """Seconds that this call may last: minutes when the client is patient or shows progress."""
        return LONG_WAIT_S if self.patient or wants_progress(ctx) else SHORT_WAIT_S


def wants_progress(ctx: ToolContext) -> bool:
    """Whether the client sent a progress token."""
    meta = ctx.request_context.meta
    return meta is not None and meta.get("progress_token") is not None


@dataclass
class Reporter:
    """Progress of one call: at once, then no more often than every two seconds, and never backwards."""

    ctx: ToolContext
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
