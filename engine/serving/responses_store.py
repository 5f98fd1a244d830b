"""Finished responses, kept in memory for a while so that others can continue them."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.serving.talk import Message
from fw_sdk.types import FwError

TTL_S = 3600.0
MAX_RESPONSES = 1000
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Stored:
    """One response.

    Attributes:
        body: as it was answered.
        messages: the conversation up to its end, without instructions.
        tenant: who may have it.
        size: about how many bytes it takes.
        expires: on the monotonic clock, in seconds.
    """

    body: dict[str, Any]
    messages: tuple[Message, ...]
    tenant: str
    size: int
    expires: float


class ResponseStore:
    """The responses of one worker, the oldest given up first when they are too many, too large or too old."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def put(self, body: dict[str, Any], messages: Sequence[Message], tenant: str) -> None:
        """Keep a finished response."""
        size = len(json.dumps([body, messages]))
        self._items[body["id"]] = Stored(body, tuple(messages), tenant, size, time.monotonic() + TTL_S)
        self._bytes += size
        while self._items and (len(self._items) > MAX_RESPONSES or self._bytes > MAX_BYTES or self._oldest_is_over()):
            self._remove(next(iter(self._items)))

    def get(self, identifier: str, tenant: str, param: str | None = None) -> Stored:
        """A kept response; ``not_found`` if it never was, is somebody else's, or has been given up."""
        while self._items and self._oldest_is_over():
            self._remove(next(iter(self._items)))
        found = self._items.get(identifier)
        if found is None or found.tenant != tenant:
            raise FwError(
                "not_found",
                f"there is no response '{identifier:.80}'",
                not_done="nothing was generated" if param else "",
                hint=f"responses are kept for {TTL_S / 60:.0f} minutes, in the memory of the worker that gave them; "
                "send the whole conversation as input instead",
                param=param,
            )
        return found

    def delete(self, identifier: str, tenant: str) -> None:
        """Give one up; raises as ``get``."""
        self.get(identifier, tenant)
        self._remove(identifier)

    def _oldest_is_over(self) -> bool:
        return next(iter(self._items.values())).expires <= time.monotonic()

    def _remove(self, identifier: str) -> None:
        self._bytes -= self._items.pop(identifier).size
