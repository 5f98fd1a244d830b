"""The recorded session: an agent's shell command reaches the real server, and everything is in the trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import session as sessions
from tests.agents.exchange import read_trace
from tests.e2e.place import processes_of
from tests.tokens import count_tokens


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Path]:
    """The command of a session without any model; nothing runs for its home afterwards."""
    folder, home = tmp_path / "session", tmp_path / "home"
    sessions.start(folder, home, tmp_path / "workspace", 0, None)
    yield folder / "mcp"
    sessions.stop(sessions.Session.load(folder))
    assert processes_of(home) == []


def run(command: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([command, *words], input=given, capture_output=True, text=True, timeout=100)


def test_a_shell_drives_the_server(command: Path) -> None:
    assert "job_wait: Wait until" in run(command, "tools").stdout
    shown = run(command, "call", "overview").stdout
    assert json.loads(shown)["workspace"] == str(command.parents[1] / "workspace")
    failed = run(command, "call", "job_wait", "-", given='{"job_id": "nothing"}')
    assert failed.returncode == 1 and failed.stdout.startswith("[error]\nNo job 'nothing'")
    wrong = run(command, "call", "job_wait", "{'job_id'}")
    assert wrong.returncode == 1 and "not JSON" in wrong.stderr
    assert "# Quickstart" in run(command, "read", "docs://quickstart").stdout
    trace = read_trace(command.parent / "trace.jsonl")
    assert [(item.method, item.name, item.is_error) for item in trace] == [
        ("tools", "", False),
        ("call", "overview", False),
        ("call", "job_wait", True),
        ("read", "docs://quickstart", False),
    ]
    assert trace[1].text == shown[:-1] and trace[2].arguments == {"job_id": "nothing"}
    assert trace[2].tokens == count_tokens('{"job_id": "nothing"}') + count_tokens(trace[2].text)


def test_a_lost_connection_is_opened_anew(command: Path) -> None:
    assert run(command, "call", "overview").returncode == 0
    session = sessions.Session.load(command.parent)
    keeper = next(
        pid for pid in processes_of(Path(session.home)) if b"keep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(keeper, signal.SIGKILL)
    assert run(command, "call", "overview").returncode == 0
    assert len(read_trace(session.trace)) == 2
