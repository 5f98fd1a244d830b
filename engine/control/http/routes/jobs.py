"""``/v1/accounts/local/jobs``: what jobs of every kind have in common."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.control.http.bodies import JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.services import Provided, Services
from engine.control.jobs.events import stream_events, wait_for_end
from fw_sdk.types import FwError, Job, RequestBody, parse_request, resource_id

ROOT = "/v1/accounts/local/jobs"
MAX_WAIT_S = 600.0
COLLECTION = "jobs"

router = APIRouter()


class Nothing(RequestBody):
    """The body ``{}`` of a verb without arguments."""


def job_id(name: str) -> str:
    """The id in a job's bare id; unknown verbs behind a colon are refused here."""
    return resource_id(name, "jobs")


def cancel_job(services: Services, name: str, body: object, kind: type[Job] = Job) -> Job:
    """Cancel a job of a kind."""
    parse_request(Nothing, body, not_done="the job goes on")
    services.store.jobs.get(job_id(name), kind)
    return services.jobs.cancel(job_id(name))


def resume_job(services: Services, name: str, body: object, kind: type[Job] = Job) -> Job:
    """Resume a job of a kind."""
    parse_request(Nothing, body, not_done="the job was not resumed")
    services.store.jobs.get(job_id(name), kind)
    return services.jobs.resume(job_id(name))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Jobs of every kind, newest first."""
    return reply_page("jobs", services.store.jobs.list(None, size, token))


@router.post(ROOT + "/{job}:cancel")
def cancel(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Ask a job to stop."""
    return reply(cancel_job(services, job, body))


@router.post(ROOT + "/{job}:resume")
def resume(job: str, services: Provided, body: JsonBody) -> JSONResponse:
    """Queue a failed or cancelled job again."""
    return reply(resume_job(services, job, body))


@router.get(ROOT + "/{job}:wait")
async def wait(
    job: str, services: Provided, timeout_s: Annotated[float, Query(alias="timeoutS", ge=0, le=MAX_WAIT_S)] = 60.0
) -> JSONResponse:
    """The job once it has ended, or as it is after ``timeoutS`` seconds."""
    return reply(await wait_for_end(services.store, services.jobs.changes, job_id(job), timeout_s))


@router.get(ROOT + "/{job}:events")
async def events(
    job: str,
    services: Provided,
    after: Annotated[int | None, Query(ge=0)] = None,
    follow: bool = True,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Events behind ``after`` (or ``Last-Event-ID``): a stream to the job's end, or those so far if not ``follow``."""
    begin = after if after is not None else _sequence(last_event_id)
    store, identifier = services.store, job_id(job)
    if not follow:
        found = await store.run(store.jobs.events, identifier, begin, limit)
        return JSONResponse({"events": [event.to_wire() for event in found]})
    await store.run(store.jobs.get, identifier)
    stream = stream_events(store, services.jobs.changes, identifier, begin)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@router.get(ROOT + "/{job}:logs")
def logs(job: str, services: Provided, lines: Annotated[int, Query(ge=1, le=10_000)] = 100) -> JSONResponse:
    """The end of a job's log."""
    return JSONResponse({"lines": services.jobs.logs(job_id(job), lines)})


@router.get(ROOT + "/{job}")
def get(job: str, services: Provided) -> JSONResponse:
    """One job of any kind."""
    return reply(services.store.jobs.get(job_id(job)))


@router.delete(ROOT + "/{job}")
def delete(job: str, services: Provided) -> JSONResponse:
    """Remove an ended job's record; what it made stays."""
    services.jobs.delete(job_id(job))
    return JSONResponse({})


def _sequence(value: str | None) -> int:
    if not value:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise FwError("invalid_argument", f"'Last-Event-ID': {value[:40]!r} is no number", param="Last-Event-ID")
    return int(value)
