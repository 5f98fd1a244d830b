"""Pulls: a base model is brought in by a job, once whoever asks, and taken in at its end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine.catalog.hub import SCHEME, HubSource
from engine.catalog.starters import STARTERS
from engine.control.inventory.resolution import refuse_job
from engine.control.jobs.context import QueueContext
from engine.control.jobs.creation import submit_reserved
from engine.control.kinds.models_made import forget_unmade, model_made, parse_result
from engine.control.store import Store
from engine.jobs.specs import PullResult, PullSpec
from fw_sdk.types import (
    FwError,
    Job,
    JobKind,
    Model,
    ModelKind,
    ModelState,
    PullModel,
    nearest,
    resource_id,
    resource_name,
)

NOT_DONE = "nothing was pulled"
FROM_RESULT = {"path", "digest", "bytes", "parameters", "context_length", "licence"}


def pull(context: QueueContext, request: PullModel) -> Model:
    """Start to bring a base model in; returns it UPLOADING with its job. Again with the same source is harmless.

    The job's id follows from the model's, so that clients who ask at the same time get one job.
    """
    source = requested_source(context.store, request.source)
    identifier = resource_id(request.model_id or default_id(source), "models")
    request = PullModel(source=source, model_id=identifier)
    forget_unmade(context.store, identifier)
    existing = context.store.models.replayed(request, identifier)
    if existing is not None and (existing.state is ModelState.READY or _job_exists(context, existing)):
        return existing
    name = existing.job if existing and existing.job else resource_name("jobs", _job_id(context, identifier))
    model = Model(
        name=resource_name("models", identifier),
        kind=ModelKind.BASE,
        source=source,
        licence=STARTERS[source].licence if source in STARTERS else None,
        job=name,
    )
    created = context.store.models.create(model, request=request)
    spec = PullSpec(source=source, models_dir=str(context.home.models))
    job = Job(name=str(created.job), kind=JobKind.PULL, spec=spec.to_wire(), display_name=f"pull {source}")
    submit_reserved(context, job.model_copy(update={"makes": created.name}), request)
    return created


def _job_id(context: QueueContext, model: str) -> str:
    """The first ``pull-<model>-<number>`` that no earlier pull of a model of this name has."""
    number = 1
    while context.store.jobs.find(candidate := f"pull-{model[:52].rstrip('-._')}-{number:04d}") is not None:
        number += 1
    return candidate


def pulled(store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """The files that were brought in become the job's model."""
    found = parse_result(PullResult, result)
    model_made(store, job, found.model_dump(include=FROM_RESULT))
    return {}


def _job_exists(context: QueueContext, model: Model) -> bool:
    return bool(model.job) and context.store.jobs.find(str(model.job).rsplit("/", 1)[-1]) is not None


def requested_source(store: Store, source: str) -> str:
    """The source of a request in its full form; ``not_found`` names the nearest, or what a job of that name makes."""
    if source not in STARTERS:
        refuse_job(store, source, "source")
    return checked_source(source)


def checked_source(source: str) -> str:
    """A source that may be pulled, in its full form; ``not_found`` with the nearest name, or how to write it."""
    if source in STARTERS:
        return source
    if source.startswith(SCHEME):
        HubSource.parse(source)
        return source
    path = Path(source).expanduser()
    if path.is_absolute() and path.exists():
        return str(path)
    known = ", ".join(STARTERS)
    if path.is_absolute() or "/" in source:
        problem = "there is no such file or folder" if path.is_absolute() else "a path must be absolute"
        hint = f"give an absolute path of a model folder or .gguf file on this machine, or a starter: {known}"
        if HubSource.looks_like(source):
            hint = f"for a model of the Hugging Face hub write hf:{source}; else {hint}"
        raise FwError("not_found", f"'{source}': {problem}.", not_done=NOT_DONE, hint=hint, param="source")
    near = nearest(source, STARTERS)
    found = f"Did you mean '{near}'?" if near else f"Known: {known}."
    hint = "use a starter's name, hf:org/name, or an absolute path of a model folder or .gguf file"
    details = {"didYouMean": near} if near else None
    message = f"No starter '{source}'. {found}"
    raise FwError("not_found", message, not_done=NOT_DONE, hint=hint, param="source", details=details)


def default_id(source: str) -> str:
    """A starter's own name; else the repository's, folder's or file's, made fit for an id."""
    if source.startswith(SCHEME):
        name = HubSource.parse(source).model_id
    else:
        name = source if source in STARTERS else Path(source).name.removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63].rstrip("-._") or "model"


def fail_abandoned(context: QueueContext) -> None:
    """Mark models FAILED whose job was never stored, because a daemon died between the two."""
    for model in context.store.models.all():
        if model.state is ModelState.UPLOADING and not _job_exists(context, model):
            context.store.models.update(model.id, lambda m: m.model_copy(update={"state": ModelState.FAILED}))
