"""The MCP server over streamable HTTP: an app of its own, or ``/mcp`` of the daemon's with the pages beside it."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fw_mcp import site
from fw_mcp.app import build_server
from fw_mcp.guard import MAX_BODY_BYTES, Guard
from fw_mcp.platform import Connect
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

PATH = "/mcp"


@dataclass(frozen=True)
class Access:
    """A token, asked at every request, and how a server that it opens reaches the daemon."""

    token: Callable[[], str]
    connect: Connect


class ByToken:
    """ASGI: hands a request to the app that its bearer token opens; tokens are compared in constant time."""

    def __init__(self, doors: Sequence[tuple[Callable[[], str], ASGIApp]]) -> None:
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        fitting = [app for token, app in self._doors if hmac.compare_digest(given.strip(), token().encode())]
        if scheme.lower() != b"bearer" or not fitting:
            await _refuse(send)
            return
        await fitting[0](scope, receive, send)


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


def create_mcp_app(owner: Access, reader: Access, workspace: Workspace | None = None) -> Starlette:
    """The server at ``/mcp``, for loopback hosts and origins; its lifespan must be run.

    Args:
        owner: opens every tool.
        reader: opens a server of its own with the tools that read.
        workspace: folder whose files may be named; ``FW_WORKSPACE`` by default, or none.
    """
    folder = workspace or Workspace.for_http()
    whole = build_server(owner.connect, folder)
    reading = build_server(reader.connect, folder, read_only=True)
    app, other = (
        one.streamable_http_app(streamable_http_path=PATH, host="127.0.0.1", max_request_body_size=MAX_BODY_BYTES)
        for one in (whole, reading)
    )
    for route, its_twin in zip(_routes(app), _routes(other), strict=True):
        route.app = ByToken([(owner.token, Guard(route.app)), (reader.token, Guard(its_twin.app))])
    _run_within(app, other)
    return app


def _routes(app: Starlette) -> list[Route]:
    return [route for route in app.routes if isinstance(route, Route)]


def _run_within(outer: Any, inner: Starlette) -> None:
    """Let ``inner``'s lifespan last as long as ``outer``'s."""
    own: Callable[[Any], Any] = outer.router.lifespan_context

    @asynccontextmanager
    async def both(running: Any) -> AsyncIterator[Any]:
        async with inner.router.lifespan_context(inner), own(running) as state:
            yield state

    outer.router.lifespan_context = both


def mount(app: Any, base_url: Callable[[], str], home: Home) -> None:
    """Serve MCP at ``/mcp`` of ``app`` (FastAPI or Starlette) and run its sessions within the app's lifespan; serve the
    documentation beside it.

    Args:
        app: the daemon's application; its own middleware checks requests before this server does.
        base_url: where the daemon listens, asked when a tool is first called.
        home: has the owner's token and the one that reads.
    """

    def access(token: Callable[[], str]) -> Access:
        async def connect() -> AsyncClient:
            return AsyncClient(base_url=base_url(), api_key=token())

        return Access(token, connect)

    inner = create_mcp_app(access(home.token), access(home.reading_token), Workspace.for_http(home=home.root))
    app.router.routes[:0] = [*_routes(inner), *site.routes()]
    _run_within(app, inner)
