"""Which process a pid really is, and what a Python process that we start finds in its environment.

A pid alone may have been given to another process, a pid with its start time may not.

Not imported by ``fw_sdk.types`` itself: psutil would slow every command down.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessId:
    """A pid and when that process started, in clock ticks since the machine did: setting the clock changes neither."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of a living process; None if it is gone or a zombie."""
        try:
            process = psutil.Process(pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return None
            return cls(pid, _start_ticks(pid))
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return None

    @classmethod
    def running(cls, arguments: Collection[str]) -> ProcessId | None:
        """A living process of this account whose command line has all of ``arguments``; None if there is none."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if set(arguments) <= set(process.cmdline()) and process.uids().real == os.getuid():
                    found = cls.of(process.pid)
                    if found is not None:
                        return found
        return None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, if it still runs."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the group that this process belongs to, if it still runs."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(self.pid), number)

    def to_json(self) -> dict[str, int]:
        """Inverse of ``from_json``."""
        return {"pid": self.pid, "startTicks": self.start_ticks}

    @classmethod
    def from_json(cls, value: dict[str, int]) -> ProcessId:
        """Inverse of ``to_json``."""
        return cls(int(value["pid"]), int(value["startTicks"]))


def python_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a Python process of ours: it imports nothing from the folder it happens to start in."""
    folders = [str(Path(folder).absolute()) for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    path = {"PYTHONPATH": os.pathsep.join(folders)} if folders else {}
    rest = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**rest, **path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _start_ticks(pid: int) -> int:
    """psutil counts from the epoch by way of the boot time, which changes whenever somebody sets the clock."""
    while True:
        boot_s = psutil.boot_time()
        created_s = psutil.Process(pid).create_time()
        if psutil.boot_time() == boot_s:
            return round((created_s - boot_s) * TICKS_PER_S)
