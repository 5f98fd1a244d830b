"""What a queued job waits for, told in its progress, so that whoever looks at the job sees it."""

from __future__ import annotations

from collections.abc import Sequence

from engine.control.store import Store
from fw_sdk.types import Job, JobKind, JobState

WAITS = "waits for "


def tell_the_waiting(store: Store, limits: Sequence[tuple[frozenset[JobKind], int]]) -> None:
    """Write into each pending job what runs before it and which place in the queue it has."""
    jobs = store.jobs.unended()
    for kinds, _ in limits:
        ours = sorted((job for job in jobs if job.kind in kinds), key=lambda job: job.create_time)
        pending = [job for job in ours if job.state is JobState.PENDING]
        running = [f"'{job.id}'" for job in ours if job.state is not JobState.PENDING]
        for place, job in enumerate(pending, 1):
            if running:
                _tell(store, job, f"{WAITS}{' or '.join(running)} to end; place {place} of {len(pending)} in the queue")


def _tell(store: Store, job: Job, message: str) -> None:
    def change(current: Job) -> Job:
        return _saying(current, message) if current.state is JobState.PENDING else current

    if job.progress.message != message:
        store.jobs.update(job.id, change)


def begun(job: Job) -> Job:
    """The job without what it waited for."""
    return _saying(job, "") if job.progress.message.startswith(WAITS) else job


def _saying(job: Job, message: str) -> Job:
    return job.model_copy(update={"progress": job.progress.model_copy(update={"message": message})})
