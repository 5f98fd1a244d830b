"""``/v1/accounts/local/pipelines``."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from engine.control.http.bodies import IdempotencyKey, JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.routes.jobs import cancel_job, resume_job
from engine.control.http.services import Provided
from engine.control.workflows.pipelines import create_pipeline
from fw_sdk.types import CreatePipeline, JobKind, Pipeline, parse_request, resource_id

router = APIRouter(prefix="/v1/accounts/local/pipelines")


@router.post("")
def create(services: Provided, body: JsonBody, key: IdempotencyKey = None) -> JSONResponse:
    """Start the loop."""
    request = parse_request(CreatePipeline, body, not_done="nothing was started")
    return reply(create_pipeline(services, request, key))


@router.get("")
def list_pipelines(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Pipelines, newest first."""
    return reply_page("pipelines", services.store.jobs.list(JobKind.PIPELINE, size, token))


@router.get("/{identifier}")
def get(identifier: str, services: Provided) -> JSONResponse:
    """One pipeline with its steps and its outcome so far."""
    return reply(services.store.jobs.get(resource_id(identifier, "pipelines"), Pipeline))


@router.post("/{identifier}:cancel")
def cancel(identifier: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Stop a pipeline and the job of its current step."""
    return reply(cancel_job(services, identifier, body, Pipeline))


@router.post("/{identifier}:resume")
def resume(identifier: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Go on at the step where a failed or cancelled pipeline stopped."""
    return reply(resume_job(services, identifier, body, Pipeline))
