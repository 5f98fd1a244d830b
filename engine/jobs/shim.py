"""The small parent of one job: ``python -m engine.jobs.shim JOB_DIR [--timeout-s SECONDS] COMMAND…``.

It runs in a session of its own, outlives the daemon, and leaves the facts that a later daemon needs: who runs, and how
it ended. It dies neither before its program nor before that is written: on a full disk it tries again, and as long as
it lives the job's lock says that the job runs. SIGTERM is passed on to the program, which may then save its work.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.jobs import TIMEOUT_OPTION
from engine.jobs.files import write_json
from engine.jobs.process import ProcessId

RETRY_S = 1.0
TIMEOUT_GRACE_S = 60.0
PR_SET_PDEATHSIG = 1
FRUGAL = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "1",
}
"""Compute threads that wait for one another sleep: spinning, the default, is several times slower on busy cores.
oneDNN, and torch's own cache above it, keep few of the kernels that they make for each shape: rows differ in length, so
a shape seldom comes again, and a thousand kernels with their buffers hold more memory than the model does."""


class Shim:
    """One attempt at a job: its program's process, and the files that tell of it."""

    def __init__(self, job_dir: Path, command: Sequence[str], timeout_s: float | None = None) -> None:
        self._dir, self._command, self._timeout_s = job_dir, command, timeout_s
        self._asked_to_stop = False
        self._program: subprocess.Popen[bytes] | None = None
        self._started = time.time()

    def run(self) -> int:
        """Run the program to its end and record how it ended. Returns its exit status."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Whoever cannot find this process must not find its program either, so it is recorded first.
        while not self._record_run():
            if self._asked_to_stop:
                return 1
            time.sleep(RETRY_S)
        self._program = self._start()
        status, timed_out = self._wait(self._program)
        ended = {"status": status, "endedAt": time.time()} | ({"timedOut": True} if timed_out else {})
        while not self._write("exit.json", ended):
            time.sleep(RETRY_S)
        return status

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._dir / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*self._command, str(self._dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**FRUGAL, **os.environ},
                preexec_fn=_death_signal(),
            )

    def _wait(self, program: subprocess.Popen[bytes]) -> tuple[int, bool]:
        """The program's exit status, and whether it was ended because its time was over."""
        if self._asked_to_stop:
            program.terminate()
        recorded = self._record_run()
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        timed_out = False
        while True:
            limit_s = RETRY_S if not recorded else None if deadline is None else max(0.0, deadline - time.monotonic())
            with suppress(subprocess.TimeoutExpired):
                return program.wait(limit_s), timed_out
            recorded = recorded or self._record_run()
            if deadline is not None and time.monotonic() >= deadline:
                self._say(f"the program ran for longer than {self._timeout_s:g} s and is ended")
                (program.kill if timed_out else program.terminate)()
                timed_out, deadline = True, time.monotonic() + TIMEOUT_GRACE_S

    def _on_sigterm(self, *_: object) -> None:
        self._asked_to_stop = True
        if self._program is not None:
            self._program.terminate()

    def _record_run(self) -> bool:
        me = ProcessId.of(os.getpid())
        program = ProcessId.of(self._program.pid) if self._program is not None else None
        processes = {"shim": me and me.to_json(), "program": program and program.to_json()}
        return self._write("run.json", {**processes, "startedAt": self._started})

    def _write(self, name: str, value: dict[str, Any]) -> bool:
        """Whether the file could be written: a disk may be full for a while."""
        try:
            write_json(self._dir / name, value)
        except OSError as error:
            self._say(f"{name} cannot be written, trying again: {error}")
            return False
        return True

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())


def _death_signal() -> Callable[[], None] | None:
    """What lets a child be killed by the kernel when this process dies; only Linux has such a thing."""
    if platform.system() != "Linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


if __name__ == "__main__":
    job_dir, *arguments = sys.argv[1:]
    limit_s = float(arguments[1]) if arguments[0] == TIMEOUT_OPTION else None
    sys.exit(1 if Shim(Path(job_dir), arguments if limit_s is None else arguments[2:], limit_s).run() else 0)
