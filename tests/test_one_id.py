"""Equal work has one id, whoever asks for it: HTTP, the SDK's loop and an agent's ``customize``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client as McpClient

import fw_sdk as fw
from engine.control.tests.daemon_process import Daemon
from fw_mcp.app import build_server
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.loop import start_pipeline

EVALUATOR = "def evaluate(messages, ground_truth=None, **row):\n    return 1.0\n"


def write(path: Path, word: str) -> None:
    turns = (
        [{"role": "user", "content": f"{word} {n}"}, {"role": "assistant", "content": f"a {n}"}] for n in range(60)
    )
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))


@pytest.fixture
def daemon(tmp_path: Path, tiny_llama_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "home").start()
    daemon.pull(tiny_llama_dir, "tiny")
    yield daemon
    daemon.shut_down()


def test_http_the_sdk_and_an_agent_get_one_id_for_equal_work(daemon: Daemon, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "evaluator.py").write_text(EVALUATOR)

    async def connect() -> AsyncClient:
        return AsyncClient(daemon.url, daemon.home.token())

    async def plan() -> dict[str, object]:
        async with McpClient(build_server(connect, Workspace(workspace))) as agent:
            arguments = {"data": "train.jsonl", "evaluator": "evaluator.py", "base_model": "tiny", "dry_run": True}
            return (await agent.call_tool("customize", arguments)).structured_content

    seen = []
    for word in ("first", "second"):
        write(workspace / "train.jsonl", word)
        agents = asyncio.run(plan())
        with fw.Client(daemon.url, daemon.home.token()) as client:
            names = ("tiny", agents["data"]["id"], agents["evaluator"])
            assert client.pipelines.plan(*names).id == agents["would_start"]
            started = start_pipeline(client, "tiny", workspace / "train.jsonl", workspace / "evaluator.py")
            client.pipelines.cancel(started.id)
            client.jobs.wait(started.id, timeout_s=60)
            assert started.id == agents["would_start"]
            seen.append(started.id)
            client.jobs.delete(started.id)
            for job in client.jobs.list():
                if job.kind != "pull":
                    client.jobs.delete(job.id)
            client.datasets.delete(names[1])
    assert seen[0] != seen[1], "other rows under the same name are other work"
