"""One registration gives a kind of job its queue, events and logs, and its views in HTTP, SDK, CLI and MCP.

The clients run in this process and processes of their own, which know nothing of the kind.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mcp import Client as McpClient

import fw_sdk as fw
from engine.jobs.files import read_json
from fw_mcp.app import build_server
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types import JobState, OtherJob
from fw_sdk.types.home import Home

ROOT = "/v1/accounts/local"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose daemon knows toys."""
    home = Home(tmp_path_factory.mktemp("toys") / "home").prepare()
    command = [sys.executable, "-c", "from tests.toy_kind import serve; serve()", str(home.root), "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    daemon = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while read_json(home.daemon_file) is None:
        assert daemon.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield home
    daemon.terminate()
    assert daemon.wait(15) == 0


@pytest.fixture
def url(home: Home) -> str:
    return str((read_json(home.daemon_file) or {})["url"])


@pytest.fixture
def client(home: Home, url: str) -> Iterator[fw.Client]:
    with fw.Client(url, home.token()) as client:
        yield client


def test_http_and_sdk_have_its_queue_events_and_logs(home: Home, url: str, client: fw.Client) -> None:
    described = {kind.kind.value: kind for kind in client.jobs.kinds()}["toy"]
    assert (described.collection, described.noun, described.shown) == ("toys", "toy", ["steps", "counted"])
    first = client.jobs.start("toys", {"steps": 4, "pauseS": 0.3})
    second = client.jobs.start("toys", {"steps": 2})
    assert isinstance(first, OtherJob) and first.id == "toy-0001"
    assert client.jobs.get(second.id).state is JobState.PENDING, "both need all of the memory"
    ended = client.jobs.wait(second.id, timeout_s=60)
    assert ended.state is JobState.COMPLETED and ended.model_extra["counted"] == "1 2"
    assert [job.id for job in client.jobs.list(collection="toys")] == [second.id, first.id]
    types = [event.type for event in client.jobs.events(first.id)]
    assert types.count("progress") >= 4 and "result" in types
    assert any("counted" in line for line in client.jobs.logs(first.id))
    cancelled = client.jobs.start("toys", {"steps": 1000, "pauseS": 0.1})
    client.jobs.cancel(cancelled.id)
    assert client.jobs.wait(cancelled.id, timeout_s=60).state is JobState.CANCELLED
    client.jobs.delete(cancelled.id)
    once = {client.jobs.start("toys", {"steps": 5}, reuse=True).id for _ in range(2)}
    assert len(once) == 1
    with pytest.raises(fw.FwError, match="did you mean 'steps'"):
        client.jobs.start("toys", {"step": 5})
    failed = client.jobs.wait(client.jobs.start("toys", {"fails": True}).id, timeout_s=60)
    assert failed.failure is not None and failed.failure.message == "The toy broke."
    paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    assert {f"{ROOT}/toys", f"{ROOT}/toys:plan"} <= set(paths)


def test_the_command_line_shows_what_its_descriptor_says(home: Home, url: str, client: fw.Client) -> None:
    job = client.jobs.wait(client.jobs.start("toys", {"steps": 6}).id, timeout_s=60)
    environment = {**os.environ, "FW_HOME": str(home.root), "FW_BASE_URL": url, "FW_API_KEY": home.token()}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "fw_sdk.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    assert job.id in run("job", "list", "--format", "human")
    page = run("job", "show", job.id, "--format", "human")
    assert "toy" in page and "1 2 3 4 5 6" in page
    assert json.loads(run("job", "show", job.id, "--format", "json"))["counted"] == "1 2 3 4 5 6"
    assert "counted" in run("job", "logs", job.id)


def test_agents_see_what_its_descriptor_says(home: Home, url: str, client: fw.Client, tmp_path: Path) -> None:
    job = client.jobs.start("toys", {"steps": 7})

    async def connect() -> AsyncClient:
        return AsyncClient(url, home.token())

    async def ask() -> list[dict[str, object]]:
        async with McpClient(build_server(connect, Workspace(tmp_path))) as agent:
            waited = await agent.call_tool("job_wait", {"job_id": job.id, "timeout_s": 30})
            looked = await agent.call_tool("job_get", {"job_id": job.id})
            return [waited.structured_content, looked.structured_content]

    for seen in asyncio.run(ask()):
        assert seen["kind"] == "toy" and seen["steps"] == 7 and seen["counted"] == "1 2 3 4 5 6 7"
