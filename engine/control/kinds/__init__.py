"""One folder for each kind of job: its record, its creation, and what its end means."""

from engine.control.jobs.kind import Kind, Kinds
from engine.control.kinds.evaluate import EVALUATE
from engine.control.kinds.finetune import FINETUNE
from engine.control.kinds.pipeline import PIPELINE
from engine.control.kinds.pull import PULL
from fw_sdk.types import JobKind, register_job_type

KINDS: dict[JobKind, Kind] = {kind.type.kind: kind for kind in (PULL, FINETUNE, EVALUATE, PIPELINE)}
"""What this daemon can run. ``register`` adds a kind; nothing else has to know of it."""


def register(kind: Kind) -> None:
    """Make a kind known to the daemon, to its clients, and to whoever reads its records in this process."""
    register_job_type(kind.type)
    KINDS[kind.type.kind] = kind


__all__ = ["KINDS", "Kind", "Kinds", "register"]
