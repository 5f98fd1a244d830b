"""The two drivers that send calls: one synchronous, one asynchronous, with the same decisions on the same values."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx

from fw_sdk.calls import Call, Effect, EventStream, Listing, Request, SseParser, Upload
from fw_sdk.daemon import find_daemon, is_loopback
from fw_sdk.exceptions import from_response, typed
from fw_sdk.retries import connection_error, delay_s, should_retry
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
STREAM_READ_TIMEOUT_S = 60.0
RECONNECTS = 8
"""How often in a row an event stream is opened again without one event coming through."""


@dataclass(frozen=True)
class Connection:
    """Where requests go and how patient they are."""

    base_url: str
    api_key: str
    timeout_s: float
    max_retries: int

    @classmethod
    def find(cls, base_url: str | None, api_key: str | None, timeout_s: float, max_retries: int) -> Connection:
        """What was given, else ``FW_BASE_URL`` and ``FW_API_KEY``, else the home's daemon and its owner's token.

        The token in the home goes to this machine only, never to another host.
        """
        home = Home.from_environment()
        url = base_url or os.environ.get("FW_BASE_URL") or _daemon_url(home)
        key = api_key or os.environ.get("FW_API_KEY") or (home.token() if is_loopback(url) else None)
        if not key:
            raise typed(
                FwError(
                    "unauthenticated",
                    f"No token for {url}",
                    not_done="nothing was sent",
                    hint="set FW_API_KEY or pass api_key",
                )
            )
        return cls(url.rstrip("/"), key, timeout_s, max_retries)

    def options(self) -> dict[str, Any]:
        """Arguments of both httpx clients. A proxy from the environment never sees loopback traffic."""
        return {
            "base_url": self.base_url,
            "timeout": httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S),
            "trust_env": not is_loopback(self.base_url),
        }

    def headers(self, call: Call[Any]) -> dict[str, str]:
        """Headers of one logical call; a POST carries one idempotency key through all of its attempts."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        if call.method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        return headers

    def arguments(self, call: Call[Any], headers: Mapping[str, str], files: ExitStack) -> dict[str, Any]:
        """Arguments of ``httpx.Client.request`` for one attempt; open files are closed with ``files``."""
        arguments: dict[str, Any] = {"method": call.method, "url": call.path, "headers": headers}
        if call.query:
            arguments["params"] = dict(call.query)
        if call.timeout_s is not None:
            arguments["timeout"] = httpx.Timeout(call.timeout_s, connect=CONNECT_TIMEOUT_S)
        if call.upload:
            uploads = {"file": call.upload} if isinstance(call.upload, Upload) else call.upload
            arguments["files"] = {name: _form_file(upload, files) for name, upload in uploads.items()}
        elif call.body is not None:
            arguments["json"] = call.body
        return arguments

    def next_delay_s(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt, or None if ``outcome`` is final."""
        if attempt >= self.max_retries:
            return None
        if isinstance(outcome, httpx.Response):
            if outcome.is_success or not should_retry(reply_error(outcome), outcome.status_code):
                return None
            return delay_s(attempt, outcome.headers)
        lost = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.RemoteProtocolError)
        return delay_s(attempt, {}) if lost or isinstance(outcome, httpx.ReadError | httpx.WriteError) else None


def _form_file(upload: Upload, files: ExitStack) -> tuple[str, IO[bytes] | bytes, str]:
    source = upload.source
    content = files.enter_context(source.open("rb")) if isinstance(source, Path) else source
    return upload.filename, content, "application/jsonl"


def reply_error(response: httpx.Response) -> FwError:
    """The typed error of a reply that is not a success; its body must have been read."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    return from_response(response.status_code, body, response.headers.get("x-request-id"))


def parse_reply(call: Call[T], response: httpx.Response) -> T:
    """The value of a reply, or its typed error."""
    if not response.is_success:
        raise reply_error(response)
    try:
        return call.parse(response.json() if response.content else None)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FwError(
            "internal",
            f"The reply to {call.method} {call.path} is not understood: {type(error).__name__}: {error!s:.300}",
            hint="is the daemon of another version? fw doctor",
            request_id=response.headers.get("x-request-id"),
        ) from error


class EventCursor:
    """Where an event stream stands: what it gives on, and whether to connect again when a connection ends."""

    def __init__(self, stream: EventStream[Any]) -> None:
        self._stream = stream
        self._event_id = ""
        self._fresh = 0
        self._parser = SseParser()
        self._failures = 0
        self.done = False

    def call(self) -> Call[None]:
        """The call that opens the next connection."""
        self._parser, self._fresh = SseParser(), 0
        return self._stream.resumed(self._event_id)

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Values of the events that ``piece`` completes."""
        for event in self._parser.feed(piece):
            self._event_id = event.id or self._event_id
            self._fresh += 1
            self._failures = 0
            for value in self._stream.decode(event):
                self.done = self.done or self._stream.last(value)
                yield value

    def ended(self) -> None:
        """A connection ended in peace: all is said unless it brought something and could bring more."""
        self.done = self.done or not (self._stream.resume_key and self._fresh)

    def dropped(self, error: httpx.TransportError, url: str) -> float:
        """A connection broke: seconds until the next try; raises when there is none."""
        self._failures += 1
        if not self._stream.resume_key or self._failures > RECONNECTS:
            raise typed(connection_error(error, url)) from error
        return delay_s(self._failures - 1, {})


class SyncTransport:
    """Runs operations on an ``httpx.Client``."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = httpx.Client(**connection.options())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, request: Request[T]) -> T:
        """Perform the calls and pauses of ``request``; its result."""
        steps = iter(request)
        try:
            effect = next(steps)
            while True:
                try:
                    outcome = self._perform(effect)
                except FwError as error:
                    effect = steps.throw(typed(error))
                else:
                    effect = steps.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except FwError as error:
            raise typed(error) from error.__cause__

    def walk(self, listing: Listing[T]) -> Iterator[T]:
        """Every item of every page, fetched as needed."""
        token: str | None = None
        while True:
            items, token = self._send(listing.page(token))
            yield from items
            if not token:
                return

    def stream(self, stream: EventStream[T]) -> Iterator[T]:
        """Values of the events of a stream, connecting again as it allows."""
        cursor = EventCursor(stream)
        while not cursor.done:
            try:
                for piece in self._pieces(cursor.call()):
                    yield from cursor.feed(piece)
                    if cursor.done:
                        return
                cursor.ended()
            except httpx.TransportError as error:
                time.sleep(cursor.dropped(error, self.connection.base_url))

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            return self._send(effect)
        time.sleep(effect.seconds)
        return None

    def _send(self, call: Call[T]) -> T:
        headers = self.connection.headers(call)
        attempt = 0
        while True:
            with ExitStack() as files:
                outcome: httpx.Response | httpx.TransportError
                try:
                    outcome = self._http.request(**self.connection.arguments(call, headers, files))
                except httpx.TransportError as error:
                    outcome = error
            delay = self.connection.next_delay_s(attempt, outcome)
            if delay is None:
                return _settle(call, outcome, self.connection.base_url)
            attempt += 1
            time.sleep(delay)

    def _pieces(self, call: Call[None]) -> Iterator[bytes]:
        with ExitStack() as files:
            arguments = _stream_arguments(self.connection, call, files)
            with self._http.stream(**arguments) as response:
                if not response.is_success:
                    response.read()
                    raise reply_error(response)
                yield from response.iter_bytes()


class AsyncTransport:
    """Runs operations on an ``httpx.AsyncClient``; the mirror of ``SyncTransport``."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = httpx.AsyncClient(**connection.options())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, request: Request[T]) -> T:
        """Perform the calls and pauses of ``request``; its result."""
        steps = iter(request)
        try:
            effect = next(steps)
            while True:
                try:
                    outcome = await self._perform(effect)
                except FwError as error:
                    effect = steps.throw(typed(error))
                else:
                    effect = steps.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except FwError as error:
            raise typed(error) from error.__cause__

    async def walk(self, listing: Listing[T]) -> AsyncIterator[T]:
        """Every item of every page, fetched as needed."""
        token: str | None = None
        while True:
            items, token = await self._send(listing.page(token))
            for item in items:
                yield item
            if not token:
                return

    async def stream(self, stream: EventStream[T]) -> AsyncIterator[T]:
        """Values of the events of a stream, connecting again as it allows."""
        cursor = EventCursor(stream)
        while not cursor.done:
            try:
                async for piece in self._pieces(cursor.call()):
                    for value in cursor.feed(piece):
                        yield value
                    if cursor.done:
                        return
                cursor.ended()
            except httpx.TransportError as error:
                await asyncio.sleep(cursor.dropped(error, self.connection.base_url))

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            return await self._send(effect)
        await asyncio.sleep(effect.seconds)
        return None

    async def _send(self, call: Call[T]) -> T:
        headers = self.connection.headers(call)
        attempt = 0
        while True:
            with ExitStack() as files:
                outcome: httpx.Response | httpx.TransportError
                try:
                    outcome = await self._http.request(**self.connection.arguments(call, headers, files))
                except httpx.TransportError as error:
                    outcome = error
            delay = self.connection.next_delay_s(attempt, outcome)
            if delay is None:
                return _settle(call, outcome, self.connection.base_url)
            attempt += 1
            await asyncio.sleep(delay)

    async def _pieces(self, call: Call[None]) -> AsyncIterator[bytes]:
        with ExitStack() as files:
            arguments = _stream_arguments(self.connection, call, files)
            async with self._http.stream(**arguments) as response:
                if not response.is_success:
                    await response.aread()
                    raise reply_error(response)
                async for piece in response.aiter_bytes():
                    yield piece


def _settle(call: Call[T], outcome: httpx.Response | httpx.TransportError, url: str) -> T:
    if isinstance(outcome, httpx.TransportError):
        raise typed(connection_error(outcome, url)) from outcome
    return parse_reply(call, outcome)


def _stream_arguments(connection: Connection, call: Call[None], files: ExitStack) -> dict[str, Any]:
    arguments = connection.arguments(call, {**connection.headers(call), "Accept": "text/event-stream"}, files)
    arguments["timeout"] = httpx.Timeout(STREAM_READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return arguments


def _daemon_url(home: Home) -> str:
    daemon = find_daemon(home)
    if daemon is None:
        raise typed(
            FwError(
                "unavailable",
                f"No daemon runs for {home.root}",
                not_done="nothing was sent",
                hint="fw up --detach",
                retryable=False,
            )
        )
    return daemon.url
