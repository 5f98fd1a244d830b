"""``/v1/accounts/local/supervisedFineTuningJobs``: what only fine-tunes have."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.http.bodies import JsonBody, reply
from engine.control.http.services import Provided
from engine.control.kinds.finetune.creation import estimate_cost
from fw_sdk.types import SupervisedFineTuning, parse_request

router = APIRouter()


@router.post("/v1/accounts/local/supervisedFineTuningJobs:estimate")
def estimate(services: Provided, body: JsonBody) -> JSONResponse:
    """What a fine-tune would cost here."""
    request = parse_request(SupervisedFineTuning, body, not_done="nothing was estimated")
    return reply(estimate_cost(services, request))
