"""What unended jobs use: kept in a table, so that a delete and a create that race see each other."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select

from engine.control.store.tables import job, job_use, resource
from fw_sdk.types import FwError, JobState, Ref

ENDED = tuple(state.value for state in JobState if state.ended)


def remember_uses(connection: Connection, job_id: str, refs: Sequence[Ref]) -> None:
    """Record what a new job uses; raises as ``require_uses``, since it may be gone since the request was checked."""
    require_uses(connection, job_id, refs)
    if refs:
        connection.execute(insert(job_use), [{"job_id": job_id, "name": name} for name in {ref.name for ref in refs}])


def require_uses(connection: Connection, job_id: str, refs: Sequence[Ref]) -> None:
    """Raise ``failed_precondition`` if something that a job is to work on was deleted or replaced."""
    for ref in refs:
        collection = ref.name.split("/")[-2]
        digest = func.json_extract(resource.c.document, "$.digest").label("digest")
        here = select(digest).where(resource.c.collection == collection, resource.c.id == ref.id)
        found = connection.execute(here).one_or_none()
        if found is None or (ref.digest is not None and found.digest not in (None, ref.digest)):
            raise FwError(
                "failed_precondition",
                f"Job '{job_id}' uses '{ref.id}', which was {'deleted' if found is None else 'replaced'}.",
                not_done="the job does not run",
                hint="start a new one with what is there now",
            )


def users_of(connection: Connection, name: str) -> list[str]:
    """Ids of the unended jobs that use the thing of this full name, oldest first."""
    query = select(job.c.id).join(job_use, job_use.c.job_id == job.c.id)
    query = query.where(job_use.c.name == name, job.c.state.not_in(ENDED)).order_by(job.c.position)
    return [str(identifier) for identifier in connection.execute(query).scalars()]


def refuse_used(connection: Connection, noun: str, name: str) -> None:
    """Raise ``failed_precondition`` if an unended job uses the thing of this full name."""
    users = users_of(connection, name)
    if users:
        raise FwError(
            "failed_precondition",
            f"{noun.capitalize()} '{name.rsplit('/', 1)[-1]}' is used by job '{users[0]}'.",
            not_done="it was not deleted",
            hint=f"wait for job '{users[0]}', or cancel it, and delete it then",
            details={"usedBy": users},
        )
