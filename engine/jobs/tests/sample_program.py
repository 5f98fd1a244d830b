"""A real job program for the tests: counts, and ends the way its spec asks."""

import sys
import time

from engine.jobs.program import JobContext, main
from fw_sdk.types import FwError, RequestBody, Wire


class Spec(RequestBody):
    """``end``: done, typed, bug or wait."""

    end: str
    count: int = 3


class Result(Wire):
    """What was counted."""

    counted: int


def run(context: JobContext[Spec]) -> Result:
    """Count, report, and end."""
    for done in range(1, context.spec.count + 1):
        context.progress(done, context.spec.count, f"at {done}")
    if context.spec.end == "typed":
        raise FwError("dataset_invalid", "line 3 is empty", not_done="Nothing was trained.", hint="fix line 3")
    if context.spec.end == "bug":
        raise ZeroDivisionError("a bug")
    while context.spec.end == "wait":
        context.check_cancelled()
        time.sleep(0.01)
    return Result(counted=context.spec.count)


if __name__ == "__main__":
    sys.exit(main(Spec, run))
