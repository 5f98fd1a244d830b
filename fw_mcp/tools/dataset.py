"""``dataset``: check rows, keep them under a name, look at what is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, cast

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.dataset_report import FULL_SAMPLE, Look
from fw_mcp.platform import Platform
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import (
    HELDOUT_FRACTION,
    Cursor,
    Detail,
    Grep,
    keep_dataset,
    pattern_of,
    slug,
)
from fw_mcp.views import dataset_view, short
from fw_mcp.workspace import DATA_SUFFIXES
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, FwError

MAX_ROWS = 1_000

Rows = list[dict[str, Any]]


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``dataset``."""

    @server.tool(annotations=hints("Dataset"))
    async def dataset(
        path: Annotated[str | None, Field(description="JSONL file in the workspace")] = None,
        rows: Annotated[list[dict[str, Any]] | None, Field(max_length=MAX_ROWS, description="rows themselves")] = None,
        id: Annotated[str | None, Field(description="a stored dataset; with save, the name to save under")] = None,
        save: Annotated[bool, Field(description="keep the rows; else only check them")] = False,
        heldout_fraction: Annotated[float, Field(ge=0, le=0.5)] = HELDOUT_FRACTION,
        overlap_with: Annotated[
            str | None,
            Field(description="file or stored dataset: pairs line (here), other_line (there) asking the same"),
        ] = None,
        grep: Grep = None,
        detail: Detail = "concise",
        cursor: Cursor = 0,
    ) -> CallToolResult:
        """Check chat rows ({"messages": [...]} a line, ending with the assistant's answer): problems by line number,
        duplicates, token lengths, train/held-out split. Give path or rows to check; add save=true to keep them; id
        alone shows a stored dataset; grep picks problems and sample rows."""
        if save:
            platform.check_may_write("store rows")
        look = Look(detail == "full", cast("Any", pattern_of(grep)), cursor)
        source = _source(platform, path, rows, id)
        what = f"path={path!r}" if path else "rows=[...]" if rows is not None else f"id='{id}'"
        other = _other_side(platform, overlap_with)
        async with platform.session() as client:
            if source is not None and not save:
                fields: dict[str, Any] = {
                    "stored": False,
                    "report": await asyncio.to_thread(look.report, await client.datasets.check(source), what),
                }
            elif source is not None:
                fields = await _stored(client, await _kept(client, source, path, id, heldout_fraction, look), look)
            else:
                fields = await _stored(client, await client.datasets.get(short(id) or str(id)), look)
            if other is not None:
                overlap = await client.datasets.overlap(fields.get("id") or source or "", other)
                fields["overlap"] = await asyncio.to_thread(look.overlap, overlap, str(overlap_with), what)
        return reply(fields, _next(fields, what))


def _source(platform: Platform, path: str | None, rows: Rows | None, identifier: str | None) -> Path | Rows | None:
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


def _other_side(platform: Platform, name: str | None) -> Path | str | None:
    """The file of the workspace, or the id of the stored dataset, that rows are compared with."""
    if name is None or name.startswith("accounts/") or not platform.workspace.looks_like_path(name, *DATA_SUFFIXES):
        return short(name)
    return platform.workspace.file(name, "overlap_with")


async def _kept(
    client: AsyncClient, source: Path | Rows, path: str | None, identifier: str | None, heldout: float, look: Look
) -> Dataset:
    name = identifier or slug(Path(path).stem if path else "rows", "data")
    try:
        return await keep_dataset(client, source, name, heldout)
    except FwError as error:
        raise look.refused(error, f"path={path!r}" if path else "rows=[...]") from error


async def _stored(client: AsyncClient, dataset: Dataset, look: Look) -> dict[str, Any]:
    fields: dict[str, Any] = {"stored": True, **dataset_view(dataset)}
    if dataset.report is not None:
        what = f"id='{dataset.id}'"
        fields["report"] = await asyncio.to_thread(look.report, dataset.report, what, stored=True)
    most = MAX_ROWS if look.pattern else FULL_SAMPLE
    rows = list(await client.datasets.rows(dataset.id, limit=most))
    return fields | await asyncio.to_thread(look.sample, rows)


def _next(fields: dict[str, Any], what: str) -> str:
    """Correct what is wrong, look for leaked prompts, keep the rows, train on them: the first that is not done."""
    overlap = fields.get("overlap")
    if not fields.get("report", {"ok": True})["ok"]:
        return f"correct these lines, then dataset({what}) again"
    if overlap and overlap["shared"]:
        mended = "path=<the mended file>" if fields["stored"] else what
        again = f"dataset({mended}, overlap_with='{overlap['other']}') again"
        return f"remove the prompts that stand on both sides from one of them, then {again}"
    if fields["stored"]:
        return f"customize(data='{fields['id']}', evaluator='<path, source or id>', dry_run=true)"
    keep = f"dataset({what}, save=true) keeps it; or customize(data=..., evaluator=...) does all"
    leak = f"dataset({what}, overlap_with='<the held-out or training rows: file or id>') finds leaked prompts; "
    return keep if overlap else leak + keep
