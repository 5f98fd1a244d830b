"""Base models: bringing one in by a job, and removing one that nothing needs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from engine.catalog.hub import SCHEME, HubSource
from engine.catalog.starters import STARTERS
from engine.control.http.services import Services
from engine.control.inventory.model_names import refuse_job
from engine.control.inventory.references import active_users
from engine.control.store import Collection, Store
from engine.jobs.specs import PullSpec
from fw_sdk.types import (
    DeploymentState,
    FwError,
    Job,
    JobKind,
    Model,
    ModelKind,
    ModelState,
    PullModel,
    answering,
    nearest,
    resource_id,
    resource_name,
)

NOT_DONE = "nothing was pulled"


def pull(services: Services, request: PullModel, key: str | None) -> Model:
    """Start to bring a base model in; returns it UPLOADING with its job. Again with the same source is harmless."""
    source = requested_source(services.store, request.source)
    identifier = resource_id(request.model_id or default_id(source), "models")
    request = PullModel(source=source, model_id=identifier)
    forget_failed(services.store.models, identifier)
    existing = services.store.models.replayed(request, key, identifier)
    if existing is not None and (existing.state is ModelState.READY or _job_exists(services, existing)):
        return existing
    job_id = (
        existing.job.rsplit("/", 1)[-1] if existing and existing.job else services.store.next_id(f"pull-{identifier}")
    )
    model = Model(
        name=resource_name("models", identifier),
        kind=ModelKind.BASE,
        source=source,
        licence=STARTERS[source].licence if source in STARTERS else None,
        job=resource_name("jobs", job_id),
    )
    created = services.store.models.create(model, request=request, key=key)
    spec = PullSpec(source=source, models_dir=str(services.home.models))
    job = Job(name=resource_name("jobs", job_id), kind=JobKind.PULL, spec=spec.to_wire(), display_name=f"pull {source}")
    services.jobs.submit(job, request=request)
    return created


def _job_exists(services: Services, model: Model) -> bool:
    return bool(model.job) and services.store.jobs.find(str(model.job).rsplit("/", 1)[-1]) is not None


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


def forget_failed(models: Collection[Model], identifier: str) -> None:
    """Free the id of a model whose making failed, so that it can be made again."""
    found = models.find(identifier)
    if found is not None and found.state.unmade:
        models.delete(identifier)


def delete_model(services: Services, identifier: str) -> None:
    """Remove a model that nothing uses, and its files unless another model has the same."""
    model = services.store.models.get(identifier)
    user = _user_of(services, model)
    if user:
        raise FwError(
            "failed_precondition",
            f"Model '{identifier}' is used by {user}.",
            not_done="it was not deleted",
            hint="stop, cancel or delete that first",
        )
    services.store.models.delete(identifier)
    if model.path and all(other.path != model.path for other in services.store.models.all()):
        path = Path(model.path)
        if any(path.is_relative_to(folder) for folder in (services.home.models, services.home.adapters)):
            shutil.rmtree(path, ignore_errors=True)


def _user_of(services: Services, model: Model) -> str:
    jobs = active_users(services, model.name)
    if jobs:
        return f"job '{jobs[0].id}'"
    for deployment in services.store.deployments.all():
        creating = deployment if deployment.state is DeploymentState.CREATING else None
        held = [item.base_model for item in (creating, answering(deployment)) if item is not None]
        if model.name in held or model.id in held:
            return f"deployment '{deployment.id}'"
    for other in services.store.models.all():
        if other.peft_details is not None and other.peft_details.base_model == model.name:
            return f"its adapter '{other.id}'"
    return ""


def fail_abandoned(services: Services) -> None:
    """Mark models FAILED whose job was never stored, because a daemon died between the two."""
    for model in services.store.models.all():
        if model.state is ModelState.UPLOADING and not _job_exists(services, model):
            services.store.models.update(model.id, lambda m: m.model_copy(update={"state": ModelState.FAILED}))
