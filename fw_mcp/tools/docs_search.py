"""``docs_search``: ranked excerpts of the pages that ship with fw, offline."""

from __future__ import annotations

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.library import pages, search
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints


def register(server: AgentServer) -> None:
    """Add ``docs_search``."""

    @server.tool(annotations=hints("Search the docs", reads=True))
    async def docs_search(
        query: Annotated[str, Field(min_length=2, max_length=200)],
        limit: Annotated[int, Field(ge=1, le=10)] = 4,
    ) -> CallToolResult:
        """Search this platform's documentation: how to write rows and evaluators, what a setting, a verdict or an error
        code means. Returns excerpts and page ids; docs://<page> is the whole page."""
        hits = search(query, limit)
        if not hits:
            return reply(
                {"results": [], "pages": list(pages())}, "docs_search with other words, or read docs://quickstart"
            )
        results = [{"page": f"docs://{hit.page}", "section": hit.heading, "excerpt": hit.excerpt} for hit in hits]
        return reply({"results": results}, f"read docs://{hits[0].page} for the whole page")
