"""The small parent of one job: ``python -m engine.jobs.shim JOB_DIR COMMAND…``.

It runs in a session of its own, outlives the daemon, and leaves the facts that a later daemon needs: who runs, that
it still runs, and how it ended. SIGTERM is passed on to the program, which may then save its work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from engine.jobs.files import write_json
from engine.jobs.process import ProcessId

BEAT_S = 2.0
FRUGAL = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "1",
}
"""Compute threads that wait for one another sleep: spinning, the default, is several times slower on busy cores.
oneDNN, and torch's own cache above it, keep few of the kernels that they make for each shape: rows differ in length, so
a shape seldom comes again, and a thousand kernels with their buffers hold more memory than the model does."""


def run(job_dir: Path, command: Sequence[str]) -> int:
    """Run the program to its end and record how it ended. Returns its exit status."""
    log = (job_dir / "log.txt").open("ab", buffering=0)
    child = subprocess.Popen(
        [*command, str(job_dir)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**FRUGAL, **os.environ},
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    me, program = ProcessId.of(os.getpid()), ProcessId.of(child.pid)
    write_json(
        job_dir / "run.json",
        {"shim": me and me.to_json(), "program": program and program.to_json(), "startedAt": time.time()},
    )
    done = threading.Event()
    beats = threading.Thread(target=_beat, args=(job_dir, done), daemon=True)
    beats.start()
    status = child.wait()
    done.set()
    beats.join()
    write_json(job_dir / "exit.json", {"status": status, "endedAt": time.time()})
    return status


def _beat(job_dir: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        write_json(job_dir / "beat.json", {"at": time.time()})


if __name__ == "__main__":
    sys.exit(1 if run(Path(sys.argv[1]), sys.argv[2:]) else 0)
