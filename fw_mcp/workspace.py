"""The folder an agent may name files in, and the check that no path leaves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fw_sdk.types import FwError, nearest

MAX_FILE_BYTES = 150 * 1024 * 1024


@dataclass(frozen=True)
class Workspace:
    """A folder, or none: then every path is refused and rows or ids must be given instead."""

    root: Path | None

    @classmethod
    def for_stdio(cls, environment: Mapping[str, str] = os.environ) -> Workspace:
        """The client's project folder: ``FW_WORKSPACE``, ``CLAUDE_PROJECT_DIR``, else the current folder."""
        named = environment.get("FW_WORKSPACE") or environment.get("CLAUDE_PROJECT_DIR")
        return cls(Path(named or ".").resolve())

    @classmethod
    def for_http(cls, environment: Mapping[str, str] = os.environ) -> Workspace:
        """``FW_WORKSPACE`` of the daemon, or none."""
        named = environment.get("FW_WORKSPACE")
        return cls(Path(named).resolve() if named else None)

    def file(self, path: str, param: str) -> Path:
        """The existing regular file that ``path`` names; ``FwError`` when it is outside, missing or too large."""
        found = self._inside(path, param)
        if not found.is_file():
            near = self._nearest(found)
            there = _files(self.root, found.suffix) if self.root else []
            listed = f"; there are {', '.join(there)}" if there else ""
            raise FwError(
                "not_found",
                f"There is no file '{path}' in {self.root}." + (f" Did you mean '{near}'?" if near else ""),
                not_done="Nothing was run.",
                hint=f"give a path relative to the workspace, for example 'data/train.jsonl'{listed}",
                param=param,
                details={"didYouMean": near} if near else None,
            )
        if found.stat().st_size > MAX_FILE_BYTES:
            raise FwError(
                "payload_too_large",
                f"'{path}' has {found.stat().st_size} bytes; the limit is {MAX_FILE_BYTES}.",
                not_done="Nothing was run.",
                hint="split the file",
                param=param,
            )
        return found

    def existing(self, path: str, param: str) -> Path:
        """The existing file or folder that ``path`` names, inside the workspace."""
        found = self._inside(path, param)
        return found if found.exists() else self.file(path, param)

    def looks_like_path(self, text: str, *suffixes: str) -> bool:
        """Whether ``text`` is meant as a path: it has a separator, or ends with one of ``suffixes``."""
        return "/" in text or "\\" in text or text.startswith("~") or text.endswith(suffixes)

    def _inside(self, path: str, param: str) -> Path:
        if self.root is None:
            raise FwError(
                "permission_denied",
                f"This server has no workspace, so it cannot open '{path}'.",
                not_done="Nothing was run.",
                hint="pass rows= or an id instead, or start the daemon with FW_WORKSPACE=/the/folder; "
                "the stdio server (`fw mcp`) uses the project's folder by itself",
                param=param,
            )
        try:
            found = (self.root / path).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise FwError(
                "invalid_argument",
                f"{path!r:.120} is not a path: {error}.",
                not_done="Nothing was run.",
                hint="give a path relative to the workspace, for example 'data/train.jsonl'",
                param=param,
            ) from None
        if not found.is_relative_to(self.root):
            raise FwError(
                "permission_denied",
                f"'{path}' is outside the workspace {self.root}.",
                not_done="Nothing was run.",
                hint="copy the file into the workspace and give a path relative to it",
                param=param,
            )
        return found

    def _nearest(self, missing: Path) -> str | None:
        """The file of that kind with the nearest name in the same folder, else in the whole workspace."""
        if missing.parent.is_dir():
            same_kind = (entry.name for entry in missing.parent.iterdir() if entry.suffix == missing.suffix)
            near = nearest(missing.name, same_kind)
            if near:
                return self._relative(missing.parent / near)
        found = _find(self.root, missing.name) if self.root else None
        return self._relative(found) if found else None

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if self.root else str(path)


def _find(root: Path, name: str, limit: int = 5_000) -> Path | None:
    """The file below ``root`` that is called ``name``, else the nearest of its kind, among ``limit`` entries."""
    seen, same_kind = 0, dict[str, Path]()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        seen += len(files) + len(folders)
        if name in files:
            return Path(folder) / name
        if seen > limit:
            break
        for file in files:
            if Path(file).suffix == Path(name).suffix:
                same_kind.setdefault(file, Path(folder) / file)
    near = nearest(name, same_kind)
    return same_kind[near] if near else None


def _files(root: Path, suffix: str, most: int = 8) -> list[str]:
    """Names of the first few files directly in ``root`` that end in ``suffix``."""
    names = (entry.name for entry in root.iterdir() if entry.is_file() and entry.suffix == suffix)
    return sorted(names)[:most] if suffix else []
