"""``/v1/accounts/local/deployments``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from engine.control.http.bodies import Empty, IdempotencyKey, PageSize, PageToken, body_of, page_of, reply, reply_page
from engine.control.http.services import Provided
from fw_sdk.types import CreateDeployment, Deployment, resource_id

router = APIRouter(prefix="/v1/accounts/local/deployments")

DeploymentId = Annotated[str | None, Query(alias="deploymentId")]


@router.post("", response_model=Deployment)
async def create(
    services: Provided,
    request: Annotated[CreateDeployment, body_of(CreateDeployment, "nothing was deployed")],
    deployment_id: DeploymentId = None,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Deploy a model if its gate holds or it is forced; the reply is CREATING."""
    return reply(services.deployments.shown(await services.deployments.create(request, deployment_id, key=key)))


@router.get("", response_model=page_of("deployments", Deployment))
def list_deployments(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Deployments, newest first."""
    page = services.store.deployments.list(size, token)
    shown = [services.deployments.shown(item) for item in page.items]
    return reply_page("deployments", page.model_copy(update={"items": shown}))


@router.get("/{identifier:id}", response_model=Deployment)
def get(identifier: str, services: Provided) -> JSONResponse:
    """One deployment."""
    found = services.store.deployments.get(resource_id(identifier, "deployments"))
    return reply(services.deployments.shown(found))


@router.delete("/{identifier:id}", response_model=Empty)
async def delete(identifier: str, services: Provided) -> JSONResponse:
    """Stop a deployment and free what it held; the reply comes when that is done."""
    await services.deployments.delete(resource_id(identifier, "deployments"))
    return JSONResponse({})
