"""``/v1/accounts/local/supervisedFineTuningJobs``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from engine.control.http.bodies import IdempotencyKey, JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.routes.jobs import cancel_job, job_id, resume_job
from engine.control.http.services import Provided
from engine.control.kinds.finetune import creation as finetunes
from fw_sdk.types import FineTuningJob, JobKind, SupervisedFineTuning, parse_request

ROOT = "/v1/accounts/local/supervisedFineTuningJobs"

router = APIRouter()


@router.post(ROOT)
def create(
    services: Provided,
    body: JsonBody,
    identifier: Annotated[str | None, Query(alias="supervisedFineTuningJobId")] = None,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Queue a fine-tune."""
    request = parse_request(SupervisedFineTuning, body, not_done=finetunes.NOT_DONE)
    return reply(finetunes.create(services, request, identifier, key))


@router.post(ROOT + ":estimate")
def estimate(services: Provided, body: JsonBody) -> JSONResponse:
    """What a fine-tune would cost here."""
    request = parse_request(SupervisedFineTuning, body, not_done="nothing was estimated")
    return reply(finetunes.estimate_cost(services, request))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Fine-tunes, newest first."""
    return reply_page("supervisedFineTuningJobs", services.store.jobs.list(JobKind.FINETUNE, size, token))


@router.post(ROOT + "/{job}:cancel")
def cancel(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Ask a fine-tune to stop; its checkpoints stay."""
    return reply(cancel_job(services, job, body, FineTuningJob))


@router.post(ROOT + "/{job}:resume")
def resume(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Go on from the last checkpoint."""
    return reply(resume_job(services, job, body, FineTuningJob))


@router.get(ROOT + "/{job}")
def get(job: str, services: Provided) -> JSONResponse:
    """One fine-tune."""
    return reply(services.store.jobs.get(job_id(job), FineTuningJob))


@router.delete(ROOT + "/{job}")
def delete(job: str, services: Provided) -> JSONResponse:
    """Remove an ended fine-tune's record; its adapter stays."""
    services.store.jobs.get(job_id(job), FineTuningJob)
    services.jobs.delete(job_id(job))
    return JSONResponse({})
