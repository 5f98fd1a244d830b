"""``/v1/accounts/local/models``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.http.bodies import Empty, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.services import Provided
from engine.control.inventory.models import delete_model
from engine.control.kinds.pull import creation as pulls
from engine.control.kinds.pull import estimate as pull_plan
from fw_sdk.types import Model, PullEstimate, PullModel, resource_id

ROOT = "/v1/accounts/local/models"

router = APIRouter()


@router.post(ROOT + ":pull", response_model=Model)
def pull(services: Provided, request: Annotated[PullModel, body_of(PullModel, pulls.NOT_DONE)]) -> JSONResponse:
    """Start to bring a base model in."""
    return reply(pulls.pull(services, request))


@router.post(ROOT + ":estimate", response_model=PullEstimate)
async def estimate(
    services: Provided, request: Annotated[PullModel, body_of(PullModel, "nothing was estimated")]
) -> JSONResponse:
    """What bringing a base model in would take. Fetches no weights."""
    return reply(await services.lanes.estimates.run(pull_plan.estimate, services, request))


@router.get(ROOT, response_model=page_of("models", Model))
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Base models and adapters, newest first."""
    return reply_page("models", services.store.models.list(size, token))


@router.get(ROOT + "/{model:id}", response_model=Model)
def get(model: str, services: Provided) -> JSONResponse:
    """One model."""
    return reply(services.store.models.get(resource_id(model, "models")))


@router.delete(ROOT + "/{model:id}", response_model=Empty)
def delete(model: str, services: Provided) -> JSONResponse:
    """Remove a model that nothing uses."""
    delete_model(services, resource_id(model, "models"))
    return JSONResponse({})
