"""What an ended program's files say about its job. Pure functions of the job's directory and exit status."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.compute import Phase, Status
from engine.jobs.files import read_json
from engine.jobs.program import EXIT_CANCELLED, EXIT_DONE
from fw_sdk.types import Failure, FwError

LOG_TAIL_LINES = 20
NO_RESULT = "the job has no result"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: with a result, cancelled, or with a failure that another attempt may mend (``lost``)."""

    result: dict[str, Any] | None = None
    cancelled: bool = False
    failure: FwError | None = None
    lost: bool = False


def outcome(job_dir: Path, status: Status, *, cancelling: bool, oom_kills: int) -> Outcome:
    """What became of an attempt that does not run any more.

    Args:
        job_dir: the job's directory.
        status: EXITED or GONE.
        cancelling: whether it was asked to stop; finished work counts all the same.
        oom_kills: how many processes the kernel killed for memory since the attempt began.
    """
    if status.exit_status == EXIT_DONE:
        result = read_json(job_dir / "result.json")
        if isinstance(result, dict):
            return Outcome(result=result)
    if cancelling:
        return Outcome(cancelled=True)
    if status.timed_out:
        return Outcome(failure=_timed_out())
    if status.phase is Phase.GONE:
        return Outcome(failure=_lost("The job's process is gone and left no exit status."), lost=True)
    if status.exit_status == EXIT_CANCELLED:
        return Outcome(failure=_lost("The job's process was stopped from outside (SIGTERM)."), lost=True)
    assert status.exit_status is not None
    if status.exit_status < 0:
        return _killed(-status.exit_status, oom_kills)
    fields = read_json(job_dir / "failure.json")
    if isinstance(fields, dict):
        return Outcome(failure=FwError.from_dict(fields))
    message = f"The program ended with status {status.exit_status} and said no reason."
    return Outcome(failure=FwError("job_failed", message, not_done=NO_RESULT, hint="read the log tail"))


def _timed_out() -> FwError:
    return FwError(
        "deadline_exceeded",
        "The job took longer than jobs of its kind may and was terminated.",
        not_done=NO_RESULT,
        hint="read its log; resume the job to go on from its last checkpoint",
        retryable=False,
    )


def _killed(number: int, oom_kills: int) -> Outcome:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number != signal.SIGKILL:
        return Outcome(failure=_lost(f"The job's process was ended by {name}."), lost=True)
    if oom_kills > 0:
        hint = "lower the batch size or the context length, or stop deployments, then resume the job"
        message = "The kernel killed the job because memory ran out."
        return Outcome(failure=FwError("out_of_memory", message, not_done=NO_RESULT, hint=hint))
    message = "The job's process was killed (SIGKILL); if nobody did that, the kernel did because memory ran out."
    return Outcome(failure=_lost(message), lost=True)


def _lost(message: str) -> FwError:
    hint = "resume the job to go on from its last checkpoint; with little memory, lower the batch size first"
    return FwError("worker_lost", message, not_done=NO_RESULT, hint=hint)


def failure_of(error: FwError, log_tail: list[str]) -> Failure:
    """An error as the ``failure`` of a job."""
    return Failure(
        code=error.code,
        message=error.message,
        not_done=error.not_done,
        hint=error.hint,
        retryable=error.retryable,
        details=error.details,
        log_tail=log_tail,
    )


def kernel_oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
