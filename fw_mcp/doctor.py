"""``fw mcp doctor``: connect as a client would, over stdio and over HTTP, and say what works."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from fw_sdk.daemon import find_daemon
from fw_sdk.types.home import Home

LIMIT_S = 60.0


@dataclass(frozen=True)
class Connection:
    """One way to connect and what came of it. ``status`` is ok or fail."""

    id: str
    status: str
    message: str
    fix: str = ""

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return vars(self).copy()


def check_connections() -> list[Connection]:
    """Both protocol eras over stdio, then over the running daemon's HTTP."""
    return asyncio.run(_check_all())


async def _check_all() -> list[Connection]:
    ways = {"stdio": _over_stdio, "http": _over_http}
    return [await _tried(f"{name}, {era}", way(era)) for name, way in ways.items() for era in ("auto", "legacy")]


async def _tried(name: str, attempt: Awaitable[str]) -> Connection:
    began = time.monotonic()
    try:
        said = await asyncio.wait_for(attempt, LIMIT_S)
    except Exception as error:  # noqa: BLE001  whatever goes wrong is the finding
        reason = f"{type(error).__name__}: {_innermost(error)}"
        return Connection(name, "fail", reason, "fw doctor; fw logs")
    return Connection(name, "ok", f"{said} in {time.monotonic() - began:.1f} s")


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _over_stdio(era: str) -> str:
    server = StdioServerParameters(command=sys.executable, args=["-m", "fw_mcp.stdio"], env=dict(os.environ))
    async with Client(server, mode=era) as client:  # type: ignore[arg-type]
        return await _looked(client)


async def _over_http(era: str) -> str:
    home = Home.from_environment()
    daemon = find_daemon(home)
    if daemon is None:
        raise ConnectionError("no daemon runs")
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {home.token()}"}, timeout=LIMIT_S) as http:
        transport = streamable_http_client(f"{daemon.url}/mcp", http_client=http)
        async with Client(transport, mode=era) as client:  # type: ignore[arg-type]
            return await _looked(client)


async def _looked(client: Client) -> str:
    """List the tools and call one."""
    tools = (await client.list_tools()).tools
    overview = await client.call_tool("overview", {})
    if overview.is_error:
        raise RuntimeError(str((overview.structured_content or {}).get("message", "overview failed")))
    return f"protocol {client.protocol_version}, {len(tools)} tools, overview answered"
