"""What rooms above serving may work with: the queue, workers, and deployments."""

from __future__ import annotations

from dataclasses import dataclass

from engine.control.jobs.context import QueueContext
from engine.control.serving.deployments import Deployments
from engine.control.serving.workers import Workers


@dataclass(frozen=True)
class ServingContext(QueueContext):
    """The context with the queue and with what is served.

    Attributes:
        workers: the processes that answer inference requests.
        deployments: what is served under a stable name.
    """

    workers: Workers
    deployments: Deployments
