"""The routes that every kind of job has, made from its record; a new kind needs none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from engine.control.http.bodies import Empty, IdempotencyKey, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.routes.jobs import CancelBody, ResumeBody, cancel_job, job_id, resume_job
from engine.control.http.services import Provided
from engine.control.jobs import creation
from engine.control.kinds import KINDS, Kind
from fw_sdk.types import JobDescriptor, JobPlan, RequestBody, Wire

ACCOUNT_ROOT = "/v1/accounts/local"


def kind_router(kind: Kind) -> APIRouter:
    """List, get, cancel, resume and delete; create and ``:plan`` where clients can ask for the kind."""
    router = APIRouter(prefix=f"{ACCOUNT_ROOT}/{kind.type.collection}", tags=[kind.type.noun])
    if kind.creation is not None:
        _add_creation(router, kind)
    record, noun = kind.type.record, kind.type.noun

    @router.get("", response_model=page_of(kind.type.collection, record), summary=f"List every {noun}, newest first")
    def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
        return reply_page(kind.type.collection, services.store.jobs.list(kind.type.kind, size, token))

    @router.post("/{job:id}:cancel", response_model=record, summary=f"Ask a {noun} to stop; what it finished stays")
    def cancel(job: str, services: Provided, _: CancelBody) -> JSONResponse:
        return reply(cancel_job(services, job, record))

    @router.post("/{job:id}:resume", response_model=record, summary=f"Go on with a failed or cancelled {noun}")
    def resume(job: str, services: Provided, _: ResumeBody) -> JSONResponse:
        return reply(resume_job(services, job, record))

    @router.get("/{job:id}", response_model=record, summary=f"One {noun}")
    def get(job: str, services: Provided) -> JSONResponse:
        return reply(services.store.jobs.get(job_id(job), record))

    @router.delete(
        "/{job:id}", response_model=Empty, summary=f"Delete an ended {noun} with its files; what it made stays"
    )
    def delete(job: str, services: Provided) -> JSONResponse:
        services.store.jobs.get(job_id(job), record)
        services.jobs.delete(job_id(job))
        return JSONResponse({})

    return router


def _add_creation(router: APIRouter, kind: Kind) -> None:
    assert kind.creation is not None
    request_type, noun = kind.creation.request, kind.type.noun
    identifier = Annotated[str | None, Query(alias=f"{kind.type.collection.removesuffix('s')}Id")]

    def create(
        services: Provided,
        request: RequestBody,
        job_id: str | None = None,
        reuse: bool = False,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        return reply(creation.create(services, kind, request, job_id, key=key, reuse=reuse))

    def plan(services: Provided, request: RequestBody, job_id: str | None = None) -> JSONResponse:
        return reply(creation.plan(services, kind, request, job_id))

    def add(path: str, function: Callable[..., JSONResponse], made: type[Wire], not_done: str, summary: str) -> None:
        body = Annotated[request_type, body_of(request_type, not_done)]  # type: ignore[valid-type]
        function.__annotations__ |= {"job_id": identifier, "request": body}
        router.add_api_route(path, function, methods=["POST"], response_model=made, summary=summary)

    started = f"Start a {noun}; with reuse, return the one that did the same work"
    add("", create, kind.type.record, f"no {noun} was started", started)
    add(":plan", plan, JobPlan, "nothing was planned", f"What a {noun} with reuse would be, without starting it")


kinds = APIRouter()


class JobKinds(Wire):
    """What clients need to know of each kind of job."""

    job_kinds: list[JobDescriptor]


@kinds.get(f"{ACCOUNT_ROOT}/jobKinds", response_model=JobKinds)
def list_kinds() -> JSONResponse:
    """What each kind of job is called and where it is found."""
    return JSONResponse({"jobKinds": [kind.type.describe().to_wire() for kind in KINDS.values()]})
