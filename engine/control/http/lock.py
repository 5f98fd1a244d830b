"""One daemon per home: a lock that the kernel gives back when the daemon dies, however it dies."""

from __future__ import annotations

import fcntl
import os

from engine.jobs.files import read_json
from fw_sdk.types import FwError
from fw_sdk.types.home import Home


class HomeLock:
    """Held by the daemon of one home from before it opens the store until it ends."""

    def __init__(self, home: Home) -> None:
        """Take the lock; ``failed_precondition`` naming the holder if another daemon has it."""
        self._descriptor = os.open(home.root / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise _held(home) from None

    def release(self) -> None:
        """Give the lock back; again is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _held(home: Home) -> FwError:
    daemon = read_json(home.daemon_file) or {}
    who = f" (pid {daemon['pid']}, {daemon['url']})" if daemon.get("pid") else ""
    return FwError(
        "failed_precondition",
        f"Another daemon{who} uses {home.root}.",
        not_done="no second daemon was started",
        hint="use that one, stop it with 'fw down', or set FW_HOME to another folder",
    )
