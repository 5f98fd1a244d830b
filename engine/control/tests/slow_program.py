"""A real job program that works until a file ``finish`` stands in its directory; started for any pull."""

import sys
import time

from engine.jobs.program import JobContext, main
from engine.jobs.specs import PullResult, PullSpec

TOTAL = 1000


def run(context: JobContext[PullSpec]) -> PullResult:
    """Count in a file, going on behind what an earlier attempt counted."""
    work = context.dir / "work.txt"
    done = len(work.read_text().splitlines()) if work.exists() else 0
    while not (context.dir / "finish").exists():
        context.check_cancelled()
        done += 1
        with work.open("a") as file:
            file.write(f"{done}\n")
        context.progress(done, TOTAL)
        time.sleep(0.05)
    fields = {"path": "/nowhere", "digest": "sha256:0", "bytes": 1, "parameters": 1, "context_length": 8, "source": "x"}
    return PullResult.model_validate(fields)


if __name__ == "__main__":
    sys.exit(main(PullSpec, run))
