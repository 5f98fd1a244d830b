"""Jobs of every kind from requests: one way to check, name, and queue them, whoever asks."""

from __future__ import annotations

from functools import partial
from typing import Any

from engine.control.jobs.context import QueueContext
from engine.control.jobs.kind import Creation, Draft, Kind
from engine.control.store.documents import fingerprint
from fw_sdk.types import (
    FwError,
    Job,
    JobPlan,
    JobState,
    Model,
    RequestBody,
    not_found,
    resource_id,
    resource_name,
)

LONGEST_STEM = 36


def create(
    context: QueueContext,
    kind: Kind,
    request: RequestBody,
    identifier: str | None = None,
    *,
    key: str | None = None,
    reuse: bool = False,
) -> Job:
    """Queue a job, or return the one that an equal request about the same things made under its id.

    Args:
        context: what the kind needs for it.
        kind: what kind of job.
        request: what is asked for.
        identifier: the job's id; without one it follows from ``key`` or ``reuse``, or is a fresh one.
        key: an idempotency key: the same key gives the same fresh id.
        reuse: take the id that follows from the request and the digests of all that it names, so that equal work is
            done once, whoever asks.

    Raises:
        FwError: what is wrong with the request; ``already_exists`` if the id has a different job.
    """
    creation = _creation(kind)
    drafted = creation.draft(context, request)
    name = _identifier(context, kind, creation, request, drafted, identifier, key, reuse)
    job = drafted.job.model_copy(update={"name": resource_name(kind.type.collection, name)})
    existing = context.store.jobs.replayed(job, request)
    if existing is not None:
        return existing
    return submit_reserved(context, creation.reserve(context, job), request)


def submit_reserved(context: QueueContext, job: Job, request: RequestBody) -> Job:
    """Queue a job whose model is reserved; the model's name is free again if the job cannot be made.

    An equal job that somebody else made and cancelled in the meantime makes nothing, and its model says so.
    """
    try:
        submitted = context.jobs.submit(job, request=request)
        if submitted.state in (JobState.FAILED, JobState.CANCELLED):
            context.jobs.kinds[submitted.kind].hooks.unfinished(context.store, submitted)
        return submitted
    except FwError:
        if job.makes:
            waits = partial(_waits_in_vain, context, job)
            context.store.models.discard(job.makes.rsplit("/", 1)[-1], waits)
        raise


def _waits_in_vain(context: QueueContext, job: Job, model: Model) -> bool:
    """Whether a model waits for a job that is not there; one of another kind may have its id."""
    found = context.store.jobs.find(job.id)
    return model.job == job.name and (found is None or found.name != job.name)


def plan(context: QueueContext, kind: Kind, request: RequestBody, identifier: str | None = None) -> JobPlan:
    """What ``create`` with ``reuse`` would make, and what stands under that id already. Stores nothing."""
    creation = _creation(kind)
    drafted = creation.draft(context, request)
    name = _named(creation, kind, request, identifier) or derived_id(drafted, request)
    known = context.store.jobs.find(name)
    return JobPlan(id=name, collection=kind.type.collection, uses=drafted.job.uses, state=known and known.state)


def derived_id(drafted: Draft, request: RequestBody) -> str:
    """The id that contains the digests of everything that shapes the result."""
    return f"{_stem(drafted)}-{str(fingerprint(request, drafted.job.uses))[:8]}"


def _identifier(
    context: QueueContext,
    kind: Kind,
    creation: Creation[Any],
    request: RequestBody,
    drafted: Draft,
    identifier: str | None,
    key: str | None,
    reuse: bool,
) -> str:
    named = _named(creation, kind, request, identifier)
    if named:
        return named
    if reuse:
        return derived_id(drafted, request)
    return context.store.next_id(drafted.stem[:LONGEST_STEM], key)


def _named(creation: Creation[Any], kind: Kind, request: RequestBody, identifier: str | None) -> str | None:
    """The id that the client chose, checked; None if it chose none."""
    wanted = identifier or creation.identifier(request)
    if not wanted:
        return None
    found = resource_id(wanted, kind.type.collection)
    if len(found) > creation.longest_id:
        raise FwError(
            "invalid_argument",
            f"The id of a {kind.type.noun} may have at most {creation.longest_id} characters, got {len(found)}.",
            not_done="nothing was started",
            hint="names of what it makes are derived from it; choose a shorter one",
            param="id",
        )
    return found


def _stem(drafted: Draft) -> str:
    return drafted.stem[:LONGEST_STEM].rstrip("-._")


def _creation(kind: Kind) -> Creation[Any]:
    if kind.creation is None:
        raise not_found("kind of job to ask for", kind.type.kind, [], "GET /v1/accounts/local/jobKinds")
    return kind.creation
