"""The tasks and skills extensions, spoken as the wire has them, against a real daemon."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fw_mcp.skills import frontmatter, plugin_files, skill_files, write_plugin
from fw_mcp.tests.conftest import Daemon
from fw_sdk.client import Client as SdkClient
from fw_sdk.types import JobState

MODERN = "2026-07-28"
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


def ask(daemon: Daemon, method: str, params: dict[str, Any], capabilities: dict[str, Any] | None = None) -> Any:
    """One stateless request; the result, or the error object."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
    }
    headers = {
        "Authorization": f"Bearer {daemon.home.token()}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
    }
    named = params.get("name") or params.get("taskId") or params.get("uri")
    if named:
        headers["Mcp-Name"] = named
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    reply = httpx2.post(f"{daemon.url}/mcp", headers=headers, json=body, timeout=60)
    text = reply.text
    if reply.headers["content-type"].startswith("text/event-stream"):
        text = [line[5:] for line in text.splitlines() if line.startswith("data:")][-1]
    answer = json.loads(text)
    return answer.get("result", answer.get("error"))


@pytest.fixture
def failing_pull(daemon: Daemon) -> str:
    """A pull whose file is no model: its job fails soon."""
    path = daemon.workspace / "broken.gguf"
    path.write_bytes(b"GGUF but no more")
    return path.name


def test_a_client_that_knows_tasks_gets_one_and_its_result(daemon: Daemon, failing_pull: str) -> None:
    call = {"name": "model_pull", "arguments": {"source": failing_pull}}
    plain = ask(daemon, "tools/call", call)
    assert "taskId" not in plain and plain["structuredContent"]["job_id"] in plain["structuredContent"]["next"]
    assert ask(daemon, "server/discover", {})["capabilities"]["extensions"].keys() >= {
        "io.modelcontextprotocol/tasks",
        "io.modelcontextprotocol/skills",
    }
    with SdkClient(daemon.url, daemon.home.token()) as client:
        job = client.jobs.wait(plain["structuredContent"]["job_id"])
        assert job.state is JobState.FAILED
    task = ask(daemon, "tasks/get", {"taskId": job.id}, TASKS)
    assert task["status"] == "completed" and task["result"]["isError"] is True and task["ttlMs"] is None
    assert task["createdAt"] <= task["lastUpdatedAt"] and task["statusMessage"].startswith(job.id)
    assert ask(daemon, "tasks/cancel", {"taskId": job.id}, TASKS).get("taskId") is None
    assert ask(daemon, "tasks/get", {"taskId": job.id})["code"] == -32021
    assert ask(daemon, "tasks/get", {"taskId": "nope"}, TASKS)["code"] == -32602
    assert ask(daemon, "tasks/update", {"taskId": job.id, "inputResponses": {}}, TASKS)["code"] == -32602


def test_the_skill_is_listed_with_the_digests_of_its_files(daemon: Daemon) -> None:
    (skill,) = ask(daemon, "skills/list", {})["skills"]
    assert skill["frontmatter"]["name"] == "fw" and len(skill["frontmatter"]["description"]) <= 1024
    assert {entry["uri"] for entry in skill["resources"]} >= {"skill://fw/SKILL.md", "skill://fw/references/errors.md"}
    for entry in skill["resources"][:3]:
        text = ask(daemon, "resources/read", {"uri": entry["uri"]})["contents"][0]["text"]
        assert entry["digest"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert entry["size"] == len(text.encode())
    assert ask(daemon, "skills/get", {"uri": skill["uri"]})["skill"] == skill
    assert ask(daemon, "skills/get", {"uri": "skill://other/SKILL.md"})["code"] == -32602


def test_the_skill_names_tools_and_pages_that_exist() -> None:
    from fw_mcp.app import TOOLS
    from fw_mcp.library import pages

    main = skill_files()[0]
    names = {module.__name__.rsplit(".", 1)[-1] for module in TOOLS} | {"docs_search"}
    for tool in ("customize", "job_wait", "evaluator_check", "job_get", "generate", "docs_search"):
        assert tool in main.text and tool in names
    assert {file.path for file in skill_files()[1:]} == {f"references/{page}.md" for page in pages()}
    assert frontmatter(main.text).keys() == {"name", "description"}


def test_the_plugin_is_complete(tmp_path: Path) -> None:
    written = {str(path.relative_to(tmp_path)) for path in write_plugin(tmp_path)}
    assert written == set(plugin_files())
    assert json.loads((tmp_path / ".mcp.json").read_text())["mcpServers"]["fw"] == {"command": "fw", "args": ["mcp"]}
    manifest = json.loads((tmp_path / ".claude-plugin" / "plugin.json").read_text())
    assert (manifest["name"], manifest["version"]) == ("fw", version("fw"))
    assert manifest["description"] == frontmatter(skill_files()[0].text)["description"]
    assert (tmp_path / "skills" / "fw" / "SKILL.md").read_text().startswith("---\nname: fw\n")
