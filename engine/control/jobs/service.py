"""Jobs from request to result: queue, launch, supervision, adoption, cancel and resume."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from engine.catalog.hub import VARIABLES
from engine.compute import ComputeBackend, LocalCompute, Phase, Task
from engine.control.jobs.events import Changes
from engine.control.jobs.outcome import LOG_TAIL_LINES, Outcome, failure_of, kernel_oom_kills, outcome
from engine.control.jobs.program_events import last_progress, read_program_events
from engine.control.jobs.queue import begun, tell_the_waiting
from engine.control.kinds.hooks import HOOKS
from engine.control.settings import Settings
from engine.control.store import ProgramEvent, Store
from engine.jobs.files import read_json, write_json
from engine.jobs.specs import PROGRAMS
from fw_sdk.types import FwError, Job, JobKind, JobState, Wire
from fw_sdk.types.home import Home

LEASE_S = 30.0
MAX_ATTEMPTS = 3
PROGRAM_KINDS = tuple(JobKind(kind) for kind in PROGRAMS)
LIMITS: tuple[tuple[frozenset[JobKind], int], ...] = (
    (frozenset({JobKind.FINETUNE, JobKind.EVALUATE}), 1),
    (frozenset({JobKind.PULL}), 2),
)
"""How many jobs of each group run at once; the others wait in order."""

J = TypeVar("J", bound=Job)
Control = Callable[[str], Job]

log = logging.getLogger("fw.jobs")


class JobService:
    """The queue and its processes. Methods may be called from any thread; one thread supervises.

    Attributes:
        owner: the identity under which this daemon holds leases.
        changes: wakes whoever waits for a job.
    """

    def __init__(self, home: Home, store: Store, settings: Settings, backend: ComputeBackend | None = None) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._home, self._store, self._settings = home, store, settings
        self._backend: ComputeBackend = backend or LocalCompute()
        self._wake = threading.Event()
        self._draining = self._stopping = False
        self._thread: threading.Thread | None = None
        self._cancels: dict[str, tuple[float, bool]] = {}
        self._moving: set[str] = set()
        self._renewed = 0.0
        self._controls: dict[JobKind, tuple[Control, Control]] = {}
        self.changes = Changes()
        store.jobs.on_change(self.changes.notify)

    def register(self, kind: JobKind, *, cancel: Control, resume: Control) -> None:
        """Hand cancel and resume of jobs without a program of their own (pipelines) to their owner."""
        self._controls[kind] = (cancel, resume)

    async def start(self) -> None:
        """Adopt the jobs of an earlier daemon and begin to supervise."""
        for job in self._store.jobs.take_over(self.owner, LEASE_S, PROGRAM_KINDS):
            log.info("adopted %s (attempt %d)", job.id, job.attempt)
            self._check_address(job)
        self._draining = self._stopping = False
        self.changes.open(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._supervise, name="fw-jobs", daemon=True)
        self._thread.start()

    async def stop(self, *, keep_processes: bool) -> None:
        """Stop supervising; running programs live on, or are cancelled first."""
        self._draining = True
        if not keep_processes:
            await self._cancel_running()
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self.changes.close()

    def directory(self, identifier: str) -> Path:
        """The job's directory."""
        return self._home.jobs / identifier

    def submit(self, job: J, *, request: Wire | None = None, key: str | None = None) -> J:
        """Queue a job whose ``spec`` is its program's; ``request`` and ``key`` make repetitions harmless."""
        created = self._store.jobs.create(job, request=request, key=key)
        self._wake.set()
        return created

    def cancel(self, identifier: str) -> Job:
        """Ask a job to stop. A pending one is cancelled at once; an ended one stays as it is."""
        job = self._store.jobs.get(identifier)
        if job.kind in self._controls:
            return self._controls[job.kind][0](identifier)
        changed = self._store.jobs.update(identifier, _cancelled_state)
        if changed.state is JobState.CANCELLED and not job.state.ended:
            HOOKS[job.kind].unfinished(self._store, changed)
        self._wake.set()
        return changed

    def resume(self, identifier: str) -> Job:
        """Queue a failed or cancelled job again: a new attempt in its directory, with its earlier events kept."""
        job = self._store.jobs.get(identifier)
        if job.kind in self._controls:
            return self._controls[job.kind][1](identifier)
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise _not_resumable(job)
        (self.directory(identifier) / "launch.json").unlink(missing_ok=True)
        self._backend.reset(self.directory(identifier))
        changed = self._store.jobs.update(identifier, _pending_again)
        HOOKS[job.kind].restarted(self._store, changed)
        self._wake.set()
        return changed

    def delete(self, identifier: str) -> None:
        """Remove an ended job with its events and its directory. What it made stays."""
        self._store.jobs.delete(identifier)
        shutil.rmtree(self.directory(identifier), ignore_errors=True)

    def logs(self, identifier: str, lines: int) -> list[str]:
        """The end of a job's log."""
        self._store.jobs.get(identifier)
        return self._backend.logs(self.directory(identifier), lines)

    def _check_address(self, job: Job) -> None:
        """An adopted program that asks an earlier daemon's address goes on in a new attempt, which does not count."""
        directory = self.directory(job.id)
        told = (read_json(directory / "spec.json") or {}).get("baseUrl")
        if told and told != self._settings.base_url and job.state is JobState.RUNNING:
            launch = read_json(directory / "launch.json") or {}
            write_json(directory / "launch.json", {**launch, "firstAttempt": job.attempt + 1})
            text = f"The daemon moved from {told} to {self._settings.base_url}; the job follows in a new attempt."
            self._store.jobs.append_event(job.id, "message", {"text": text})
            self._moving.add(job.id)

    def _supervise(self) -> None:
        while not self._stopping:
            try:
                self._tick()
            except Exception:
                log.exception("the supervision of jobs failed; it is tried again")
                self._wake.wait(1.0)
            self._wake.wait(self._settings.tick_s)
            self._wake.clear()

    def _tick(self) -> None:
        if time.monotonic() - self._renewed > LEASE_S / 3:
            self._store.jobs.renew(self.owner, LEASE_S)
            self._renewed = time.monotonic()
        for job in self._running():
            try:
                self._look_at(job)
            except FwError as error:
                log.warning("%s: %s", job.id, error.text())
            except Exception:
                log.exception("looking at %s failed", job.id)
        if not self._draining:
            self._launch_waiting()
        tell_the_waiting(self._store, LIMITS)

    def _launch_waiting(self) -> None:
        running = self._running()
        for kinds, limit in LIMITS:
            free = limit - sum(job.kind in kinds for job in running)
            while free > 0 and (job := self._store.jobs.claim(self.owner, LEASE_S, kinds)) is not None:
                self._launch(job)
                free -= 1

    def _launch(self, job: Job) -> None:
        directory = self.directory(job.id)
        self._store.jobs.update(job.id, begun)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            launch = read_json(directory / "launch.json") or {"firstAttempt": job.attempt}
            write_json(directory / "launch.json", {**launch, "oomKills": kernel_oom_kills()})
            write_json(directory / "spec.json", self._program_spec(job))
            self._backend.submit(Task(directory, PROGRAMS[job.kind], self._environment(job.kind)))
        except (FwError, OSError) as error:
            log.warning("%s could not be started: %s", job.id, error)
            known = error if isinstance(error, FwError) else _not_started(error)
            self._end(job, Outcome(failure=known))

    def _program_spec(self, job: Job) -> dict[str, Any]:
        """The stored spec, with today's address of the daemon."""
        return {**job.spec, "baseUrl": self._settings.base_url} if "baseUrl" in job.spec else job.spec

    def _environment(self, kind: JobKind) -> dict[str, str]:
        """What a program of that kind finds in its environment; only a pull learns how we log in to a hub."""
        hub = {name: value for name, value in os.environ.items() if kind is JobKind.PULL and name.startswith(VARIABLES)}
        return hub | {
            "FW_HOME": str(self._home.root),
            "FW_BASE_URL": self._settings.base_url,
            "FW_API_KEY": self._home.token(),
        }

    def _look_at(self, job: Job) -> None:
        """Take in what a running job said, and its end if it has ended."""
        directory = self.directory(job.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._backend.poll(directory)
        self._take_in_events(job.id)
        if status.phase is not Phase.RUNNING:
            before = int((read_json(directory / "launch.json") or {}).get("oomKills", 0))
            cancelling = job.state is JobState.CANCELLING
            kills = kernel_oom_kills() - before
            self._end(job, outcome(directory, status, cancelling=cancelling, oom_kills=kills))
        elif job.state is JobState.CANCELLING or job.id in self._moving:
            self._press(job.id)

    def _take_in_events(self, identifier: str) -> None:
        offset = self._store.jobs.events_offset(identifier)
        for events, behind in read_program_events(self.directory(identifier) / "events.jsonl", offset):
            progress = last_progress(events)

            def change(job: Job, progress: Any = progress) -> Job:
                return job.model_copy(update={"progress": progress}) if progress else job

            self._store.jobs.record(identifier, events, offset=behind, change=change)

    def _press(self, identifier: str) -> None:
        """Ask a program to stop, once; after the grace period end it."""
        since, forced = self._cancels.get(identifier, (0.0, False))
        directory = self.directory(identifier)
        if not since:
            if self._backend.cancel(directory, force=False):
                self._cancels[identifier] = (time.monotonic(), False)
        elif not forced and time.monotonic() - since > self._settings.cancel_grace_s:
            self._cancels[identifier] = (since, True)
            self._backend.cancel(directory, force=True)

    def _end(self, job: Job, ended: Outcome) -> None:
        """Record how an attempt ended: done, cancelled, failed, or to be tried again."""
        self._cancels.pop(job.id, None)
        self._moving.discard(job.id)
        if ended.lost and self._tries(job) < MAX_ATTEMPTS:
            assert ended.failure is not None
            text = f"{ended.failure.message} Attempt {job.attempt + 1} goes on from its last checkpoint."
            self._backend.reset(self.directory(job.id))
            after = self._store.jobs.record(job.id, [_event("warning", {"text": text})], change=_pending_again)
            if after.state is JobState.CANCELLED:
                HOOKS[job.kind].unfinished(self._store, after)
            return
        fields: dict[str, Any] = {"completed_time": datetime.now(UTC)}
        events = []
        if ended.result is not None:
            try:
                fields |= HOOKS[job.kind].completed(self._store, job, ended.result)
                fields |= {"state": JobState.COMPLETED, "result": ended.result, "failure": None}
                events = [_event("result", ended.result)]
            except FwError as error:
                ended = Outcome(failure=error)
        if ended.cancelled:
            fields["state"] = JobState.CANCELLED
        elif ended.failure is not None:
            tail = self._backend.logs(self.directory(job.id), LOG_TAIL_LINES)
            fields |= {"state": JobState.FAILED, "failure": failure_of(ended.failure, tail)}
        if ended.result is None:
            HOOKS[job.kind].unfinished(self._store, job.model_copy(update=fields))
        self._store.jobs.record(job.id, events, change=lambda current: current.model_copy(update=fields))

    def _tries(self, job: Job) -> int:
        launch = read_json(self.directory(job.id) / "launch.json") or {}
        return job.attempt - int(launch.get("firstAttempt", job.attempt)) + 1

    async def _cancel_running(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for job in self._running():
            self.cancel(job.id)
        deadline = time.monotonic() + self._settings.cancel_grace_s + 5
        while self._running() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def _running(self) -> list[Job]:
        return self._store.jobs.in_states(JobState.RUNNING, JobState.CANCELLING, kinds=PROGRAM_KINDS)


def _cancelled_state(job: Job) -> Job:
    if job.state is JobState.PENDING:
        return begun(job).model_copy(update={"state": JobState.CANCELLED, "completed_time": datetime.now(UTC)})
    return job.model_copy(update={"state": JobState.CANCELLING}) if job.state is JobState.RUNNING else job


def _pending_again(job: Job) -> Job:
    if job.state is JobState.CANCELLING:
        return job.model_copy(update={"state": JobState.CANCELLED, "completed_time": datetime.now(UTC)})
    fields = {"state": JobState.PENDING, "attempt": job.attempt + 1, "failure": None, "completed_time": None}
    return job.model_copy(update=fields)


def _event(kind: str, data: dict[str, Any]) -> ProgramEvent:
    return ProgramEvent(datetime.now(UTC).isoformat(), kind, data)


def _not_resumable(job: Job) -> FwError:
    word = job.state.removeprefix("JOB_STATE_").lower()
    return FwError(
        "failed_precondition",
        f"Job '{job.id}' is {word}; only failed and cancelled jobs are resumed.",
        not_done="nothing was changed",
    )


def _not_started(error: OSError) -> FwError:
    return FwError(
        "resource_exhausted",
        f"The job's process could not be started: {error.strerror or error}.",
        not_done="nothing was run",
        hint="free disk space or memory, then resume the job",
    )
