"""A recorded MCP session for an agent that has only a shell.

    python -m tests.agents.session start --dir DIR --home FW_HOME --workspace FOLDER
    DIR/mcp tools | instructions | resources | prompts
    DIR/mcp call TOOL '{"argument": 1}'       or: call TOOL @file.json, call TOOL - (from stdin)
    DIR/mcp read docs://index
    DIR/mcp prompt NAME '{"argument": "text"}'
    DIR/mcp stop

``start`` opens one connection to a real ``fw mcp`` over stdio and keeps it in a process of its own; every other
command goes through it by a unix socket, prints what a model would see, and adds a line to ``DIR/trace.jsonl``. When
that process is gone the next command opens it anew. ``DIR/mcp`` is written by ``start``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

from tests.agents.exchange import LISTS, Exchange, exchange
from tests.e2e.place import BASE, free_port, processes_of, wait_until

ROOT = Path(__file__).parents[2]
START_S = 60.0


@dataclass(frozen=True)
class Session:
    """Where a session lives, as ``DIR/session.json`` keeps it."""

    folder: str
    home: str
    workspace: str
    port: int
    socket: str

    @classmethod
    def load(cls, folder: Path) -> Session:
        return cls(**json.loads((folder / "session.json").read_text()))

    @property
    def trace(self) -> Path:
        return Path(self.folder) / "trace.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        """Of the server: nothing of the tester's own fw, and no workspace but the current folder."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FW_", "CLAUDE"))}
        return {**kept, "FW_HOME": self.home, "FW_PORT": str(self.port)}

    def fw(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``fw …`` for this home."""
        command = [sys.executable, "-m", "fw_sdk.cli", *words]
        return subprocess.run(command, env=self.environment, cwd=self.workspace, capture_output=True, text=True)


def start(folder: Path, home: Path, workspace: Path, port: int, starter: Path | None) -> None:
    """Write the session and its command, connect, and bring the starter in from a file if one is given."""
    for needed in (folder, workspace):
        needed.mkdir(parents=True, exist_ok=True)
    if (folder / "session.json").exists():
        stop(Session.load(folder))
    place = tempfile.mkdtemp(prefix="mcp-")  # a unix socket's path must be short
    session = Session(
        str(folder.resolve()), str(home.resolve()), str(workspace.resolve()), port or free_port(), f"{place}/socket"
    )
    (folder / "session.json").write_text(json.dumps(asdict(session), indent=1))
    command = folder / "mcp"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.agents.session --dir {session.folder} "$@"\n'
    )
    command.chmod(0o755)
    _ensure_keeper(session)
    if starter is not None:
        for words in (["up", "--detach"], ["model", "pull", str(starter.resolve()), "--id", BASE]):
            done = session.fw(*words)
            if done.returncode:
                raise SystemExit(done.stderr)
    print(f"ready: {command} tools | instructions | call TOOL '{{...}}' | read URI | …; stop with {command} stop")


def stop(session: Session) -> None:
    """Close the connection, stop the daemon, and end whatever else runs for this home."""
    session.fw("down")
    for pid in processes_of(Path(session.home)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(Path(session.home)), 10, "the session's processes to end")
    shutil.rmtree(Path(session.socket).parent, ignore_errors=True)


def ask(session: Session, method: str, name: str, arguments: dict[str, Any]) -> Exchange:
    """One exchange through the kept connection; waits as long as the server takes."""
    _ensure_keeper(session)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(session.socket)
        channel.sendall(json.dumps([method, name, arguments]).encode() + b"\n")
        with channel.makefile(encoding="utf-8") as reply:
            line = reply.readline()
    if not line:
        raise SystemExit("the connection to the server broke; the next command opens it anew")
    return Exchange(**json.loads(line))


def _ensure_keeper(session: Session) -> None:
    """Start the process that keeps the connection, unless one answers."""
    if _answers(session):
        return
    with (Path(session.folder) / "keeper.log").open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.agents.session", "--dir", session.folder, "keep"],
            env={**session.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_S
    while not _answers(session):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start; see {session.folder}/keeper.log")
        time.sleep(0.1)


def _answers(session: Session) -> bool:
    with socket.socket(socket.AF_UNIX) as channel:
        try:
            channel.connect(session.socket)
        except OSError:
            return False
    return True


async def keep(session: Session) -> None:
    """Hold one connection and serve the socket until the server or the session ends."""
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "fw_sdk.cli", "mcp"], env=session.environment, cwd=session.workspace
    )
    async with Client(parameters, cache=None) as client:
        broken = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            try:
                if line:
                    done = await exchange(client, *json.loads(line), pictures=Path(session.folder) / "pictures")
                    with session.trace.open("a", encoding="utf-8") as trace:
                        trace.write(f"{done.to_json()}\n")
                    writer.write(done.to_json().encode() + b"\n")
                    await writer.drain()
            except ConnectionError:
                pass  # the one who asked is gone; the exchange is in the trace
            except BaseException:
                broken.set()
                raise
            finally:
                writer.close()

        Path(session.socket).parent.mkdir(exist_ok=True)
        Path(session.socket).unlink(missing_ok=True)
        async with await asyncio.start_unix_server(serve, session.socket):
            await broken.wait()


def _arguments(text: str) -> dict[str, Any]:
    """JSON given as it is, as ``@file`` or as ``-`` for stdin."""
    raw = sys.stdin.read() if text == "-" else Path(text[1:]).read_text() if text.startswith("@") else text
    try:
        found = json.loads(raw or "{}")
    except ValueError as error:
        raise SystemExit(f"the arguments are not JSON ({error}); nothing was sent to the server") from None
    if not isinstance(found, dict):
        raise SystemExit("the arguments must be a JSON object; nothing was sent to the server")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcp", description="An MCP session, one command an exchange.")
    parser.add_argument("--dir", type=Path, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start")
    begin.add_argument("--dir", type=Path, required=True)
    begin.add_argument("--home", type=Path, required=True)
    begin.add_argument("--workspace", type=Path, required=True)
    begin.add_argument("--port", type=int, default=0, help="of the daemon; default: a free one")
    begin.add_argument("--starter", type=Path, help="bring the starter model in from this GGUF file")
    for name in LISTS:
        commands.add_parser(name)
    for name in ("call", "prompt"):
        one = commands.add_parser(name)
        one.add_argument("name")
        one.add_argument("arguments", nargs="?", default="{}", help="JSON object, @file, or - for stdin")
    commands.add_parser("read").add_argument("name", metavar="URI")
    for name in ("stop", "keep"):
        commands.add_parser(name)
    for one in commands.choices.values():
        if one is not begin:
            one.add_argument("--dir", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run one command; exit code 1 when the result is an error."""
    given = _parser().parse_args()
    if given.command == "start":
        return start(given.dir, given.home, given.workspace, given.port, given.starter)
    if given.dir is None:
        raise SystemExit("give --dir, or use the command that start wrote: DIR/mcp")
    session = Session.load(given.dir)
    if given.command == "stop":
        return stop(session)
    if given.command == "keep":
        return asyncio.run(keep(session))
    arguments = _arguments(given.arguments) if given.command in ("call", "prompt") else {}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mcp tools | head` is no failure
    done = ask(session, given.command, getattr(given, "name", ""), arguments)
    print(f"[error]\n{done.text}" if done.is_error else done.text)
    sys.exit(1 if done.is_error else 0)


if __name__ == "__main__":
    main()
