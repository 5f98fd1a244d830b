"""``python -m tests.conformance.server PORT [--fixtures]``: our MCP server on loopback, without a token."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from fw_mcp.app import build_server
from fw_mcp.server import AgentServer
from fw_mcp.skills import SkillsExtension
from fw_mcp.tasks import TasksExtension
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from tests.conformance import fixtures, jobs, rounds


async def nowhere() -> AsyncClient:
    """No daemon is needed: the suites call fixtures only, and of our tools only those that read nothing."""
    return AsyncClient("http://127.0.0.1:1", "no-token", max_retries=0)


def with_fixtures() -> AgentServer:
    """Our own server and the suites' fixtures, with a task source in memory."""
    memory = jobs.MemoryJobs()
    extra = [TasksExtension(memory, jobs.TOOLS, jobs.REQUIRED), SkillsExtension()]
    server = build_server(nowhere, Workspace(Path.cwd()), extensions=extra)
    fixtures.install(server)
    rounds.install(server)
    jobs.install(server, memory)
    return server


def main() -> None:
    """Serve until killed."""
    port = int(sys.argv[1])
    plain = build_server(nowhere, Workspace(Path.cwd()))
    server = with_fixtures() if "--fixtures" in sys.argv else plain
    app = server.streamable_http_app(streamable_http_path="/mcp", host="127.0.0.1")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
