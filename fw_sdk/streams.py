"""Where an event stream stands: what it gives on, and whether to connect again when a connection ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from fw_sdk.calls import Call, EventStream, SseParser
from fw_sdk.connection import log_retry
from fw_sdk.exceptions import typed
from fw_sdk.retries import connection_error, delay_s, should_retry
from fw_sdk.types import FwError

RECONNECTS = 8
"""How often in a row an event stream is opened again without one event coming through."""


class EventCursor:
    """One stream over all its connections.

    Attributes:
        event_id: of the last whole event; empty before the first one.
    """

    def __init__(self, stream: EventStream[Any]) -> None:
        self._stream = stream
        self.event_id = ""
        self._fresh = False
        self._parser = SseParser()
        self._failures = 0

    def call(self) -> Call[None]:
        """The call that opens the next connection."""
        self._parser, self._fresh = SseParser(), False
        return self._stream.resumed(self.event_id)

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Values of the events that ``piece`` completes."""
        for event in self._parser.feed(piece):
            self.event_id = event.id or self.event_id
            self._fresh, self._failures = True, 0
            yield from self._stream.decode(event)

    def ended_s(self) -> float:
        """A connection ended in peace though more may follow: seconds until the next one."""
        return 0.0 if self._fresh else delay_s(0, {})

    def dropped_s(self, error: httpx.TransportError | FwError, url: str) -> float:
        """A connection broke or was refused: seconds until the next try; raises when there is none."""
        self._failures += 1
        found = error if isinstance(error, FwError) else typed(connection_error(error, url))
        lasting = isinstance(error, FwError) and not should_retry(error, error.http_status)
        if lasting or not self._stream.resume_key or self._failures > RECONNECTS:
            raise found from (error.__cause__ if found is error else error)
        delay = delay_s(self._failures - 1, {})
        log_retry(self._stream.call, self._failures, f"{type(error).__name__}: {error}", delay)
        return delay
