"""What the end of a job means for everything else, by kind. Each hook may run twice and then does nothing new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from engine.control.store import Store
from engine.jobs.specs import EvaluateResult, PullResult, TrainResult
from fw_sdk.types import (
    Evaluation,
    FineTuningJob,
    FwError,
    Job,
    JobKind,
    JobState,
    Model,
    ModelState,
    PeftDetails,
    Wire,
)

W = TypeVar("W", bound=Wire)


@dataclass(frozen=True)
class Hooks:
    """Reactions to a job's course.

    Attributes:
        completed: takes the program's result in; returns fields to set on the job.
        unfinished: the job failed or was cancelled, as its state says.
        restarted: it runs again.
    """

    completed: Callable[[Store, Job, dict[str, Any]], dict[str, Any]]
    unfinished: Callable[[Store, Job], None]
    restarted: Callable[[Store, Job], None]


def parse_result(kind: type[W], result: dict[str, Any]) -> W:
    """A program's result; ``job_failed`` if it is not what the program promises."""
    try:
        return kind.model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FwError("job_failed", f"The job's result is not usable: '{where}': {first['msg'].lower()}.") from error


def _pulled(store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    found = parse_result(PullResult, result)
    fields = found.model_dump(include={"path", "digest", "bytes", "parameters", "context_length", "licence"})
    _change_model(store, job, {**fields, "state": ModelState.READY})
    return {}


def _trained(store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    found = parse_result(TrainResult, result)
    assert isinstance(job, FineTuningJob) and job.base_model
    details = PeftDetails(
        base_model=job.base_model, r=found.rank, alpha=found.alpha, target_modules=found.target_modules
    )
    fields = {"path": found.adapter_path, "digest": found.adapter_digest, "bytes": found.bytes}
    _change_model(store, job, {**fields, "peft_details": details, "state": ModelState.READY})
    return {}


def _evaluated(_store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    found = parse_result(EvaluateResult, result)
    assert isinstance(job, Evaluation)
    names = ("configuration", "summary", "tokens_generated", "tokens_prompt", "seconds")
    return {name: getattr(found, name) for name in names}


def _model_unmade(store: Store, job: Job) -> None:
    cancelled = job.state is JobState.CANCELLED
    _change_model(store, job, {"state": ModelState.CANCELLED if cancelled else ModelState.FAILED})


def _model_expected(store: Store, job: Job) -> None:
    _change_model(store, job, {"state": ModelState.UPLOADING})


def _nothing(_store: Store, _job: Job) -> None:
    return None


def _change_model(store: Store, job: Job, fields: dict[str, Any]) -> None:
    """Change the model that the job makes, unless it is gone or READY already."""

    def change(model: Model) -> Model:
        ours = model.job == job.name and model.state is not ModelState.READY
        return model.model_copy(update=fields) if ours else model

    for model in store.models.all():
        if model.job == job.name:
            store.models.update(model.id, change)


HOOKS: dict[JobKind, Hooks] = {
    JobKind.PULL: Hooks(_pulled, _model_unmade, _model_expected),
    JobKind.FINETUNE: Hooks(_trained, _model_unmade, _model_expected),
    JobKind.EVALUATE: Hooks(_evaluated, _nothing, _nothing),
}
