"""A kind of job that fw does not know: one record, one registration, and a program of ten lines."""

from __future__ import annotations

import sys
import time

from engine.control.jobs.context import QueueContext
from engine.control.jobs.kind import Creation, Draft, Hooks, Kind
from engine.control.jobs.program import python
from engine.control.jobs.resources import Resources
from engine.control.kinds import register
from engine.control.store import Store
from engine.jobs.program import JobContext, main
from fw_sdk.types import FwError, Job, JobKind, JobType, RequestBody, Wire


class ToyRequest(RequestBody):
    """Body of ``POST /toys``: count to ``steps``."""

    steps: int = 3
    pause_s: float = 0.0
    fails: bool = False


class ToyJob(Job):
    """A toy: what was counted, once it has ended."""

    steps: int = 0
    counted: str | None = None


class ToyResult(Wire):
    """What came of it."""

    counted: str


def draft(_context: QueueContext, request: ToyRequest) -> Draft:
    """A toy as a job."""
    if request.steps < 1:
        raise FwError("invalid_argument", f"'steps' must be at least 1, got {request.steps}", param="steps")
    job = ToyJob(name="", kind=JobKind("toy"), spec=request.to_wire(), steps=request.steps)
    return Draft(job, "toy")


def counted(_store: Store, _job: Job, result: dict[str, object]) -> dict[str, object]:
    """The result becomes a field of the job."""
    return {"counted": ToyResult.model_validate(result).counted}


TOY = Kind(
    JobType(JobKind("toy"), ToyJob, collection="toys", noun="toy", shown=("steps", "counted")),
    python("tests.toy_kind"),
    needs=lambda _job: Resources(memory_bytes=float("inf")),
    hooks=Hooks(completed=counted),
    creation=Creation(ToyRequest, draft),
)


def serve() -> None:
    """The daemon with one kind more: ``python -c 'from tests.toy_kind import serve; serve()' HOME PORT``."""
    from pathlib import Path

    from engine.control.http.daemon import serve as serve_home
    from fw_mcp.http import mount
    from fw_sdk.types.home import Home

    register(TOY)
    serve_home(Home(Path(sys.argv[1])), int(sys.argv[2]), (mount,))


def run(context: JobContext[ToyRequest]) -> ToyResult:
    """Count."""
    for step in range(1, context.spec.steps + 1):
        context.check_cancelled()
        time.sleep(context.spec.pause_s)
        context.progress(step, context.spec.steps, unit="numbers")
    context.message("counted")
    if context.spec.fails:
        raise FwError("training_diverged", "The toy broke.", not_done="nothing was counted", hint="take another")
    return ToyResult(counted=" ".join(map(str, range(1, context.spec.steps + 1))))


if __name__ == "__main__":
    sys.exit(main(ToyRequest, run))
