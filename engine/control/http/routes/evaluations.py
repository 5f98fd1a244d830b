"""``/v1/accounts/local/evaluationJobs``."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.http.bodies import IdempotencyKey, JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.routes.jobs import cancel_job, job_id, resume_job
from engine.control.http.services import Provided
from engine.control.kinds.evaluate import creation as evaluations
from fw_sdk.types import CreateEvaluation, Evaluation, JobKind, parse_request

ROOT = "/v1/accounts/local/evaluationJobs"

router = APIRouter()


@router.post(ROOT)
def create(services: Provided, body: JsonBody, key: IdempotencyKey = None) -> JSONResponse:
    """Queue an evaluation."""
    request = parse_request(CreateEvaluation, body, not_done=evaluations.NOT_DONE)
    return reply(evaluations.create(services, request, key))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Evaluations, newest first."""
    return reply_page("evaluationJobs", services.store.jobs.list(JobKind.EVALUATE, size, token))


@router.post(ROOT + "/{job}:cancel")
def cancel(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Ask an evaluation to stop; the rows that are scored stay."""
    return reply(cancel_job(services, job, body, Evaluation))


@router.post(ROOT + "/{job}:resume")
def resume(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Go on with the rows that are not scored yet."""
    return reply(resume_job(services, job, body, Evaluation))


@router.get(ROOT + "/{job}:scores")
def scores(job: str, services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Every row's score, answer and error."""
    return reply_page("scores", evaluations.scores(services, job_id(job), size, token))


@router.get(ROOT + "/{job}")
def get(job: str, services: Provided) -> JSONResponse:
    """One evaluation."""
    return reply(services.store.jobs.get(job_id(job), Evaluation))


@router.delete(ROOT + "/{job}")
def delete(job: str, services: Provided) -> JSONResponse:
    """Remove an ended evaluation with its scores."""
    services.store.jobs.get(job_id(job), Evaluation)
    services.jobs.delete(job_id(job))
    return JSONResponse({})
