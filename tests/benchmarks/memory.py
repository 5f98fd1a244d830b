"""Memory of a whole FW_HOME: the proportional set size of every process that belongs to it, sampled to its peak."""

from __future__ import annotations

import re
import threading
from pathlib import Path


def home_pss(home: Path) -> dict[int, int]:
    """Proportional set size in bytes by pid, of the processes whose environment names ``home`` as FW_HOME."""
    mark = f"FW_HOME={home}".encode()
    sizes = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if mark not in (process / "environ").read_bytes().split(b"\0"):
                continue
            found = re.search(r"^Pss:\s+(\d+)", (process / "smaps_rollup").read_text(), re.MULTILINE)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if found:
            sizes[int(process.name)] = int(found[1]) * 1024
    return sizes


class PeakMemory:
    """Context manager that samples ``home_pss`` twice a second; ``peak_bytes`` is the largest sum seen."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, sum(home_pss(self.home).values()))
