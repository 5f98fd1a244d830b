"""The model that a job makes: UPLOADING from the job's start, READY with its result, or unmade."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from engine.control.store import Store
from fw_sdk.types import FwError, Job, JobState, Model, ModelState, Wire

W = TypeVar("W", bound=Wire)


def parse_result(kind: type[W], result: dict[str, Any]) -> W:
    """A program's result; ``job_failed`` if it is not what the program promises."""
    try:
        return kind.model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FwError("job_failed", f"The job's result is not usable: '{where}': {first['msg'].lower()}.") from error


def model_made(store: Store, job: Job, fields: dict[str, Any]) -> None:
    """The job's model is there."""
    _change(store, job, {**fields, "state": ModelState.READY})


def model_unmade(store: Store, job: Job) -> None:
    """The job ended without its model."""
    cancelled = job.state is JobState.CANCELLED
    _change(store, job, {"state": ModelState.CANCELLED if cancelled else ModelState.FAILED})


def model_expected(store: Store, job: Job) -> None:
    """The job runs again."""
    _change(store, job, {"state": ModelState.UPLOADING})


def forget_unmade(store: Store, identifier: str) -> None:
    """Free the id of a model whose making failed or was cancelled, so that it can be made again."""

    def is_unmade(model: Model) -> bool:
        job = store.jobs.find(model.job.rsplit("/", 1)[-1]) if model.job else None
        return model.state.unmade and (job is None or job.state.ended)

    store.models.discard(identifier, is_unmade)


def _change(store: Store, job: Job, fields: dict[str, Any]) -> None:
    """Change the model that the job makes, unless it is gone or READY already."""

    def change(model: Model) -> Model:
        ours = model.job == job.name and model.state is not ModelState.READY
        return model.model_copy(update=fields) if ours else model

    for model in store.models.all():
        if model.job == job.name:
            store.models.update(model.id, change)
