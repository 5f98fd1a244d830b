"""Starting an evaluator's process and ending it, whatever its code does.

Confined: memory, processor time and the size and number of open files by resource limits; no environment; no new
processes or programs, no sockets and no signals to others by a system call filter (Linux on x86-64 and aarch64); an
empty temporary working directory; no standard input; a wall clock, kept by the parent.

NOT confined: files. The code can read, and write, every file that the account can, among them those of fw itself. It
is for evaluators that the owner of the account wrote or has read. A launcher of the same signature that also confines
files takes the place of ``launch_limited`` in ``EvaluatorProcess`` without other change.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

ISOLATION = "limits"
CHILD = Path(__file__).with_name("evaluator_child.py")
STDERR_TAIL_BYTES = 2_000


@dataclass(frozen=True)
class Limits:
    """What an evaluator's process may use. ``cpu_row_s`` is processor time for one row."""

    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    open_files: int = 64
    cpu_row_s: int = 20


@dataclass(frozen=True)
class SandboxedProcess:
    """A running evaluator: lines are written to ``requests`` and read from ``replies`` (pipe ends, non-blocking)."""

    process: subprocess.Popen[bytes]
    requests: int
    replies: int
    scratch: Path

    def end(self) -> None:
        """Kill the process group and remove the scratch folder."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.requests)
        os.close(self.replies)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def last_words(self) -> str:
        """The end of what the interpreter itself wrote to standard error."""
        with suppress(OSError):
            return (self.scratch / "stderr").read_bytes()[-STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return ""


Launcher = Callable[[Limits], SandboxedProcess]


def launch_limited(limits: Limits) -> SandboxedProcess:
    """Start ``evaluator_child.py`` in a session of its own; it limits itself before it reads any user code."""
    scratch = Path(tempfile.mkdtemp(prefix="fw-evaluator-"))
    working = scratch / "work"
    working.mkdir()
    child_reads, requests = os.pipe()
    replies, child_writes = os.pipe()
    arguments = [str(CHILD), str(child_reads), str(child_writes), json.dumps(asdict(limits))]
    try:
        with (scratch / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=working,
                env={},
                pass_fds=(child_reads, child_writes),
                start_new_session=True,
            )
    except BaseException:
        os.close(requests)
        os.close(replies)
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        os.close(child_reads)
        os.close(child_writes)
    os.set_blocking(requests, False)
    os.set_blocking(replies, False)
    return SandboxedProcess(process, requests, replies, scratch)
