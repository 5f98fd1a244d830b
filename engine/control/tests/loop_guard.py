"""A guard for tests: no statement of the database may run on an event loop, where everybody waits for it."""

import asyncio
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, event


def _offence() -> str | None:
    """Where our own code asks the database, if an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    ours = [frame for frame in traceback.extract_stack() if "/engine/" in frame.filename]
    return "".join(traceback.format_list(ours[-7:-2]))


@contextmanager
def no_statement_on(thread: threading.Thread):
    """Fail at the end if the database was asked on the event loop of ``thread``."""
    found = []

    def look(*_):
        if threading.current_thread() is thread and (offence := _offence()):
            found.append(offence)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert not found, f"{len(found)} statements ran on the event loop, the first of them here:\n{found[0]}"


def write_offences(path: Path) -> None:
    """Write every statement that this process runs on an event loop into a file."""

    def look(*_):
        if offence := _offence():
            with path.open("a") as file:
                file.write(offence + "\n")

    event.listen(Engine, "before_cursor_execute", look)


def check_offences(path: Path) -> None:
    """Fail if ``write_offences`` of a daemon wrote something."""
    assert not path.exists(), f"statements ran on the daemon's event loop:\n{path.read_text()[:4000]}"
