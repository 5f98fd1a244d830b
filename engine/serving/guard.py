"""Who may talk to the worker: bearer token, Host and Origin, size of the body. Also gives each request its id."""

from __future__ import annotations

import hmac
import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fw_sdk.types import FwError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD = frozenset({"0.0.0.0", "::"})
OPEN_PATHS = frozenset({"/health"})
MAX_BODY_BYTES = 32 << 20

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


def error_response(error: FwError, path: str, request_id: str | None) -> JSONResponse:
    """The error in the envelope that clients of ``path`` expect, who are told not to retry what would fail again."""
    error.request_id = error.request_id or request_id
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if "retryAfterS" in error.details:
        headers["retry-after"] = str(error.details["retryAfterS"])
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.inference_body(path), error.http_status, headers)


class Guard:
    """ASGI middleware in front of everything.

    Args:
        app: what it protects.
        token: what every path but ``/health`` wants as bearer token or API key.
        host: the address the worker listens on; besides loopback names it is the only Host that is let in. A worker
            that listens on every address cannot know its names and lets every Host in.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = LOOPBACK | {host}
        self._any_host = host in WILDCARD

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check(headers, scope["path"])
        except FwError as error:
            await error_response(error, scope["path"], request_id)(scope, receive, send_with_id)
            return
        await self._app(scope, _limited(receive), send_with_id)

    def _check(self, headers: Headers, path: str) -> None:
        if not self._any_host and _host_name(headers.get("host", "")) not in self._hosts:
            raise _denied("Host", headers.get("host", ""))
        origin = headers.get("origin")
        if origin is not None and (urlsplit(origin).hostname or "") not in LOOPBACK:
            raise _denied("Origin", origin)
        if path not in OPEN_PATHS and not self._has_token(headers):
            raise FwError(
                "unauthenticated",
                "the token is missing or wrong",
                not_done="nothing was done",
                hint="send 'Authorization: Bearer TOKEN' or 'x-api-key: TOKEN' with the worker's token",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise _too_large()

    def _has_token(self, headers: Headers) -> bool:
        """As a bearer token, or as the API key that Anthropic's clients send."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        given += [headers["x-api-key"].strip()] if "x-api-key" in headers else []
        return any(hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token) for token in given)


def _limited(receive: Receive) -> Receive:
    """``receive`` that stops a body without a length, or with a wrong one, at the limit."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return counted


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _denied(header: str, value: str) -> FwError:
    return FwError(
        "permission_denied",
        f"the {header} '{value:.80}' is not allowed here",
        not_done="nothing was done",
        hint="use http://127.0.0.1 and the worker's port",
    )


def _too_large() -> FwError:
    return FwError(
        "payload_too_large", f"the body is larger than {MAX_BODY_BYTES >> 20} MiB", not_done="it was not read"
    )
