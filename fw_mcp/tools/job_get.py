"""``job_get``: look into a job: its summary, its loss curve, its log, or the answers that it scored."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.job_wait import describe, look
from fw_mcp.views import short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Evaluation, FwError, Job, JobEvent, JobKind, Pipeline, RowScore

CURVE_POINTS = 30
LOG_LINES = 2_000
View = Literal["summary", "metrics", "logs", "samples"]


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``job_get``."""

    @server.tool(annotations=hints("Look into a job", reads=True, opens=True))
    async def job_get(
        job_id: str,
        view: View = "summary",
        grep: Annotated[str | None, Field(max_length=200, description="regular expression for logs, samples")] = None,
        limit: Annotated[int, Field(ge=1, le=200, description="lines or rows")] = 20,
        cursor: Annotated[int, Field(ge=0, description="skip so many; from next")] = 0,
    ) -> CallToolResult:
        """A job's summary; metrics: its loss curve; logs: newest lines last; samples: scored answers, the worst first.
        Of a customization, metrics are those of its training and samples those of its last evaluation."""
        pattern = _pattern(grep)
        async with platform.session() as client:
            job = await look(client, short(job_id) or job_id)
            if view == "summary":
                return describe(job)
            if view == "metrics":
                return await _metrics(client, await _part(client, job, JobKind.FINETUNE))
            if view == "logs":
                return await _logs(client, job, pattern, limit, cursor)
            return await _samples(client, await _part(client, job, JobKind.EVALUATE), pattern, limit, cursor)


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(grep, re.IGNORECASE) if grep else None
    except re.error as error:
        raise FwError(
            "invalid_argument",
            f"grep: {error}.",
            not_done="Nothing was read.",
            hint="escape the special characters with a backslash",
            param="grep",
        ) from None


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


async def _metrics(client: AsyncClient, job: Job) -> CallToolResult:
    """At most ``CURVE_POINTS`` means over equal stretches of steps, the last step whole."""
    points = [event.data for event in await _every_event(client, job) if event.type == "metric"]
    if not points:
        return reply({"job_id": job.id, "points": []}, f"job_wait(job_id='{job.id}')")
    width = math.ceil(len(points) / CURVE_POINTS)
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


async def _logs(
    client: AsyncClient, job: Job, pattern: re.Pattern[str] | None, limit: int, cursor: int
) -> CallToolResult:
    lines = [line for line in await client.jobs.logs(job.id, lines=LOG_LINES) if not pattern or pattern.search(line)]
    end = max(0, len(lines) - cursor)
    shown = lines[max(0, end - limit) : end]
    older = end - len(shown)
    fields = {"job_id": job.id, "lines": untrusted("\n".join(shown), 12_000) if shown else None, "older_lines": older}
    more = f"job_get(job_id='{job.id}', view='logs', cursor={cursor + len(shown)}) shows older lines"
    return reply(fields, more if older else f"job_get(job_id='{job.id}')")


async def _samples(
    client: AsyncClient, job: Job, pattern: re.Pattern[str] | None, limit: int, cursor: int
) -> CallToolResult:
    found = [score async for score in client.evaluations.scores(job.id)]
    matching = [score for score in found if not pattern or pattern.search(f"{score.output}\n{score.error or ''}")]
    matching.sort(key=lambda score: (score.score is not None, score.score, score.index))
    shown = matching[cursor : cursor + limit]
    fields = {
        "job_id": job.id,
        "model": short(job.model) if isinstance(job, Evaluation) else None,
        "matching": len(matching),
        "samples": [_sample(score) for score in shown],
    }
    left = len(matching) - cursor - len(shown)
    more = f"job_get(job_id='{job.id}', view='samples', cursor={cursor + len(shown)}) shows the next of {left}"
    return reply(fields, more if left else "compare(baseline=..., candidate=...) for evidence")


def _sample(score: RowScore) -> dict[str, Any]:
    return {
        "line": score.line,
        "score": score.score,
        "error": untrusted(score.error, 400) if score.error else None,
        "cut_at_max_tokens": True if score.finish_reason == "length" else None,
        "answer": untrusted(score.output, 600),
    }
