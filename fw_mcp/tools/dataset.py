"""``dataset``: check rows, keep them under a name, look at what is kept."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import page, reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import HELDOUT_FRACTION, Cursor, Detail, Grep, keep_dataset, pattern_of, slug
from fw_mcp.views import dataset_view, problem_view, report_view, same_problems, short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, DatasetReport, FwError

MAX_ROWS = 1_000
PROBLEMS = 20
BRIEF_SAMPLE, FULL_SAMPLE = 2, 10


@dataclass(frozen=True)
class Look:
    """What of a dataset is to be shown."""

    detail: Detail
    pattern: re.Pattern[str] | None
    cursor: int

    def report(self, report: DatasetReport, again: str) -> dict[str, Any]:
        """The report with a page of the findings that match, and the call that shows the next one."""
        matching = [item for item in report.problems if self._matches(f"{item.code} {item.severity} {item.message}")]
        found = page(same_problems(matching), problem_view, self.cursor, PROBLEMS)
        more = f"dataset({again}, cursor={found.following}) lists the next ones" if found.following else None
        beyond = report.problems_omitted
        note = f"{beyond} more problems were not kept: correct these first" if beyond and not more else None
        page_of_them = {"problems": found.shown, "more": more, "note": note}
        return {**report_view(report, self.detail == "full"), **page_of_them}

    def sample(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A few rows that match: one line each of them, fenced."""
        texts = [text for text in (json.dumps(row, ensure_ascii=False) for row in rows) if self._matches(text)]
        most, chars = (FULL_SAMPLE, 2_000) if self.detail == "full" else (BRIEF_SAMPLE, 800)
        return {"sample": page(texts, lambda text: untrusted(text, chars), 0, most).shown}

    def _matches(self, text: str) -> bool:
        return self.pattern is None or bool(self.pattern.search(text))


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``dataset``."""

    @server.tool(annotations=hints("Dataset"))
    async def dataset(
        path: Annotated[str | None, Field(description="JSONL file in the workspace")] = None,
        rows: Annotated[list[dict[str, Any]] | None, Field(max_length=MAX_ROWS, description="rows themselves")] = None,
        id: Annotated[str | None, Field(description="a stored dataset; with save, the name to save under")] = None,
        save: Annotated[bool, Field(description="keep the rows; else only check them")] = False,
        heldout_fraction: Annotated[float, Field(ge=0, le=0.5)] = HELDOUT_FRACTION,
        overlap_with: Annotated[str | None, Field(description="stored dataset: count prompts in both")] = None,
        grep: Grep = None,
        detail: Detail = "concise",
        cursor: Cursor = 0,
    ) -> CallToolResult:
        """Check chat rows ({"messages": [...]} a line, ending with the assistant's answer): problems by line number,
        duplicates, token lengths, train/held-out split. Give path or rows to check; add save=true to keep them; id
        alone shows a stored dataset; grep picks problems and sample rows."""
        if save:
            platform.check_may_write("store rows")
        look = Look(detail, pattern_of(grep), cursor)
        source = _source(platform, path, rows, id)
        async with platform.session() as client:
            if source is None:
                stored = await client.datasets.get(short(id) or str(id))
                return await _shown(client, stored, overlap_with, look)
            if not save:
                return _checked(await client.datasets.check(source), path, overlap_with, look)
            name = id or slug(Path(path).stem if path else "rows", "data")
            kept = await keep_dataset(client, source, name, heldout_fraction)
            return await _shown(client, kept, overlap_with, look)


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


def _checked(report: DatasetReport, path: str | None, overlap_with: str | None, look: Look) -> CallToolResult:
    what = f"path='{path}'" if path else "rows=[...]"
    fields: dict[str, Any] = {"stored": False, "report": look.report(report, what)}
    if overlap_with:
        fields["overlap"] = "overlap_with needs a stored dataset: add save=true"
    if report.ok:
        return reply(fields, f"dataset({what}, save=true) keeps it; or customize(data=..., evaluator=...) does all")
    return reply(fields, f"correct these lines, then dataset({what}) again")


async def _shown(client: AsyncClient, dataset: Dataset, overlap_with: str | None, look: Look) -> CallToolResult:
    fields: dict[str, Any] = {"stored": True, **dataset_view(dataset)}
    if dataset.report is not None:
        fields["report"] = look.report(dataset.report, f"id='{dataset.id}'")
    most = MAX_ROWS if look.pattern else FULL_SAMPLE
    fields |= look.sample(list(await client.datasets.rows(dataset.id, limit=most)))
    if overlap_with:
        overlap = await client.datasets.overlap(dataset.id, short(overlap_with) or overlap_with)
        fields["overlap"] = {**overlap.model_dump(exclude={"pairs"}), "with": overlap_with}
    return reply(fields, f"customize(data='{dataset.id}', evaluator='<path, source or id>', dry_run=true)")
