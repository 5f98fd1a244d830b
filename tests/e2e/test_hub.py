"""From a hub to an answer: a local hub, a real daemon, the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import Client

import fw_sdk as fw
from engine.catalog.tests.hub_server import Hub, Repo
from engine.control.tests.daemon_process import Daemon
from engine.inference.tests.tiny_bert import save_tiny_bert
from fw_mcp.app import build_server
from fw_mcp.workspace import Workspace
from fw_sdk.ensure import find_or_pull
from fw_sdk.types import FwError


@pytest.fixture
def hub(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub().running() as hub:
        files = {file.name: file.read_bytes() for file in tiny_llama_dir.iterdir()}
        for name in ("one/Same", "two/Same"):
            hub.repos[name] = Repo(files)
        embed = tmp_path_factory.mktemp("embed")
        save_tiny_bert(embed)
        hub.repos["org/tiny-embed"] = Repo(
            {file.relative_to(embed).as_posix(): file.read_bytes() for file in embed.rglob("*") if file.is_file()}
        )
        hub.repos["org/Tiny.Chat"] = Repo({**files, "pytorch_model.bin": b"x"}, gated=True, licence="mit")
        yield hub


@pytest.fixture
def daemon(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "let-me-in")
    daemon = Daemon(tmp_path / "home").start()
    try:
        yield daemon
    finally:
        daemon.shut_down()


def test_a_pulled_model_answers(daemon: Daemon, hub: Hub) -> None:
    with fw.Client(base_url=daemon.url, api_key=daemon.home.token()) as client:
        failed = client.jobs.wait(str(client.models.pull("hf:org/nothing").job).rsplit("/", 1)[-1])
        assert failed.failure is not None and "org/nothing" in failed.failure.message
        with pytest.raises(FwError) as meant:
            client.models.pull("org/Tiny.Chat")
        assert "hf:org/Tiny.Chat" in meant.value.hint
        with pytest.raises(FwError, match="not a model on a hub"):
            client.models.pull("hf:org/na/me")
        model = client.models.pull("hf:org/Tiny.Chat@v1")
        assert model.id == "tiny.chat"
        client.jobs.wait(str(model.job).rsplit("/", 1)[-1])
        model = client.models.get("tiny.chat")
        assert (model.state.value, model.licence, model.source) == ("READY", "mit", "hf:org/Tiny.Chat@v1")
        assert find_or_pull(client, "hf:org/Tiny.Chat@v1") == model
        reply = daemon.request(
            "POST",
            "/v1/chat/completions",
            json={"model": "tiny.chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
        )
        assert reply.status_code == 200, reply.text
        embedding = client.models.pull("hf:org/tiny-embed")
        client.jobs.wait(str(embedding.job).rsplit("/", 1)[-1])
        assert client.models.get(embedding.id).context_length == 64
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=daemon.home.token(), max_retries=0) as asking:
        answer = asking.embeddings.create(model="tiny-embed", input=["the cat", "a dog"])
        assert [len(item.embedding) for item in answer.data] == [32, 32]
        assert answer.usage.total_tokens == 8
        with pytest.raises(openai.APIStatusError) as caught:
            asking.embeddings.create(model="tiny-embed", input="the cat " * 99)
        assert caught.value.status_code == 400
        counted = 'fw_gateway_tokens_total{kind="prompt",model="tiny-embed"} 8.0'
        assert counted in daemon.request("GET", "/metrics").text
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            asking.chat.completions.create(model="tiny-embed", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.BadRequestError, match="no embeddings"):
            asking.embeddings.create(model="tiny.chat", input="a")
    workers = [Path(f"/proc/{worker.pid}/environ").read_bytes() for worker in daemon.workers()]
    assert workers and not any(b"let-me-in" in environment for environment in workers)
    logs = b"".join(path.read_bytes() for path in daemon.home.root.rglob("*") if path.is_file())
    assert b"let-me-in" not in logs


def test_two_models_of_one_name_are_told_apart_over_mcp(daemon: Daemon, hub: Hub, tmp_path: Path) -> None:
    async def connect() -> fw.AsyncClient:
        return fw.AsyncClient(daemon.url, daemon.home.token())

    async def main() -> list[dict[str, Any]]:
        async with Client(build_server(connect, Workspace(tmp_path))) as client:
            plan = await client.call_tool("model_pull", {"source": "hf:one/Same", "dry_run": True})
            calls = [plan]
            for org in ("one", "two", "one"):
                begun = await client.call_tool("model_pull", {"source": f"hf:{org}/Same"})
                job = (begun.structured_content or {}).get("job_id")
                await client.call_tool("job_wait", {"job_id": job, "timeout_s": 40}) if job else None
                calls.append(await client.call_tool("model_pull", {"source": f"hf:{org}/Same"}))
        return [dict(call.structured_content or {}) for call in calls]

    plan, first, other, again = asyncio.run(main())
    size = sum(map(len, hub.repos["one/Same"].files.values())) / 2**20
    assert plan["started"] is False and 0 < plan["download_mib"] <= round(size, 1)
    assert plan["next"] == "model_pull(source='hf:one/Same') fetches it" and "state" not in plan
    assert first["state"] == other["state"] == "READY", (first, other)
    assert first["model"] == again["model"] == "same" and other["model"].startswith("same-")
