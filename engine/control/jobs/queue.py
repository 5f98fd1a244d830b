"""What a queued job waits for, told in its progress, so that whoever looks at the job sees it."""

from __future__ import annotations

from engine.control.jobs.resources import NOTHING, Needs, waits_for
from engine.control.store import Store
from fw_sdk.types import Job, JobState

WAITS = "waits for "


def tell_the_waiting(store: Store, needs: Needs) -> None:
    """Write into each pending job what runs before it and which place in the queue it has."""
    jobs = [job for job in store.jobs.unended() if needs(job) != NOTHING]
    for job in jobs:
        if job.state is JobState.PENDING:
            running, place, pending = waits_for(job, jobs, needs)
            names = " or ".join(f"'{other.id}'" for other in running)
            if running:
                _tell(store, job, f"{WAITS}{names} to end; place {place} of {pending} in the queue")


def _tell(store: Store, job: Job, message: str) -> None:
    def change(current: Job) -> Job:
        return _saying(current, message) if current.state is JobState.PENDING else current

    if job.progress.message != message:
        store.jobs.update(job.id, change)


def without_wait(job: Job) -> Job:
    """The job without what it waited for."""
    return _saying(job, "") if job.progress.message.startswith(WAITS) else job


def _saying(job: Job, message: str) -> Job:
    return job.model_copy(update={"progress": job.progress.model_copy(update={"message": message})})
