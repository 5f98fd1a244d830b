"""Where fw keeps things: one folder with fixed names below it, the contract between the daemon and its clients."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fw_sdk.types.errors import FwError

DEFAULT_PORT = 8642


def _unusable(path: Path | str, why: str) -> FwError:
    return FwError(
        "failed_precondition",
        f"FW_HOME cannot be used: {path}: {why}",
        not_done="nothing was started",
        hint="make that folder writable, or set FW_HOME to another one",
        param="FW_HOME",
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the system refuses, as an error that names FW_HOME."""
    try:
        yield
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None


@dataclass(frozen=True)
class Home:
    """``FW_HOME`` and the places in it; only the owner may read it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """``$FW_HOME``, else ``~/.fw``; ``FwError`` where that names no folder, as ``~nobody`` without such a user."""
        named = os.environ.get("FW_HOME") or "~/.fw"
        try:
            return cls(Path(named).expanduser().resolve())
        except (RuntimeError, OSError) as error:
            raise _unusable(named, str(error)) from None

    def prepare(self) -> Home:
        """Create the folders that are missing; ``FwError`` if one cannot be created or written."""
        inner = (self.models, self.datasets, self.jobs, self.adapters, self.evaluators, self.logs)
        for folder in (self.root, *inner):
            with _explained(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise _unusable(folder, "it cannot be written")
        return self

    @property
    def models(self) -> Path:
        """Base models by digest."""
        return self.root / "models"

    @property
    def datasets(self) -> Path:
        """Datasets by digest."""
        return self.root / "datasets"

    @property
    def jobs(self) -> Path:
        """Job directories by id."""
        return self.root / "jobs"

    @property
    def adapters(self) -> Path:
        """Adapters by digest."""
        return self.root / "adapters"

    @property
    def evaluators(self) -> Path:
        """Evaluator sources by digest."""
        return self.root / "evaluators"

    @property
    def logs(self) -> Path:
        """Logs of the daemon and the workers."""
        return self.root / "logs"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "fw.db"

    @property
    def daemon_file(self) -> Path:
        """``{url, pid, startTicks, version}`` of the running daemon."""
        return self.root / "daemon.json"

    @property
    def token_file(self) -> Path:
        """The owner's token."""
        return self.root / "token"

    @property
    def reading_token_file(self) -> Path:
        """The token that only reads."""
        return self.root / "token.read"

    def token(self) -> str:
        """The owner's token, made on first use, readable by the owner alone."""
        return self._secret(self.token_file, "fw_")

    def reading_token(self) -> str:
        """A token with which one may look and ask models, and change nothing; made and kept like the owner's."""
        return self._secret(self.reading_token_file, "fw_read_")

    def _secret(self, path: Path, prefix: str) -> str:
        """The token in ``path``. A file that is missing or blank gets one, the same for all who ask meanwhile."""
        with _explained(path):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = _read_token(path)
            if found is None:
                with self._token_lock():
                    found = _read_token(path) or _write_token(path, f"{prefix}{secrets.token_urlsafe(32)}")
        return found

    @contextmanager
    def _token_lock(self) -> Iterator[None]:
        descriptor = os.open(self.root / "token.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def checked_token(token: str, what: str) -> str:
    """``token`` without white space around it; ``unauthenticated`` if it is empty or no HTTP header can carry it."""
    stripped = token.strip()
    if not stripped or any(not "!" <= character <= "~" for character in stripped):
        raise FwError(
            "unauthenticated",
            f"{what} is {'empty' if not stripped else 'no token: it has white space or other characters in it'}",
            not_done="nothing was sent",
            hint="a token is one word of letters, digits and marks; without FW_HOME/token a new one is made",
        )
    return stripped


def _read_token(path: Path) -> str | None:
    """The token of a file; None if there is no file or a blank one."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    return checked_token(text, f"The content of '{path}'") if text.strip() else None


def _write_token(path: Path, token: str) -> str:
    """Put the token there whole, on the disk too, readable by the owner alone; the caller holds the lock."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return token
