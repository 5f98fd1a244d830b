"""Runs one invocation: the command, and what becomes of its errors. Exit codes come from the table of error codes."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

import typer

from fw_sdk.cli.output import Format, choose_format, settings

if TYPE_CHECKING:
    from pathlib import Path

    from fw_sdk.types import FwError

INTERRUPTED = 130
UsageError = typer.BadParameter.__mro__[1]
"""Typer's base of command-line mistakes, which it does not export by itself."""


def run(arguments: list[str]) -> int:
    """Run ``fw`` with these arguments; its exit code. Prints errors on stderr in the chosen format."""
    from fw_sdk.cli.tree import build

    try:
        settings.format = choose_format(_requested_format(arguments))
        result = typer.main.get_command(build()).main(args=arguments, prog_name="fw", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost boundary: nobody is left to handle it
        return report(error)


def report(error: Exception) -> int:
    """Say on stderr what went wrong; the exit code. A bug of fw leaves its traceback in a log."""
    from fw_sdk.types import FwError

    if isinstance(error, UsageError):
        known = _usage_error(error)
        if known is None:
            return 2
    else:
        known = error if isinstance(error, FwError) else _bug(error)
    print_error(known)
    return known.exit_code


def print_error(error: FwError) -> None:
    """Write an error on stderr: a paragraph, or ``{"error": {…}}`` where the format is json. Its hint is a command."""
    from fw_sdk.results.hints import SHELL, in_words_of

    error.hint = in_words_of(SHELL, error.hint)
    if settings.format is Format.JSON:
        print(json.dumps({"error": error.to_dict()}, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
        return
    print(f"error: {error.text()}", file=sys.stderr, flush=True)
    for line in _facts(error):
        print(f"  {line}", file=sys.stderr, flush=True)


def _facts(error: FwError) -> list[str]:
    """The lines that help most: problems of a dataset by line, or the end of a log."""
    report = error.details.get("report") or {}
    problems = [f"line {item.get('line')}: {item.get('message')}" for item in report.get("problems", [])[:20]]
    failure = error.details.get("failure") or {}
    log = error.details.get("log") or failure.get("logTail") or []
    return problems or [str(line) for line in log[-15:]]


def _usage_error(error: Exception) -> FwError | None:
    from fw_sdk.types import FwError

    message = error.format_message() if hasattr(error, "format_message") else str(error)
    possible = getattr(error, "possibilities", None)
    if possible:
        message = f"No such option '{getattr(error, 'option_name', '')}'. Did you mean '{sorted(possible)[0]}'?"
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "fw"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return None
    return FwError("invalid_argument", message.rstrip(), hint=f"{path} --help")


def _bug(error: Exception) -> FwError:
    from fw_sdk.types import FwError
    from fw_sdk.types.home import Home

    log = _write_traceback(Home.from_environment().logs, error)
    where = (
        f"the traceback is in {log}"
        if log
        else "the traceback could not be written; run it again with a writable FW_HOME"
    )
    return FwError("internal", f"a bug in fw: {type(error).__name__}: {error}", hint=where)


def _write_traceback(folder: Path, error: Exception) -> Path | None:
    log = folder / "cli.log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} fw {sys.argv[1:]}\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return log


def _requested_format(arguments: list[str]) -> str | None:
    """``--format`` read without a parser, so that errors of the parser itself come in that format."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument.startswith("--format="):
            return argument.partition("=")[2]
        if argument == "--format" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None
