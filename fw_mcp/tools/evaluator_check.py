"""``evaluator_check``: run an evaluator on a few rows before anything is spent: does it tell answers apart?"""

from __future__ import annotations

import json
from statistics import fmean
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import evaluator_for, stored_dataset
from fw_mcp.workspace import DATA_SUFFIXES
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError, RowScore

MAX_ROWS = 200
DETAILED = 20
MAX_NAME_CHARS = 60
Rows = list[dict[str, Any]]


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``evaluator_check``."""

    @server.tool(annotations=hints("Check an evaluator"))
    async def evaluator_check(
        evaluator: Annotated[str, Field(description="path, source, or id")],
        data: Annotated[str, Field(description="rows: JSONL path or dataset id")],
        answers: Annotated[list[str] | None, Field(description="score these instead, one per row")] = None,
        limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 5,
    ) -> CallToolResult:
        """Run an evaluator on the first rows: by default on each row's own answer, on another row's and on an empty
        one, so that an evaluator that likes everything shows. Or on your answers. Trains and asks nothing."""
        if answers is not None and len(answers) > limit:
            raise FwError(
                "invalid_argument",
                f"{len(answers)} answers for {limit} rows.",
                not_done="Nothing was scored.",
                hint="give one answer per row, or a larger limit",
                param="answers",
            )
        async with platform.session() as client:
            rows = await _rows(client, platform, data, len(answers) if answers else limit)
            scorer = await evaluator_for(client, platform, evaluator)
            if answers is not None:
                scores = await client.evaluators.check(scorer.id, rows=rows, answers=answers, limit=len(rows))
                return reply({"evaluator": scorer.id, **_scored({"given_answers": scores}, scores)}, _after(scores))
            return await _probe(client, scorer.id, rows)


async def _rows(client: AsyncClient, platform: Platform, data: str, limit: int) -> Rows:
    """The first ``limit`` rows of a file in the workspace, or of a stored dataset."""
    if not platform.workspace.looks_like_path(data, *DATA_SUFFIXES):
        stored = await stored_dataset(client, platform, data, "data")
        if stored is not None:
            return list(await client.datasets.rows(stored.id, limit=limit))[:limit]
    path, rows = platform.workspace.file(data, "data"), []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(line, number, data))
            if len(rows) == limit:
                break
    if not rows:
        raise FwError("dataset_invalid", f"'{data}' has no rows.", not_done="Nothing was scored.", param="data")
    return rows


def _row(line: str, number: int, data: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise FwError(
            "dataset_invalid",
            f"Line {number} of '{data}' is not a JSON object.",
            not_done="Nothing was scored.",
            hint=f"dataset(path='{data}') lists every problem by line",
            param="data",
        )
    return row


async def _probe(client: AsyncClient, evaluator: str, rows: Rows) -> CallToolResult:
    """Scores of the wanted answers beside those of wrong ones."""

    async def scored(answers: list[str] | None) -> list[RowScore]:
        return list(await client.evaluators.check(evaluator, rows=rows, answers=answers, limit=len(rows)))

    own = await scored(None)
    wanted = [score.output for score in own]
    if not any(wanted):
        asked = "no row has an answer of its own: give answers, good and bad ones, and compare their scores"
        return reply(
            {"evaluator": evaluator, "rows": len(rows), "warning": asked}, "evaluator_check(..., answers=[...])"
        )
    others = await scored(wanted[1:] + wanted[:1]) if len(set(wanted)) > 1 else []
    empty = await scored([""] * len(rows))
    groups = {"own_answer": own, "another_rows_answer": others, "empty_answer": empty}
    warning = _warning({name: _mean(scores) for name, scores in groups.items()})
    fields = {
        "evaluator": evaluator,
        "warning": warning,
        **_scored(groups, own),
        "errors_on_wrong_answers": sorted({str(score.error) for score in [*others, *empty] if score.error})[:3],
    }
    return reply(fields, _after([*own, *others, *empty], warning))


def _scored(groups: dict[str, list[RowScore]], shown: list[RowScore]) -> dict[str, Any]:
    """Each group's mean, and the rows of one of them: the first with their answers, of many the bare scores too."""
    return {
        "rows": len(shown),
        "mean_score": {name: _mean(scores) for name, scores in groups.items()},
        "scores": [_view(score) for score in shown[:DETAILED]],
        "score_of_every_row": [score.score for score in shown] if len(shown) > DETAILED else None,
    }


def _mean(scores: list[RowScore]) -> float | None:
    found = [score.score for score in scores if score.score is not None]
    return fmean(found) if found else None


def _warning(means: dict[str, float | None]) -> str | None:
    own = means["own_answer"]
    wrong = [value for value in (means["another_rows_answer"], means["empty_answer"]) if value is not None]
    if own is None:
        return "no row could be scored: see the errors"
    if wrong and max(wrong) >= own:
        return "wrong answers score as well as the wanted ones: this evaluator measures nothing here"
    return None


def _view(score: RowScore) -> dict[str, Any]:
    view = {"row": score.index, "score": score.score, "error": untrusted(score.error, 400) if score.error else None}
    also = {name[:MAX_NAME_CHARS]: value for name, value in score.details.items() if isinstance(value, int | float)}
    return {**view, "also": also or None, "answer": untrusted(score.output, 200)}


def _after(scores: list[RowScore], warning: str | None = None) -> str:
    if warning or any(score.error for score in scores):
        return "correct the evaluator, then evaluator_check(...) again"
    return "customize(data=..., evaluator=..., dry_run=true), or evaluate(model=..., data=..., evaluator=...)"
