"""The daemon seen from outside: finding the one of a home, and starting it if none runs."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from fw_sdk.exceptions import from_fields, typed
from fw_sdk.types import FwError, Health
from fw_sdk.types.home import DEFAULT_PORT, Home

START_TIMEOUT_S = 60.0
MAX_PORT = 65_535
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Daemon:
    """A daemon as ``daemon.json`` describes it."""

    url: str
    pid: int
    start_ticks: int
    version: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a pid alone may have been given to another)."""
        from fw_sdk.types.process import ProcessId  # psutil would slow down every command that needs no daemon

        return ProcessId(self.pid, self.start_ticks).alive


def find_daemon(home: Home) -> Daemon | None:
    """The living daemon of ``home``, or None. Sends nothing."""
    try:
        fields = json.loads(home.daemon_file.read_bytes())
        daemon = Daemon(fields["url"], int(fields["pid"]), int(fields["startTicks"]), str(fields.get("version", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return daemon if daemon.alive else None


def read_health(url: str, *, timeout_s: float = 5.0) -> Health | None:
    """The reply of ``/v1/health``, or None if nothing of ours answers there."""
    try:
        reply = httpx.get(f"{url}/v1/health", timeout=timeout_s, trust_env=not is_loopback(url))
        return Health.model_validate(reply.json()) if reply.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    return urlsplit(url).hostname in LOOPBACK


def ensure_daemon(home: Home, *, port: int | None = None) -> str:
    """The url of the home's daemon; starts one if none runs, once even if several processes ask at the same time.

    Args:
        home: whose daemon.
        port: where a new one listens; ``FW_PORT`` or 8642 by default, 0 takes a free one.

    Raises:
        FailedPreconditionError: the daemon that runs is of another version.
        PortInUseError, UnavailableError: it could not be started; ``details["log"]`` has the end of its log.
    """
    running = _healthy(home)
    if running is None:
        with _start_lock(home):
            running = _healthy(home) or _start(home, default_port() if port is None else port)
    return running.url


def default_port() -> int:
    """``FW_PORT``, else 8642; ``FwError`` if that is no port."""
    value = os.environ.get("FW_PORT", "").strip() or str(DEFAULT_PORT)
    if not (value.isascii() and value.isdigit()) or int(value) > MAX_PORT:
        raise FwError(
            "invalid_argument",
            f"FW_PORT is '{value}', which is not a port",
            not_done="nothing was started",
            hint=f"set FW_PORT to a number from 0 to {MAX_PORT}; 0 takes a free port",
            param="FW_PORT",
        )
    return int(value)


def _healthy(home: Home) -> Daemon | None:
    daemon = find_daemon(home)
    health = read_health(daemon.url) if daemon else None
    if daemon is None or health is None:
        return None
    ours = package_version("fw")
    if health.version != ours:
        raise typed(
            FwError(
                "failed_precondition",
                f"The daemon at {daemon.url} is fw {health.version}, this is fw {ours}",
                not_done="nothing was started",
                hint="fw down && fw up --detach (running jobs live on)",
            )
        )
    return daemon


@contextmanager
def _start_lock(home: Home) -> Iterator[None]:
    home.prepare()
    with (home.root / "daemon.start.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(home: Home, port: int) -> Daemon:
    from fw_sdk.types.process import python_environment

    log = home.logs / "daemon.log"
    command = [sys.executable, "-m", "fw_sdk.cli", "up", "--port", str(port)]
    environment = {**python_environment(os.environ), "FW_HOME": str(home.root), "FW_FORMAT": "json"}
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=home.root,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        daemon = _healthy(home)
        if daemon and daemon.pid == process.pid:
            return daemon
        time.sleep(0.1)
    running = process.poll() is None
    if running:
        process.terminate()
        process.wait(timeout=10)
    raise _start_error(log, begin, f"did not answer within {START_TIMEOUT_S:g} s" if running else "ended at once")


def _start_error(log: Path, begin: int, what: str) -> FwError:
    """The error that the daemon itself printed as its last words, else one with the end of its log."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else None
    except ValueError:
        last = None
    if isinstance(last, dict) and isinstance(last.get("error"), dict):
        return from_fields(last["error"])
    tail = lines[-15:]
    return typed(
        FwError(
            "unavailable",
            f"The daemon {what}: {tail[-1] if tail else 'its log is empty'}",
            not_done="no daemon runs",
            hint=f"read {log}; `fw up` starts it in the foreground",
            details={"log": tail},
            retryable=False,
        )
    )
