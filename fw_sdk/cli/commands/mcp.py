"""``fw mcp``: the MCP server on stdio, and what connects a coding agent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.output import emit_list, emit_one, hint

COLUMNS = {
    "id": lambda found: found.id,
    "status": lambda found: found.status,
    "message": lambda found: found.message,
    "fix": lambda found: found.fix,
}


def register(app: typer.Typer) -> None:
    """Add the group; alone it serves."""
    noun = group("Serve MCP on stdin and stdout for a coding agent; or connect one.")
    noun.info.no_args_is_help = False
    noun.callback(invoke_without_command=True)(serve)
    command(noun, "install")(install)
    command(noun, "doctor")(doctor)
    command(noun, "plugin")(plugin)
    app.add_typer(noun, name="mcp")


ReadOnly = Annotated[bool, typer.Option("--read-only", help="Only the tools that read; nothing is started or stopped.")]


def serve(context: typer.Context, read_only: ReadOnly = False) -> None:
    """Serve MCP on stdin and stdout, for a coding agent; starts the daemon if none runs."""
    if context.invoked_subcommand is None:
        from fw_sdk.cli.rooms import open_room

        open_room("fw_mcp.stdio", "main")(read_only)


def install(
    client: Annotated[
        str, typer.Argument(help="claude-code, claude-desktop, codex, cursor, gemini, vscode or windsurf.")
    ],
    folder: Annotated[Path, typer.Option(help="The project, for clients that keep the file there.")] = Path(),
    read_only: ReadOnly = False,
) -> None:
    """Write a client's configuration so that it starts this fw. What else is in the file stays."""
    from fw_sdk.cli.rooms import open_room

    done = open_room("fw_mcp.install", "install")(client, folder.resolve(), read_only=read_only)
    fields = {"client": done.client, "path": str(done.path), "changed": done.changed, "next": done.after}
    emit_one(fields, str(done.path))
    hint(f"{done.after}; fw mcp doctor proves the connection")


def doctor() -> None:
    """Connect as a client would, over stdio and HTTP, in both protocol eras. Exit code 1 if a way does not work."""
    from fw_sdk.cli.rooms import open_room

    found = open_room("fw_mcp.doctor", "check_connections")()
    emit_list(found, COLUMNS)
    if any(item.status == "fail" for item in found):
        raise typer.Exit(1)


def plugin(
    folder: Annotated[Path, typer.Argument(help="Where to write it; files of the same names are replaced.")],
) -> None:
    """Write a Claude Code plugin: the skill with these pages as references, and the MCP server."""
    from fw_sdk.cli.rooms import open_room

    written = open_room("fw_mcp.skills", "write_plugin")(folder)
    emit_one({"folder": str(folder), "files": len(written)}, str(folder))
    hint(f"claude --plugin-dir {folder}")
