"""A real daemon in a process of its own, without any model, for the tests of this room."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from fw_mcp.app import build_server
from fw_mcp.server import AgentServer
from fw_mcp.tests.slow_hub import slow_hub
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

        return build_server(connect, Workspace(self.workspace))


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Started once for the room; tests leave no running jobs behind. A pull from its hub lasts."""
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
    with slow_hub() as hub:
        environment["HF_ENDPOINT"] = hub
        up = [*command, "up", "--detach", "--port", str(port)]
        started = subprocess.run(up, env=environment, capture_output=True, text=True, timeout=90)
        assert started.returncode == 0, started.stderr
        yield Daemon(home, f"http://127.0.0.1:{port}", workspace, environment)
        subprocess.run([*command, "down"], env=environment, capture_output=True, timeout=60, check=True)


@asynccontextmanager
async def over_stdio(daemon: Daemon, mode: str) -> AsyncIterator[Client]:
    """A client of the server in a process of its own."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "fw_mcp.stdio"], env=daemon.environment, cwd=daemon.workspace
    )
    async with Client(server, mode=mode) as client:  # type: ignore[arg-type]
        yield client


@asynccontextmanager
async def over_http(daemon: Daemon, mode: str) -> AsyncIterator[Client]:
    """A client of the daemon's own ``/mcp``."""
    headers = {"Authorization": f"Bearer {daemon.home.token()}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{daemon.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:  # type: ignore[arg-type]
            yield client


TRANSPORTS = {"stdio": over_stdio, "http": over_http}
ERAS = ("auto", "legacy")
