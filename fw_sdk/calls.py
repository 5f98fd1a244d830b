"""What an operation is before anyone sends it: plain values that a synchronous and an asynchronous driver both run.

An operation returns one of three values: a ``Request`` (one call, or a generator of calls and pauses that ends in a
result), a ``Listing`` (pages to walk) or an ``EventStream`` (server-sent events). Because both clients are built from
the same definitions, they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from fw_sdk.types import ACCOUNT

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

CONTROL = f"/v1/accounts/{ACCOUNT}"


@dataclass(frozen=True)
class Upload:
    """A file for a multipart field, ``file`` unless a call names another; a path is opened anew for every attempt."""

    filename: str
    source: Path | bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """One HTTP request and how its JSON reply becomes a value.

    ``timeout_s`` replaces the client's read timeout where the server may take longer than usual to answer.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    upload: Upload | Mapping[str, Upload] | None = None
    timeout_s: float | None = None

    def __iter__(self) -> Generator[Effect, Any, T]:
        """Makes ``value = yield from call`` work, and a single call a ``Request``."""
        result: T = yield self
        return result


@dataclass(frozen=True)
class Pause:
    """Wait before the next call."""

    seconds: float


Effect = Call[Any] | Pause
Steps = Generator[Effect, Any, T]


class Request(Protocol[T_co]):
    """Anything that yields calls and pauses and returns a result."""

    def __iter__(self) -> Generator[Effect, Any, T_co]:
        """The steps."""
        ...


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A list that the server gives page by page under ``key``."""

    path: str
    key: str
    parse: Callable[[Any], T]
    page_size: int = 50

    def page(self, token: str | None) -> Call[tuple[list[T], str | None]]:
        """The call for the page behind ``token``; its value is (items, token of the next page)."""
        query = {"pageSize": self.page_size, **({"pageToken": token} if token else {})}
        return Call("GET", self.path, self._parse_page, query=query)

    def _parse_page(self, body: Any) -> tuple[list[T], str | None]:
        return [self.parse(item) for item in body.get(self.key, [])], body.get("nextPageToken") or None


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream; ``id`` is empty where the server gave none."""

    data: str
    event: str = "message"
    id: str = ""


@dataclass(frozen=True)
class EventStream(Generic[T]):
    """Server-sent events as values.

    ``decode`` returns the values of one event. With ``resume_key`` a dropped connection is opened again with that
    query parameter set to the last event's id; without it a drop is an error. ``rest`` is asked when a connection
    ended in peace behind the event of an id: it returns the values still to come, or None if more may follow.
    """

    call: Call[None]
    decode: Callable[[ServerSentEvent], list[T]]
    resume_key: str | None = None
    rest: Callable[[str], Request[list[T] | None]] | None = None

    def resumed(self, event_id: str) -> Call[None]:
        """The call that goes on behind ``event_id``."""
        if not self.resume_key or not event_id:
            return self.call
        return replace(self.call, query={**self.call.query, self.resume_key: event_id})


class SseParser:
    """Bytes of ``text/event-stream`` to events, in whatever pieces they come.

    Lines end with LF or CR LF and nothing else: text may hold other characters that Python calls line breaks.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._event = ""
        self._id = ""

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that ``piece`` completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event:
                yield event

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value
        return None

    def _complete(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent("\n".join(data), event or "message", self._id) if data else None
