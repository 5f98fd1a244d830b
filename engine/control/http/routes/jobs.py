"""``/v1/accounts/local/jobs``: what jobs of every kind have in common."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.control.http.bodies import Empty, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.services import Provided, Services
from engine.control.jobs.events import stream_events, wait_for_end
from fw_sdk.types import FwError, Job, JobEvent, RequestBody, Wire, resource_id

ROOT = "/v1/accounts/local/jobs"
MAX_WAIT_S = 600.0
LARGEST_SEQ = 2**63 - 1
EVENT_STREAM: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
COLLECTION = "jobs"

router = APIRouter()


class Nothing(RequestBody):
    """The body ``{}`` of a verb without arguments."""


class Events(Wire):
    """Events so far, in order."""

    events: list[JobEvent]


class LogLines(Wire):
    """The end of a log, oldest line first."""

    lines: list[str]


CancelBody = Annotated[Nothing, body_of(Nothing, "the job goes on")]
ResumeBody = Annotated[Nothing, body_of(Nothing, "the job was not resumed")]


def job_id(name: str) -> str:
    """The id in a job's bare id; unknown verbs behind a colon are refused here."""
    return resource_id(name, "jobs")


def cancel_job(services: Services, name: str, kind: type[Job] = Job) -> Job:
    """Cancel a job of a kind."""
    services.store.jobs.get(job_id(name), kind)
    return services.jobs.cancel(job_id(name))


def resume_job(services: Services, name: str, kind: type[Job] = Job) -> Job:
    """Resume a job of a kind."""
    services.store.jobs.get(job_id(name), kind)
    return services.jobs.resume(job_id(name))


@router.get(ROOT, response_model=page_of("jobs", Job))
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Jobs of every kind, newest first."""
    return reply_page("jobs", services.store.jobs.list(None, size, token))


@router.post(ROOT + "/{job:id}:cancel", response_model=Job)
def cancel(job: str, services: Provided, _: CancelBody) -> JSONResponse:
    """Ask a job to stop."""
    return reply(cancel_job(services, job))


@router.post(ROOT + "/{job:id}:resume", response_model=Job)
def resume(job: str, services: Provided, _: ResumeBody) -> JSONResponse:
    """Queue a failed or cancelled job again."""
    return reply(resume_job(services, job))


@router.get(ROOT + "/{job:id}:wait", response_model=Job)
async def wait(
    job: str, services: Provided, timeout_s: Annotated[float, Query(alias="timeoutS", ge=0, le=MAX_WAIT_S)] = 60.0
) -> JSONResponse:
    """The job once it has ended, or as it is after ``timeoutS`` seconds."""
    return reply(await wait_for_end(services.store, services.jobs.changes, job_id(job), timeout_s))


@router.get(ROOT + "/{job:id}:events", response_model=Events, responses={200: EVENT_STREAM})
async def events(
    job: str,
    services: Provided,
    after: Annotated[int | None, Query(ge=0, le=LARGEST_SEQ)] = None,
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


@router.get(ROOT + "/{job:id}:logs", response_model=LogLines)
def logs(job: str, services: Provided, lines: Annotated[int, Query(ge=1, le=10_000)] = 100) -> JSONResponse:
    """The end of a job's log."""
    return JSONResponse({"lines": services.jobs.logs(job_id(job), lines)})


@router.get(ROOT + "/{job:id}", response_model=Job)
def get(job: str, services: Provided) -> JSONResponse:
    """One job of any kind."""
    return reply(services.store.jobs.get(job_id(job)))


@router.delete(ROOT + "/{job:id}", response_model=Empty)
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
