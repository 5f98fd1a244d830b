"""The daemon's jobs as the tasks of the tasks extension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp import MCPError

from fw_mcp.platform import Platform
from fw_mcp.results import clean, refusal
from fw_mcp.tasks import INVALID_PARAMS, Task
from fw_mcp.tools.job_wait import describe, look, progress_of
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError, Job, JobState


class JobTasks:
    """The platform's jobs as MCP tasks.

    Args:
        platform: where the jobs are.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def find(self, task_id: str) -> Task | None:
        """The job of that id as a task; None if there is none."""
        try:
            async with self._platform.session() as client:
                job = await look(client, task_id)
                return await _as_task(client, job)
        except FwError as error:
            if error.code in ("not_found", "invalid_argument"):
                return None
            raise

    async def cancel(self, task_id: str) -> None:
        """Cancel the job; nothing happens to one that has ended."""
        async with self._platform.session() as client:
            if not (await client.jobs.get(task_id)).state.ended:
                await client.jobs.cancel(task_id)

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """No job of ours asks anything while it runs."""
        raise MCPError(INVALID_PARAMS, f"Task '{task_id}' has not asked for input")


async def _as_task(client: AsyncClient, job: Job) -> Task:
    """The line for people begins with the id: a client in the background may show nothing else of the task."""
    created = job.create_time
    updated = job.completed_time or job.update_time
    if not job.state.ended:
        _, _, message = await progress_of(client, job)
        return Task(job.id, "working", created, updated, clean(f"{job.id}: {message}", 200))
    if job.state is JobState.CANCELLED:
        return Task(job.id, "cancelled", created, updated, f"{job.id} was cancelled; the same call goes on from there")
    result = describe(job)
    if job.state is JobState.FAILED and job.failure is not None:
        result = refusal(FwError.from_dict(job.failure.to_wire()), job.kind.value)
    wire = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Task(job.id, "completed", created, updated, f"{job.id} has ended", result=wire)
