"""OpenAI's paths, each also under ``/inference``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from engine.control.bodies import JsonBody
from engine.control.gateway import Ask
from engine.control.services import Provided

router = APIRouter()


@router.post("/v1/chat/completions")
@router.post("/inference/v1/chat/completions")
async def chat_completions(request: Request, body: JsonBody, services: Provided) -> Response:
    """One chat completion, streaming or whole."""
    return await services.gateway.relay(request, Ask.parse("/v1/chat/completions", body, request.state.request_id))


@router.post("/v1/completions")
@router.post("/inference/v1/completions")
async def completions(request: Request, body: JsonBody, services: Provided) -> Response:
    """One text completion, streaming or whole."""
    return await services.gateway.relay(request, Ask.parse("/v1/completions", body, request.state.request_id))


@router.get("/v1/models")
@router.get("/inference/v1/models")
async def models(services: Provided) -> JSONResponse:
    """What answers now: READY deployments and the models whose worker runs."""
    return JSONResponse(services.gateway.models())


@router.get("/metrics")
async def metrics(services: Provided) -> Response:
    """Relayed requests and tokens in Prometheus' text format."""
    return Response(services.gateway.meter.exposition(), media_type="text/plain; version=0.0.4")
