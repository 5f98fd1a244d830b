"""Replies to requests with an idempotency key, kept whole, so that a repetition gets the same one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from engine.control.store.database import Database
from engine.control.store.tables import idempotency

KEPT_S = 7 * 24 * 3600.0
"""How long a reply is kept. Clients repeat within minutes."""


@dataclass(frozen=True)
class Reply:
    """What a request got.

    Attributes:
        fingerprint: of the request; equal for equal requests only.
        status: the HTTP status.
        body: the JSON text.
        time: when it was kept, in seconds since 1970.
    """

    fingerprint: str
    status: int
    body: str
    time: float


class Replies:
    """Replies by idempotency key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str) -> Reply | None:
        """The reply that is kept under ``key``; None if there is none, or if it is older than a week."""
        query = select(idempotency).where(idempotency.c.key == key, idempotency.c.time > time.time() - KEPT_S)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return Reply(row.fingerprint, row.status, row.body, row.time) if row is not None else None

    def keep(self, key: str, fingerprint: str, status: int, body: str) -> None:
        """Keep a reply under ``key``, in place of one that is too old; what is older than a week goes."""
        now = time.time()
        values = {"fingerprint": fingerprint, "status": status, "body": body, "time": now}
        query = insert(idempotency).values(key=key, **values)
        with self._database.write() as connection:
            connection.execute(delete(idempotency).where(idempotency.c.time <= now - KEPT_S))
            connection.execute(query.on_conflict_do_update(index_elements=["key"], set_=values))

    def identifier(self, key: str, fresh: Callable[[], str]) -> str:
        """The id that belongs to ``key``: ``fresh`` the first time, then the same for a week."""
        name = f"id:{key}"
        known = self.find(name)
        if known is None:
            self.keep(name, "", 0, fresh())
            known = self.find(name)
        assert known is not None
        return known.body
