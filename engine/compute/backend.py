"""The protocol of a place where job programs run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """One attempt at a job: its directory (with ``spec.json``), its command line, to which that directory is added, and
    what it finds in its environment.

    An attempt that runs for longer than ``timeout_s`` is asked to stop, then ended; None lets it run.
    """

    job_dir: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


class Phase(StrEnum):
    """What is known of a task's process. GONE: it runs no more and left no exit status."""

    RUNNING = "running"
    EXITED = "exited"
    GONE = "gone"


@dataclass(frozen=True)
class Status:
    """A phase, and the exit status if it is EXITED (negative: the signal that ended the program).

    ``timed_out``: the program was ended because it ran for longer than its task allowed.
    """

    phase: Phase
    exit_status: int | None = None
    timed_out: bool = False


class ComputeBackend(Protocol):
    """Runs job programs. A task is named by its job directory, so any later daemon finds it again."""

    def submit(self, task: Task) -> None:
        """Start a task, detached. Outcome files of an earlier attempt are removed; a running one is an error."""

    def poll(self, job_dir: Path) -> Status:
        """What became of the task."""

    def cancel(self, job_dir: Path, *, force: bool) -> bool:
        """Ask the program to stop (it may save its work), or end everything it started if ``force``.

        False if nothing was found that could be asked, as in the moment after ``submit``: try again.
        """

    def reset(self, job_dir: Path) -> None:
        """Forget how an attempt that runs no more ended."""

    def logs(self, job_dir: Path, lines: int) -> list[str]:
        """The end of the task's output."""
