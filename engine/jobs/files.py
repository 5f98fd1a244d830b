"""Files that are whole or absent: write to a temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` with ``data``; a reader sees the old file or the new one, never a part.

    When it returns, the new file outlives a power failure. Any number of threads and processes may do it at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """``write_atomic`` of JSON."""
    write_atomic(path, json.dumps(value, ensure_ascii=False).encode())


def read_json(path: Path) -> Any | None:
    """The JSON in ``path``, or None if there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line with a single write, so that a reader never sees half of it twice."""
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[Any, int]]:
    """JSON lines from byte ``offset`` on, each with the offset behind it.

    A last line without its newline is left for later; a torn line that a crash left in the middle is skipped.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                value = json.loads(line)
            except ValueError:
                continue
            yield value, offset


def tail(path: Path, lines: int, *, limit_bytes: int = 64 * 1024) -> list[str]:
    """The last ``lines`` lines of a text file, reading at most ``limit_bytes`` from its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of every file below a folder; 0 if there is none."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size if path.is_file() else 0
