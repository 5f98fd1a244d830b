"""What ``/mcp`` refuses before a server sees it, as JSON-RPC errors with our fields; and calls whose client left."""

from __future__ import annotations

import json
from typing import Any

from mcp.types import INVALID_REQUEST, JSONRPCMessage, JSONRPCRequest
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_mcp.messages import Malformed, read, reply_to
from fw_sdk.types import FwError

MAX_BODY_BYTES = 4 * 1024 * 1024
JSON, EVENTS = "application/json", "text/event-stream"
NOTHING_RUN = "Nothing was run."


class Refused(Exception):
    """A request that is not passed on: its status and the body of the answer."""

    def __init__(self, status: int, body: bytes, allow: str = "") -> None:
        super().__init__(body.decode())
        self.status = status
        self.body = body
        self.allow = allow

    @classmethod
    def because(
        cls, status: int, message: str, hint: str, *, code: str = "invalid_argument", allow: str = ""
    ) -> Refused:
        """With an error that no request's id can be given."""
        error = FwError(code, message, not_done=NOTHING_RUN, hint=hint)
        return cls(status, reply_to(None, INVALID_REQUEST, error), allow)


class Guard:
    """ASGI: passes on what is one message of MCP over HTTP.

    A client of the handshake era that leaves before it is answered cannot come back for the answer, since no events are
    kept: its call is cancelled. In the later era the server does that itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        try:
            _check_headers(scope)
            if scope["method"] != "POST":
                await self._app(scope, receive, send)
                return
            body = await _body(scope, receive)
            message = _message(body)
        except Refused as refused:
            await _answer(refused, send)
            return
        exchange = _Exchange(body, receive, send)
        await self._app(scope, exchange.receive, exchange.send)
        if exchange.abandoned and isinstance(message, JSONRPCRequest) and not _is_modern(scope):
            await self._cancel(scope, message)

    async def _cancel(self, scope: Scope, request: JSONRPCRequest) -> None:
        """Say for the client that is gone what it would have said."""
        params = {"requestId": request.id, "reason": "the client closed the connection"}
        notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        body = json.dumps(notification).encode()
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]

        async def unheard(_: Message) -> None:
            return

        await self._app({**scope, "headers": headers}, _Exchange(body, _nothing_more, unheard).receive, unheard)


class _Exchange:
    """One request whose body was read, and whether its client left before the answer was whole."""

    def __init__(self, body: bytes, receive: Receive, send: Send) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self._left = self._whole = False

    @property
    def abandoned(self) -> bool:
        return self._left and not self._whole

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        self._left = self._left or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._whole = not self._left
        await self._send(message)


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def _is_modern(scope: Scope) -> bool:
    version = Headers(scope=scope).get("mcp-protocol-version")
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


def _check_headers(scope: Scope) -> None:
    headers, method = Headers(scope=scope), scope["method"]
    methods = ("POST",) if _is_modern(scope) else ("GET", "POST", "DELETE")
    if method not in methods:
        allow = ", ".join(methods)
        raise Refused.because(405, f"MCP takes {allow} here, not {method}.", "POST one message", allow=allow)
    accepted = {kind.partition(";")[0].strip().lower() for kind in headers.get("accept", "").split(",")}
    needed = {"POST": (JSON, EVENTS), "GET": (EVENTS,)}.get(method, ())
    if lacking := [kind for kind in needed if not accepted & {kind, "*/*", f"{kind.partition('/')[0]}/*"}]:
        said = headers.get("accept") or "nothing"
        hint = f"send 'Accept: {', '.join(needed)}'"
        raise Refused.because(406, f"The client accepts {said!r:.120}, not {' and '.join(lacking)}.", hint)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and kind != JSON:
        message = f"The body is {kind or 'of no stated type'!r:.80}, not {JSON}."
        raise Refused.because(415, message, f"send 'Content-Type: {JSON}'")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, within the limit."""
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused.because(400, "The client left before its message was whole.", "send it again")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return bytes(body)


def _too_large() -> Refused:
    hint = "put the rows into a file and name it over `fw mcp`, or send fewer rows at once"
    message = f"The message is larger than {MAX_BODY_BYTES >> 20} MiB."
    return Refused.because(413, message, hint, code="payload_too_large")


def _message(body: bytes) -> JSONRPCMessage:
    try:
        return read(body)
    except Malformed as malformed:
        raise Refused(400, malformed.reply()) from None


async def _answer(refused: Refused, send: Send) -> None:
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(refused.body)).encode())]
    if refused.allow:
        headers.append((b"allow", refused.allow.encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": refused.body})
