"""A mutation with an ``Idempotency-Key`` happens once: a repetition gets the first reply, anything else is refused."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.control.access.authentication import READING_METHODS, READING_POSTS
from engine.control.http.bodies import read_body
from engine.control.store.replies import Replies, Reply
from fw_sdk.types import FwError

OWN_API = "/v1/accounts/"
HEADER = "idempotency-key"
LONGEST_KEY = 255
REPLAYED = {"idempotent-replayed": "true"}


class IdempotencyMiddleware:
    """Keeps the successful reply to each mutation of our own API that has a key, before the client gets it.

    Two requests with one key wait for one another. Errors changed nothing and are not kept. Keys of two principals
    never meet. Uploads are left out: a dataset takes the same rows twice and no others.

    Args:
        app: what performs the requests; finds the key, made the principal's own, in the state as ``idempotency_key``.
        replies: where replies are kept.
        limit_bytes: the largest body.
    """

    def __init__(self, app: ASGIApp, replies: Replies, limit_bytes: int) -> None:
        self._app, self._replies, self._limit_bytes = app, replies, limit_bytes
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        key = _key(scope) if _mutates(scope) else None
        if key is None:
            await self._app(scope, receive, send)
            return
        scope["state"]["idempotency_key"] = key
        body = await read_body(Request(scope, receive), self._limit_bytes)
        turn = self._turns.get(key) or self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            wanted = await run_in_threadpool(_fingerprint, scope, body)
            kept = await run_in_threadpool(self._replies.find, key)
            if kept is None:
                keeper = _Keeper(self._replies, key, wanted, send)
                await self._app(scope, _given_again(body, receive), keeper.send)
                return
        if kept.fingerprint != wanted:
            raise _other_request(scope, kept, wanted)
        await Response(kept.body, kept.status, REPLAYED, media_type="application/json")(scope, receive, send)


class _Keeper:
    """Holds a successful reply back until it is kept; an error goes on at once."""

    def __init__(self, replies: Replies, key: str, fingerprint: str, send: Send) -> None:
        self._replies, self._key, self._fingerprint, self._send = replies, key, fingerprint, send
        self._start: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """Take one message of the reply."""
        if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._keep(self._start)

    async def _keep(self, start: Message) -> None:
        text = self._body.decode()
        await run_in_threadpool(self._replies.keep, self._key, self._fingerprint, start["status"], text)
        await self._send(start)
        await self._send({"type": "http.response.body", "body": bytes(self._body)})


def _mutates(scope: Scope) -> bool:
    """Whether a request of our own API may change something; what only asks leaves nothing behind."""
    if scope["type"] != "http" or not scope["path"].startswith(OWN_API) or scope["method"] in READING_METHODS:
        return False
    form = Headers(scope=scope).get("content-type", "").lower().startswith("multipart/")
    return not form and scope["path"] not in READING_POSTS


def _key(scope: Scope) -> str | None:
    """The key, made the principal's own; None if there is none."""
    given = Headers(scope=scope).getlist(HEADER)
    if not given or given == [""]:
        return None
    if len(given) > 1 or len(given[0]) > LONGEST_KEY:
        what = f"{len(given)} values" if len(given) > 1 else f"{len(given[0])} characters"
        raise FwError(
            "invalid_argument",
            f"'Idempotency-Key' has {what}.",
            not_done="nothing was changed",
            hint=f"send one key of at most {LONGEST_KEY} characters, a fresh one for each call",
            param="Idempotency-Key",
        )
    return f"{scope['state']['principal']}/{given[0]}"


def _fingerprint(scope: Scope, body: bytes) -> str:
    """Method and path in words, query and body by their digest."""
    digest = hashlib.sha256(scope["query_string"] + b"\0" + body).hexdigest()
    return f"{scope['method']} {scope['path']} {digest}"


def _given_again(body: bytes, receive: Receive) -> Receive:
    """``receive`` for the app, which gets the body that was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _other_request(scope: Scope, kept: Reply, wanted: str) -> FwError:
    before, now = (one.rpartition(" ")[0] for one in (kept.fingerprint, wanted))
    when = datetime.fromtimestamp(kept.time, UTC).isoformat(timespec="seconds")
    this = "this is one with another body or query" if before == now else f"this is {now[:200]}"
    return FwError(
        "already_exists",
        f"The Idempotency-Key was used at {when} for {before[:200]}; {this}.",
        not_done="nothing was changed",
        hint="send a fresh key for each call, and the same key only when the same call is repeated",
        param="Idempotency-Key",
    )
