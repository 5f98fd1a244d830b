"""What every job program is: a function of its spec that reports progress, can be cancelled, and fails with a reason.

A program's module ends with ``if __name__ == "__main__": sys.exit(main(Spec, run))``.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from engine.jobs.files import append_line, read_json, write_json
from fw_sdk.types import FwError

S = TypeVar("S", bound=BaseModel)

EXIT_DONE, EXIT_FAILED, EXIT_CANCELLED = 0, 3, 4
MAX_TRACEBACK_LINES = 30


def staging_of(folder: Path, job: str) -> Path:
    """Where a job stages what will stand in ``folder``."""
    return folder / f".job-{job}"


class Cancelled(Exception):
    """Raised by ``JobContext.check_cancelled`` once the job was asked to stop; save before letting it pass."""


class JobContext(Generic[S]):
    """A running program's view of its job.

    Attributes:
        dir: the job's directory; files the program keeps between attempts go here.
        spec: what to do.
    """

    def __init__(self, job_dir: Path, spec: S) -> None:
        self.dir = job_dir
        self.spec = spec
        self._cancelled = False
        self._began: tuple[int, int, float] | None = None

    @contextmanager
    def staging(self, folder: Path) -> Iterator[Path]:
        """A new folder of this job's own inside ``folder``, for files that are renamed when they are whole.

        It goes at the end; what is left of an attempt that was killed goes at the beginning.
        """
        staged = staging_of(folder, self.dir.name)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700, parents=True)
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Append one event (``progress``, ``metric``, ``message``, ``warning``)."""
        append_line(self.dir / "events.jsonl", {"time": datetime.now(UTC).isoformat(), "type": kind, "data": data})

    def progress(self, done: int, total: int, message: str = "", *, unit: str = "steps") -> None:
        """Report ``done`` of ``total`` units."""
        fields = {"done": done, "total": total, "unit": unit, "message": message, "etaS": self._eta_s(done, total)}
        self.emit("progress", fields)

    def _eta_s(self, done: int, total: int) -> float | None:
        """Seconds that are left at the pace since the first report; what was loaded before it is no part of that."""
        now = time.monotonic()
        if self._began is None or done < self._began[0] or total != self._began[1]:
            self._began = (done, total, now)
        first, _, since = self._began
        if done == total:
            return 0.0
        return (now - since) / (done - first) * (total - done) if done > first else None

    def metric(self, step: int, **values: float) -> None:
        """Report numbers that belong to one step."""
        self.emit("metric", {"step": step, **values})

    def message(self, text: str) -> None:
        """Say something worth reading, as an event and in the log."""
        self._say("message", text)

    def warning(self, text: str) -> None:
        """Say something that may change what the result means."""
        self._say("warning", text)

    def _say(self, kind: str, text: str) -> None:
        self.emit(kind, {"text": text})
        prefix = "warning: " if kind == "warning" else ""
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {prefix}{text}", file=sys.stderr, flush=True)

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self._cancelled

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` if the job was asked to stop."""
        if self._cancelled:
            raise Cancelled

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._cancelled = True


def main(spec_type: type[S], run: Callable[[JobContext[S]], BaseModel], argv: list[str] | None = None) -> int:
    """Run a job program in the directory that ``argv`` names; the exit status tells done, failed or cancelled.

    A spec may be older than the program: fields that it does not know any more are passed over.
    """
    job_dir = Path((argv or sys.argv[1:])[0])
    context = JobContext(job_dir, spec_type.model_validate(read_json(job_dir / "spec.json"), extra="ignore"))
    signal.signal(signal.SIGTERM, context._on_sigterm)
    (job_dir / "failure.json").unlink(missing_ok=True)
    try:
        result = run(context)
    except Cancelled:
        return EXIT_CANCELLED
    except FwError as error:
        print(f"failed: {error.text()}", file=sys.stderr)
        write_json(job_dir / "failure.json", error.to_dict())
        return EXIT_FAILED
    except MemoryError:
        write_json(job_dir / "failure.json", _out_of_memory().to_dict())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  a bug of ours must reach the record with its traceback
        traceback.print_exc()
        write_json(job_dir / "failure.json", _bug(error).to_dict())
        return EXIT_FAILED
    write_json(job_dir / "result.json", result.model_dump(mode="json", by_alias=True, exclude_none=True))
    return EXIT_DONE


def _out_of_memory() -> FwError:
    return FwError(
        "out_of_memory",
        "The job ran out of memory.",
        hint="lower the batch size or the context length, or stop deployments, then resume the job",
    )


def _bug(error: Exception) -> FwError:
    lines = traceback.format_exception(error)
    return FwError(
        "internal",
        f"{type(error).__name__}: {error}",
        not_done="The job has no result.",
        hint="read the job's log; if it is a bug in fw, report it with that log",
        details={"traceback": "".join(lines).splitlines()[-MAX_TRACEBACK_LINES:]},
    )
