"""``fw mcp``: the MCP server over stdin and stdout, a thin client of the daemon. Logs go to stderr only."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from fw_mcp.app import build_server
from fw_mcp.platform import Connect
from fw_mcp.workspace import Workspace
from fw_sdk.client import AsyncClient
from fw_sdk.daemon import ensure_daemon
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

READ_ONLY = "--read-only"
log = logging.getLogger(__name__)


def connection(read_only: bool) -> Connect:
    """Opens a client of the daemon of ``FW_HOME``, which is started when none runs; ``FW_BASE_URL`` names another one.

    A server that only reads comes with the token that only reads, so the daemon refuses what the tools should not ask;
    for another daemon the person gives that token as ``FW_API_KEY``.
    """

    async def connect() -> AsyncClient:
        return await asyncio.to_thread(_open, read_only)

    return connect


def _open(read_only: bool) -> AsyncClient:
    if os.environ.get("FW_BASE_URL"):
        return AsyncClient()
    home = Home.from_environment()
    url = _daemon(home)
    return AsyncClient(url, home.reading_token()) if read_only else AsyncClient()


def _daemon(home: Home) -> str:
    """The url of the home's daemon. A new one takes a free port where another program has the usual one: clients of
    this home find it all the same, and an agent cannot free a port."""
    try:
        return ensure_daemon(home)
    except FwError as error:
        if error.code != "port_in_use":
            raise
        log.warning("%s A free port is taken instead.", error.message)
        return ensure_daemon(home, port=0)


def main(read_only: bool = False) -> None:
    """Serve until stdin closes.

    Args:
        read_only: only with the tools that read.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="fw mcp: %(levelname)s %(message)s")
    server = build_server(connection(read_only), Workspace.for_stdio(), read_only=read_only)
    server.run("stdio")


if __name__ == "__main__":
    try:
        main(READ_ONLY in sys.argv[1:])
    except FwError as refused:
        print(f"fw mcp: {refused.text()}", file=sys.stderr)
        sys.exit(refused.exit_code)
