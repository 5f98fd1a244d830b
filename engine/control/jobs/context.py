"""What rooms above the queue may work with: the context, and jobs that can be submitted."""

from __future__ import annotations

from dataclasses import dataclass

from engine.control.context import Context
from engine.control.jobs.service import JobService


@dataclass(frozen=True)
class QueueContext(Context):
    """The context with the queue.

    Attributes:
        jobs: the queue and the processes of jobs.
    """

    jobs: JobService
