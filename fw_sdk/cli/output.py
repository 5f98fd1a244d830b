"""What goes to stdout and stderr, in each of the four formats. stdout is data; stderr is progress, hints and errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fw_sdk.results.report import Report

AGENT_VARIABLES = ("CLAUDECODE", "CODEX", "CURSOR", "AI_AGENT")
"""Set by the harness of a coding agent."""


class Format(StrEnum):
    """How data is written.

    ``human``: aligned tables. ``agent``: tab-separated rows and ``key=value`` lines, nothing shortened, no colours.
    ``json``: one JSON value on one line. ``quiet``: one id a line.
    """

    HUMAN = "human"
    AGENT = "agent"
    JSON = "json"
    QUIET = "quiet"


FORMATS = ("auto", *Format)


@dataclass
class Settings:
    """The invocation's choice; the one piece of state of the command line."""

    format: Format = Format.AGENT


settings = Settings()


class Value(Protocol):
    """Anything of the wire contract."""

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        ...


Columns = Mapping[str, Callable[[Any], Any]]


def choose_format(requested: str | None) -> Format:
    """The format that was asked for (option, then ``FW_FORMAT``), else what suits the reader of stdout."""
    name = requested or _default_format()
    if name in list(Format):
        return Format(name)
    agent = any(os.environ.get(variable) for variable in AGENT_VARIABLES)
    return Format.HUMAN if sys.stdout.isatty() and not agent else Format.AGENT


def _default_format() -> str:
    name = os.environ.get("FW_FORMAT") or "auto"
    if name in FORMATS:
        return name
    from fw_sdk.types import FwError

    raise FwError("invalid_argument", f"FW_FORMAT is '{name}'", hint=f"set it to one of {', '.join(FORMATS)}")


def emit_list(items: Iterable[Any], columns: Columns) -> None:
    """Write things of one kind: a table, or the things themselves as JSON; the first column is the id."""
    rows = list(items)
    if settings.format is Format.JSON:
        _write(_json([_plain(row) for row in rows]))
        return
    cells = [[read(row) for read in columns.values()] for row in rows]
    if settings.format is Format.QUIET:
        _write(*(_exact(row[0]) for row in cells))
    elif settings.format is Format.AGENT:
        _write("\t".join(columns), *("\t".join(map(_exact, row)) for row in cells))
    elif not rows:
        hint("nothing here yet")
    else:
        _write(*table(list(columns), cells))


def emit_one(value: Value | Mapping[str, Any], identifier: str | None = None) -> None:
    """Write one thing: all of its fields, for people those that help; only ``identifier`` where the format is quiet."""
    fields = _plain(value)
    if settings.format is Format.JSON:
        _write(_json(fields))
    elif settings.format is Format.QUIET:
        _write(identifier or str(fields.get("name", "")).rsplit("/", 1)[-1])
    elif settings.format is Format.AGENT:
        _write(*(f"{key}={_exact(item)}" for key, item in _flat(fields)))
    else:
        from fw_sdk.cli.record import record_lines

        _write(*record_lines(fields))


def emit_report(value: Value, report: Report, identifier: str) -> None:
    """Write a result: for readers its page and the next commands, for programs the whole value."""
    if settings.format in (Format.JSON, Format.QUIET):
        emit_one(value, identifier)
        return
    from fw_sdk.results.spelling import command
    from fw_sdk.results.text import next_lines, page

    _write(*page(report, aligned=settings.format is Format.HUMAN))
    hint("next:")
    for line in next_lines(report.steps, command):
        hint(f"  {line}")


def emit_text(text: str) -> None:
    """Write text that is the data itself."""
    if settings.format is Format.JSON:
        _write(_json({"text": text}))
    else:
        _write(text)


def hint(text: str) -> None:
    """Say something useful on stderr; formats for machines leave it out."""
    if settings.format in (Format.HUMAN, Format.AGENT):
        print(text, file=sys.stderr, flush=True)


def table(headers: list[str], cells: list[list[Any]]) -> list[str]:
    """Lines of an aligned table; columns that hold only numbers stand at the right."""
    text = [[_short(cell, 60) for cell in row] for row in cells]
    widths = [max(len(line[column]) for line in [headers, *text]) for column in range(len(headers))]
    right = [all(isinstance(row[column], int | float) for row in cells) for column in range(len(headers))]

    def line(row: list[str]) -> str:
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return [line(headers), line(["─" * width for width in widths]), *map(line, text)]


def short_id(name: str | None) -> str | None:
    """The id in a full name."""
    return name.rsplit("/", 1)[-1] if name else name


def _plain(value: Any) -> Any:
    return value.to_wire() if hasattr(value, "to_wire") else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, item in fields.items():
        if isinstance(item, Mapping) and item:
            flat.extend(_flat(item, f"{prefix}{key}."))
        else:
            flat.append((f"{prefix}{key}", item))
    return flat


def _exact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | list | dict | tuple):
        return _json(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


class Bytes(int):
    """A number of bytes: exact for programs, ``1.5 GiB`` for people."""


def _short(value: Any, limit: int = 0) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, Bytes):
        from fw_sdk.cli.record import size

        return size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "astimezone"):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    text = _json(value) if isinstance(value, list | dict | tuple) else str(value)
    text = text.replace("\n", " ")
    return text if not limit or len(text) <= limit else f"{text[: limit - 1]}…"


def _write(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
