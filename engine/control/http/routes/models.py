"""``/v1/accounts/local/models``."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.http.bodies import JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.services import Provided
from engine.control.inventory.models import delete_model
from engine.control.kinds.pull import creation as pulls
from engine.control.kinds.pull import estimate as pull_plan
from fw_sdk.types import PullModel, parse_request, resource_id

ROOT = "/v1/accounts/local/models"

router = APIRouter()


@router.post(ROOT + ":pull")
def pull(services: Provided, body: JsonBody) -> JSONResponse:
    """Start to bring a base model in."""
    return reply(pulls.pull(services, parse_request(PullModel, body, not_done=pulls.NOT_DONE)))


@router.post(ROOT + ":estimate")
def estimate(services: Provided, body: JsonBody) -> JSONResponse:
    """What bringing a base model in would take. Fetches no weights."""
    return reply(pull_plan.estimate(services, parse_request(PullModel, body, not_done="nothing was estimated")))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Base models and adapters, newest first."""
    return reply_page("models", services.store.models.list(size, token))


@router.get(ROOT + "/{model:id}")
def get(model: str, services: Provided) -> JSONResponse:
    """One model."""
    return reply(services.store.models.get(resource_id(model, "models")))


@router.delete(ROOT + "/{model:id}")
def delete(model: str, services: Provided) -> JSONResponse:
    """Remove a model that nothing uses."""
    delete_model(services, resource_id(model, "models"))
    return JSONResponse({})
