"""What the scripted agent reads in a ``next``, and that it stops where a result does not say what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent

from tests.agents.agent import Agent, NotSaid, call_in


@pytest.mark.parametrize(
    ("said", "tool", "found"),
    [
        ("job_wait(job_id='a-1')", "job_wait", {"job_id": "a-1"}),
        ("correct it, then dataset(path='a (1)', save=true) again", "dataset", {"path": "a (1)", "save": True}),
        ("customize(...) with the same arguments starts it", "customize", {"...": ...}),
        ("evaluate(..., few_shot=4); or deploy(model='m')", "evaluate", {"...": ..., "few_shot": 4}),
        ("evaluate(..., few_shot=4); or deploy(model='m')", "deploy", {"model": "m"}),
        ("compare(baseline=<a model, or another>, candidate='c')", "compare", {"baseline": ..., "candidate": "c"}),
        ("generate(model='m', prompts=['...'])", "generate", {"model": "m", "prompts": ...}),
        ("overview() lists every id", "overview", {}),
        ("read docs://errors", "overview", None),
        ("re_generate(model='m')", "generate", None),
    ],
)
def test_a_call_is_read_out_of_a_sentence(said: str, tool: str, found: dict[str, Any] | None) -> None:
    assert call_in(said, tool) == found


def test_an_agent_does_only_what_it_is_told(tmp_path: Path) -> None:
    server = MCPServer("test")
    seen: list[tuple[str, int, str]] = []

    @server.tool()
    def step(name: str, count: int = 1, word: str = "") -> CallToolResult:
        """Say what follows."""
        seen.append((name, count, word))
        following = {"a": "step(..., name='b')", "b": "step(name='c', word=...)"}.get(name, "stop()")
        text = f'{{"next": "{following}"}}'
        return CallToolResult(content=[TextContent(type="text", text=text)])

    async def main() -> None:
        async with Client(server) as client:
            agent = Agent(client, tmp_path)
            await agent.call("step", name="a", count=7)
            await agent.follow("step")
            with pytest.raises(NotSaid, match="word left open"):
                await agent.follow("step")
            await agent.follow("step", word="w")
            with pytest.raises(NotSaid, match="step is not in: stop"):
                await agent.follow("step")

    asyncio.run(main())
    assert seen == [("a", 7, ""), ("b", 7, ""), ("c", 1, "w")]
