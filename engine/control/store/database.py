"""Opening the SQLite file: pragmas, transactions, migrations, and errors that say what to do."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DatabaseError

from engine.control.store.tables import metadata
from fw_sdk.types import FwError

BUSY_TIMEOUT_S = 5.0
"""How long a transaction waits for another one before it is ``unavailable``, which clients try again."""
CONNECTIONS = 64
"""As many as threads that may ask at once: a connection beyond them would be opened and closed for one question."""
MIGRATIONS = Path(__file__).parent / "migrations"

log = logging.getLogger("fw.store")


class Database:
    """One SQLite file. ``read`` and ``write`` give a connection in a transaction; ``write`` takes the lock first.

    A read never waits for a writer. Writers of this process queue on a lock of its own, since SQLite lets them poll and
    the unlucky starve; SQLite's own lock keeps other processes out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._engine = _engine(path)
        self._writer = self._engine.execution_options(fw_begin="BEGIN IMMEDIATE")
        with self._opening(), self._explained():
            self._migrate()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; all of it happens or none.

        Raises:
            FwError: ``unavailable`` if other writers hold the lock for longer than ``BUSY_TIMEOUT_S``.
        """
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise _busy(self.path)
        try:
            with self._explained(), self._writer.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Whatever a file does that was overwritten, cut or taken apart: it is not readable, and the log says more."""
        try:
            yield
        except (DatabaseError, sqlite3.DatabaseError, UnicodeDecodeError, CommandError) as error:
            log.error("%s cannot be opened: %s", self.path, error)
            raise _damaged(self.path, str(error).splitlines()[0]) from error

    def _migrate(self) -> None:
        script = ScriptDirectory(str(MIGRATIONS))
        with self._engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        known = {revision.revision for revision in script.walk_revisions()}
        if current is not None and current not in known:
            raise _newer(self.path, current)
        if current == script.get_current_head():
            self._check_tables()
            return
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _check_tables(self) -> None:
        missing = set(metadata.tables) - set(inspect(self._engine).get_table_names())
        if missing:
            raise _damaged(self.path, f"its tables {', '.join(sorted(missing))} are missing")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, sqlite3.DatabaseError) as error:  # pragmas run before SQLAlchemy wraps errors
            explained = _explain(self.path, error)
            if explained is None:
                raise
            raise explained from error


def _engine(path: Path) -> Engine:
    timeout = {"timeout": BUSY_TIMEOUT_S}
    engine = create_engine(f"sqlite:///{path}", connect_args=timeout, pool_size=CONNECTIONS)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves, so that writers can take the lock at once
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("fw_begin", "BEGIN"))

    return engine


def _explain(path: Path, error: DatabaseError | sqlite3.DatabaseError) -> FwError | None:
    """The error in words for what the user can change; None for what is a bug of ours."""
    text = str(error.orig if isinstance(error, DatabaseError) else error)
    if "locked" in text or "busy" in text:
        return _busy(path)
    if path.is_dir():
        return _damaged(path, "it is a folder")
    if any(word in text for word in ("disk is full", "disk I/O", "readonly", "unable to open")):
        hint = "free space, or make the folder of FW_HOME writable, and try again"
        return FwError("resource_exhausted", f"The database {path} cannot be written: {text}.", hint=hint)
    if any(words in text for words in ("not a database", "malformed", "unsupported file format")):
        return _damaged(path, text)
    return None


def _damaged(path: Path, why: str) -> FwError:
    hint = "move the file away (jobs and models on disk stay) or restore a copy of it"
    return FwError("failed_precondition", f"{path} is not a readable database: {why}.", hint=hint)


def _busy(path: Path) -> FwError:
    return FwError(
        "unavailable",
        f"The database {path} is locked.",
        not_done="nothing was changed",
        hint="another process holds it, or the disk is slow; try again in a moment",
    )


def _newer(path: Path, revision: str) -> FwError:
    return FwError(
        "failed_precondition",
        f"The database {path} was written by a newer version of fw (schema '{revision}').",
        not_done="the daemon was not started and nothing was changed",
        hint="install that version or newer, or use another FW_HOME",
    )
