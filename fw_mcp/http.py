"""The MCP server over streamable HTTP: an app of its own, or ``/mcp`` of the daemon's with the pages beside it."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fw_mcp import site
from fw_mcp.app import build_server
from fw_mcp.platform import Connect
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError

PATH = "/mcp"


class BearerToken:
    """ASGI: lets a request pass that carries the token in its Authorization header; compared in constant time."""

    def __init__(self, app: ASGIApp, token: Callable[[], str]) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http":
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token().encode()):
                await _refuse(send)
                return
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    error = FwError(
        "unauthenticated",
        "The bearer token is missing or wrong.",
        not_done="Nothing was run.",
        hint="send the content of the file FW_HOME/token as 'Authorization: Bearer <token>'",
    )
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error.control_plane_body()).encode()})


def create_mcp_app(connect: Connect, token: Callable[[], str], workspace: Workspace | None = None) -> Starlette:
    """The server at ``/mcp``, for loopback hosts and origins, behind the token; its lifespan must be run.

    Args:
        connect: opens a client of the daemon.
        token: the owner's token, asked at every request.
        workspace: folder whose files may be named; ``FW_WORKSPACE`` by default, or none.
    """
    server = build_server(connect, workspace or Workspace.for_http(), patient=False)
    app = server.streamable_http_app(streamable_http_path=PATH, host="127.0.0.1")
    for route in app.routes:
        if isinstance(route, Route):
            route.app = BearerToken(route.app, token)
    return app


def mount(app: Any, base_url: Callable[[], str], token: Callable[[], str]) -> None:
    """Serve MCP at ``/mcp`` of ``app`` (FastAPI or Starlette) and run its sessions within the app's lifespan; serve the
    documentation beside it.

    Args:
        app: the daemon's application; its own middleware checks requests before this server does.
        base_url: where the daemon listens, asked when a tool is first called.
        token: the owner's token.
    """

    async def connect() -> AsyncClient:
        return AsyncClient(base_url=base_url(), api_key=token())

    inner = create_mcp_app(connect, token)
    app.router.routes[:0] = [*(route for route in inner.routes if isinstance(route, Route)), *site.routes()]
    outer: Callable[[Any], Any] = app.router.lifespan_context

    @asynccontextmanager
    async def both(running: Any) -> AsyncIterator[Any]:
        async with inner.router.lifespan_context(inner), outer(running) as state:
            yield state

    app.router.lifespan_context = both
