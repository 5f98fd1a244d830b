"""Opening the SQLite file: pragmas, transactions, migrations, and errors that say what to do."""

from __future__ import annotations

import logging
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
from sqlalchemy.exc import DatabaseError, NoSuchTableError, OperationalError

from engine.control.store.tables import metadata
from fw_sdk.types import FwError

BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).parent / "migrations"

log = logging.getLogger("fw.store")


class Database:
    """One SQLite file. ``read`` and ``write`` give a connection in a transaction; ``write`` takes the lock first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = _engine(path)
        self._writer = self._engine.execution_options(fw_begin="BEGIN IMMEDIATE")
        with self._explained(), _of_fw(path):
            self._migrate()
            _check_tables(self._engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database."""
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; all of it happens or none."""
        with self._explained(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _migrate(self) -> None:
        script = ScriptDirectory(str(MIGRATIONS))
        with self._engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        known = {revision.revision for revision in script.walk_revisions()}
        if current is not None and current not in known:
            raise _newer(self.path, current)
        if current == script.get_current_head():
            return
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            explained = _explain(self.path, error)
            if explained is None:
                raise
            raise explained from error


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves, so that writers can take the lock at once
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("fw_begin", "BEGIN"))

    return engine


def _explain(path: Path, error: DatabaseError) -> FwError | None:
    """The error in words for what the user can change; None for what is a bug of ours."""
    text = str(error.orig)
    if "locked" in text or "busy" in text:
        return FwError("unavailable", f"The database {path} is locked.", hint="another process holds it; try again")
    if path.is_dir():
        hint = "move the folder away, or use another FW_HOME"
        return FwError("failed_precondition", f"{path} is a folder, not a database.", hint=hint)
    if any(word in text for word in ("disk is full", "disk I/O", "readonly", "unable to open")):
        hint = "free space, or make the folder of FW_HOME writable, and try again"
        return FwError("resource_exhausted", f"The database {path} cannot be written: {text}.", hint=hint)
    if "not a database" in text or "malformed" in text:
        hint = "move the file away (jobs and models on disk stay) or restore a copy of it"
        return FwError("failed_precondition", f"{path} is not a readable database: {text}.", hint=hint)
    return None


@contextmanager
def _of_fw(path: Path) -> Iterator[None]:
    """What stops the migration of a sound SQLite file is that its tables are not ours."""
    try:
        yield
    except (CommandError, NoSuchTableError, OperationalError) as error:
        if isinstance(error, OperationalError) and _explain(path, error) is not None:
            raise
        reason = str(error.orig) if isinstance(error, OperationalError) else str(error)
        raise FwError(
            "failed_precondition",
            f"{path} is not a database of fw, or its tables were changed: {reason}.",
            not_done="the daemon was not started and nothing was changed",
            hint="move the file away (jobs and models on disk stay) or restore a copy of it",
        ) from error


def _check_tables(engine: Engine) -> None:
    """Raise ``NoSuchTableError`` naming the first table or column that should be there and is not."""
    found = inspect(engine)
    for name, table in metadata.tables.items():
        there = {column["name"] for column in found.get_columns(name)} if found.has_table(name) else set()
        missing = [column.name for column in table.columns if column.name not in there]
        if missing:
            raise NoSuchTableError(f"table '{name}' lacks {', '.join(missing)}" if there else f"no table '{name}'")


def _newer(path: Path, revision: str) -> FwError:
    return FwError(
        "failed_precondition",
        f"The database {path} was written by a newer version of fw (schema '{revision}').",
        not_done="the daemon was not started and nothing was changed",
        hint="install that version or newer, or use another FW_HOME",
    )
