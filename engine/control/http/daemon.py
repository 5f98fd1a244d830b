"""The daemon's process: its port, its file, its log, its signals."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from logging.handlers import RotatingFileHandler
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from engine.control.http.app import Mount, create_app
from engine.control.http.protocol import Protocol
from engine.control.settings import Settings
from engine.jobs.files import read_json, write_json
from engine.jobs.process import ProcessId
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

HOST = "127.0.0.1"
GRACE_S = 3
"""How long requests under way may go on once the daemon was asked to stop."""

END_S = 9.0
"""When the process ends at the latest after that, whatever hangs; cancelled jobs get their own time on top."""

LOG_BYTES = 20 * 1024**2
DESCRIPTORS = 65_536
TELL_AGAIN_S = 60.0

log = logging.getLogger("fw.daemon")


def serve(home: Home, port: int, mounts: Sequence[Mount] = ()) -> None:
    """Run the control plane of ``home`` on ``127.0.0.1:port`` (0: a free one) until SIGTERM, SIGINT or ``:shutdown``.

    Raises:
        FwError: ``port_in_use``; ``failed_precondition`` if another daemon holds the home or the database is newer.
    """
    raise_descriptor_limit()
    with _writable(home), _listening(home, port) as listener, _logging(home):
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        app = create_app(home, Settings(base_url=url), tuple(mounts))
        server = _Server(app)
        app.state.stop = server.ask_to_stop
        log.info("fw %s listens on %s, home %s, pid %d", version("fw"), url, home.root, os.getpid())
        with _daemon_file(home, url):
            server.run(sockets=[listener])
            if not server.started:
                raise FwError("internal", "The daemon could not start.", hint=f"read {home.logs / 'daemon.log'}")
            log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, which lets waiting clients go when it is asked to stop."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self._services, self._ending = app.state.services, app.state.ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        asyncio.get_running_loop().set_exception_handler(LoopErrors())
        await super().startup(sockets)

    def ask_to_stop(self) -> None:
        """Stop accepting requests, end streams, then end; jobs, and workers unless told otherwise, live on."""
        if not self.should_exit:
            for_jobs_s = 0.0 if self._ending.keep_jobs else self._services.settings.cancel_grace_s + 5
            last = threading.Timer(END_S + for_jobs_s, self._end_now)
            last.daemon = True
            last.start()
        self.should_exit = True
        self._services.jobs.changes.close()

    def _end_now(self) -> None:
        """End the process although something hangs: a thread that nothing can stop must not keep it alive."""
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
        log.error("still stopping after %.0f s; the process ends now. Threads: %s", END_S, names)
        if not self._ending.keep_workers:
            self._services.workers.kill()
        logging.shutdown()
        os._exit(1)

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGTERM and SIGINT: as ``ask_to_stop``; a second SIGINT does not wait for requests."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.ask_to_stop()


def raise_descriptor_limit() -> None:
    """Allow this process as many open files and connections as it may have; many clients each hold one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LoopErrors:
    """The event loop's handler of errors that no request has: one line in a while where descriptors run out.

    The loop tries to accept again after a second, but tells each of thousands of failed attempts with a traceback.
    """

    def __init__(self) -> None:
        self._told = -TELL_AGAIN_S

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take one error."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif loop.time() - self._told > TELL_AGAIN_S:
            self._told = loop.time()
            log.error("No more connections can be accepted: %s. Close some, or raise 'ulimit -n'.", error.strerror)


@contextmanager
def _writable(home: Home) -> Iterator[None]:
    """The home with its folders; a typed error where it cannot be made or written."""
    try:
        home.prepare()
        with tempfile.TemporaryFile(dir=home.root):
            pass
    except OSError as error:
        raise FwError(
            "failed_precondition",
            f"FW_HOME {home.root} cannot be used: {error.strerror} ({error.filename or home.root}).",
            not_done="no daemon was started",
            hint="make it a folder that you may write, or set FW_HOME to another one",
        ) from error
    yield


@contextmanager
def _listening(home: Home, port: int) -> Iterator[socket.socket]:
    """The bound socket. Binding comes first, so that a second daemon changes nothing."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((HOST, port))
            listener.listen(2048)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _cannot_listen(port, error) from None
            raise _port_in_use(home, port) from None
        yield listener
    finally:
        listener.close()


def _port_in_use(home: Home, port: int) -> FwError:
    return FwError(
        "port_in_use",
        f"Port {port} is in use by {_who_listens(home, port)}.",
        not_done="no daemon was started",
        hint="use that daemon, or start this one with --port 0 or FW_PORT",
    )


def _who_listens(home: Home, port: int) -> str:
    try:
        body = httpx.get(f"http://{HOST}:{port}/v1/health", timeout=2.0, trust_env=False).json()
        pid = int(body["pid"]) if "evaluatorIsolation" in body else 0
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        pid = 0
    if not pid:
        return "another program"
    daemon = read_json(home.daemon_file) or {}
    return f"the fw daemon of {'this' if daemon.get('pid') == pid else 'another'} home (pid {pid})"


def _cannot_listen(port: int, error: OSError) -> FwError:
    message = f"Cannot listen on {HOST}:{port}: {error.strerror}."
    return FwError("invalid_argument", message, not_done="no daemon was started", param="port")


@contextmanager
def _daemon_file(home: Home, url: str) -> Iterator[None]:
    """``daemon.json`` for as long as this daemon runs."""
    me = ProcessId.of(os.getpid())
    assert me is not None
    write_json(home.daemon_file, {"url": url, **me.to_json(), "version": version("fw")})
    try:
        yield
    finally:
        if (read_json(home.daemon_file) or {}).get("pid") == me.pid:
            home.daemon_file.unlink(missing_ok=True)


@contextmanager
def _logging(home: Home) -> Iterator[None]:
    """Log to ``logs/daemon.log``, and to a terminal if there is one."""
    handlers: list[logging.Handler] = [
        RotatingFileHandler(home.logs / "daemon.log", maxBytes=LOG_BYTES, backupCount=1, delay=True)
    ]
    if sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "alembic", "uvicorn.error", "mcp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
