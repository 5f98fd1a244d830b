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
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from engine.compute import ComputeBackend, LocalCompute, Phase, Task
from engine.control.inventory.files import TRASH
from engine.control.jobs.events import Changes
from engine.control.jobs.kind import Kinds
from engine.control.jobs.outcome import LOG_TAIL_LINES, Outcome, failure_of, kernel_oom_kills, outcome
from engine.control.jobs.program_events import last_progress, read_program_events
from engine.control.jobs.queue import tell_the_waiting, without_wait
from engine.control.jobs.resources import Needs, Resources, machine, startable
from engine.control.jobs.stalls import Stalls, stalled
from engine.control.settings import Settings
from engine.control.store import ProgramEvent, Store
from engine.control.supervision import ThreadLoop
from engine.jobs.files import read_json, write_json
from engine.jobs.program import staging_of
from fw_sdk.types import FwError, Job, JobKind, JobState, Pipeline, Wire
from fw_sdk.types.home import Home

LEASE_S = 30.0
UNENDED = tuple(state for state in JobState if not state.ended)
MAX_ATTEMPTS = 3
J = TypeVar("J", bound=Job)
Control = Callable[[str], Job]

log = logging.getLogger("fw.jobs")


class JobService:
    """The queue and its processes. Methods may be called from any thread; one thread supervises.

    A change of a job's state and what its kind's hook makes of it happen in one turn, so that hooks run in the order of
    the changes.

    Attributes:
        owner: the identity under which this daemon holds leases.
        kinds: what it knows of each kind of job.
        loop: supervises them.
        changes: wakes whoever waits for a job.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        settings: Settings,
        kinds: Kinds,
        backend: ComputeBackend | None = None,
        capacity: Resources | None = None,
    ) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.kinds = kinds
        self._programs = tuple(name for name, kind in kinds.items() if kind.program)
        self._capacity = capacity or machine()
        self._home, self._store, self._settings = home, store, settings
        self._backend: ComputeBackend = backend or LocalCompute()
        self._draining = False
        self._turn = threading.RLock()
        self._cancels: dict[str, tuple[float, bool]] = {}
        self._moving: set[str] = set()
        self._stalls, self._stalled = Stalls(), set[str]()
        self._renewed = 0.0
        self._controls: dict[JobKind, tuple[Control, Control]] = {}
        self.loop = ThreadLoop("jobs", settings.tick_s)
        self.changes = Changes()
        store.jobs.on_change(self.changes.notify)

    def register(self, kind: JobKind, *, cancel: Control, resume: Control) -> None:
        """Hand cancel and resume of jobs without a program of their own (pipelines) to their owner."""
        self._controls[kind] = (cancel, resume)

    async def start(self) -> None:
        """Adopt the jobs of an earlier daemon and begin to supervise."""
        await self._store.run(self._adopt)
        self._draining = False
        self.changes.open(asyncio.get_running_loop())
        self.loop.start(self._tick)

    def _adopt(self) -> None:
        for job in self._store.jobs.take_over(self.owner, LEASE_S, self._programs):
            log.info("adopted %s (attempt %d)", job.id, job.attempt)
            self._check_address(job)

    async def stop(self, *, keep_processes: bool) -> None:
        """Stop supervising; running programs live on, or are cancelled first."""
        self._draining = True
        if not keep_processes:
            await self._store.run(self._cancel_running)
        await self.loop.stop()
        self.changes.close()

    def directory(self, identifier: str) -> Path:
        """The job's directory."""
        return self._home.jobs / identifier

    def submit(self, job: J, *, request: Wire | None = None) -> J:
        """Queue a job whose ``spec`` is its program's; with ``request`` a repetition returns what exists."""
        created = self._store.jobs.create(job, request=request)
        self.loop.wake()
        return created

    def cancel(self, identifier: str) -> Job:
        """Ask a job to stop. A pending one is cancelled at once; an ended one stays as it is."""
        job = self._store.jobs.get(identifier)
        if job.kind in self._controls:
            return self._controls[job.kind][0](identifier)
        with self._turn:
            before = self._store.jobs.get(identifier).state
            changed = self._store.jobs.update(identifier, _cancelled_state)
            if changed.state is JobState.CANCELLED and not before.ended:
                self.kinds[job.kind].hooks.unfinished(self._store, changed)
        self.loop.wake()
        return changed

    def resume(self, identifier: str) -> Job:
        """Queue a failed or cancelled job again: a new attempt in its directory, with its earlier events kept."""
        job = self._store.jobs.get(identifier)
        if job.kind in self._controls:
            return self._controls[job.kind][1](identifier)

        def again(current: Job) -> Job:
            if current.state not in (JobState.FAILED, JobState.CANCELLED):
                raise _not_resumable(current)
            (self.directory(identifier) / "launch.json").unlink(missing_ok=True)
            self._backend.reset(self.directory(identifier))
            return _pending_again(current)

        with self._turn:
            changed = self._store.jobs.update(identifier, again)
            self.kinds[job.kind].hooks.restarted(self._store, changed)
        self.loop.wake()
        return changed

    def delete(self, identifier: str) -> None:
        """Remove an ended job with its events and its directory. What it made stays."""
        directory = self.directory(identifier)
        removed = directory.with_name(f"{TRASH}{identifier}-{time.time_ns()}")

        def release() -> None:
            self._refuse_part_of_a_pipeline(identifier)
            with suppress(FileNotFoundError):
                directory.rename(removed)

        self._store.jobs.delete(identifier, release)
        shutil.rmtree(removed, ignore_errors=True)

    def _refuse_part_of_a_pipeline(self, identifier: str) -> None:
        for other in self._store.jobs.unended():
            if isinstance(other, Pipeline) and any(step.job == identifier for step in other.steps):
                raise FwError(
                    "failed_precondition",
                    f"Job '{identifier}' is part of pipeline '{other.id}', which has not ended.",
                    not_done="it was not deleted",
                    hint=f"wait for pipeline '{other.id}', or cancel it, and delete the job then",
                )

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

    def _tick(self) -> None:
        if time.monotonic() - self._renewed > LEASE_S / 3:
            self._store.jobs.renew(self.owner, LEASE_S)
            self._renewed = time.monotonic()
        for job in self._running():
            with self.loop.part(job.id):
                self._supervise_job(job)
        if not self._draining:
            self._launch_waiting()
        tell_the_waiting(self._store, self._needs)

    @property
    def _needs(self) -> Needs:
        return lambda job: self.kinds[job.kind].needs(job)

    def _launch_waiting(self) -> None:
        for waiting in startable(self._unended(), self._needs, self._capacity):
            with self._turn:
                job = self._store.jobs.claim(waiting.id, self.owner, LEASE_S)
            if job is not None:
                self._launch(job)

    def _unended(self) -> list[Job]:
        return self._store.jobs.in_states(*UNENDED, kinds=self._programs)

    def _launch(self, job: Job) -> None:
        directory = self.directory(job.id)
        self._store.jobs.update(job.id, without_wait)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            launch = read_json(directory / "launch.json") or {"firstAttempt": job.attempt}
            write_json(directory / "launch.json", {**launch, "oomKills": kernel_oom_kills()})
            write_json(directory / "spec.json", self._program_spec(job))
            kind = self.kinds[job.kind]
            self._backend.submit(Task(directory, kind.program, self._environment(job.kind), kind.timeout_s))
        except (FwError, OSError) as error:
            log.warning("%s could not be started: %s", job.id, error)
            known = error if isinstance(error, FwError) else _not_started(error)
            self._end(job, Outcome(failure=known))

    def _program_spec(self, job: Job) -> dict[str, Any]:
        """The stored spec, with today's address of the daemon."""
        return {**job.spec, "baseUrl": self._settings.base_url} if "baseUrl" in job.spec else job.spec

    def _environment(self, kind: JobKind) -> dict[str, str]:
        """What a program of that kind finds in its environment."""
        wanted = self.kinds[kind].variables
        own = {name: value for name, value in os.environ.items() if wanted and name.startswith(wanted)}
        return own | {
            "FW_HOME": str(self._home.root),
            "FW_BASE_URL": self._settings.base_url,
            "FW_API_KEY": self._home.token(),
        }

    def _supervise_job(self, job: Job) -> None:
        """Take in what a running job said, and its end if it has ended."""
        directory = self.directory(job.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._backend.poll(directory)
        self._take_in_events(job.id)
        if status.phase is not Phase.RUNNING:
            before = int((read_json(directory / "launch.json") or {}).get("oomKills", 0))
            cancelling = job.state is JobState.CANCELLING
            kills = kernel_oom_kills() - before
            ended = outcome(directory, status, cancelling=cancelling, oom_kills=kills)
            if job.id in self._stalled and ended.result is None and not cancelling:
                ended = Outcome(failure=stalled(self.kinds[job.kind].stall_s))
            self._end(job, ended)
        elif job.state is JobState.CANCELLING or job.id in self._moving or self._has_stalled(job):
            self._terminate(job.id)

    def _has_stalled(self, job: Job) -> bool:
        if self._stalls.silent_s(job.id, self.directory(job.id)) > self.kinds[job.kind].stall_s:
            self._stalled.add(job.id)
        return job.id in self._stalled

    def _take_in_events(self, identifier: str) -> None:
        offset = self._store.jobs.events_offset(identifier)
        for events, behind in read_program_events(self.directory(identifier) / "events.jsonl", offset):
            progress = last_progress(events)

            def change(job: Job, progress: Any = progress) -> Job:
                return job.model_copy(update={"progress": progress}) if progress else job

            self._store.jobs.record(identifier, events, offset=behind, change=change)

    def _terminate(self, identifier: str) -> None:
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
        for folder in (self._home.models, self._home.adapters):
            shutil.rmtree(staging_of(folder, job.id), ignore_errors=True)
        with self._turn:
            self._record_end(job, ended)

    def _record_end(self, job: Job, ended: Outcome) -> None:
        """Record how an attempt ended: done, cancelled, failed, or to be tried again."""
        self._cancels.pop(job.id, None)
        self._moving.discard(job.id)
        self._stalled.discard(job.id)
        self._stalls.forget(job.id)
        if ended.lost and self._tries(job) < MAX_ATTEMPTS:
            assert ended.failure is not None
            text = f"{ended.failure.message} Attempt {job.attempt + 1} goes on from its last checkpoint."
            self._backend.reset(self.directory(job.id))
            after = self._store.jobs.record(job.id, [_event("warning", {"text": text})], change=_pending_again)
            if after.state is JobState.CANCELLED:
                self.kinds[job.kind].hooks.unfinished(self._store, after)
            return
        fields: dict[str, Any] = {"completed_time": datetime.now(UTC)}
        events = []
        if ended.result is not None:
            try:
                fields |= self.kinds[job.kind].hooks.completed(self._store, job, ended.result)
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
            self.kinds[job.kind].hooks.unfinished(self._store, job.model_copy(update=fields))
        self._store.jobs.record(job.id, events, change=lambda current: current.model_copy(update=fields))

    def _tries(self, job: Job) -> int:
        launch = read_json(self.directory(job.id) / "launch.json") or {}
        return job.attempt - int(launch.get("firstAttempt", job.attempt)) + 1

    def _cancel_running(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for job in self._running():
            self.cancel(job.id)
        deadline = time.monotonic() + self._settings.cancel_grace_s + 5
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _running(self) -> list[Job]:
        return self._store.jobs.in_states(JobState.RUNNING, JobState.CANCELLING, kinds=self._programs)


def _cancelled_state(job: Job) -> Job:
    if job.state is JobState.PENDING:
        return without_wait(job).model_copy(update={"state": JobState.CANCELLED, "completed_time": datetime.now(UTC)})
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
