"""The tables. A document is the JSON of a record (see ``records``); the columns beside it are what queries need."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint

metadata = MetaData()

resource = Table(
    "resource",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("collection", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("fingerprint", Text),
    UniqueConstraint("collection", "id"),
    sqlite_autoincrement=True,
)

removed = Table(
    "removed",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("collection", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("version", Integer, nullable=False),
    sqlite_autoincrement=True,
)
"""Deleted records whose files may still be there; see ``inventory.files``."""

job = Table(
    "job",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("owner", Text),
    Column("lease_until", Float),
    Column("attempt", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False, server_default="0"),
    Column("events_offset", Integer, nullable=False, server_default="0"),
    Column("document", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("fingerprint", Text),
    Index("job_by_state", "state", "position"),
    Index("job_by_kind", "kind", "position"),
    sqlite_autoincrement=True,
)

job_event = Table(
    "job_event",
    metadata,
    Column("job_id", Text, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("time", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", Text, nullable=False),
)

job_use = Table(
    "job_use",
    metadata,
    Column("job_id", Text, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Index("job_use_by_name", "name"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("status", Integer),
    Column("body", Text),
    Column("time", Float, nullable=False),
)

counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Integer, nullable=False),
)
