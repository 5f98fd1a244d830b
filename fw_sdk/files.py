"""Local files that a call takes by path: mistakes are caught here, before anything is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fw_sdk.calls import Upload
from fw_sdk.types import FwError, nearest

Rows = Iterable[Mapping[str, Any]]


def local_path(path: str | Path, noun: str, *, not_done: str) -> Path:
    """The absolute path of something that exists; else ``not_found`` naming the nearest entry of its folder."""
    wanted = Path(path).expanduser()
    if wanted.exists():
        return wanted.resolve()
    while not wanted.parent.is_dir():
        wanted = wanted.parent
    folder = wanted.parent
    near = nearest(wanted.name, [entry.name for entry in folder.iterdir()])
    found = f"Did you mean '{folder / near}'?" if near else f"Nothing in '{folder.resolve()}' has a similar name."
    raise FwError("not_found", f"No {noun} at '{path}'. {found}", not_done=not_done, hint=f"ls {folder}", param="path")


def local_file(path: str | Path, noun: str, *, not_done: str) -> Path:
    """``local_path`` of a regular file."""
    found = local_path(path, noun, not_done=not_done)
    if not found.is_file():
        raise FwError(
            "invalid_argument",
            f"'{path}' is a folder, not a {noun}",
            not_done=not_done,
            hint=f"ls {path}",
            param="path",
        )
    return found


def dataset_upload(data: str | Path | Rows, *, not_done: str) -> Upload:
    """A JSONL file by path, or rows as JSONL."""
    if isinstance(data, str | Path):
        path = local_file(data, "dataset file", not_done=not_done)
        return Upload(path.name, path)
    if isinstance(data, Mapping):
        raise FwError("invalid_argument", "rows must be a list of dicts, got one dict", not_done=not_done, param="data")
    try:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False).encode() for row in data]
    except (TypeError, ValueError, RecursionError) as error:
        raise FwError("invalid_argument", f"a row is not JSON: {error}", not_done=not_done, param="data") from None
    return Upload("rows.jsonl", b"".join(line + b"\n" for line in lines))


def evaluator_source(evaluator: str | Path, *, not_done: str) -> tuple[str, str | None]:
    """(source, file stem) of an evaluator given by path, or as source code: a string with a line break."""
    if isinstance(evaluator, str) and "\n" in evaluator:
        return evaluator, None
    path = local_file(evaluator, "evaluator file", not_done=not_done)
    try:
        return path.read_text(encoding="utf-8"), path.stem
    except UnicodeDecodeError:
        raise FwError(
            "evaluator_invalid", f"'{evaluator}' is not text in UTF-8", not_done=not_done, hint="give a Python file"
        ) from None


def id_from(stem: str, otherwise: str) -> str:
    """A resource id made of a file's stem: lower case, other characters as dashes, at most 48 long."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", stem.lower())[:48].strip("-._")
    return cleaned or otherwise
