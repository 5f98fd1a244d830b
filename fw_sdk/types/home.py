"""Where fw keeps things: one folder with fixed names below it, the contract between the daemon and its clients."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 8642


@dataclass(frozen=True)
class Home:
    """``FW_HOME`` and the places in it; only the owner may read it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """``$FW_HOME``, else ``~/.fw``."""
        return cls(Path(os.environ.get("FW_HOME") or Path.home() / ".fw").expanduser().resolve())

    def prepare(self) -> Home:
        """Create the folders that are missing."""
        for folder in (
            self.root,
            self.models,
            self.datasets,
            self.jobs,
            self.adapters,
            self.evaluators,
            self.logs,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        token = f"{prefix}{secrets.token_urlsafe(32)}"
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
        return token
