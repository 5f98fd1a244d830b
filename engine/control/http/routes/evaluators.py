"""``/v1/accounts/local/evaluators`` (created at ``evaluatorsV2``, as the hosted API has it)."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.control.gateway.connected import in_thread, while_connected
from engine.control.http.bodies import JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.services import Provided
from engine.control.inventory import evaluators
from fw_sdk.types import CheckEvaluator, CreateEvaluator, parse_request, resource_id

ROOT = "/v1/accounts/local/evaluators"

router = APIRouter()


@router.post(ROOT + "V2")
def create(services: Provided, body: JsonBody) -> JSONResponse:
    """A new evaluator from its source."""
    request = parse_request(CreateEvaluator, body, not_done="no evaluator was created")
    return reply(evaluators.create(services, request))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Evaluators, newest first."""
    return reply_page("evaluators", services.store.evaluators.list(size, token))


@router.post(ROOT + "/{evaluator:id}:check")
async def check(evaluator: str, request: Request, services: Provided, body: JsonBody) -> JSONResponse:
    """Score a few rows; the evaluator is ended when the client goes away."""
    asked = parse_request(CheckEvaluator, body, not_done="nothing was scored")
    identifier = resource_id(evaluator, "evaluators")
    work = in_thread(lambda stop: evaluators.check(services, identifier, asked, stop))
    scores = await while_connected(request, work)
    return JSONResponse({"scores": [score.to_wire() for score in scores]})


@router.get(ROOT + "/{evaluator:id}")
def get(evaluator: str, services: Provided) -> JSONResponse:
    """One evaluator."""
    return reply(services.store.evaluators.get(resource_id(evaluator, "evaluators")))


@router.delete(ROOT + "/{evaluator:id}")
def delete(evaluator: str, services: Provided) -> JSONResponse:
    """Remove an evaluator that no unfinished job uses."""
    evaluators.delete(services, resource_id(evaluator, "evaluators"))
    return JSONResponse({})
