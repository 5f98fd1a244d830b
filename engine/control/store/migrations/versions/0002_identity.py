"""Uses of jobs, versions of records and what was removed are stored; replies to idempotent requests are kept whole."""

from __future__ import annotations

import json
from collections.abc import Collection

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FIELDS = {
    "baseModel": "models",
    "model": "models",
    "dataset": "datasets",
    "evaluationDataset": "datasets",
    "inputDataset": "datasets",
    "evaluator": "evaluators",
}
"""Where a first job says what it uses; rows of its program's spec have a ``name`` beside their ``splitSeed``."""

ENDED = ("JOB_STATE_COMPLETED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


def upgrade() -> None:
    """Add versions, and the table of uses, which is filled for what has not ended."""
    for table in ("resource", "job"):
        op.add_column(table, sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.create_table(
        "removed",
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_use",
        sa.Column("job_id", sa.Text, sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
    )
    op.create_index("job_use_by_name", "job_use", ["name"])
    op.drop_table("idempotency")
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.Text),
        sa.Column("time", sa.Float, nullable=False),
    )
    _fill_uses(op.get_bind())


def _fill_uses(connection: sa.Connection) -> None:
    """What each unended job names: protected from now on, and pinned to the digest that it has now."""
    rows = connection.execute(sa.text("SELECT collection, id, document FROM resource"))
    digests = {(row.collection, row.id): json.loads(row.document).get("digest") for row in rows}
    for row in connection.execute(sa.text("SELECT id, state, document FROM job")).all():
        if row.state in ENDED:
            continue
        document, uses = json.loads(row.document), []
        for collection, identifier in sorted(_named(document, digests)):
            name, digest = f"accounts/local/{collection}/{identifier}", digests[collection, identifier]
            uses.append({"name": name} | ({"digest": digest} if digest else {}))
            values = {"job": row.id, "name": name}
            connection.execute(sa.text("INSERT INTO job_use (job_id, name) VALUES (:job, :name)"), values)
        values = {"id": row.id, "document": json.dumps({**document, "uses": uses})}
        connection.execute(sa.text("UPDATE job SET document = :document WHERE id = :id"), values)


def _named(value: object, known: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """The stored things that a first job's document names in its fields, by bare id or by full name."""
    if isinstance(value, list):
        return set().union(*(_named(item, known) for item in value))
    if not isinstance(value, dict):
        return set()
    fields = {"name": "datasets"} if "splitSeed" in value else FIELDS
    named = {(collection, str(value.get(field)).rsplit("/", 1)[-1]) for field, collection in fields.items()}
    return set().union({one for one in named if one in known}, *(_named(item, known) for item in value.values()))


def downgrade() -> None:
    """Back to the first schema; keys of idempotent requests and what jobs use are forgotten."""
    op.drop_table("removed")
    op.drop_table("job_use")
    for table in ("resource", "job"):
        op.drop_column(table, "version")
    op.drop_table("idempotency")
    op.create_table(
        "idempotency",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
    )
