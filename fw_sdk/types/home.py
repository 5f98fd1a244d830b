"""Where fw keeps things: one folder with fixed names below it, the contract between the daemon and its clients."""

from __future__ import annotations

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
        with _explained(path):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return path.read_text().strip()
        token = f"{prefix}{secrets.token_urlsafe(32)}"
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
        return token
