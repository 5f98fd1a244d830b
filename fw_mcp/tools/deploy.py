"""``deploy``: serve a model that passed its gate, or stop serving it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform, Reporter, ToolContext
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import slug
from fw_mcp.views import after_deployment, deployment_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Deployment, DeploymentState, FwError, Gate, GateKind

POLL_S = 0.5
WAIT_S = 45.0


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``deploy``."""

    @server.tool(annotations=hints("Deploy", destroys=True))
    async def deploy(
        ctx: ToolContext,
        model: Annotated[str | None, Field(description="model id to start")] = None,
        action: Literal["start", "stop"] = "start",
        name: Annotated[str | None, Field(description="deployment id, which clients call")] = None,
        comparison: Annotated[str | None, Field(description="its evidence; default: the newest")] = None,
        gate: Literal["better", "not_worse"] = "better",
        margin: Annotated[float, Field(ge=0, description="loss that not_worse allows")] = 0.0,
        force: Annotated[bool, Field(description="deploy without evidence")] = False,
        confirm: Annotated[str | None, Field(description="for stop: the deployment id again")] = None,
    ) -> CallToolResult:
        """Start serving a model under a name, only if its comparison meets the gate (or force), READY after a real
        probe request; or stop one: action='stop' needs name and confirm with the same id. customize deploys by
        itself."""
        async with platform.session() as client:
            if action == "stop":
                return await _stop(client, name, confirm)
            deployment = await _start(client, model, name, comparison, Gate(kind=GateKind(gate), margin=margin), force)
            deployment = await _until_ready(client, deployment, Reporter(ctx))
        return reply(deployment_view(deployment), after_deployment(deployment))


async def _stop(client: AsyncClient, name: str | None, confirm: str | None) -> CallToolResult:
    if not name or short(confirm) != short(name):
        raise FwError(
            "invalid_argument",
            "To stop a deployment give its id as name and once more as confirm.",
            not_done="Nothing was stopped.",
            hint=f"deploy(action='stop', name='{name}', confirm='{name}')" if name else "overview() lists deployments",
            param="confirm" if name else "name",
        )
    identifier = short(name) or name
    await client.deployments.get(identifier)
    await client.deployments.delete(identifier)
    return reply({"deployment": identifier, "state": "DELETED", "freed": True}, "overview()")


async def _start(
    client: AsyncClient, model: str | None, name: str | None, comparison: str | None, gate: Gate, force: bool
) -> Deployment:
    if not model:
        raise FwError(
            "invalid_argument",
            "deploy needs the model to start.",
            not_done="Nothing was deployed.",
            hint="overview() lists models",
            param="model",
        )
    identifier = short(model) or model
    evidence = short(comparison) or await _newest_comparison(client, identifier)
    return await client.deployments.create(
        identifier, id=name or slug(identifier, "model"), comparison=evidence, gate=gate, force=force
    )


async def _newest_comparison(client: AsyncClient, model: str) -> str | None:
    """The newest comparison whose candidate is ``model``."""
    found = [item async for item in client.comparisons.list() if short(item.candidate_model) == model]
    return max(found, key=lambda item: item.create_time).id if found else None


async def _until_ready(client: AsyncClient, deployment: Deployment, reporter: Reporter) -> Deployment:
    deadline = time.monotonic() + WAIT_S
    started = time.monotonic()
    while deployment.state is DeploymentState.CREATING and time.monotonic() < deadline:
        await reporter.report(time.monotonic() - started, WAIT_S, "starting the worker and probing it")
        await asyncio.sleep(POLL_S)
        deployment = await client.deployments.get(deployment.id)
    if deployment.state is DeploymentState.FAILED:
        status = deployment.status
        raise FwError(
            "unavailable",
            f"Deployment '{deployment.id}' failed: {status.message if status else 'its worker did not start'}",
            not_done="Nothing is served under that name.",
            hint="overview() shows free memory and other deployments",
        )
    return deployment
