"""What a name in a request stands for: the one rule, and where there is nothing to use yet, what makes it.

A full name (``accounts/local/models/x``, also ``models/x``) means exactly that. A bare id means the thing of that id in
the collection that the field speaks of: models in the control plane, deployments where an answer is asked for, since
those are the stable names that clients are given. Where that collection has none, the other is tried. Whoever finds
both says which one was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.control.store import Store
from fw_sdk.types import (
    ACCOUNT,
    Deployment,
    FwError,
    Job,
    JobState,
    Model,
    ModelState,
    not_found,
    resource_id,
)

MODELS, DEPLOYMENTS = "models", "deployments"

HINT = "GET /v1/models lists what answers now; GET /v1/accounts/local/models lists every model"
HOW_IT_STANDS = {
    JobState.PENDING: "has not begun",
    JobState.RUNNING: "still runs",
    JobState.CANCELLING: "is being cancelled",
    JobState.COMPLETED: "has ended",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
}


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        found: the deployment or model.
        shadowed: the thing of the other collection that has the same id, if there is one.
    """

    found: Deployment | Model
    shadowed: Deployment | Model | None = None


def resolve(store: Store, name: str, first: str) -> Named:
    """The deployment or model that ``name`` stands for; ``first`` is the collection that a bare id is looked for in.

    Raises:
        FwError: ``not_found``, naming the nearest deployment or model, or the job that makes a model.
    """
    collection, bare = _split(name)
    lookups = {DEPLOYMENTS: store.deployments.find, MODELS: store.models.find}
    order = [collection] if collection else sorted(lookups, key=lambda one: one != first)
    found = [thing for one in order if (thing := lookups[one](bare)) is not None]
    if found:
        return Named(found[0], found[1] if len(found) > 1 else None)
    refuse_job(store, bare)
    known = {*store.deployments.ids(), *store.models.ids()} if collection is None else {*_ids(store, collection)}
    error = not_found("model", bare, known, HINT)
    error.param, error.not_done = "model", "no tokens were generated"
    raise error


def _split(name: str) -> tuple[str | None, str]:
    """The collection that a name states, if it does, and its id."""
    short = name.removeprefix(f"accounts/{ACCOUNT}/")
    for collection in (MODELS, DEPLOYMENTS):
        if short.startswith(f"{collection}/"):
            return collection, short.removeprefix(f"{collection}/")
    return None, name


def _ids(store: Store, collection: str) -> Sequence[str]:
    return store.models.ids() if collection == MODELS else store.deployments.ids()


def named_model(store: Store, name: str) -> Model:
    """A model by id or full name; ``not_found`` names the nearest, or what the job of that name makes."""
    identifier = resource_id(name, "models")
    refuse_job(store, identifier)
    return store.models.get(identifier)


def ready_model(store: Store, name: str) -> Model:
    """A model that can be used now; ``failed_precondition`` while a job still makes it, or if that came to nothing."""
    model = named_model(store, name)
    if model.state is not ModelState.READY:
        raise not_ready(store, model)
    return model


def refuse_job(store: Store, name: str, param: str = "model") -> None:
    """Raise if ``name`` is that of a job and of no model: jobs make models under names of their own."""
    job = store.jobs.find(name) if store.models.find(name) is None else None
    if job is None:
        return
    made = job.makes.rsplit("/", 1)[-1] if job.makes else None
    what = f"'{name}' is a job, not a model; it {HOW_IT_STANDS[job.state]}"
    if made is not None and store.models.find(made) is not None and job.state is JobState.COMPLETED:
        details = {"didYouMean": made}
        raise FwError(
            "not_found", f"{what}, its model is '{made}'.", hint=f"name '{made}'", param=param, details=details
        )
    makes = f", and makes '{made}'" if made and not job.state.ended else ""
    raise FwError("not_found", f"{what}{makes}.", hint=_about(job), param=param, details=_named(job))


def not_ready(store: Store, model: Model) -> FwError:
    """Why a model that is known cannot be used, with the job that was to make it."""
    job = store.jobs.find(model.job.rsplit("/", 1)[-1]) if model.job else None
    if job is None:
        message, hint = f"Model '{model.id}' is not there.", "pull or train it again"
    else:
        message, hint = f"Model '{model.id}' is not ready: its job '{job.id}' {HOW_IT_STANDS[job.state]}.", _about(job)
    return FwError("failed_precondition", message, hint=hint, param="model", details=_named(job) if job else None)


def _named(job: Job) -> dict[str, str]:
    return {"endedJob" if job.state.ended else "job": job.id}


def _about(job: Job) -> str:
    if not job.state.ended:
        return f"wait for job '{job.id}'"
    return f"job '{job.id}' says why; the call that started it, with the same arguments, goes on"
