"""The tasks extension (``io.modelcontextprotocol/tasks``, SEP-2663), which ``mcp`` 2.3 leaves to servers.

A tool that starts long work answers at once with a job. For a client that declared the extension the answer becomes a
``CreateTaskResult`` whose task id is the job's id, so the client can poll, cancel and fetch the result by protocol; for
every other client it stays the job with ``job_wait`` as the next call. There is no task store of its own: whoever keeps
the jobs is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from mcp import MCPError
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.types import CallToolResult, RequestParams
from pydantic import Field

TASKS = "io.modelcontextprotocol/tasks"
POLL_MS = 2000
HEADER_MISMATCH = -32020
INVALID_PARAMS = -32602
MODERN = frozenset({"2026-07-28"})

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]


@dataclass(frozen=True)
class Task:
    """A task as it is now.

    Attributes:
        id: the job's id.
        status: ``failed`` is for protocol errors only; a job that failed is ``completed`` with an error result.
        created: when the job was made.
        updated: when its state last changed.
        message: one line for people.
        result: of a completed task, the tool's result as JSON.
        error: of a failed one, ``{"code", "message"}`` as JSON-RPC has it.
        input_requests: what a task in ``input_required`` asks, by key.
    """

    id: str
    status: TaskStatus
    created: datetime
    updated: datetime
    message: str = ""
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    input_requests: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The fields of every task, as the wire has them. Jobs are kept until a person deletes them: no ttl."""
        shown = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": _iso(self.created),
            "lastUpdatedAt": _iso(self.updated),
            "ttlMs": None,
            "pollIntervalMs": POLL_MS,
        }
        return {**shown, "statusMessage": self.message} if self.message else shown

    def details(self) -> dict[str, Any]:
        """What ``tasks/get`` adds: result, error, or what is asked."""
        more = {"result": self.result, "error": self.error, "inputRequests": self.input_requests or None}
        return {**self.summary(), **{key: value for key, value in more.items() if value is not None}}


class TaskSource(Protocol):
    """Whoever keeps the jobs."""

    async def find(self, task_id: str) -> Task | None:
        """The task of that id; None if there is none."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Stop it; nothing happens to one that has ended."""
        ...

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Give a task what it asked for, by key."""
        ...


class TaskParams(RequestParams):
    """Of ``tasks/get`` and ``tasks/cancel``."""

    task_id: str = Field(alias="taskId")


class TaskUpdateParams(TaskParams):
    """Of ``tasks/update``."""

    input_responses: dict[str, Any] = Field(default_factory=dict, alias="inputResponses")


class TasksExtension(Extension):
    """Jobs as tasks.

    Args:
        source: the jobs.
        tools: the tools whose result names a job (``job_id``).
        required: those of them that cannot serve a client without the extension.
    """

    identifier = TASKS

    def __init__(self, source: TaskSource, tools: frozenset[str], required: frozenset[str] = frozenset[str]()) -> None:
        self._source = source
        self._tools = tools
        self._required = required

    async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
        """Turn a tool's running job into a task, if the client knows tasks."""
        if params.name in self._required:
            require_client_extension(ctx, TASKS)
        result = await call_next(ctx)
        if params.name not in self._tools or not isinstance(result, CallToolResult) or result.is_error:
            return result
        job_id = (result.structured_content or {}).get("job_id")
        if job_id is None or not _declared(ctx):
            return result
        task = await self._source.find(job_id)
        if task is None or task.status not in ("working", "input_required"):
            return result
        return {"resultType": "task", **task.summary()}

    def methods(self) -> list[MethodBinding]:
        """``tasks/get``, ``tasks/cancel``, ``tasks/update``."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, MODERN),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, MODERN),
            MethodBinding("tasks/update", TaskUpdateParams, self._update, MODERN),
        ]

    async def _get(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        return (await self._checked(ctx, params)).details()

    async def _cancel(self, ctx: Any, params: TaskParams) -> dict[str, Any]:
        await self._checked(ctx, params)
        await self._source.cancel(params.task_id)
        return {}

    async def _update(self, ctx: Any, params: TaskUpdateParams) -> dict[str, Any]:
        await self._checked(ctx, params)
        await self._source.answer(params.task_id, params.input_responses)
        return {}

    async def _checked(self, ctx: Any, params: TaskParams) -> Task:
        """The task that a request names, in its body and, over HTTP, in its header."""
        require_client_extension(ctx, TASKS)
        named = ctx.request.headers.get("mcp-name") if ctx.request is not None else None
        if named is not None and named != params.task_id:
            raise MCPError(HEADER_MISMATCH, "the Mcp-Name header does not match params.taskId")
        task = await self._source.find(params.task_id)
        if task is None:
            raise MCPError(INVALID_PARAMS, f"Unknown task '{params.task_id}'")
        return task


def _declared(ctx: Any) -> bool:
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and capabilities.extensions and TASKS in capabilities.extensions)


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
