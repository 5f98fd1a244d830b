"""Which pending jobs may start: what they need against what the machine has left, in the order of the queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from engine.control.machine import gpu_name
from engine.jobs.machine import memory
from fw_sdk.types import Job, JobState


@dataclass(frozen=True)
class Resources:
    """An amount of what jobs share.

    Attributes:
        cores: processor cores that compute all the time.
        memory_bytes: main memory.
        devices: GPUs.
        downloads: connections to a hub.
    """

    cores: float = 0
    memory_bytes: float = 0
    devices: float = 0
    downloads: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def within(self, limit: Resources) -> Resources:
        """At most ``limit`` of each: what asks for more than there is gets all there is."""
        return Resources(*map(min, astuple(self), astuple(limit)))

    def fits(self, free: Resources) -> bool:
        """Whether ``free`` has as much of each."""
        return all(one <= two for one, two in zip(astuple(self), astuple(free), strict=True))

    def shares(self, other: Resources) -> bool:
        """Whether both need some of the same."""
        return any(one > 0 and two > 0 for one, two in zip(astuple(self), astuple(other), strict=True))


NOTHING = Resources()
WHOLE = float("inf")
"""As much as there is: nothing else that needs some of it runs beside it."""
DOWNLOADS = 2


def machine() -> Resources:
    """What this machine has."""
    return Resources(
        cores=os.cpu_count() or 1, memory_bytes=memory()[0], devices=1 if gpu_name() else 0, downloads=DOWNLOADS
    )


Needs = Callable[[Job], Resources]


def startable(jobs: Sequence[Job], needs: Needs, capacity: Resources) -> list[Job]:
    """The pending jobs that may start now.

    A job does not overtake an earlier one that waits for some of the same, so none waits for ever.

    Args:
        jobs: what has not ended.
        needs: what a job takes.
        capacity: what there is.
    """
    used, blocked, found = NOTHING, NOTHING, []
    for job in jobs:
        if job.state is not JobState.PENDING:
            used += needs(job).within(capacity)
    for job in sorted(jobs, key=lambda job: job.create_time):
        if job.state is JobState.PENDING:
            wanted = needs(job).within(capacity)
            if not wanted.shares(blocked) and (used + wanted).fits(capacity):
                used += wanted
                found.append(job)
            else:
                blocked += wanted
    return found


def waits_for(job: Job, jobs: Sequence[Job], needs: Needs) -> tuple[list[Job], int, int]:
    """The running jobs that a pending one waits for, its place among those that wait for the same, and their number."""
    rivals = [other for other in jobs if needs(other).shares(needs(job))]
    pending = sorted((other for other in rivals if other.state is JobState.PENDING), key=lambda one: one.create_time)
    running = [other for other in rivals if other.state is not JobState.PENDING]
    place = next((index for index, other in enumerate(pending, 1) if other.id == job.id), 1)
    return running, place, len(pending)
