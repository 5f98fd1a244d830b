"""One worker process: its record on disk, how it starts, how it is found again, and how it ends.

A worker outlives the daemon that started it. Its record (readable by the owner alone) is written before the process
is, and its ready file by the worker itself, so at no moment can a crash leave a worker that nobody finds again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.catalog.hub import VARIABLES
from engine.jobs.files import read_json, tail, write_json
from engine.jobs.process import ProcessId, python_environment
from fw_sdk.types import FwError, Wire
from fw_sdk.types.home import Home

log = logging.getLogger("fw.workers")

POLL_S = 0.05
KILL_S = 2.0
"""How long a killed process is waited for."""
LOG_TAIL_LINES = 20


class WorkerFacts(Wire):
    """What a worker says in its ready file: where it listens and exactly what it serves."""

    url: str
    pid: int
    start_ticks: int
    model_digest: str
    dtype: str
    device: str
    numerics: str
    template_digest: str


@dataclass(frozen=True)
class BaseWeights:
    """Base weights to be served: the model's id, its digest, and the folder or file they are in."""

    name: str
    digest: str
    path: Path


@dataclass(frozen=True)
class WorkerRecord:
    """What the daemon knows about one worker; kept as ``workers/<id>.json``.

    Attributes:
        id: from the base's digest, dtype and device, so one key never has two workers.
        base: the weights that the worker serves.
        dtype, device: as requested; ``auto`` lets the worker choose.
        token: what the worker asks for on every request; nobody else has it.
        process: None until it was started.
    """

    id: str
    base: BaseWeights
    dtype: str
    device: str
    token: str
    process: ProcessId | None = None

    @classmethod
    def new(cls, base: BaseWeights, dtype: str, device: str) -> WorkerRecord:
        """A record with a fresh token."""
        return cls(worker_id(base.digest, dtype, device), base, dtype, device, secrets.token_urlsafe(32))

    def to_json(self) -> dict[str, Any]:
        """Inverse of ``from_json``."""
        return {
            "id": self.id,
            "base": {"name": self.base.name, "digest": self.base.digest, "path": str(self.base.path)},
            "dtype": self.dtype,
            "device": self.device,
            "token": self.token,
            "process": self.process.to_json() if self.process else None,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WorkerRecord:
        """Inverse of ``to_json``."""
        base = BaseWeights(value["base"]["name"], value["base"]["digest"], Path(value["base"]["path"]))
        process = ProcessId.from_json(value["process"]) if value["process"] else None
        return cls(value["id"], base, value["dtype"], value["device"], value["token"], process)


def worker_id(base_digest: str, dtype: str, device: str) -> str:
    """The one id of the worker for this key."""
    return f"{base_digest.removeprefix('sha256:')[:16]}-{dtype}-{device.replace(':', '')}"


class WorkerFiles:
    """Where one home keeps records, ready files and logs of workers."""

    def __init__(self, home: Home) -> None:
        self._folder = home.root / "workers"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs = home.logs

    def record(self, identifier: str) -> Path:
        """The daemon's record of the worker."""
        return self._folder / f"{identifier}.json"

    def ready(self, identifier: str) -> Path:
        """The file that the worker writes once it listens."""
        return self._folder / f"{identifier}.ready"

    def log(self, identifier: str) -> Path:
        """The worker's output and errors."""
        return self._logs / f"worker-{identifier}.log"

    def save(self, record: WorkerRecord) -> None:
        """Write the record, whole or not at all."""
        write_json(self.record(record.id), record.to_json())

    def living(self) -> list[WorkerRecord]:
        """Records of processes that still run; records and ready files of the others are removed."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            record = self.find(path.stem)
            if record is not None:
                found.append(record)
        return found

    def find(self, identifier: str) -> WorkerRecord | None:
        """The record of a worker whose process lives, by pid and start time; a dead one's files are removed."""
        value = read_json(self.record(identifier))
        if value is None:
            return None
        record = WorkerRecord.from_json(value)
        if record.process is None:
            # Started just before a daemon died; its command line names the ready file.
            record = replace(record, process=ProcessId.running((str(self.ready(identifier)),)))
        if record.process is None or not record.process.alive:
            self.forget(identifier)
            return None
        return record

    def forget(self, identifier: str) -> None:
        """Remove what is kept about a worker that is gone, except for its log."""
        self.record(identifier).unlink(missing_ok=True)
        self.ready(identifier).unlink(missing_ok=True)

    def facts(self, record: WorkerRecord) -> WorkerFacts | None:
        """What the worker said when it was ready, if this very process said it."""
        value = read_json(self.ready(record.id))
        facts = WorkerFacts.model_validate(value) if value is not None else None
        same = facts and record.process and (facts.pid, facts.start_ticks) == _pair(record.process)
        return facts if same else None

    def log_tail(self, identifier: str) -> list[str]:
        """The end of the worker's log."""
        return tail(self.log(identifier), LOG_TAIL_LINES)


def spawn(files: WorkerFiles, record: WorkerRecord) -> WorkerRecord:
    """Start the worker in a session of its own, with its log; returns the record with its process."""
    files.ready(record.id).unlink(missing_ok=True)
    files.save(record)
    command = [
        *(sys.executable, "-m", "engine.serving", "--model", str(record.base.path), "--name", record.base.digest),
        *("--host", "127.0.0.1", "--port", "0", "--ready-file", str(files.ready(record.id))),
        *("--dtype", record.dtype, "--device", record.device),
    ]
    environment = {
        key: value for key, value in os.environ.items() if key != "FW_API_KEY" and not key.startswith(VARIABLES)
    }
    with files.log(record.id).open("ab") as log:
        log.write(f"--- worker of {record.base.name} starts at {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n".encode())
        log.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**python_environment(environment), "FW_WORKER_TOKEN": record.token},
            start_new_session=True,
        )
    _reap_later(child)
    record = replace(record, process=ProcessId.of(child.pid))
    files.save(record)
    return record


async def wait_ready(files: WorkerFiles, record: WorkerRecord, timeout_s: float) -> WorkerFacts:
    """What the worker says once it is ready; a typed error with the end of its log if it dies or takes too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        facts = files.facts(record)
        if facts is not None:
            return facts
        if record.process is None or not record.process.alive:
            raise _died(files, record)
        if time.monotonic() > deadline:
            await end(files, record, grace_s=1.0)
            raise _too_slow(files, record, timeout_s)
        await asyncio.sleep(POLL_S)


async def end(files: WorkerFiles, record: WorkerRecord, *, grace_s: float = 10.0) -> None:
    """Stop the process: first asked, then forced. Returns when it is gone.

    One that even SIGKILL does not end (it waits for a device) keeps its record, so that it is found again.
    """
    if record.process is not None:
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
            record.process.signal_group(number)
            deadline = time.monotonic() + limit_s
            while record.process.alive and time.monotonic() < deadline:
                await asyncio.sleep(POLL_S / 2)
        if record.process.alive:
            log.error("worker %s (pid %d) cannot be killed", record.id, record.process.pid)
            return
    files.forget(record.id)


def _pair(process: ProcessId) -> tuple[int, int]:
    return process.pid, process.start_ticks


_children: list[subprocess.Popen[bytes]] = []


def _reap_later(child: subprocess.Popen[bytes]) -> None:
    """Keep the handle, and collect the exit status of earlier children, so that none stays a zombie."""
    _children[:] = [known for known in _children if known.poll() is None]
    _children.append(child)


def _died(files: WorkerFiles, record: WorkerRecord) -> FwError:
    lines = files.log_tail(record.id)
    files.forget(record.id)
    said = next((line for line in reversed(lines) if line.strip()), "")
    return FwError(
        "worker_lost",
        f"The worker of '{record.base.name}' ended before it was ready" + (f": {said}" if said else "."),
        not_done="the model is not served",
        hint=f"read {files.log(record.id)}; if the process was killed, free memory and try again",
        details={"logTail": lines},
        retryable=False,
    )


def _too_slow(files: WorkerFiles, record: WorkerRecord, timeout_s: float) -> FwError:
    return FwError(
        "unavailable",
        f"The worker of '{record.base.name}' was not ready after {timeout_s:.0f} s and was stopped.",
        not_done="the model is not served",
        hint=f"read {files.log(record.id)}; the machine may be short of memory",
        details={"logTail": files.log_tail(record.id)},
    )
