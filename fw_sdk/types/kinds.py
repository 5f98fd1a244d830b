"""What clients need to know of a kind of job: its record, its collection, its words, and which fields to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from fw_sdk.types.base import Ref, Wire
from fw_sdk.types.jobs import Job, JobKind, JobState


@dataclass(frozen=True)
class JobType:
    """One kind of job, as clients see it.

    Attributes:
        kind: its name.
        record: its wire type.
        collection: its part of a resource name, e.g. ``evaluationJobs``.
        noun: what one is called in messages.
        shown: fields of the record that tell a reader what one is about, besides state and progress.
    """

    kind: JobKind
    record: type[Job]
    collection: str
    noun: str
    shown: tuple[str, ...] = ()

    def describe(self) -> JobDescriptor:
        """What the daemon tells clients, who may know nothing of this kind."""
        return JobDescriptor(kind=self.kind, collection=self.collection, noun=self.noun, shown=list(self.shown))


class JobDescriptor(Wire):
    """One entry of ``GET /jobKinds``: enough to list and show jobs of a kind that the client does not know.

    ``shown`` are the record's own fields, in camelCase, that tell a reader what a job is about.
    """

    kind: JobKind
    collection: str
    noun: str
    shown: list[str]


class JobPlan(Wire):
    """What a request with ``reuse`` would make: its id, what it would work on, and its state if it exists already."""

    id: str
    collection: str
    uses: list[Ref]
    state: JobState | None = None


class OtherJob(Job):
    """A job of a kind that this client does not know; further fields are kept as they came."""

    model_config = ConfigDict(extra="allow")

    def keeping(self, shown: Iterable[str]) -> OtherJob:
        """The job with only those of its further fields (camelCase)."""
        further = {name: value for name, value in (self.model_extra or {}).items() if name in set(shown)}
        return OtherJob.model_validate({**{name: getattr(self, name) for name in Job.model_fields}, **further})


JOB_TYPES: dict[JobKind, JobType] = {}
"""The kinds of this version by name; ``register_job_type`` adds one."""


def register_job_type(job_type: JobType) -> JobType:
    """Make a kind known to whoever reads jobs in this process."""
    JOB_TYPES[job_type.kind] = job_type
    return job_type


def job_from_wire(body: Any) -> Job:
    """A job as the type of its kind; of an unknown kind, an ``OtherJob``."""
    kind = Job.model_validate(body).kind
    return (JOB_TYPES[kind].record if kind in JOB_TYPES else OtherJob).model_validate(body)
