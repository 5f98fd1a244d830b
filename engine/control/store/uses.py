"""What unended jobs use: kept in a table, so that a delete and a create that race see each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from engine.control.store.tables import job, job_use, resource
from fw_sdk.types import Dataset, DeploymentState, FwError, JobState, Ref

ENDED = tuple(state.value for state in JobState if state.ended)


def remember_uses(connection: Connection, job_id: str, refs: Sequence[Ref]) -> None:
    """Record what a new job uses; ``failed_precondition`` if one of them was deleted or replaced in the meantime."""
    require_as_it_was(connection, refs, "while a job that uses it was made", f"job '{job_id}' was not made")
    if refs:
        connection.execute(insert(job_use), [{"job_id": job_id, "name": name} for name in {ref.name for ref in refs}])


def require_as_it_was(connection: Connection, refs: Sequence[Ref], when: str, not_done: str) -> None:
    """Raise ``failed_precondition`` unless every ref is there, with the digest that it states.

    Args:
        connection: in the transaction that relies on it.
        refs: what is needed.
        when: the time in words in which it may have been deleted or replaced.
        not_done: what was not done without it.
    """
    for ref in refs:
        collection = ref.name.split("/")[-2]
        here = select(resource.c.document).where(resource.c.collection == collection, resource.c.id == ref.id)
        document = connection.execute(here).scalar_one_or_none()
        found = json.loads(document) if document is not None else None
        if found is not None and found.get("state") == DeploymentState.DELETING:
            found = None
        if found is None or not _is_as_it_was(collection, found, ref):
            raise FwError(
                "failed_precondition",
                f"'{ref.id}' was {'deleted' if found is None else 'replaced'} {when}.",
                not_done=not_done,
                hint="make it again, or name another",
            )


def require_reserved(connection: Connection, model: str, job: str, not_done: str) -> None:
    """Raise ``failed_precondition`` unless the model of this full name is there and waits for the job of this one."""
    collection, identifier = model.split("/")[-2:]
    maker = func.json_extract(resource.c.document, "$.job")
    here = select(maker).where(resource.c.collection == collection, resource.c.id == identifier)
    if connection.execute(here).scalar_one_or_none() != job:
        raise FwError(
            "failed_precondition",
            f"Model '{identifier}', which job '{job.rsplit('/', 1)[-1]}' makes, was deleted or is another one now.",
            not_done=not_done,
            hint="start a new job",
        )


def _is_as_it_was(collection: str, document: dict[str, Any], ref: Ref) -> bool:
    """Whether a stored thing is what a ref states; an earlier version's refs to datasets say nothing of the split."""
    digests = [document.get("digest")]
    if collection == "datasets" and digests != [None]:
        digests.append(Dataset.model_validate(document).identity)
    return ref.digest is None or None in digests or ref.digest in digests


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
