"""Programs that have said nothing for too long: neither an event nor a line in their log."""

from __future__ import annotations

import time
from pathlib import Path

from fw_sdk.types import FwError

SIGNS = ("events.jsonl", "log.txt")


class Stalls:
    """Remembers since when each running job has been silent. What it knows begins anew with each daemon."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[tuple[int, ...], float]] = {}

    def silent_s(self, job_id: str, directory: Path) -> float:
        """Seconds since the job's program last said something, as far as this daemon has seen."""
        sizes = tuple(_size(directory / name) for name in SIGNS)
        known = self._heard.get(job_id)
        if known is None or known[0] != sizes:
            known = self._heard[job_id] = (sizes, time.monotonic())
        return time.monotonic() - known[1]

    def forget(self, job_id: str) -> None:
        """The job does not run any more."""
        self._heard.pop(job_id, None)


def stalled(limit_s: float) -> FwError:
    """The failure of a job that was terminated because it was silent."""
    return FwError(
        "deadline_exceeded",
        f"The job said nothing for {limit_s:g} s and was terminated.",
        not_done="the job has no result",
        hint="read its log; resume the job to go on from its last checkpoint",
        retryable=False,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
