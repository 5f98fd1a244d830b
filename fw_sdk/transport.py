"""The two drivers that send calls: one synchronous, one asynchronous, with the same decisions on the same values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import httpx

from fw_sdk.calls import Call, EventStream, Listing, Request
from fw_sdk.connection import Connection
from fw_sdk.exceptions import typed
from fw_sdk.replies import RawResponse, parse_reply, reply_error
from fw_sdk.retries import connection_error
from fw_sdk.streams import EventCursor
from fw_sdk.types import FwError

T = TypeVar("T")


class SyncTransport:
    """Runs operations on an ``httpx.Client``: its own, or a given one, which it never closes."""

    def __init__(self, connection: Connection, http: httpx.Client | None = None) -> None:
        if http is not None and not isinstance(http, httpx.Client):
            raise _wrong_pool(http, "httpx.Client")
        self.connection = connection
        self._owned = http is None
        self._http = http or httpx.Client(**connection.pool_options())

    def sharing(self, connection: Connection) -> SyncTransport:
        """The same pool with other options."""
        return SyncTransport(connection, self._http)

    def close(self) -> None:
        """Close the connections, unless another owns them."""
        if self._owned:
            self._http.close()

    def run(self, request: Request[T]) -> T:
        """Perform the calls and pauses of ``request``; its result."""
        return self.run_raw(request).parse()

    def run_raw(self, request: Request[T]) -> RawResponse[T]:
        """``run`` with the last reply around the result."""
        steps = iter(request)
        last: RawResponse[Any] | None = None
        try:
            effect = next(steps)
            while True:
                try:
                    if isinstance(effect, Call):
                        last = self._send(effect)
                    else:
                        time.sleep(effect.seconds)
                except FwError as error:
                    effect = steps.throw(typed(error))
                else:
                    effect = steps.send(last.parse() if last and isinstance(effect, Call) else None)
        except StopIteration as stop:
            assert last is not None, "every operation sends something"
            return last.with_value(stop.value)
        except FwError as error:
            raise typed(error) from error.__cause__

    def walk(self, listing: Listing[T]) -> Iterator[T]:
        """Every item of every page, fetched as needed."""
        for page in self.walk_raw(listing):
            yield from page.parse()

    def walk_raw(self, listing: Listing[T]) -> Iterator[RawResponse[list[T]]]:
        """Every page, fetched as needed."""
        token: str | None = None
        while True:
            page = self._send(listing.page(token))
            items, token = page.parse()
            yield page.with_value(items)
            if not token:
                return

    def stream(self, stream: EventStream[T]) -> Iterator[T]:
        """Values of the events of a stream, connecting again as it allows."""
        cursor = EventCursor(stream)
        while True:
            try:
                for piece in self._pieces(cursor.call()):
                    yield from cursor.feed(piece)
                rest = self.run(stream.rest(cursor.event_id)) if stream.rest else []
                if rest is not None:
                    yield from rest
                    return
                delay = cursor.ended_s()
            except (httpx.TransportError, FwError) as error:
                delay = cursor.dropped_s(error, self.connection.base_url)
            time.sleep(delay)

    def _send(self, call: Call[T]) -> RawResponse[T]:
        headers = self.connection.headers_of(call)
        attempt = 0
        while True:
            with ExitStack() as files:
                outcome: httpx.Response | httpx.TransportError
                try:
                    outcome = self._http.request(**self.connection.arguments(call, headers, files))
                except httpx.TransportError as error:
                    outcome = error
            delay = self.connection.next_delay_s(call, attempt, outcome)
            if delay is None:
                return _settle(call, outcome, self.connection.base_url)
            attempt += 1
            time.sleep(delay)

    def _pieces(self, call: Call[None]) -> Iterator[bytes]:
        with ExitStack() as files:
            arguments = self.connection.stream_arguments(call, files)
            with self._http.stream(**arguments) as response:
                if not response.is_success:
                    response.read()
                    raise reply_error(response)
                yield from response.iter_bytes()


class AsyncTransport:
    """Runs operations on an ``httpx.AsyncClient``; the mirror of ``SyncTransport``."""

    def __init__(self, connection: Connection, http: httpx.AsyncClient | None = None) -> None:
        if http is not None and not isinstance(http, httpx.AsyncClient):
            raise _wrong_pool(http, "httpx.AsyncClient")
        self.connection = connection
        self._owned = http is None
        self._http = http or httpx.AsyncClient(**connection.pool_options())

    def sharing(self, connection: Connection) -> AsyncTransport:
        """The same pool with other options."""
        return AsyncTransport(connection, self._http)

    async def aclose(self) -> None:
        """Close the connections, unless another owns them."""
        if self._owned:
            await self._http.aclose()

    async def run(self, request: Request[T]) -> T:
        """Perform the calls and pauses of ``request``; its result."""
        return (await self.run_raw(request)).parse()

    async def run_raw(self, request: Request[T]) -> RawResponse[T]:
        """``run`` with the last reply around the result."""
        steps = iter(request)
        last: RawResponse[Any] | None = None
        try:
            effect = next(steps)
            while True:
                try:
                    if isinstance(effect, Call):
                        last = await self._send(effect)
                    else:
                        await asyncio.sleep(effect.seconds)
                except FwError as error:
                    effect = steps.throw(typed(error))
                else:
                    effect = steps.send(last.parse() if last and isinstance(effect, Call) else None)
        except StopIteration as stop:
            assert last is not None, "every operation sends something"
            return last.with_value(stop.value)
        except FwError as error:
            raise typed(error) from error.__cause__

    async def walk(self, listing: Listing[T]) -> AsyncIterator[T]:
        """Every item of every page, fetched as needed."""
        async for page in self.walk_raw(listing):
            for item in page.parse():
                yield item

    async def walk_raw(self, listing: Listing[T]) -> AsyncIterator[RawResponse[list[T]]]:
        """Every page, fetched as needed."""
        token: str | None = None
        while True:
            page = await self._send(listing.page(token))
            items, token = page.parse()
            yield page.with_value(items)
            if not token:
                return

    async def stream(self, stream: EventStream[T]) -> AsyncIterator[T]:
        """Values of the events of a stream, connecting again as it allows."""
        cursor = EventCursor(stream)
        while True:
            try:
                async for piece in self._pieces(cursor.call()):
                    for value in cursor.feed(piece):
                        yield value
                rest = await self.run(stream.rest(cursor.event_id)) if stream.rest else []
                if rest is not None:
                    for value in rest:
                        yield value
                    return
                delay = cursor.ended_s()
            except (httpx.TransportError, FwError) as error:
                delay = cursor.dropped_s(error, self.connection.base_url)
            await asyncio.sleep(delay)

    async def _send(self, call: Call[T]) -> RawResponse[T]:
        headers = self.connection.headers_of(call)
        attempt = 0
        while True:
            with ExitStack() as files:
                outcome: httpx.Response | httpx.TransportError
                try:
                    outcome = await self._http.request(**self.connection.arguments(call, headers, files))
                except httpx.TransportError as error:
                    outcome = error
            delay = self.connection.next_delay_s(call, attempt, outcome)
            if delay is None:
                return _settle(call, outcome, self.connection.base_url)
            attempt += 1
            await asyncio.sleep(delay)

    async def _pieces(self, call: Call[None]) -> AsyncIterator[bytes]:
        with ExitStack() as files:
            arguments = self.connection.stream_arguments(call, files)
            async with self._http.stream(**arguments) as response:
                if not response.is_success:
                    await response.aread()
                    raise reply_error(response)
                async for piece in response.aiter_bytes():
                    yield piece


class RawTransport:
    """Gives the replies of another transport instead of their values."""

    def __init__(self, transport: SyncTransport | AsyncTransport) -> None:
        self.connection = transport.connection
        self.run = transport.run_raw
        self.walk = transport.walk_raw

    def close(self) -> None:
        """Nothing: the connections are the other transport's."""

    async def aclose(self) -> None:
        """Nothing either."""

    def stream(self, stream: EventStream[Any]) -> Any:
        """Refused: a stream may take several connections."""
        raise typed(
            FwError(
                "invalid_argument",
                f"{stream.call.method} {stream.call.path} is a stream of events, which has no one raw response",
                not_done="nothing was sent",
                hint="leave out with_raw_response",
            )
        )


Transport = SyncTransport | AsyncTransport | RawTransport


def _settle(call: Call[T], outcome: httpx.Response | httpx.TransportError, url: str) -> RawResponse[T]:
    if isinstance(outcome, httpx.TransportError):
        raise typed(connection_error(outcome, url)) from outcome
    return parse_reply(call, outcome)


def of_raw_client() -> FwError:
    """The error of asking a client of raw responses for options."""
    return typed(
        FwError("invalid_argument", "Options come first", hint="client.with_options(…).with_raw_response.jobs.get(…)")
    )


def _wrong_pool(given: object, wanted: str) -> FwError:
    return typed(
        FwError(
            "invalid_argument",
            f"http_client must be an {wanted}, got {type(given).__name__}",
            not_done="no client was made",
            param="http_client",
        )
    )
