"""The inference paths of every protocol, each also under ``/inference``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from engine.control.gateway.relay import Ask
from engine.control.http.bodies import JsonBody
from engine.control.http.services import Provided

router = APIRouter()

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""What is passed on to the worker of the model that the body names."""

PREFIXES = ("", "/inference")


def _relaying(path: str) -> Callable[..., Awaitable[Response]]:
    async def relay(request: Request, body: JsonBody, services: Provided) -> Response:
        return await services.gateway.relay(request, Ask.parse(path, body, request.state.request_id))

    return relay


for _path in PATHS:
    for _prefix in PREFIXES:
        router.add_api_route(_prefix + _path, _relaying(_path), methods=["POST"], include_in_schema=not _prefix)


@router.get("/v1/responses/{identifier}")
@router.get("/inference/v1/responses/{identifier}", include_in_schema=False)
async def stored_response(identifier: str, services: Provided) -> Response:
    """A response that a worker still keeps."""
    return await services.gateway.stored("GET", identifier)


@router.delete("/v1/responses/{identifier}")
@router.delete("/inference/v1/responses/{identifier}", include_in_schema=False)
async def delete_response(identifier: str, services: Provided) -> Response:
    """Make the worker forget a response."""
    return await services.gateway.stored("DELETE", identifier)


@router.get("/v1/models")
@router.get("/inference/v1/models", include_in_schema=False)
async def models(services: Provided) -> JSONResponse:
    """What answers now: deployments and the models whose worker runs."""
    return JSONResponse(await services.gateway.models())


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Provided) -> Response:
    """Relayed requests and tokens in Prometheus' text format."""
    return Response(services.gateway.meter.exposition(), media_type="text/plain; version=0.0.4")
