"""``fw mcp install CLIENT``: write a coding agent's configuration so that it starts ``fw mcp``."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fw_sdk.types import FwError, not_found

NAME = "fw"
NOTHING = "Nothing was written."


@dataclass(frozen=True)
class ClientFile:
    """Where a client keeps its MCP servers.

    Attributes:
        path: of the file, within the project's folder or, with ``~``, the person's home.
        section: the key that holds the servers by name.
        typed: whether an entry says that it speaks stdio.
        after: what the person does next.
    """

    path: str
    section: str = "mcpServers"
    typed: bool = False
    after: str = "start the client in this folder and approve the server 'fw'"


CLIENTS: dict[str, ClientFile] = {
    "claude-code": ClientFile(".mcp.json"),
    "claude-desktop": ClientFile("~/.config/Claude/claude_desktop_config.json", after="restart the application"),
    "codex": ClientFile("~/.codex/config.toml", section="mcp_servers", after="start codex again"),
    "cursor": ClientFile(".cursor/mcp.json"),
    "gemini": ClientFile(".gemini/settings.json"),
    "vscode": ClientFile(".vscode/mcp.json", section="servers", typed=True),
    "windsurf": ClientFile("~/.codeium/windsurf/mcp_config.json", after="refresh the servers in its settings"),
}


@dataclass(frozen=True)
class Installed:
    """What was done. ``changed`` is false if the file said the same already."""

    client: str
    path: Path
    changed: bool
    after: str


def entry(typed: bool, read_only: bool = False) -> dict[str, Any]:
    """How a client starts the server: this very ``fw``, by its full path, so that no PATH decides."""
    beside = Path(sys.executable).with_name("fw")
    arguments = ["mcp", "--read-only"] if read_only else ["mcp"]
    command = str(beside) if beside.is_file() else shutil.which("fw") or "fw"
    return {**({"type": "stdio"} if typed else {}), "command": command, "args": arguments}


def install(client: str, folder: Path, *, read_only: bool = False) -> Installed:
    """Write the entry into the client's file; everything else in it stays.

    Args:
        client: one of ``CLIENTS``.
        folder: the project's folder, for clients that keep the file there.
        read_only: start the server with the tools that read only.

    Raises:
        FwError: ``not_found`` for an unknown client; ``failed_precondition`` for a file that cannot be read as what it
            should be, or that has another server of that name; ``permission_denied``.
    """
    if client not in CLIENTS:
        raise not_found("client", client, CLIENTS, "fw mcp install --help lists them")
    target = CLIENTS[client]
    path = Path(target.path).expanduser() if target.path.startswith("~") else folder / target.path
    text = _read(path)
    server = entry(target.typed, read_only)
    wanted = _with_toml(text, server, path) if path.suffix == ".toml" else _with_json(text, server, target, path)
    if wanted != text:
        _write(path, wanted)
    return Installed(client, path, wanted != text, target.after)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error


def _with_json(text: str, server: dict[str, Any], target: ClientFile, path: Path) -> str:
    try:
        content = json.loads(text) if text.strip() else {}
        servers = content.setdefault(target.section, {})
        known = servers.get(NAME)
    except (ValueError, AttributeError, TypeError) as error:
        raise _unreadable(path, f"it is not a JSON object ({error})") from error
    if known == server:
        return text
    if known is not None and "mcp" not in known.get("args", []):
        raise _taken(path)
    servers[NAME] = server
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _with_toml(text: str, server: dict[str, Any], path: Path) -> str:
    """TOML is only ever added to: rewriting it would lose the person's comments."""
    try:
        known = tomllib.loads(text).get("mcp_servers", {}).get(NAME)
    except (tomllib.TOMLDecodeError, AttributeError) as error:
        raise _unreadable(path, f"it is not TOML ({error})") from error
    if known is not None:
        if {key: known.get(key) for key in server} == server:
            return text
        raise _taken(path)
    lines = [f"[mcp_servers.{NAME}]", *(f"{key} = {json.dumps(value)}" for key, value in server.items())]
    before = f"{text.rstrip()}\n\n" if text.strip() else ""
    return before + "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            shutil.copymode(path, file.name)
        Path(file.name).replace(path)
    except OSError as error:
        raise FwError(
            "permission_denied", f"{path} cannot be written: {error.strerror}.", not_done=NOTHING, hint=_by_hand()
        ) from error


def _unreadable(path: Path, reason: str) -> FwError:
    return FwError("failed_precondition", f"{path}: {reason}.", not_done=NOTHING, hint=_by_hand())


def _taken(path: Path) -> FwError:
    return FwError(
        "failed_precondition",
        f"{path} has another server called '{NAME}'.",
        not_done=NOTHING,
        hint=f"rename or remove it there; {_by_hand()}",
    )


def _by_hand() -> str:
    return f"add this server by hand: {json.dumps({NAME: entry(typed=False)})}"
