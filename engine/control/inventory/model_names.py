"""What a model's name in a request stands for, and where there is no model to use yet, what makes it."""

from __future__ import annotations

from engine.control.store import Store
from engine.control.workflows.plan import Plan
from fw_sdk.types import (
    CreatePipeline,
    FineTuningJob,
    FwError,
    Job,
    JobState,
    Model,
    ModelState,
    Pipeline,
    resource_id,
)

HOW_IT_STANDS = {
    JobState.PENDING: "has not begun",
    JobState.RUNNING: "still runs",
    JobState.CANCELLING: "is being cancelled",
    JobState.COMPLETED: "has ended",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
}


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
    made = _made_by(job)
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


def _made_by(job: Job) -> str | None:
    """The id of the model that a job makes."""
    if isinstance(job, Pipeline):
        return Plan(job.id, CreatePipeline.model_validate(job.request)).output_model
    if isinstance(job, FineTuningJob) and job.output_model:
        return resource_id(job.output_model, "models")
    return None
