"""An evaluator's scratch folder: whose it is, how much is in it, and removing it whatever is in it.

A folder is locked by the process that made it for as long as that lives, so what a killed one left behind is found.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "fw-evaluator-"
MAX_ENTRIES = 10_000


class Unmeasurable(Exception):
    """A folder holds more entries than are counted, or is made so that it cannot be looked through."""


@dataclass(frozen=True)
class Scratch:
    """A folder for one evaluator's process; ``lock`` is held open until it is removed."""

    path: Path
    lock: int

    @classmethod
    def create(cls) -> Scratch:
        """A new, empty, locked folder."""
        while True:
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A sweep may have taken the folder for a dead process's between the two calls.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(lock)):
                    return cls(path, lock)
            os.close(lock)

    def remove(self) -> None:
        """Remove the folder; no process may write to it any more."""
        _remove_tree(self.path)
        os.close(self.lock)


def sweep() -> None:
    """Remove the folders of processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def used_bytes(path: Path, pid: int) -> int:
    """Bytes of disk that the files below ``path`` take, and the deleted ones that process ``pid`` has open.

    Raises:
        Unmeasurable: it cannot be told, for which an honest process gives no cause.
    """
    return _listed_bytes(path) + sum(
        found.st_blocks * 512 for found in _open_files(pid) if found.st_nlink == 0 and stat.S_ISREG(found.st_mode)
    )


def _listed_bytes(path: Path) -> int:
    total, entries, folders = 0, 0, [str(path)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    entries += 1
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if entries > MAX_ENTRIES:
                        raise Unmeasurable(f"more than {MAX_ENTRIES} files and folders")
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was removed while we looked
        except OSError as error:
            raise Unmeasurable(f"folders that cannot be read: {error.strerror}") from None
    return total


def _open_files(pid: int) -> Iterator[os.stat_result]:
    """What a process has open, where the system shows it in ``/proc``."""
    folder = Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                yield path.stat()


def _remove_tree(root: Path) -> None:
    """Remove a folder, at any depth and with any modes in it: each folder inside is moved to the top, then emptied."""
    folders = [root]
    with suppress(OSError):
        while folders:
            folder = folders[-1]
            folder.chmod(0o700)
            inner = [path for path in folder.iterdir() if not _unlinked(path)]
            for path in inner:
                path.chmod(0o700)
                folders.append(path.rename(root / secrets.token_hex(16)))
            if not inner:
                folder.rmdir()
                folders.pop()


def _unlinked(path: Path) -> bool:
    """Remove anything that is no folder; false if it is one."""
    if stat.S_ISDIR(path.lstat().st_mode):
        return False
    path.unlink()
    return True
