"""``dataset``: check rows, keep them under a name, look at what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import keep_dataset, slug
from fw_mcp.views import dataset_view, report_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, DatasetReport, FwError

MAX_ROWS = 1_000
SAMPLE_ROWS = 2


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``dataset``."""

    @server.tool(annotations=hints("Dataset"))
    async def dataset(
        path: Annotated[str | None, Field(description="JSONL file in the workspace")] = None,
        rows: Annotated[list[dict[str, Any]] | None, Field(max_length=MAX_ROWS, description="rows themselves")] = None,
        id: Annotated[str | None, Field(description="a stored dataset; with save, the name to save under")] = None,
        save: Annotated[bool, Field(description="keep the rows; else only check them")] = False,
        heldout_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1,
        overlap_with: Annotated[str | None, Field(description="stored dataset: count prompts in both")] = None,
    ) -> CallToolResult:
        """Check chat rows ({"messages": [...]} a line, ending with the assistant's answer): problems by line number,
        duplicates, token lengths, train/held-out split. Give path or rows to check; add save=true to keep them; id
        alone shows a stored dataset."""
        if save:
            platform.check_may_write("store rows")
        source = _source(platform, path, rows, id)
        async with platform.session() as client:
            if source is None:
                stored = await client.datasets.get(str(id))
                return await _shown(client, stored, overlap_with)
            if not save:
                return _checked(await client.datasets.check(source), path, overlap_with)
            name = id or slug(Path(path).stem if path else "rows", "data")
            return await _shown(client, await keep_dataset(client, source, name, heldout_fraction), overlap_with)


def _source(
    platform: Platform, path: str | None, rows: list[dict[str, Any]] | None, identifier: str | None
) -> Path | list[dict[str, Any]] | None:
    if path is not None and rows is not None:
        raise FwError("invalid_argument", "Give path or rows, not both.", not_done="Nothing was run.", param="rows")
    if path is not None:
        return platform.workspace.file(path, "path")
    if rows is None and identifier is None:
        raise FwError(
            "invalid_argument",
            "dataset needs path, rows or id.",
            not_done="Nothing was run.",
            hint="dataset(path='train.jsonl')",
            param="path",
        )
    return rows


def _checked(report: DatasetReport, path: str | None, overlap_with: str | None) -> CallToolResult:
    fields: dict[str, Any] = {"stored": False, "report": report_view(report)}
    if overlap_with:
        fields["note"] = "overlap_with needs a stored dataset: add save=true"
    what = f"path='{path}'" if path else "rows=[...]"
    if report.ok:
        return reply(fields, f"dataset({what}, save=true) keeps it; or customize(data=..., evaluator=...) does all")
    return reply(fields, f"correct these lines, then dataset({what}) again")


async def _shown(client: AsyncClient, dataset: Dataset, overlap_with: str | None) -> CallToolResult:
    fields: dict[str, Any] = {"stored": True, **dataset_view(dataset)}
    if dataset.report is not None:
        fields["report"] = report_view(dataset.report)
    sample = await client.datasets.rows(dataset.id, limit=SAMPLE_ROWS)
    fields["sample"] = [untrusted(json.dumps(row, ensure_ascii=False), 800) for row in sample[:SAMPLE_ROWS]]
    if overlap_with:
        overlap = await client.datasets.overlap(dataset.id, short(overlap_with) or overlap_with)
        fields["overlap"] = {**overlap.model_dump(), "with": overlap_with}
    return reply(fields, f"customize(data='{dataset.id}', evaluator='<path, source or id>', dry_run=true)")
