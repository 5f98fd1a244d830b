"""``deploy``: serve a model that passed its gate, also in the place of another one, or stop serving it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform, Reporter, ToolContext, reporter_of
from fw_mcp.replacement import check_replacing, wanted_from
from fw_mcp.results import reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import MIN_SCORE, stored
from fw_mcp.views import after_deployment, deployment_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.results.actions import sentence
from fw_sdk.results.calling import openai_call, shared_system_message
from fw_sdk.results.gating import Wanted, after_refusal, is_hopeless, way_back, way_off
from fw_sdk.results.spelling import tool_call
from fw_sdk.types import Comparison, Deployment, DeploymentState, FwError, Gate, GateKind

POLL_S = 0.5
TAUGHT = 100
WAIT_S = 45.0


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``deploy``."""

    @server.tool(annotations=hints("Deploy", destroys=True))
    async def deploy(
        ctx: ToolContext,
        model: Annotated[str | None, Field(description="model id")] = None,
        action: Literal["start", "stop"] = "start",
        name: Annotated[str | None, Field(description="deployment id")] = None,
        comparison: Annotated[str | None, Field(description="its evidence; the newest by default")] = None,
        gate: Literal["better", "not_worse"] = "better",
        margin: Annotated[float, Field(ge=0, description="loss that not_worse allows")] = 0.0,
        min_score: Annotated[float | None, Field(description=MIN_SCORE)] = None,
        force: Annotated[bool, Field(description="deploy without evidence")] = False,
        confirm: Annotated[str | None, Field(description="to stop or replace: the deployment id again")] = None,
    ) -> CallToolResult:
        """Start serving a model under a name, only if its comparison meets the gate (or force). A name that serves
        another model is replaced if the comparison is with that one; the answer says how to go back. Stopping and
        replacing need confirm. customize deploys by itself."""
        async with platform.session() as client:
            if action == "stop":
                return await _stop(client, name, confirm)
            wanted = wanted_from(model, name, comparison, _gate(gate, margin, min_score), force)
            former = await _serving(client, wanted.name)
            if former is not None and short(former.base_model) == wanted.model and not wanted.explicit:
                return reply({**deployment_view(former), "note": "served already"}, after_deployment(former))
            deployment = await _start(client, wanted, former, confirm)
            replaces = former is not None and short(former.base_model) != wanted.model
            back = way_back(former).text(tool_call) if former and replaces else None
            deployment = await _until_ready(client, deployment, reporter_of(ctx), back)
            calling = await _calling(client, deployment)
        first = {"to_stop": way_off(deployment).text(tool_call)} if former is None else {}
        replaced = {"replaced": short(former.base_model), "go_back": back} if former and back else first
        return reply({**deployment_view(deployment), **calling, **replaced}, after_deployment(deployment))


def _gate(kind: str, margin: float, min_score: float | None) -> Gate:
    return Gate(kind=GateKind(kind), margin=margin, min_score=min_score)


async def _serving(client: AsyncClient, name: str) -> Deployment | None:
    """The deployment of that name, if it serves or is about to."""
    found = await stored(client.deployments.get, name)
    serves = found is not None and found.state in (DeploymentState.READY, DeploymentState.CREATING)
    return found if serves else None


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


async def _start(client: AsyncClient, wanted: Wanted, former: Deployment | None, confirm: str | None) -> Deployment:
    """Begin to serve what is wanted; another model under that name is only replaced on evidence, and confirmed."""
    replaced = short(former.base_model) if former else None
    if replaced == wanted.model:
        replaced = None
    evidence = await _evidence(client, wanted, replaced)
    if replaced is not None and not is_hopeless(wanted, evidence):
        check_replacing(wanted, replaced, evidence, confirm)
    try:
        return await client.deployments.create(
            wanted.model,
            id=wanted.name,
            comparison=evidence.id if evidence else None,
            gate=wanted.gate,
            force=wanted.force,
        )
    except FwError as error:
        if error.code == "gate_not_met":
            error.hint = sentence(after_refusal(wanted, evidence, replaces=replaced is not None), tool_call)
        raise


async def _evidence(client: AsyncClient, wanted: Wanted, replaced: str | None) -> Comparison | None:
    """The comparison that was named, else the newest of the model: with the replaced one if something is replaced."""
    if wanted.comparison is not None:
        return await client.comparisons.get(wanted.comparison)
    if replaced is not None and wanted.force:
        return None
    found = [item async for item in client.comparisons.list() if short(item.candidate_model) == wanted.model]
    if replaced is not None:
        found = [item for item in found if short(item.baseline_model) == replaced]
    return max(found, key=lambda item: item.create_time) if found else None


async def _calling(client: AsyncClient, deployment: Deployment) -> dict[str, Any]:
    """The program that asks the deployment, with the system message that all its training rows share."""
    home = (await client.overview()).home
    if not home:
        return {}
    system = shared_system_message(await _taught(client, deployment))
    program = openai_call(deployment, f"{home}/token.read", "<system_message>" if system else None)
    return {"call": program, "system_message": untrusted(system, 1_000) if system else None}


async def _taught(client: AsyncClient, deployment: Deployment) -> list[dict[str, Any]]:
    """Some of the rows that the served model was trained on; none where they are gone, or for a base model."""
    try:
        model = await client.models.get(short(deployment.base_model) or deployment.base_model)
        if model.lineage is None or model.lineage.dataset is None:
            return []
        return list(await client.datasets.rows(short(model.lineage.dataset) or model.lineage.dataset, limit=TAUGHT))
    except FwError as error:
        if error.code != "not_found":
            raise
        return []


async def _until_ready(client: AsyncClient, deployment: Deployment, reporter: Reporter, back: str | None) -> Deployment:
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
            not_done="What was served under that name still is."
            if deployment.previous
            else "Nothing is served under that name.",
            hint=back or "overview() shows free memory and other deployments",
        )
    return deployment
