"""Uses of jobs stand in a table, and replies to idempotent requests are kept whole."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ENDED = ("JOB_STATE_COMPLETED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


def upgrade() -> None:
    """Add the table of uses, and fill it for what has not ended."""
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
    connection = op.get_bind()
    resources = {(row.collection, row.id) for row in connection.execute(sa.text("SELECT collection, id FROM resource"))}
    for row in connection.execute(sa.text("SELECT id, state, document FROM job")).all():
        if row.state not in ENDED:
            for collection, identifier in sorted(_named(json.loads(row.document), resources)):
                values = {"job": row.id, "name": f"accounts/local/{collection}/{identifier}"}
                connection.execute(sa.text("INSERT INTO job_use (job_id, name) VALUES (:job, :name)"), values)


def _named(value: object, resources: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The stored things that a first job's document names, by bare id or by full name."""
    if isinstance(value, dict):
        return set().union(*(_named(item, resources) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_named(item, resources) for item in value))
    if not isinstance(value, str):
        return set()
    last = value.rsplit("/", 1)[-1]
    full = {(c, i) for c, i in resources if i == last and value in (i, f"accounts/local/{c}/{i}")}
    return {(c, i) for c, i in full if c in ("models", "datasets", "evaluators")}


def downgrade() -> None:
    """Back to the first schema; keys of idempotent requests are forgotten."""
    op.drop_table("job_use")
    op.drop_table("idempotency")
    op.create_table(
        "idempotency",
        sa.Column("collection", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
    )
