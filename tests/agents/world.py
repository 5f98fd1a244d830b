"""What the scripted agents share: one daemon with the starter, and a workspace and a connection for each of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp import Client, StdioServerParameters

from tests.agents.agent import Agent
from tests.e2e.place import Place


@dataclass
class World:
    """A running daemon, and what earlier tasks left in it for later ones.

    Attributes:
        place: its home and port.
        starter: the starter's GGUF file.
        small: whether tasks take the smoke size; else the example's full data.
        left: names by what they are, for instance the first deployment.
    """

    place: Place
    starter: Path
    small: bool = True
    left: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def agent(self, name: str, *, home: Place | None = None) -> AsyncIterator[Agent]:
        """An agent with an empty workspace of its own and a real ``fw mcp`` of its own."""
        place = home or self.place
        workspace = self.place.folder / "agents" / name
        workspace.mkdir(parents=True)
        environment = {key: value for key, value in place.environment.items() if key != "FW_WORKSPACE"}
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "fw_sdk.cli", "mcp"], env=environment, cwd=workspace
        )
        async with Client(server, cache=None) as client:
            yield Agent(client, workspace)


def title_of(task: Callable[..., object]) -> str:
    """The task as a person would put it: the first line of the function's own words."""
    return (task.__doc__ or "").strip().splitlines()[0]
