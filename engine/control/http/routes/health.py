"""Health, overview, and the end of the daemon."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse

from engine.control.http.bodies import body_of, reply
from engine.control.http.overview import health, overview
from engine.control.http.services import Provided
from fw_sdk.types import FwError, Health, Overview, RequestBody

router = APIRouter()


class Shutdown(RequestBody):
    """Body of ``POST /daemon:shutdown``."""

    keep_jobs: bool = True


@router.get("/v1/health", response_model=Health)
async def get_health(request: Request) -> JSONResponse:
    """Whether the daemon answers; needs no token. Runs on the event loop, so no thread that hangs delays it."""
    return reply(health(request.app.state.loops))


@router.get("/v1/accounts/local/overview", response_model=Overview)
def get_overview(services: Provided) -> JSONResponse:
    """The state of everything in one reply."""
    return reply(overview(services))


@router.post("/v1/accounts/local/daemon:shutdown", response_model=Shutdown)
async def shutdown(
    request: Request, wanted: Annotated[Shutdown, body_of(Shutdown, "the daemon goes on")]
) -> JSONResponse:
    """Stop the daemon and its workers; running jobs live on unless ``keepJobs`` is false."""
    stop = getattr(request.app.state, "stop", None)
    if stop is None:
        raise FwError("unimplemented", "This app is not run by the fw daemon.", not_done="it goes on")
    ending = request.app.state.ending
    ending.keep_jobs, ending.keep_workers = wanted.keep_jobs, False

    async def end() -> None:
        stop()  # on the event loop: no thread may be free

    return JSONResponse({"keepJobs": wanted.keep_jobs}, background=BackgroundTask(end))
