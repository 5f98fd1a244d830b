"""Job programs as detached processes of this machine.

While a shim lives it holds a lock on ``lock`` in the job's directory, which it inherited when it was started. Should
somebody delete that directory, the shim is still known by its command line. So no job ever runs twice, whatever died
or vanished in between, and nothing has to be guessed from a pid.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.compute.backend import Phase, Status, Task
from engine.jobs import SHIM, TIMEOUT_OPTION
from engine.jobs.files import read_json, tail
from engine.jobs.process import ProcessId, python_environment
from fw_sdk.types import FwError

OUTCOME_FILES = ("run.json", "exit.json", "failure.json", "result.json")
PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "TZ"),
        *("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    }
)
PASSED_ON_PREFIXES = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "TRITON_", "PIP_", "XDG_")


class LocalCompute:
    """A ``ComputeBackend`` of processes on this machine, each behind a shim in its own session."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def submit(self, task: Task) -> None:
        """Start the shim of a task; ``failed_precondition`` if an earlier attempt still runs."""
        self._reap()
        with _lock(task.job_dir) as descriptor:
            if descriptor is None or _find_shim(task.job_dir):
                raise FwError("failed_precondition", f"The job in {task.job_dir} still runs.", not_done="not started")
            _end_orphan(task.job_dir)
            self.reset(task.job_dir)
            _end_torn_line(task.job_dir / "events.jsonl")
            with (task.job_dir / "log.txt").open("ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", SHIM, str(task.job_dir), *_timeout(task), *task.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={**_inherited(), **task.environment},
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
        self._children.append(child)

    def poll(self, job_dir: Path) -> Status:
        """RUNNING while the shim lives; afterwards what it recorded, else GONE."""
        self._reap()
        with _lock(job_dir) as descriptor:
            if descriptor is None:
                return Status(Phase.RUNNING)
            value = read_json(job_dir / "exit.json")
            if value is not None:
                return Status(Phase.EXITED, int(value["status"]), bool(value.get("timedOut")))
            if _find_shim(job_dir):
                return Status(Phase.RUNNING)
            _end_orphan(job_dir)
            return Status(Phase.GONE)

    def cancel(self, job_dir: Path, *, force: bool) -> bool:
        """SIGTERM to the shim, which passes it on; or SIGKILL to the whole group."""
        shim = _recorded(job_dir, "shim") or _find_shim(job_dir)
        if shim is None:
            return False
        if force:
            shim.signal_group(signal.SIGKILL)
            _end_orphan(job_dir)
        else:
            shim.send_signal(signal.SIGTERM)
        return True

    def reset(self, job_dir: Path) -> None:
        """Remove what an earlier attempt left about its course; its checkpoints, events and log stay."""
        for name in OUTCOME_FILES:
            (job_dir / name).unlink(missing_ok=True)

    def logs(self, job_dir: Path, lines: int) -> list[str]:
        """The last lines of ``log.txt``."""
        return tail(job_dir / "log.txt", lines)

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]


@contextmanager
def _lock(job_dir: Path) -> Iterator[int | None]:
    """The job's lock, or None if a shim holds it. Closing gives it back, unless a child inherited it."""
    descriptor = os.open(job_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _end_orphan(job_dir: Path) -> None:
    """Kill a program whose shim died, with its group: nobody would record how it ends."""
    program = _recorded(job_dir, "program")
    if program is not None:
        program.signal_group(signal.SIGKILL)


def _recorded(job_dir: Path, name: str) -> ProcessId | None:
    """A process that ``run.json`` names: ``shim`` or ``program``."""
    value = (read_json(job_dir / "run.json") or {}).get(name)
    return ProcessId.from_json(value) if value else None


def _find_shim(job_dir: Path) -> ProcessId | None:
    """The living shim of a job, whatever became of its files."""
    return ProcessId.running((SHIM, str(job_dir)))


def _timeout(task: Task) -> list[str]:
    return [] if task.timeout_s is None else [TIMEOUT_OPTION, str(task.timeout_s)]


def _end_torn_line(events: Path) -> None:
    """End a line that a crash cut off, so that the next attempt's first event is a line of its own."""
    with suppress(FileNotFoundError), events.open("r+b") as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")


def _inherited() -> dict[str, str]:
    """The part of our environment that programs need: paths, locale, proxies, thread and device settings."""
    kept = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith(PASSED_ON_PREFIXES)}
    return python_environment(kept)
