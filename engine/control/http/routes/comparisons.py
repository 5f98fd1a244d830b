"""``/v1/accounts/local/comparisons``."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.evidence import comparisons
from engine.control.http.bodies import IdempotencyKey, JsonBody, PageSize, PageToken, reply, reply_page
from engine.control.http.services import Provided
from fw_sdk.types import CreateComparison, parse_request, resource_id

ROOT = "/v1/accounts/local/comparisons"

router = APIRouter()


@router.post(ROOT)
def create(services: Provided, body: JsonBody, key: IdempotencyKey = None) -> JSONResponse:
    """Compare two completed evaluations."""
    request = parse_request(CreateComparison, body, not_done=comparisons.NOT_DONE)
    return reply(comparisons.create(services, request, key))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Comparisons, newest first."""
    return reply_page("comparisons", services.store.comparisons.list(size, token))


@router.get(ROOT + "/{comparison}")
def get(comparison: str, services: Provided) -> JSONResponse:
    """One comparison."""
    return reply(services.store.comparisons.get(resource_id(comparison, "comparisons")))
