"""The routes that every kind of job has, made from its record; a new kind needs none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from engine.control.http.bodies import IdempotencyKey, JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.routes.jobs import cancel_job, job_id, resume_job
from engine.control.http.services import Provided
from engine.control.jobs import creation
from engine.control.kinds import KINDS, Kind
from fw_sdk.types import parse_request

ACCOUNT_ROOT = "/v1/accounts/local"


def kind_router(kind: Kind) -> APIRouter:
    """List, get, cancel, resume and delete; create and ``:plan`` where clients can ask for the kind."""
    router = APIRouter(prefix=f"{ACCOUNT_ROOT}/{kind.type.collection}", tags=[kind.type.noun])
    if kind.creation is not None:
        _add_creation(router, kind)
    record, noun = kind.type.record, kind.type.noun

    @router.get("", summary=f"List every {noun}, newest first")
    def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
        return reply_page(kind.type.collection, services.store.jobs.list(kind.type.kind, size, token))

    @router.post("/{job:id}:cancel", summary=f"Ask a {noun} to stop; what it finished stays")
    def cancel(job: str, services: Provided, body: JsonBody) -> JSONResponse:
        return reply(cancel_job(services, job, body, record))

    @router.post("/{job:id}:resume", summary=f"Go on with a failed or cancelled {noun}")
    def resume(job: str, services: Provided, body: JsonBody) -> JSONResponse:
        return reply(resume_job(services, job, body, record))

    @router.get("/{job:id}", summary=f"One {noun}")
    def get(job: str, services: Provided) -> JSONResponse:
        return reply(services.store.jobs.get(job_id(job), record))

    @router.delete("/{job:id}", summary=f"Delete an ended {noun} with its files; what it made stays")
    def delete(job: str, services: Provided) -> JSONResponse:
        services.store.jobs.get(job_id(job), record)
        services.jobs.delete(job_id(job))
        return JSONResponse({})

    return router


def _add_creation(router: APIRouter, kind: Kind) -> None:
    assert kind.creation is not None
    request_type, noun = kind.creation.request, kind.type.noun
    identifier = Annotated[str | None, Query(alias=f"{kind.type.collection.removesuffix('s')}Id")]
    not_done = f"no {noun} was started"

    def create(
        services: Provided,
        body: JsonBody,
        job_id: str | None = None,
        reuse: bool = False,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        request = parse_request(request_type, body, not_done=not_done)
        return reply(creation.create(services, kind, request, job_id, key=key, reuse=reuse))

    def plan(services: Provided, body: JsonBody, job_id: str | None = None) -> JSONResponse:
        request = parse_request(request_type, body, not_done="nothing was planned")
        return reply(creation.plan(services, kind, request, job_id))

    described: dict[str, Callable[..., JSONResponse]] = {
        f"Start a {noun}; with reuse, return the one that did the same work": create,
        f"What a {noun} with reuse would be, without starting it": plan,
    }
    for (summary, function), path in zip(described.items(), ("", ":plan"), strict=True):
        function.__annotations__["job_id"] = identifier
        router.add_api_route(path, function, methods=["POST"], summary=summary)


kinds = APIRouter()


@kinds.get(f"{ACCOUNT_ROOT}/jobKinds")
def list_kinds() -> JSONResponse:
    """What each kind of job is called and where it is found."""
    return JSONResponse({"jobKinds": [kind.type.describe().to_wire() for kind in KINDS.values()]})
