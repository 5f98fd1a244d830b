"""Starting an evaluator's process, watching it and ending it, whatever its code does.

Confined everywhere: memory, processor time, the size and number of open files by resource limits; what it writes to its
scratch folder in all, by measuring; no environment; no standard input; a wall clock, kept by the caller.

Confined on Linux (x86-64, aarch64): only the system calls that computing needs (``syscall_filter``), no capabilities,
and with Landlock (5.13) writing in the scratch folder only and reading nothing of ``FW_HOME`` (``landlock``).

NOT confined: it may read every other file that the account can.

Nothing here opens a path that the evaluator can write; what it says comes over pipes, and every read of them ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.evals.scratch import Scratch, Unmeasurable, sweep, used_bytes
from fw_sdk.types.home import Home

CHILD = Path(__file__).with_name("evaluator_child.py")
STDERR_TAIL_BYTES = 2_000
PIPE_BYTES = 65_536
WATCH_S = 0.1


@dataclass(frozen=True)
class Limits:
    """What an evaluator's process may use. ``cpu_row_s`` is processor time for one row, ``scratch_bytes`` all files."""

    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    scratch_bytes: int = 64 << 20
    open_files: int = 64
    cpu_row_s: int = 20


class Watch(threading.Thread):
    """Starts a process, drains its standard error, and kills it if its scratch folder grows too large.

    What it reads is bounded by time as well: a process that floods its standard error waits for us, not we for it.
    The process asks the kernel to be killed with the thread that started it, so that thread is this one.
    """

    def __init__(
        self, start: Callable[[], subprocess.Popen[bytes]], stderr: int, scratch: Path, most_bytes: int
    ) -> None:
        super().__init__(name="evaluator", daemon=True)
        self._start_process, self._stderr = start, stderr
        self._scratch, self._most_bytes = scratch, most_bytes
        self._launched: Future[subprocess.Popen[bytes]] = Future()
        self._over = threading.Event()
        self._tail = b""
        self.excess: str | None = None
        """Why the process was killed, once it was."""

    def launch(self) -> subprocess.Popen[bytes]:
        """Start, and return the process; raises what starting it raised."""
        self.start()
        return self._launched.result()

    def run(self) -> None:
        """Start the process, then look ten times a second until ``stop``."""
        try:
            process = self._start_process()
        except BaseException as error:  # noqa: BLE001  whoever called launch shall have it
            self._launched.set_exception(error)
            return
        self._launched.set_result(process)
        while not self._over.wait(WATCH_S):
            self._drain()
            self.excess = self.excess or self._measure(process.pid)
            if self.excess:
                kill_group(process)

    def stop(self) -> None:
        """Return when nobody looks any more; the process must have ended."""
        self._over.set()
        self.join()
        self._drain()
        os.close(self._stderr)

    def last_words(self) -> str:
        """The end of what the interpreter itself wrote to standard error."""
        return self._tail.decode("utf-8", "replace").strip()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            self._tail = (self._tail + os.read(self._stderr, PIPE_BYTES))[-STDERR_TAIL_BYTES:]

    def _measure(self, pid: int) -> str | None:
        try:
            used = used_bytes(self._scratch, pid)
        except Unmeasurable as error:
            return f"made {error} in its folder"
        return f"wrote more than {self._most_bytes} bytes to its folder" if used > self._most_bytes else None


@dataclass(frozen=True)
class SandboxedProcess:
    """A running evaluator: lines are written to ``requests`` and read from ``replies`` (pipe ends, non-blocking)."""

    process: subprocess.Popen[bytes]
    requests: int
    replies: int
    scratch: Scratch
    watch: Watch

    def end(self) -> str:
        """Kill the process and remove its scratch folder; the end of what it wrote to standard error."""
        kill_group(self.process)
        self.process.wait()
        self.watch.stop()
        os.close(self.requests)
        os.close(self.replies)
        self.scratch.remove()
        return self.watch.last_words()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and its group, if it was not waited for yet."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


Launcher = Callable[[Limits], SandboxedProcess]


def launch_limited(limits: Limits) -> SandboxedProcess:
    """Start ``evaluator_child.py`` in a session of its own; it limits itself before it reads any user code."""
    sweep()
    with ExitStack() as undo, ExitStack() as childs_ends:
        scratch = Scratch.create()
        undo.callback(scratch.remove)
        working = scratch.path / "work"
        working.mkdir()
        (child_reads, requests), (replies, child_writes), (stderr, child_stderr) = os.pipe(), os.pipe(), os.pipe()
        for descriptor in (requests, replies, stderr):
            os.set_blocking(descriptor, False)
            undo.callback(os.close, descriptor)
        for descriptor in (child_reads, child_writes, child_stderr):
            childs_ends.callback(os.close, descriptor)
        rules = {**asdict(limits), "hidden": str(Home.from_environment().root), "parent": os.getpid()}
        command = [sys.executable, "-I", "-B", str(CHILD), str(child_reads), str(child_writes), json.dumps(rules)]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=child_stderr,
                cwd=working,
                env={},
                pass_fds=(child_reads, child_writes),
                start_new_session=True,
            )

        watch = Watch(start, stderr, working, limits.scratch_bytes)
        process = watch.launch()
        undo.pop_all()
    return SandboxedProcess(process, requests, replies, scratch, watch)
