"""``fw mcp``: the MCP server over stdin and stdout, a thin client of the daemon. Logs go to stderr only."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from fw_mcp.app import build_server
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.daemon import ensure_daemon
from fw_sdk.types.home import Home


async def connect() -> AsyncClient:
    """A client of the daemon of ``FW_HOME``, which is started when none runs; ``FW_BASE_URL`` names another one."""
    return await asyncio.to_thread(_open)


def _open() -> AsyncClient:
    if not os.environ.get("FW_BASE_URL"):
        ensure_daemon(Home.from_environment())
    return AsyncClient()


def main() -> None:
    """Serve until stdin closes."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="fw mcp: %(levelname)s %(message)s")
    build_server(connect, Workspace.for_stdio(), patient=True).run("stdio")


if __name__ == "__main__":
    main()
