"""Which process a pid really is: a pid alone may have been given to another, a pid with its start time may not."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A pid and the kernel's start time of that process in clock ticks since boot (``proc_pid_stat(5)``, field 22)."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of a living process; None if it is gone or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat[stat.rindex(")") + 2 :].split()
        return None if state in "ZX" else cls(pid, int(fields[18]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the group that this process leads, if it is still this process."""
        if self.alive:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    def to_json(self) -> dict[str, int]:
        """Inverse of ``from_json``."""
        return {"pid": self.pid, "startTicks": self.start_ticks}

    @classmethod
    def from_json(cls, value: dict[str, int]) -> ProcessId:
        """Inverse of ``to_json``."""
        return cls(int(value["pid"]), int(value["startTicks"]))
