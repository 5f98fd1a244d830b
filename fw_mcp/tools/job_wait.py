"""``job_wait``: wait for a job within bounds, with progress, and hand back its outcome."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import (
    LONG_WAIT_S,
    SHORT_WAIT_S,
    Platform,
    Reporter,
    ToolContext,
    longest_wait_s,
    reporter_of,
    wants_progress,
)
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.views import after_job, short, view_of
from fw_sdk.client import AsyncClient
from fw_sdk.types import Job, OtherJob, Pipeline, StepState

POLL_S = 1.0
WATCHED_WAIT_S = 540.0
"""How long a wait lasts that names no time and shows progress: few clients end a call that lives before ten minutes."""


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``job_wait``."""

    @server.tool(annotations=hints("Wait for a job", reads=True))
    async def job_wait(
        ctx: ToolContext,
        job_id: str,
        timeout_s: Annotated[
            float | None, Field(ge=0, le=LONG_WAIT_S, description="0 looks; default: 540 with progress shown, else 45")
        ] = None,
    ) -> CallToolResult:
        """Wait until a job ends, at most timeout_s seconds (45, or 600 with progress shown). A job
        that is still running is no error: call again. Once a customization ended the result has scores, comparison,
        verdict and deployment; of a failed job the reason, the log's end and the fix."""
        usual = WATCHED_WAIT_S if wants_progress(ctx) else SHORT_WAIT_S
        limit = min(usual if timeout_s is None else timeout_s, longest_wait_s(ctx))
        async with platform.session() as client:
            job = await watch(client, short(job_id) or job_id, limit, reporter_of(ctx))
        return describe(job, waited_s=limit if not job.state.ended else None)


def describe(job: Job, full: bool = False, **more: Any) -> CallToolResult:
    """A job of any kind as a result with its next call."""
    return reply({**view_of(job, full), **more}, after_job(job))


async def watch(client: AsyncClient, job_id: str, timeout_s: float, reporter: Reporter) -> Job:
    """Poll until the job ended or ``timeout_s`` passed; progress at once and then every few seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        job = await look(client, job_id)
        await reporter.report(*await progress_of(client, job))
        left = deadline - time.monotonic()
        if job.state.ended or left <= 0:
            return job
        await asyncio.sleep(min(POLL_S, left))


async def look(client: AsyncClient, job_id: str) -> Job:
    """The job with the fields of its kind; of a kind that is not known here, those that its descriptor names."""
    job = await client.jobs.get(job_id)
    if not isinstance(job, OtherJob):
        return job
    shown = next((kind.shown for kind in await client.jobs.kinds() if kind.kind == job.kind), [])
    return job.keeping(shown)


async def progress_of(client: AsyncClient, job: Job) -> tuple[float, float | None, str]:
    """(done, total, message). A pipeline counts steps, with the running step's own part as a fraction."""
    if not isinstance(job, Pipeline):
        return job.progress.done, job.progress.total or None, progress_line(job)
    total = len(job.steps) or None
    done = float(sum(step.state in (StepState.DONE, StepState.SKIPPED, StepState.FAILED) for step in job.steps))
    running = next((step for step in job.steps if step.state is StepState.RUNNING), None)
    if running is None:
        return done, total, progress_line(job)
    if running.job is None:
        return done, total, f"{running.name.value}: {running.message or 'running'}"
    child = await client.jobs.get(short(running.job) or running.job)
    part = child.progress.done / child.progress.total if child.progress.total else 0.0
    return done + min(part, 0.99), total, f"{running.name.value}: {progress_line(child)}"


def progress_line(job: Job) -> str:
    """How far a job is, in one line."""
    progress = job.progress
    parts = [f"{progress.done}/{progress.total} {progress.unit}" if progress.total else job.state.value[10:].lower()]
    if progress.message:
        parts.append(progress.message)
    if progress.eta_s is not None and not job.state.ended:
        parts.append(f"about {progress.eta_s:.0f} s left")
    return ", ".join(parts)
