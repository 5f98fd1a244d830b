"""``overview``: what exists and what runs, in one call."""

from __future__ import annotations

from typing import Any

from mcp.types import CallToolResult

from fw_mcp.library import pages
from fw_mcp.platform import Platform
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_sdk.types import Overview


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``overview``."""

    @server.tool(
        annotations=hints("Overview", reads=True),
        meta={"anthropic/alwaysLoad": True},
    )
    async def overview() -> CallToolResult:
        """Machine, models, datasets, evaluators, jobs and deployments with their ids and states, newest first. Call it
        first in a session, and whenever an id is not known."""
        async with platform.session() as client:
            state = await client.overview()
        return reply(_view(state, platform), _next(state))


def _view(state: Overview, platform: Platform) -> dict[str, Any]:
    root = platform.workspace.root
    return {
        "version": state.version,
        "device": state.device.model_dump(),
        "workspace": str(root) if root else "none: pass rows or ids",
        "models": state.models,
        "datasets": state.datasets,
        "evaluators": state.evaluators,
        "jobs": state.jobs,
        "deployments": state.deployments,
        "docs": list(pages()),
    }


def _next(state: Overview) -> str:
    running = [job for job in state.jobs if str(job.get("state", "")).endswith(("RUNNING", "PENDING"))]
    if running:
        return f"job_wait(job_id='{_id(running[0])}')"
    if not state.datasets:
        return "dataset(path='train.jsonl') to check training data"
    if not state.jobs:
        return "customize(data='<dataset id or path>', evaluator='<path or id>', dry_run=true) for the plan"
    if state.deployments:
        return f"generate(model='{_id(state.deployments[0])}', prompts=['...'])"
    return "customize(...) to go on, or docs_search(query='...')"


def _id(item: dict[str, object]) -> str:
    return str(item.get("id") or item.get("name")).rsplit("/", 1)[-1]
