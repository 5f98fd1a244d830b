"""A server that only reads: what it lacks, what it refuses, and that the daemon refuses it too."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

from fw_mcp.app import READING_INSTRUCTIONS, build_server
from fw_mcp.install import install
from fw_mcp.tests.conftest import Daemon
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import FwError

READING = ["compare", "dataset", "docs_search", "generate", "job_get", "job_wait", "overview"]
ROW = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}


@asynccontextmanager
async def over_stdio(daemon: Daemon, mode: str) -> Any:
    command = ["-m", "fw_sdk.cli", "mcp", "--read-only"]
    server = StdioServerParameters(command=sys.executable, args=command, env=daemon.environment, cwd=daemon.workspace)
    async with Client(server, mode=mode) as client:
        yield client


@asynccontextmanager
async def over_http(daemon: Daemon, mode: str) -> Any:
    headers = {"Authorization": f"Bearer {daemon.home.reading_token()}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{daemon.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("connect", [over_stdio, over_http])
def test_only_tools_that_read_are_there(connect: Any, mode: str, daemon: Daemon) -> None:
    async def main() -> None:
        async with connect(daemon, mode) as client:
            found = (await client.list_tools()).tools
            assert [tool.name for tool in found] == READING
            assert all(tool.annotations.read_only_hint for tool in found)
            assert client.instructions == READING_INSTRUCTIONS and len(READING_INSTRUCTIONS) <= 2_048
            assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["diagnose"]
            assert not (await client.call_tool("overview", {})).is_error
            checked = await client.call_tool("dataset", {"rows": [ROW]})
            assert checked.structured_content["report"]["rows"] == 1
            assert "customize(" in checked.structured_content["next"]
            assert "this one only reads" in checked.structured_content["next"]
            assert json.loads(checked.content[0].text) == checked.structured_content
            for call, arguments in {
                "customize": {"data": "train.jsonl", "evaluator": "evaluator.py"},
                "job_cancel": {"job_id": "j", "confirm": "j"},
                "deploy": {"action": "stop", "name": "d", "confirm": "d"},
                "dataset": {"rows": [ROW], "save": True},
            }.items():
                refused = await client.call_tool(call, arguments)
                assert refused.is_error and refused.structured_content["code"] == "permission_denied", call

    asyncio.run(main())


def test_the_daemon_refuses_what_a_tool_should_not_have_asked(daemon: Daemon) -> None:
    """The whole set of tools with the token that reads: nothing is stored, so the token is what holds."""

    async def connect() -> AsyncClient:
        return AsyncClient(daemon.url, daemon.home.reading_token(), max_retries=0)

    async def main() -> list[CallToolResult]:
        async with Client(build_server(connect, Workspace(daemon.workspace))) as client:
            return [
                await client.call_tool("dataset", {"rows": [ROW], "id": "not-kept", "save": True}),
                await client.call_tool("model_pull", {"source": "smollm2-135m"}),
                await client.call_tool("dataset", {"id": "not-kept"}),
            ]

    stored, pulled, looked = asyncio.run(main())
    for refused in (stored, pulled):
        assert refused.is_error and refused.structured_content["code"] == "permission_denied", refused.content[0].text
        assert "only reads" in refused.structured_content["message"]
    assert looked.structured_content["code"] == "not_found"


@pytest.mark.parametrize("client", ["claude-code", "codex"])
def test_a_client_can_be_given_it(client: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = install(client, tmp_path, read_only=True)
    assert '"mcp", "--read-only"' in " ".join(done.path.read_text().split()).replace("[ ", "[")
    assert not install(client, tmp_path, read_only=True).changed
    if client == "codex":
        with pytest.raises(FwError, match="another server"):
            install(client, tmp_path)
    else:
        assert install(client, tmp_path).changed
