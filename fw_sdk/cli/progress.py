"""Progress on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from fw_sdk.cli.output import Format, settings

if TYPE_CHECKING:
    from fw_sdk.client import Client
    from fw_sdk.types import Job, Pipeline

LINE_EVERY_S = 5.0
POLL_S = 0.3
LABELS = {
    "check": "check the rows",
    "baseline": "evaluate the base",
    "few_shot": "evaluate few-shot",
    "finetune": "fine-tune",
    "evaluate": "evaluate the tuned model",
    "compare": "compare",
    "deploy": "deploy",
    "pull": "pull the model",
}


class Reporter(Protocol):
    """Shows tasks by label; a context manager."""

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """A task is at ``done`` of ``total`` (0 when not known)."""

    def finish(self, label: str, note: str = "", how: str = "done") -> None:
        """A task has ended: done, failed, cancelled or skipped."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: Any, error: Any, tb: Any) -> None: ...


def reporter() -> Reporter:
    """The one that suits stderr and the format."""
    if settings.format is Format.QUIET:
        return Silence()
    return Bars() if sys.stderr.isatty() and settings.format is Format.HUMAN else Lines()


class Silence:
    """Shows nothing."""

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    def finish(self, label: str, note: str = "", how: str = "done") -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None


@dataclass
class Lines(Silence):
    """One line when a task starts, when it ends, and every five seconds between; what is said again has its seconds."""

    _started: dict[str, float] = field(default_factory=dict)
    _written: dict[str, float] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """A line, unless one was written for this task a moment ago."""
        now = time.monotonic()
        self._started.setdefault(label, now)
        if now - self._written.get(label, float("-inf")) >= LINE_EVERY_S:
            self._written[label] = now
            amount = f" {done}/{total}" if total else ""
            text = f"{label}:{amount} {note}".rstrip(" :")
            so_far = f" ({now - self._started[label]:.0f} s so far)" if text == self._said.get(label) else ""
            self._said[label] = text
            print(f"{text}{so_far}", file=sys.stderr, flush=True)

    def finish(self, label: str, note: str = "", how: str = "done") -> None:
        """The last line of the task, with its seconds."""
        now = time.monotonic()
        seconds = now - self._started.get(label, now)
        ended = f"done in {seconds:.1f} s" if how == "done" else f"{how}:"
        print(f"{label}: {ended} {note}".rstrip(" :"), file=sys.stderr, flush=True)


class Bars(Silence):
    """A bar for each task."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """Move the bar; it pulses while the total is not known."""
        task = self._task(label)
        self._bars.update(task, completed=done, total=total or None, note=note)

    def finish(self, label: str, note: str = "", how: str = "done") -> None:
        """Stop the bar's clock, and fill it if the task is done."""
        task = self._task(label)
        total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
        if how == "done":
            self._bars.update(task, completed=total, total=total, note=note)
        else:
            self._bars.update(task, total=total, note=f"{how}: {note}".rstrip(" :"))
        self._bars.stop_task(task)

    def _task(self, label: str) -> Any:
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=None, note="")
        return self._tasks[label]

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()


def follow_job(
    client: Client, job: str, show: Reporter, *, label: str | None = None, timeout_s: float | None = None
) -> Job:
    """Show a job until it has ended; the ended job, whatever its state."""
    deadline = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
    while True:
        current = client.jobs.get(job)
        name = LABELS.get(current.kind, f"{current.kind} {current.id}")
        _show(show, name, current)
        if current.state.ended:
            state = current.state.value.removeprefix("JOB_STATE_").lower()
            show.finish(name, how="done" if state == "completed" else state)
            return current
        _sleep(deadline, current, timeout_s)


def follow_pipeline(client: Client, pipeline: str, show: Reporter, *, timeout_s: float | None = None) -> Pipeline:
    """Show a pipeline step by step until it has ended; the ended pipeline, whatever its state."""
    deadline = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
    finished: set[str] = set()
    while True:
        current = client.pipelines.get(pipeline)
        for step in current.steps:
            label = LABELS.get(step.name, step.name)
            if step.state == "running":
                _show_step(client, show, label, step.job, step.message)
            elif step.state in ("done", "failed", "skipped") and step.name not in finished:
                finished.add(step.name)
                show.finish(label, step.message, how=step.state.value)
        if current.state.ended:
            return current
        _sleep(deadline, current, timeout_s)


def _show_step(client: Client, show: Reporter, label: str, job: str | None, message: str) -> None:
    if job:
        _show(show, label, client.jobs.get(job))
    else:
        show.update(label, 0, 0, message)


def _show(show: Reporter, label: str, job: Job) -> None:
    eta = f"about {job.progress.eta_s:.0f} s left" if job.progress.eta_s else ""
    note = " ".join(
        part for part in (job.progress.unit if job.progress.total else "", job.progress.message, eta) if part
    )
    show.update(label, job.progress.done, job.progress.total, note)


def _sleep(deadline: float, job: Job, timeout_s: float | None) -> None:
    from fw_sdk.types import FwError

    if time.monotonic() >= deadline:
        raise FwError(
            "deadline_exceeded",
            f"'{job.id}' still runs after {timeout_s:g} s; it goes on",
            hint=f"fw job wait {job.id}",
        )
    time.sleep(POLL_S)
