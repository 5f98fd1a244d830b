"""Who may talk to the daemon: the owner's token or the one that reads, a loopback Host, and no foreign web page."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from fw_sdk.types import FwError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OWNER, READER = "owner", "reader"
OPEN_PATHS = frozenset({"/v1/health", "/openapi.json", "/llms.txt", "/llms-full.txt", "/docs"})
OPEN_FOLDER = "/docs/"
"""The documentation is the same on every machine; a browser can read it without a token."""
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READING_POSTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/v1/accounts/local/datasets:check",
        "/v1/accounts/local/datasets:overlap",
        "/v1/accounts/local/supervisedFineTuningJobs:estimate",
    }
)
"""What the token that reads may post: questions that leave nothing behind, here or outside. ``/v1/responses`` stores
its answers, and ``models:estimate`` may ask a hub."""
MCP_PATH = "/mcp"
"""Serves that token by tools that read, and reaches the daemon with the same token."""


class AccessMiddleware:
    """Refuses requests before any route sees them, and notes in the request's state who asks (``principal``).

    The Host check stops DNS rebinding, the Origin check stops web pages; tokens are compared in constant time.

    Args:
        app: what to protect.
        token: the owner's.
        reading_token: allows what ``may_read`` says.
    """

    def __init__(self, app: ASGIApp, token: str, reading_token: str) -> None:
        self._app = app
        self._owner = token.encode()
        self._reader = reading_token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through or raise."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
            check_host([value for name, value in headers if name == b"host"])
            check_origin([value for name, value in headers if name == b"origin"])
            if scope["path"] not in OPEN_PATHS and not scope["path"].startswith(OPEN_FOLDER):
                found = self._check_token(headers, scope["method"], scope["path"])
                scope.setdefault("state", {})["principal"] = found
        await self._app(scope, receive, send)

    def _check_token(self, headers: list[tuple[bytes, bytes]], method: str, path: str) -> str:
        """Who asks. The token may come as a bearer token or as the API key that Anthropic's clients send."""
        bearers = [value for name, value in headers if name == b"authorization"]
        keys = [value.strip() for name, value in headers if name == b"x-api-key"]
        if not (bearers or keys):
            raise _unauthenticated("The request has no token.")
        scheme, _, token = bearers[0].partition(b" ") if bearers else (b"", b"", b"")
        given = ([token.strip()] if scheme.lower() == b"bearer" else []) + keys
        owns, reads = _is_one_of(given, self._owner), _is_one_of(given, self._reader)
        if len(bearers) > 1 or len(keys) > 1 or not (owns or reads):
            raise _unauthenticated("The token is wrong.")
        if not owns and not may_read(method, path):
            raise FwError(
                "permission_denied",
                f"This token only reads; {method} {path[:80]} changes something.",
                not_done="nothing was changed",
                hint="use the owner's token, in FW_HOME/token",
            )
        return OWNER if owns else READER


def _is_one_of(given: list[bytes], token: bytes) -> bool:
    """Whether the token was given. An empty one, as a torn file leaves it, opens nothing."""
    return bool(token) and any([hmac.compare_digest(one, token) for one in given])


def may_read(method: str, path: str) -> bool:
    """Whether the token that reads allows a request: looking, asking models, estimates and checks that keep nothing."""
    return method in READING_METHODS or path == MCP_PATH or path.removeprefix("/inference") in READING_POSTS


def check_host(values: list[bytes]) -> None:
    """Raise ``permission_denied`` unless there is exactly one Host and it is this machine."""
    if len(values) != 1 or _hostname(values[0]) not in LOOPBACK:
        shown = values[0].decode("latin-1")[:80] if values else ""
        raise FwError(
            "permission_denied", f"The Host '{shown}' is not this machine.", hint="use 127.0.0.1 or localhost"
        )


def check_origin(values: list[bytes]) -> None:
    """Raise ``permission_denied`` if a web page of another host sent the request."""
    for value in values:
        scheme, separator, rest = value.partition(b"://")
        if not (separator and scheme in (b"http", b"https") and _hostname(rest) in LOOPBACK):
            shown = value.decode("latin-1")[:80]
            raise FwError("permission_denied", f"Requests from pages of '{shown}' are not allowed.")


def _hostname(netloc: bytes) -> str | None:
    """The host of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; None if it is anything else."""
    try:
        parts = urlsplit(f"//{netloc.decode('ascii')}")
        parts.port  # noqa: B018  raises if it is no number
    except ValueError:
        return None
    return parts.hostname if not (parts.path or parts.query or parts.fragment or parts.username) else None


def _unauthenticated(message: str) -> FwError:
    return FwError(
        "unauthenticated",
        message,
        hint="send 'Authorization: Bearer <token>' or 'x-api-key: <token>' with the token in FW_HOME/token; "
        "clients read FW_API_KEY",
    )
