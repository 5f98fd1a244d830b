"""Fixtures of the tasks extension: tools whose work is a job in memory, as the daemon's jobs are for the real tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, TextContent

from fw_mcp.results import refusal, reply
from fw_mcp.server import AgentServer
from fw_mcp.tasks import Task, TaskStatus
from fw_sdk.types import FwError
from tests.conformance.rounds import Round, answers, ask, form

TOOLS = frozenset(
    {"slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input", "test_tool_with_task"}
)
REQUIRED = frozenset({"failing_job", "test_tool_with_task"})

AnyContext = Context[Any, Any]


@dataclass
class MemoryJob:
    """One job; ``outcome`` is set once it ended."""

    id: str
    created: datetime
    updated: datetime
    questions: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    status: TaskStatus = "working"
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    running: asyncio.Task[None] | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def turn(self, status: TaskStatus) -> None:
        """Go to another status."""
        self.status, self.updated = status, datetime.now(UTC)

    async def ask(self, questions: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the client has answered every question."""
        self.questions = dict(questions)
        self.turn("input_required")
        await self.answered.wait()
        self.turn("working")
        return self.given


Work = Callable[[MemoryJob], Awaitable[CallToolResult]]


class MemoryJobs:
    """As ``fw_mcp.tasks.TaskSource``."""

    def __init__(self) -> None:
        self._jobs: dict[str, MemoryJob] = {}
        self._numbers = count(1)

    def start(self, work: Work) -> CallToolResult:
        """Run ``work`` in the background; the reply names its job, as our tools' replies do."""
        now = datetime.now(UTC)
        job = MemoryJob(f"job-{next(self._numbers)}", now, now)
        self._jobs[job.id] = job
        job.running = asyncio.get_running_loop().create_task(self._run(job, work))
        return reply({"job_id": job.id, "state": "running"}, "job_wait")

    async def _run(self, job: MemoryJob, work: Work) -> None:
        try:
            result = await work(job)
        except asyncio.CancelledError:
            job.turn("cancelled")
        except RuntimeError as error:
            job.error = {"code": -32603, "message": str(error)}
            job.turn("failed")
        else:
            job.result = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            job.turn("completed")

    async def find(self, task_id: str) -> Task | None:
        job = self._jobs.get(task_id)
        if job is None:
            return None
        open_questions = {key: item for key, item in job.questions.items() if key not in job.given}
        asked = {
            key: item.model_dump(mode="json", by_alias=True, exclude_none=True) for key, item in open_questions.items()
        }
        shown = asked if job.status == "input_required" else {}
        return Task(job.id, job.status, job.created, job.updated, job.id, job.result, job.error, shown)

    async def cancel(self, task_id: str) -> None:
        running = self._jobs[task_id].running
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait([running])

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        job = self._jobs[task_id]
        job.given |= {key: value for key, value in responses.items() if key in job.questions}
        if job.questions.keys() <= job.given.keys():
            job.answered.set()


def install(server: AgentServer, jobs: MemoryJobs) -> None:
    """The tools of the suite's task scenarios."""
    _add_plain(server, jobs)
    _add_asking(server, jobs)


def said(words: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)])


def _add_plain(server: AgentServer, jobs: MemoryJobs) -> None:
    @server.tool()
    def greet(name: str) -> CallToolResult:
        """Answers at once."""
        return said(f"Hello, {name}!")

    @server.tool()
    async def slow_compute(seconds: float = 1, label: str = "") -> CallToolResult:
        """Takes its time."""
        if seconds == 0:
            return said(f"{label} done at once")

        async def work(job: MemoryJob) -> CallToolResult:
            await asyncio.sleep(seconds)
            return said(f"{label} done")

        return jobs.start(work)

    @server.tool()
    async def failing_job() -> CallToolResult:
        """Ends with a tool error."""

        async def work(job: MemoryJob) -> CallToolResult:
            await asyncio.sleep(1)
            return refusal(FwError("internal", "it failed"), "failing_job")

        return jobs.start(work)

    @server.tool()
    async def protocol_error_job() -> CallToolResult:
        """Ends with a protocol error."""

        async def work(job: MemoryJob) -> CallToolResult:
            await asyncio.sleep(1)
            raise RuntimeError("it broke")

        return jobs.start(work)


def _add_asking(server: AgentServer, jobs: MemoryJobs) -> None:
    @server.tool()
    async def confirm_delete(filename: str = "file") -> CallToolResult:
        """Asks while it runs."""

        async def work(job: MemoryJob) -> CallToolResult:
            await job.ask({"confirm": form(f"Delete {filename}?", confirm="boolean")})
            return said(f"{filename}: answered")

        return jobs.start(work)

    @server.tool()
    async def multi_input() -> CallToolResult:
        """Asks two things while it runs."""

        async def work(job: MemoryJob) -> CallToolResult:
            await job.ask({"first": form("First?", value="string"), "second": form("Second?", value="string")})
            return said("both answered")

        return jobs.start(work)

    @server.tool()
    async def test_tool_with_task(ctx: AnyContext) -> Round:
        """Asks first, then works."""
        found = answers(ctx, "user_name")
        if found is None:
            return ask("asked", user_name=form("What is your name?", name="string"))
        name = (found[0].content or {}).get("name")

        async def work(job: MemoryJob) -> CallToolResult:
            await asyncio.sleep(0.5)
            return said(f"Hello, {name}!")

        return jobs.start(work)
