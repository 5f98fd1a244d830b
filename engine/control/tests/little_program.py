"""A real job program that is over in a moment, or ends the way its spec asks; it keeps its work between attempts."""

import os
import signal
import sys
import time

from pydantic import Field

from engine.jobs.program import JobContext, main
from engine.jobs.specs import PullResult
from fw_sdk.types import FwError, RequestBody

STEP_S = "LITTLE_STEP_S"
"""The environment variable with the seconds of a step where the spec does not say."""


class Spec(RequestBody):
    """``end``: done, typed, status, killed, killed_once, deaf (ignores SIGTERM) or bad_result."""

    end: str = "done"
    steps: int = 3
    step_s: float = Field(default_factory=lambda: float(os.environ.get(STEP_S, "0")))
    base_url: str = ""


def run(context: JobContext[Spec]) -> PullResult:
    """Do the steps that no earlier attempt did, then end."""
    spec, work = context.spec, context.dir / "work.txt"
    done = len(work.read_text().splitlines()) if work.exists() else 0
    if spec.end == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for step in range(done + 1, spec.steps + 1):
        context.check_cancelled()
        time.sleep(spec.step_s)
        with work.open("a") as file:
            file.write(f"{step}\n")
        context.progress(step, spec.steps)
        if spec.end == "killed_once" and step == 2:
            print("about to be killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    if spec.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.end == "typed":
        raise FwError("training_diverged", "The loss is nan at step 3.", not_done="no adapter", hint="lower the rate")
    if spec.end == "status":
        print("last words", flush=True)
        sys.exit(7)
    fields = {"path": "/nowhere", "digest": "sha256:0", "bytes": 1, "parameters": 1, "context_length": 8, "source": "x"}
    return PullResult.model_validate(fields)


if __name__ == "__main__":
    sys.exit(main(Spec, run))
