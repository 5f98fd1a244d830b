"""``/v1/accounts/local/evaluators`` (created at ``evaluatorsV2``, as the hosted API has it)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.control.gateway.connected import in_thread, while_connected
from engine.control.http.bodies import Empty, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.services import Provided
from engine.control.inventory import evaluators
from fw_sdk.types import CheckEvaluator, CreateEvaluator, Evaluator, RowScore, Wire, resource_id

ROOT = "/v1/accounts/local/evaluators"

router = APIRouter()


class Scores(Wire):
    """One score for each row, in order."""

    scores: list[RowScore]


@router.post(ROOT + "V2", response_model=Evaluator)
def create(
    services: Provided, request: Annotated[CreateEvaluator, body_of(CreateEvaluator, "no evaluator was created")]
) -> JSONResponse:
    """A new evaluator from its source."""
    return reply(evaluators.create(services, request))


@router.get(ROOT, response_model=page_of("evaluators", Evaluator))
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Evaluators, newest first."""
    return reply_page("evaluators", services.store.evaluators.list(size, token))


@router.post(ROOT + "/{evaluator:id}:check", response_model=Scores)
async def check(
    evaluator: str,
    connection: Request,
    services: Provided,
    request: Annotated[CheckEvaluator, body_of(CheckEvaluator, "nothing was scored")],
) -> JSONResponse:
    """Score a few rows; the evaluator is ended when the client goes away."""
    identifier = resource_id(evaluator, "evaluators")
    run = services.lanes.evaluators.run
    work = in_thread(lambda stop: evaluators.check(services, identifier, request, stop), run)
    scores = await while_connected(connection, work)
    return JSONResponse({"scores": [score.to_wire() for score in scores]})


@router.get(ROOT + "/{evaluator:id}", response_model=Evaluator)
def get(evaluator: str, services: Provided) -> JSONResponse:
    """One evaluator."""
    return reply(services.store.evaluators.get(resource_id(evaluator, "evaluators")))


@router.delete(ROOT + "/{evaluator:id}", response_model=Empty)
def delete(evaluator: str, services: Provided) -> JSONResponse:
    """Remove an evaluator that no unfinished job uses."""
    evaluators.delete(services, resource_id(evaluator, "evaluators"))
    return JSONResponse({})
