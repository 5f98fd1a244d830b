"""``job_get``: look into a job: its summary, its loss curve, its log, or the answers that it scored."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.corrections import written
from fw_mcp.platform import Platform
from fw_mcp.results import clean, page, reply, untrusted
from fw_mcp.scored_rows import Row, ends, rows_of
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import Cursor, Detail, Grep, pattern_of
from fw_mcp.tools.job_wait import describe, look, progress_line
from fw_mcp.views import after_job, short
from fw_sdk.client import AsyncClient
from fw_sdk.patterns import Pattern
from fw_sdk.types import Evaluation, FwError, Job, JobEvent, JobKind, JobState, Pipeline, RowScore, StepState

CURVE_POINTS, FULL_CURVE_POINTS = 15, 150
LOG_LINES = 2_000
T = TypeVar("T")
View = Literal["summary", "metrics", "logs", "samples"]


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``job_get``."""

    @server.tool(annotations=hints("Look into a job", reads=True, opens=True))
    async def job_get(
        job_id: str,
        view: View = "summary",
        detail: Detail = "concise",
        grep: Grep = None,
        limit: Annotated[int, Field(ge=1, le=200, description="lines or rows")] = 10,
        cursor: Cursor = 0,
    ) -> CallToolResult:
        """A job's summary; metrics: its loss curve; logs: newest lines last; samples: scored answers, the worst first.
        Of a customization, metrics are those of its training and samples those of its last evaluation."""
        pattern, full = pattern_of(grep), detail == "full"
        async with platform.session() as client:
            job = await look(client, short(job_id) or job_id)
            if view == "summary":
                return describe(job, full)
            if view == "metrics":
                return await _metrics(client, await _part(client, job, JobKind.FINETUNE), full)
            if view == "logs":
                return await _logs(client, await _with_log(client, job), pattern, limit, cursor)
            part = await _part(client, job, JobKind.EVALUATE)
            assert isinstance(part, Evaluation)
            return await _samples(client, part, pattern, limit, cursor, full)


async def _part(client: AsyncClient, job: Job, kind: JobKind) -> Job:
    """The job itself, or the newest job of that kind that a pipeline started."""
    if job.kind is kind:
        return job
    steps = reversed(job.steps) if isinstance(job, Pipeline) else ()
    for step in steps:
        part = await look(client, short(step.job) or step.job) if step.job else None
        if part is not None and part.kind is kind:
            return part
    what = {JobKind.FINETUNE: "metrics", JobKind.EVALUATE: "samples"}[kind]
    raise FwError(
        "failed_precondition",
        f"Job '{job.id}' ({job.kind.value}) has no {what}" + (" yet." if isinstance(job, Pipeline) else "."),
        not_done="Nothing was read.",
        hint=f"job_get(job_id='{job.id}', view='logs')",
        param="view",
    )


async def _metrics(client: AsyncClient, job: Job, full: bool) -> CallToolResult:
    """Means over equal stretches of steps, at most ``CURVE_POINTS`` of them; in full ten times as many."""
    points = [event.data for event in await _every_event(client, job) if event.type == "metric"]
    if not points:
        return reply({"job_id": job.id, "points": []}, f"job_wait(job_id='{job.id}')")
    width = math.ceil(len(points) / (FULL_CURVE_POINTS if full else CURVE_POINTS))
    stretches = [points[begin : begin + width] for begin in range(0, len(points), width)]
    names = ("loss", "gradient_norm", "tokens_per_second")
    curve = {name: [sum(float(point[name]) for point in part) / len(part) for part in stretches] for name in names}
    fields = {
        "job_id": job.id,
        "steps": [int(part[-1]["step"]) for part in stretches],
        **curve,
        "note": f"each value is the mean of {width} steps" if width > 1 else None,
        "loss_first_last": [points[0]["loss"], points[-1]["loss"]],
    }
    return reply(fields, f"job_wait(job_id='{job.id}')" if not job.state.ended else f"job_get(job_id='{job.id}')")


async def _every_event(client: AsyncClient, job: Job) -> list[JobEvent]:
    events: list[JobEvent] = []
    while batch := await client.jobs.past_events(job.id, after=events[-1].seq if events else 0):
        events += batch
    return events


async def _with_log(client: AsyncClient, job: Job) -> Job:
    """The job itself; of a pipeline, which writes none, the step that failed or else came last."""
    steps = [step for step in job.steps if step.job] if isinstance(job, Pipeline) else []
    if not steps:
        return job
    chosen = next((step for step in steps if step.state is StepState.FAILED), steps[-1])
    return await client.jobs.get(short(chosen.job) or str(chosen.job))


async def _logs(client: AsyncClient, job: Job, pattern: Pattern | None, limit: int, cursor: int) -> CallToolResult:
    """Lines that match, counted from the newest one back; those shown stand in the order of the log."""
    every = await client.jobs.logs(job.id, lines=LOG_LINES)
    lines = await _matching(pattern, every, str)
    found = page(lines[::-1], clean, cursor, limit)
    text = "\n".join(reversed(found.shown))
    older = found.total - cursor - len(found.shown) if found.following else 0
    fields = {"job_id": job.id, "lines": untrusted(text, len(text)) if text else None, "older_lines": older}
    if not lines:
        fields["note"] = f"none of its {len(every)} lines match" if every else _no_log(job)
    if found.following is None:
        return reply(fields, f"job_get(job_id='{job.id}')" if job.state.ended else after_job(job))
    return reply(fields, f"{_again(job, 'logs', pattern, limit, found.following)} shows older lines")


def _no_log(job: Job) -> str:
    """Why a log is empty: the job has not begun, has logged nothing so far, or never did."""
    if job.state.ended:
        return "it ended without a line in its log; job_get(view='summary') has what came of it"
    if job.state is JobState.PENDING:
        return f"it has not begun and has no log yet: {progress_line(job)}"
    return f"it runs and has logged nothing so far: {progress_line(job)}; lines will be shown here"


async def _samples(
    client: AsyncClient, job: Evaluation, pattern: Pattern | None, limit: int, cursor: int, full: bool
) -> CallToolResult:
    """Answers that match, the worst first, each with what was asked and what was wanted."""
    found = [score async for score in client.evaluations.scores(job.id)]
    matching = await _matching(pattern, found, lambda score: f"{score.output}\n{score.error or ''}")
    matching.sort(key=lambda score: (score.score is not None, score.score, score.index))
    rows = await rows_of(client, job)
    shown = page(matching, lambda score: _sample(score, rows, full), cursor, limit)
    fields = {"job_id": job.id, "model": short(job.model), "matching": shown.total, "samples": shown.shown}
    if shown.following is None:
        return reply(fields, "compare(baseline=..., candidate=...) for evidence")
    left = shown.total - shown.following
    again = _again(job, "samples", pattern, limit, shown.following, full)
    return reply(fields, f"{again} shows the next of {left}")


async def _matching(pattern: Pattern | None, items: Sequence[T], text: Callable[[T], str]) -> list[T]:
    if pattern is None:
        return list(items)
    fits = await asyncio.to_thread(pattern.among, [text(item) for item in items])
    return [item for item, fit in zip(items, fits, strict=True) if fit]


def _again(job: Job, view: View, pattern: Pattern | None, limit: int, cursor: int | None, full: bool = False) -> str:
    """The call for the page that follows, with everything that shapes it."""
    chosen = {"job_id": job.id, "view": view, "grep": pattern.pattern if pattern else None, "limit": limit}
    chosen["detail"] = "full" if full else None
    return written("job_get", {key: value for key, value in chosen.items() if value is not None}, {"cursor": cursor})


def _sample(score: RowScore, rows: Mapping[int, Row], full: bool) -> dict[str, Any]:
    row = rows.get(score.index)
    return {
        "line": score.line,
        "score": score.score,
        "also": score.details or None if full else None,
        "error": untrusted(score.error, 400) if score.error else None,
        "cut_at_max_tokens": True if score.finish_reason == "length" else None,
        "asked": untrusted(row.asked if full else ends(row.asked, 200)) if row else None,
        "wanted": untrusted(row.wanted, 1_000 if full else 160) if row and row.wanted else None,
        "answer": untrusted(score.output, 2_000 if full else 240),
    }
