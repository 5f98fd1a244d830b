"""When a request is sent again and how long to wait before it; pure functions for both transports."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from fw_sdk.types import FwError

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0


def delay_s(attempt: int, headers: Mapping[str, str]) -> float:
    """Seconds before attempt ``attempt + 1``: what the server asked for, else doubling from 0.5 to 8 with jitter."""
    asked = retry_after_s(headers)
    if asked is not None:
        return asked
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * float(2**attempt))
    return longest * (1 - 0.25 * random.random())


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``retry-after-ms`` or ``retry-after`` (a number or a date) ask for; None if absent or absurd."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        elif value.strip().replace(".", "", 1).isdigit():
            seconds = float(value)
        else:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds <= LONGEST_RETRY_AFTER_S else None


def reply_asks_for_retry(error: FwError, status: int, headers: Mapping[str, str]) -> bool:
    """Whether to send again after an error reply: ``x-should-retry`` says it, else ``should_retry`` does."""
    said = headers.get("x-should-retry", "").strip().lower()
    return said == "true" if said in ("true", "false") else should_retry(error, status)


def should_retry(error: FwError, status: int) -> bool:
    """Whether a reply asks for another attempt. A wait that timed out is the caller's to repeat."""
    return error.retryable and error.code != "deadline_exceeded" if status not in (429, 503) else error.retryable


def connection_error(error: httpx.TransportError, url: str) -> FwError:
    """The typed error for a request that got no reply, in the words of someone who wants it to work."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return FwError(
            "deadline_exceeded",
            f"No reply from {url} in time",
            hint="raise timeout_s, or see `fw logs`",
        )
    return FwError(
        "unavailable",
        f"Cannot reach {url}: {str(error) or type(error).__name__}",
        not_done="nothing was sent to the end",
        hint="`fw status` says whether the daemon runs; `fw up --detach` starts it",
    )
