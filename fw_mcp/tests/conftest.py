"""A real daemon in a process of its own, without any model, for the tests of this room."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fw_mcp.app import build_server
from fw_mcp.server import AgentServer
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.types.home import Home

EXAMPLE = Path(__file__).parents[2] / "examples" / "function-calling"


@dataclass(frozen=True)
class Daemon:
    """A running daemon, its home, and the folder that its MCP clients work in."""

    home: Home
    url: str
    workspace: Path
    environment: dict[str, str]

    def server(self) -> AgentServer:
        """An MCP server of this process that talks to the daemon."""

        async def connect() -> AsyncClient:
            return AsyncClient(self.url, self.home.token(), max_retries=0)

        return build_server(connect, Workspace(self.workspace), patient=True)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Started once for the room; tests leave no running jobs behind."""
    folder = tmp_path_factory.mktemp("daemon")
    workspace = folder / "workspace"
    shutil.copytree(EXAMPLE, workspace)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FW_", "CLAUDE"))}
    home = Home(folder / "home")
    environment = {**kept, "FW_HOME": str(home.root), "FW_PORT": str(port), "FW_WORKSPACE": str(workspace)}
    command = [sys.executable, "-m", "fw_sdk.cli"]
    started = subprocess.run(
        [*command, "up", "--detach", "--port", str(port)], env=environment, capture_output=True, text=True, timeout=90
    )
    assert started.returncode == 0, started.stderr
    yield Daemon(home, f"http://127.0.0.1:{port}", workspace, environment)
    subprocess.run([*command, "down"], env=environment, capture_output=True, timeout=60, check=True)
