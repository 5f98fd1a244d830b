"""What came back: the value of a reply, its typed error, and the reply itself for those who want its headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import httpx

from fw_sdk.calls import Call
from fw_sdk.exceptions import from_response
from fw_sdk.types import FwError, Wire

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class RawResponse(Generic[T]):
    """A reply with its value. An operation of several calls has the last one's.

    Attributes:
        status_code: the HTTP status.
        headers: by name, in any case.
        text: the body.
    """

    status_code: int
    headers: Mapping[str, str]
    text: str = field(repr=False)
    _value: T = field(repr=False)

    @property
    def request_id(self) -> str | None:
        """The server's id of the request; its log has the same."""
        return self.headers.get("x-request-id")

    def parse(self) -> T:
        """What the method gives without ``with_raw_response``."""
        return self._value

    def with_value(self, value: S) -> RawResponse[S]:
        """The same reply with another value."""
        return replace(self, _value=value)  # type: ignore[arg-type,return-value]


def reply_error(response: httpx.Response) -> FwError:
    """The typed error of a reply that is not a success; its body must have been read."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    return from_response(response.status_code, body, response.headers.get("x-request-id"))


def parse_reply(call: Call[T], response: httpx.Response) -> RawResponse[T]:
    """A reply with its value; raises its typed error."""
    if not response.is_success:
        raise reply_error(response)
    request_id = response.headers.get("x-request-id")
    try:
        value = call.parse(response.json() if response.content else None)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FwError(
            "internal",
            f"The reply to {call.method} {call.path} is not understood: {type(error).__name__}: {error!s:.300}",
            hint="is the daemon of another version? fw doctor",
            request_id=request_id,
        ) from error
    if isinstance(value, Wire):
        value.came_with(request_id)
    return RawResponse(response.status_code, response.headers, response.text, value)
