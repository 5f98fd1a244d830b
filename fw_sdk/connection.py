"""Where requests go, what they carry, and when one is sent again: the decisions that both drivers share."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version as package_version
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from fw_sdk.calls import Call, Upload
from fw_sdk.daemon import find_daemon, is_loopback
from fw_sdk.exceptions import typed
from fw_sdk.replies import reply_error
from fw_sdk.retries import delay_s, reply_asks_for_retry
from fw_sdk.types import FwError
from fw_sdk.types.home import Home, checked_token

CONNECT_TIMEOUT_S = 5.0
STREAM_READ_TIMEOUT_S = 60.0
_API_SUFFIX = re.compile(r"(/inference)?(/v1)?/*\Z")

log = logging.getLogger("fw_sdk")


@dataclass(frozen=True)
class Connection:
    """Where requests go and how patient they are; ``headers`` are sent with each beside our own."""

    base_url: str
    api_key: str
    timeout_s: float
    max_retries: int
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def find(cls, base_url: str | None, api_key: str | None, timeout_s: float, max_retries: int) -> Connection:
        """What was given, else ``FW_BASE_URL`` and ``FW_API_KEY``, else the home's daemon and its owner's token.

        The token in the home goes to this machine only, never to another host.
        """
        home = Home.from_environment()
        url = server_root(base_url or os.environ.get("FW_BASE_URL") or _daemon_url(home))
        if api_key is None:
            api_key = os.environ.get("FW_API_KEY", "").strip() or (_token_of(home) if is_loopback(url) else "")
        return cls(url, _key(api_key, url), timeout_s, max_retries)

    def changed(
        self,
        *,
        api_key: str | None,
        timeout_s: float | None,
        max_retries: int | None,
        headers: Mapping[str, str] | None,
    ) -> Connection:
        """The same with what is given in the place of what was; ``headers`` are added."""
        return replace(
            self,
            api_key=self.api_key if api_key is None else _key(api_key, self.base_url),
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            max_retries=self.max_retries if max_retries is None else max_retries,
            headers=(*self.headers, *(headers or {}).items()),
        )

    def pool_options(self) -> dict[str, Any]:
        """Arguments of both httpx clients. A proxy from the environment never sees loopback traffic."""
        return {"trust_env": not is_loopback(self.base_url)}

    def headers_of(self, call: Call[Any]) -> dict[str, str]:
        """Headers of one logical call; whatever may change something has one idempotency key for all its attempts."""
        headers = {"Authorization": f"Bearer {self.api_key}", "User-Agent": _user_agent()}
        if call.method != "GET":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        return headers | dict(self.headers)

    def arguments(self, call: Call[Any], headers: Mapping[str, str], files: ExitStack) -> dict[str, Any]:
        """Arguments of ``httpx.Client.request`` for one attempt; open files are closed with ``files``."""
        timeout_s = self.timeout_s if call.timeout_s is None else call.timeout_s
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": f"{self.base_url}{call.path}",
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        }
        if call.query:
            arguments["params"] = dict(call.query)
        if call.upload:
            uploads = {"file": call.upload} if isinstance(call.upload, Upload) else call.upload
            arguments["files"] = {name: _form_file(upload, files) for name, upload in uploads.items()}
        elif call.body is not None:
            arguments["content"] = _json(call)
            arguments["headers"] = {**headers, "Content-Type": "application/json"}
        return arguments

    def stream_arguments(self, call: Call[None], files: ExitStack) -> dict[str, Any]:
        """``arguments`` of a call whose reply is read as it comes."""
        arguments = self.arguments(call, {**self.headers_of(call), "Accept": "text/event-stream"}, files)
        arguments["timeout"] = httpx.Timeout(STREAM_READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        return arguments

    def next_delay_s(
        self, call: Call[Any], attempt: int, outcome: httpx.Response | httpx.TransportError
    ) -> float | None:
        """Seconds until the next attempt, or None if ``outcome`` is final; each retry is logged."""
        if attempt >= self.max_retries or not _may_retry(outcome):
            return None
        response = outcome if isinstance(outcome, httpx.Response) else None
        delay = delay_s(attempt, response.headers if response is not None else {})
        reason = f"status {response.status_code}" if response is not None else f"{type(outcome).__name__}: {outcome}"
        log_retry(call, attempt + 1, reason, delay)
        return delay


def log_retry(call: Call[Any], attempt: int, reason: str, wait_s: float) -> None:
    """Say at level INFO that ``call`` is sent again, and why."""
    log.info("retry %d of %s %s in %.2f s: %s", attempt, call.method, call.path, wait_s, reason)


def server_root(base_url: str) -> str:
    """The server's root: ``/v1``, ``/inference/v1`` and slashes at the end, as other clients write them, go."""
    root = _API_SUFFIX.sub("", base_url.strip().rstrip("/"), count=1)
    try:
        parts = urlsplit(root)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        parts.port  # noqa: B018  raises if it is no number
    except ValueError:
        whole = False
    if not whole:
        raise typed(
            FwError(
                "invalid_argument",
                f"base_url {base_url!r:.200} is not a server's address",
                not_done="nothing was sent",
                hint="write it like http://127.0.0.1:8642",
                param="base_url",
            )
        )
    return root


def _key(key: str, url: str) -> str:
    if not key.strip():
        raise typed(
            FwError(
                "unauthenticated",
                f"No token for {url}",
                not_done="nothing was sent",
                hint="set FW_API_KEY or pass api_key",
            )
        )
    try:
        return checked_token(key, "The API key")
    except FwError as error:
        raise typed(error) from None


def _token_of(home: Home) -> str:
    try:
        return home.token()
    except FwError as error:
        raise typed(error) from error.__cause__


def _may_retry(outcome: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(outcome, httpx.Response):
        return not outcome.is_success and reply_asks_for_retry(
            reply_error(outcome), outcome.status_code, outcome.headers
        )
    lost = (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
    return isinstance(outcome, lost)


def _json(call: Call[Any]) -> bytes:
    try:
        return json.dumps(call.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise typed(
            FwError("invalid_argument", f"The request cannot be written as JSON: {error}", not_done="nothing was sent")
        ) from None


def _form_file(upload: Upload, files: ExitStack) -> tuple[str, IO[bytes] | bytes, str]:
    source = upload.source
    content = files.enter_context(source.open("rb")) if isinstance(source, Path) else source
    return upload.filename.encode("utf-8", "replace").decode(), content, "application/jsonl"


@cache
def _user_agent() -> str:
    return f"fw-python/{package_version('fw')}"


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
