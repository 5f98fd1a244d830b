"""The folder an agent may name files in, and the check that no path leaves it or leads into fw's own home."""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from string import Template

from fw_sdk.types import FwError, nearest
from fw_sdk.types.home import Home

MAX_FILE_BYTES = 150 * 1024 * 1024
DATA_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".txt")
SUFFIXES_OF = {"evaluator": (".py",)}
"""Endings of the files that an argument means; ``DATA_SUFFIXES`` where it is not named here."""
NOT_DONE = "Nothing was run."
EXAMPLE = "give a path relative to the workspace, for example 'data/train.jsonl'"

log = logging.getLogger(__name__)


def _own_home() -> Path:
    return Home.from_environment().root


@dataclass(frozen=True)
class Workspace:
    """A folder, or none: then every path is refused and rows or ids must be given instead.

    Attributes:
        root: the folder, without links in its path.
        why: the reason, where there is no folder.
        home: ``FW_HOME``. Nothing in it is opened, wherever it lies and whatever link leads there.
    """

    root: Path | None
    why: str = "no folder was given to it"
    home: Path = field(default_factory=_own_home)

    @classmethod
    def for_stdio(cls, environment: Mapping[str, str] = os.environ) -> Workspace:
        """The client's project folder: ``FW_WORKSPACE``, ``CLAUDE_PROJECT_DIR``, else the current folder.

        A current folder that holds too much, such as ``/``, where some clients start their servers, means none.

        Raises:
            FwError: ``invalid_argument`` for a named folder that is none, or that holds too much.
        """
        home = _own_home()
        for name in ("FW_WORKSPACE", "CLAUDE_PROJECT_DIR"):
            if environment.get(name):
                return cls(_named(name, environment, home), home=home)
        try:
            here = Path.cwd().resolve()
        except OSError as error:
            return cls(None, f"its current folder is gone ({error.strerror})", home)
        too_much = _too_much(here, home)
        return cls(None, f"it was started in '{here}', which {too_much}", home) if too_much else cls(here, home=home)

    @classmethod
    def for_http(cls, environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Workspace:
        """``FW_WORKSPACE`` of the daemon, or none, also where it names no fit folder: the daemon works without."""
        home = home or _own_home()
        if not environment.get("FW_WORKSPACE"):
            return cls(None, home=home)
        try:
            return cls(_named("FW_WORKSPACE", environment, home), home=home)
        except FwError as error:
            log.warning("%s MCP over HTTP has no workspace.", error.message)
            return cls(None, error.message.rstrip("."), home)

    def file(self, path: str, param: str) -> Path:
        """The existing regular file that ``path`` names; ``FwError`` when it is outside, missing or too large."""
        found = self._inside(path, param)
        status = self._status(found, path, param)
        if status is None or not stat.S_ISREG(status.st_mode):
            raise self._no_file(path, found, status, param)
        if _is_linked_into(self.home, status):
            raise self._closed(path, param)
        if not os.access(found, os.R_OK):
            raise self._unreadable(path, param)
        if status.st_size > MAX_FILE_BYTES:
            raise FwError(
                "payload_too_large",
                f"'{path}' has {status.st_size} bytes; the limit is {MAX_FILE_BYTES}.",
                not_done=NOT_DONE,
                hint="split the file",
                param=param,
            )
        return found

    def existing(self, path: str, param: str) -> Path:
        """The existing file or folder that ``path`` names, inside the workspace; so is what a folder's links name."""
        found = self._inside(path, param)
        status = self._status(found, path, param)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return self.file(path, param)
        for entry in _with_beneath(found):
            if entry.is_symlink():
                self._inside(str(entry), param)
            elif entry.is_file() and _is_linked_into(self.home, entry.stat()):
                raise self._closed(str(entry), param)
        return found

    def has(self, name: str) -> bool:
        """Whether ``name`` is a file or folder here that may be opened."""
        try:
            self.existing(name, "path")
        except FwError:
            return False
        return self.root is not None

    def looks_like_path(self, text: str, *suffixes: str) -> bool:
        """Whether ``text`` is meant as a path: it has a separator, or ends with one of ``suffixes``."""
        return text in ("", ".") or "/" in text or "\\" in text or text.startswith("~") or text.endswith(suffixes)

    def data_files(self) -> list[str]:
        """Files of rows directly in the workspace or one folder below, at most 100, as a person may type them."""
        if self.root is None:
            return []
        patterns = (f"{folder}*{ending}" for ending in (".jsonl", ".ndjson") for folder in ("", "*/"))
        found = (path for pattern in patterns for path in self.root.glob(pattern))
        shown = (self._relative(path) for path in found if self._may_be_shown(path))
        return sorted(islice(shown, 100))

    def _may_be_shown(self, path: Path) -> bool:
        """Whether its name may stand in a list: not hidden, a regular file, inside, and not in a home of fw's."""
        assert self.root is not None
        if any(part.startswith(".") for part in path.relative_to(self.root).parts):
            return False
        try:
            whole = path.resolve()
            here = whole.is_file() and whole.is_relative_to(self.root) and not _leads_into(whole, self.home)
            return here and not _is_linked_into(self.home, whole.stat())
        except OSError:
            return False

    def _inside(self, path: str, param: str) -> Path:
        if self.root is None:
            raise FwError(
                "permission_denied",
                f"This server has no workspace, so it cannot open '{path}': {self.why}.",
                not_done=NOT_DONE,
                hint="pass rows= or an id instead; a person can start the server in the project's folder, or with "
                "FW_WORKSPACE=/the/folder",
                param=param,
            )
        try:
            found = (self.root / path).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise FwError(
                "invalid_argument",
                f"{path!r:.120} is not a path: {error}.",
                not_done=NOT_DONE,
                hint=EXAMPLE,
                param=param,
            ) from None
        if not found.is_relative_to(self.root):
            raise FwError(
                "permission_denied",
                f"'{path}' is outside the workspace {self.root}.",
                not_done=NOT_DONE,
                hint="copy the file into the workspace and give a path relative to it",
                param=param,
            )
        if _leads_into(found, self.home):
            raise self._closed(path, param)
        return found

    def _closed(self, path: str, param: str) -> FwError:
        return FwError(
            "permission_denied",
            f"'{path}' belongs to fw's own home, which has its tokens, so it is not part of the workspace.",
            not_done=NOT_DONE,
            hint="what fw keeps is named by its id: overview() lists the ids",
            param=param,
        )

    def _status(self, found: Path, path: str, param: str) -> os.stat_result | None:
        """What is there; None if nothing is."""
        try:
            return found.stat()
        except PermissionError:
            raise self._unreadable(path, param) from None
        except (OSError, ValueError):
            return None

    def _unreadable(self, path: str, param: str) -> FwError:
        return FwError(
            "permission_denied",
            f"'{path}' cannot be read: its permissions do not allow it.",
            not_done=NOT_DONE,
            hint="a person can change its permissions",
            param=param,
        )

    def _no_file(self, path: str, found: Path, status: os.stat_result | None, param: str) -> FwError:
        """What is there instead, and which file may be meant. A suggestion is always a file, so it leads on."""
        suffixes = SUFFIXES_OF.get(param, DATA_SUFFIXES)
        if status is not None and stat.S_ISDIR(status.st_mode):
            what = f"'{path}' is a folder, not a file."
            there = self._files(found, suffixes)
            near = there[0] if len(there) == 1 else None
        else:
            what = f"There is no file '{path}' in {self.root}." if status is None else f"'{path}' is no regular file."
            near = self._nearest(found)
            there = self._files(self.root, (found.suffix,)) if self.root and found.suffix else []
        listed = f"; there are {', '.join(there)}" if there else ""
        return FwError(
            "not_found",
            what + (f" Did you mean '{near}'?" if near else ""),
            not_done=NOT_DONE,
            hint=f"{EXAMPLE}{listed}",
            param=param,
            details={"didYouMean": near} if near else None,
        )

    def _files(self, folder: Path, suffixes: tuple[str, ...], most: int = 8) -> list[str]:
        """The first few files directly in ``folder`` with one of the endings, as paths from the workspace."""
        fitting = (entry for entry in _entries(folder) if entry.suffix in suffixes and self._may_be_shown(entry))
        return sorted(self._relative(entry) for entry in fitting)[:most]

    def _nearest(self, missing: Path) -> str | None:
        """The file of that kind with the nearest name in the same folder, else in the whole workspace."""
        same_kind = {entry.name: entry for entry in _entries(missing.parent) if entry.suffix == missing.suffix}
        shown = {name for name, entry in same_kind.items() if entry != missing and self._may_be_shown(entry)}
        near = nearest(missing.name, shown)
        found = same_kind[near] if near else self._find(missing)
        return self._relative(found) if found else None

    def _find(self, missing: Path, limit: int = 5_000) -> Path | None:
        """The file anywhere here that is called the same, else the nearest of its kind, among ``limit`` entries."""
        assert self.root is not None
        seen, same_kind = 0, dict[str, Path]()
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            seen += len(files) + len(folders)
            for name in files:
                path = Path(folder) / name
                if path.suffix == missing.suffix and path != missing and self._may_be_shown(path):
                    if name == missing.name:
                        return path
                    same_kind.setdefault(name, path)
            if seen > limit:
                break
        near = nearest(missing.name, same_kind)
        return same_kind[near] if near else None

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if self.root else str(path)


def _named(variable: str, environment: Mapping[str, str], home: Path) -> Path:
    """The folder that an environment variable names, with ``~`` and known variables in it filled in."""
    value = environment[variable]
    folder = Path(value)
    try:
        folder = _expanded(value, environment)
        problem = "" if folder.is_dir() else "is a file, not a folder" if folder.exists() else "does not exist"
        folder = folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"is no folder ({error})"
    if problem and "$" in str(folder):
        problem = "has a placeholder in it that the client should have filled in"
    problem = problem or _too_much(folder, home)
    if not problem:
        return folder
    raise FwError(
        "invalid_argument",
        f"The workspace '{value}' (from {variable}) {problem}.",
        not_done="No file can be opened for an agent.",
        hint=f"set {variable} to the absolute path of the project's folder, or leave it out",
        param=variable,
    )


def _expanded(value: str, environment: Mapping[str, str]) -> Path:
    """A folder whose name really has a ``~`` or ``$`` in it is taken as it is."""
    literal = Path(value)
    return literal if literal.is_dir() else Path(Template(value).safe_substitute(environment)).expanduser()


def _too_much(folder: Path, home: Path) -> str:
    """Why a folder may not be a workspace: secrets are in it that no project has. Empty if it may."""
    if folder == Path(folder.anchor):
        return "is the whole machine"
    if any(user.is_relative_to(folder) for user in _user_homes()):
        return "holds a person's whole home folder, with keys and tokens of other programs"
    if _leads_into(folder, home):
        return "is in fw's own home, which has its tokens"
    return ""


def _user_homes() -> list[Path]:
    """The home folder as the environment has it, and as the account has it."""
    found = [Path(os.environ.get("HOME", ""))]
    try:
        found.append(Path(pwd.getpwuid(os.getuid()).pw_dir))
    except KeyError:
        log.debug("the account has no entry, so its home is not known")
    return [path.resolve() for path in found if path.is_absolute() and path != Path(path.anchor)]


def _leads_into(path: Path, home: Path) -> bool:
    """Whether ``path`` (without links) is or lies in ``home`` or another home of fw's.

    Folders are compared by device and inode, so that neither letter case nor a second mount hides one.
    """
    try:
        own = home.stat()
    except OSError:
        own = None
    for folder in (path, *path.parents):
        try:
            if own is not None and os.path.samestat(folder.stat(), own):
                return True
            if (folder / "fw.db").is_file() and (folder / "token").is_file():
                return True
        except OSError:
            continue
    return False


def _is_linked_into(home: Path, status: os.stat_result) -> bool:
    """Whether a file is also one of those directly in ``home``, its tokens among them, by a hard link."""
    if status.st_nlink < 2:
        return False
    for entry in _entries(home):
        try:
            if os.path.samestat(entry.stat(), status):
                return True
        except OSError:
            continue
    return False


def _with_beneath(folder: Path) -> Iterator[Path]:
    """What is in a folder and in its folders: as deep as a model's files lie."""
    for entry in _entries(folder):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _entries(entry)


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except (OSError, ValueError):
        return []
