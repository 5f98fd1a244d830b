"""``job_cancel``: stop a job that runs; what it finished is kept."""

from __future__ import annotations

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.job_wait import look
from fw_mcp.views import job_view, short
from fw_sdk.types import FwError


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``job_cancel``."""

    @server.tool(annotations=hints("Cancel a job", destroys=True))
    async def job_cancel(
        job_id: str, confirm: Annotated[str | None, Field(description="the job_id again")] = None
    ) -> CallToolResult:
        """Stop a running job; give its id twice. Checkpoints and scored rows stay: the call that started it, with the
        same arguments, goes on from them."""
        identifier = short(job_id) or job_id
        if short(confirm) != identifier:
            raise FwError(
                "invalid_argument",
                "To cancel a job give its id as job_id and once more as confirm.",
                not_done="Nothing was cancelled.",
                hint=f"job_cancel(job_id='{identifier}', confirm='{identifier}')",
                param="confirm",
            )
        async with platform.session() as client:
            before = await look(client, identifier)
            if before.state.ended:
                return reply({**job_view(before), "note": "it had ended already"}, f"job_get(job_id='{identifier}')")
            job = await client.jobs.cancel(identifier)
        return reply(job_view(job), f"job_wait(job_id='{identifier}') until it is cancelled")
