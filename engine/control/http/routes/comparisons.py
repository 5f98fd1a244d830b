"""``/v1/accounts/local/comparisons``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.evidence import comparisons
from engine.control.http.bodies import Empty, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.services import Provided
from fw_sdk.types import Comparison, CreateComparison, resource_id

ROOT = "/v1/accounts/local/comparisons"

router = APIRouter()


@router.post(ROOT, response_model=Comparison)
def create(
    services: Provided, request: Annotated[CreateComparison, body_of(CreateComparison, comparisons.NOT_DONE)]
) -> JSONResponse:
    """Compare two completed evaluations."""
    return reply(comparisons.create(services, request))


@router.get(ROOT, response_model=page_of("comparisons", Comparison))
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Comparisons, newest first."""
    page = services.store.comparisons.list(size, token)
    items = [comparisons.shown(services, item) for item in page.items]
    return reply_page("comparisons", page.model_copy(update={"items": items}))


@router.get(ROOT + "/{comparison:id}", response_model=Comparison)
def get(comparison: str, services: Provided) -> JSONResponse:
    """One comparison, and what its names stand for today where that is something else."""
    found = services.store.comparisons.get(resource_id(comparison, "comparisons"))
    return reply(comparisons.shown(services, found))


@router.delete(ROOT + "/{comparison:id}", response_model=Empty)
def delete(comparison: str, services: Provided) -> JSONResponse:
    """Delete a comparison that no deployment rests on."""
    comparisons.delete(services, resource_id(comparison, "comparisons"))
    return JSONResponse({})
