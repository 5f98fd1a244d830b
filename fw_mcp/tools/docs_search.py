"""``docs_search``: ranked excerpts of the pages that ship with fw, offline."""

from __future__ import annotations

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.library import Hit, covered, pages, search, unknown_words
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints

LEAST_COVERED = 0.25
"""A query whose rare words no page has is a miss if less than this part of it is found; what is left says nothing."""


def register(server: AgentServer) -> None:
    """Add ``docs_search``."""

    @server.tool(annotations=hints("Search the docs", reads=True))
    async def docs_search(
        query: Annotated[str, Field(min_length=2, max_length=200)],
        limit: Annotated[int, Field(ge=1, le=10)] = 4,
    ) -> CallToolResult:
        """Search this platform's documentation: how to write rows and evaluators, what a setting, a verdict or an error
        code means. Returns excerpts and page ids; docs://<page> is the whole page."""
        hits, unknown = search(query, limit), unknown_words(query)
        if not hits or (unknown and covered(query, hits) < LEAST_COVERED):
            fields = {"found": "nothing that answers this", "not_in_any_page": unknown, "pages": list(pages())}
            return reply(fields, "docs_search with other words, or read docs://quickstart; do not guess")
        following = f"read docs://{hits[0].page} for the whole page"
        if unknown:
            following += "; no page has the words in not_in_any_page, so see whether the results are about them at all"
        return reply({"results": [_shown(hit) for hit in hits], "not_in_any_page": unknown}, following)


def _shown(hit: Hit) -> dict[str, str]:
    row = {"row": hit.row} if hit.row else {}
    return {"page": f"docs://{hit.page}", "heading": hit.heading, **row, "excerpt": hit.excerpt}
