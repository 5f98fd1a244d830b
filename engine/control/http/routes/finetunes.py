"""``/v1/accounts/local/supervisedFineTuningJobs``: what only fine-tunes have."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.http.bodies import body_of, reply
from engine.control.http.services import Provided
from engine.control.kinds.finetune.creation import estimate_cost
from fw_sdk.types import Estimate, SupervisedFineTuning

router = APIRouter()


@router.post("/v1/accounts/local/supervisedFineTuningJobs:estimate", response_model=Estimate)
async def estimate(
    services: Provided,
    request: Annotated[SupervisedFineTuning, body_of(SupervisedFineTuning, "nothing was estimated")],
) -> JSONResponse:
    """What a fine-tune would cost here."""
    return reply(await services.lanes.estimates.run(estimate_cost, services, request))
