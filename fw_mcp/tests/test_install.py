"""Clients' configuration files are added to and never broken; the connection is proved by connecting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fw_mcp.install import CLIENTS, entry, install
from fw_mcp.tests.conftest import Daemon
from fw_sdk.types import FwError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    return tmp_path / "person"


def servers(path: Path, section: str) -> dict[str, Any]:
    text = path.read_text()
    return (tomllib.loads(text) if path.suffix == ".toml" else json.loads(text))[section]


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_each_client_gets_its_file_once(client: str, tmp_path: Path, home: Path) -> None:
    first, again = install(client, tmp_path), install(client, tmp_path)
    assert first.changed and not again.changed and first.path == again.path
    assert first.path.is_relative_to(home) == CLIENTS[client].path.startswith("~")
    assert servers(first.path, CLIENTS[client].section)["fw"] == entry(CLIENTS[client].typed)
    assert Path(entry(typed=False)["command"]).name == "fw"


def test_what_else_is_there_stays(tmp_path: Path, home: Path) -> None:
    (tmp_path / ".mcp.json").write_text('{"mcpServers": {"other": {"command": "x"}}, "more": [1]}')
    (home / ".codex").mkdir(parents=True)
    toml = '# mine\nmodel = "m"\n\n[mcp_servers.other]\ncommand = "x"\n'
    (home / ".codex" / "config.toml").write_text(toml)
    install("claude-code", tmp_path), install("codex", tmp_path)
    kept = json.loads((tmp_path / ".mcp.json").read_text())
    assert kept["more"] == [1] and kept["mcpServers"]["other"] == {"command": "x"} and "fw" in kept["mcpServers"]
    after = (home / ".codex" / "config.toml").read_text()
    assert after.startswith(toml.rstrip()) and tomllib.loads(after)["mcp_servers"]["fw"]["args"] == ["mcp"]


@pytest.mark.parametrize(
    "text", ["{ // a comment\n}", "[1]", '{"mcpServers": 3}', '{"mcpServers": {"fw": {"command": "another"}}}']
)
def test_a_file_that_cannot_be_added_to_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    (tmp_path / ".mcp.json").write_text(text)
    with pytest.raises(FwError) as caught:
        install("claude-code", tmp_path)
    assert caught.value.code == "failed_precondition" and '"args": ["mcp"]' in caught.value.hint
    assert (tmp_path / ".mcp.json").read_text() == text


def test_an_old_path_of_ours_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".mcp.json").write_text('{"mcpServers": {"fw": {"command": "/old/fw", "args": ["mcp"]}}}')
    assert install("claude-code", tmp_path).changed
    assert servers(tmp_path / ".mcp.json", "mcpServers")["fw"] == entry(typed=False)


def test_an_unknown_client_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FwError, match="claude-code"):
        install("claude-cod", tmp_path)


def run_fw(daemon: Daemon, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fw_sdk.cli", *arguments]
    environment = {**daemon.environment, "HOME": os.environ["HOME"]}
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=200)


def test_the_commands(daemon: Daemon, tmp_path: Path) -> None:
    done = run_fw(daemon, "mcp", "install", "claude-code", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["path"] == str(tmp_path / ".mcp.json"), done.stderr
    wrong = run_fw(daemon, "mcp", "install", "emacs", cwd=tmp_path)
    assert wrong.returncode == 3 and "Traceback" not in wrong.stderr
    plugin = run_fw(daemon, "mcp", "plugin", "here", "--format", "json", cwd=tmp_path)
    assert plugin.returncode == 0 and (tmp_path / "here" / "skills" / "fw" / "SKILL.md").is_file(), plugin.stderr
    checked = run_fw(daemon, "mcp", "doctor", "--format", "json", cwd=tmp_path)
    found = [json.loads(line) for line in checked.stdout.splitlines()]
    found = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    assert checked.returncode == 0 and {item["status"] for item in found} == {"ok"}, checked.stdout
    assert {item["id"] for item in found} == {"stdio, auto", "stdio, legacy", "http, auto", "http, legacy"}
