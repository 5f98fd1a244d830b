"""What a person may mean while typing an argument of a prompt or a resource: pages, comparisons, jobs, files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from fw_mcp.library import pages
from fw_mcp.platform import Platform
from fw_mcp.server import AgentServer
from fw_sdk.types import FwError

MOST = 100
"""As many as the protocol allows."""


def register(server: AgentServer, platform: Platform) -> None:
    """Answer ``completion/complete``."""

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        if isinstance(reference, ResourceTemplateReference) and argument.name == "page":
            known = list(pages())
        elif isinstance(reference, ResourceTemplateReference) and argument.name == "comparison":
            known = await _stored(platform, "comparisons")
        elif isinstance(reference, PromptReference) and argument.name == "job_id":
            known = await _stored(platform, "jobs")
        elif isinstance(reference, PromptReference) and argument.name == "data":
            known = platform.workspace.data_files()
        else:
            return None
        fitting = [name for name in known if name.startswith(argument.value)]
        return Completion(values=fitting[:MOST], total=len(fitting), has_more=len(fitting) > MOST)


async def _stored(platform: Platform, group: str) -> list[str]:
    """Ids of the daemon's comparisons or jobs, newest first; none when it cannot be asked."""
    try:
        async with platform.session() as client:
            listed: AsyncIterator[Any] = getattr(client, group).list()
            return [item.id async for item in listed]
    except FwError:
        return []
