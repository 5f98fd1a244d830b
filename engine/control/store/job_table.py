"""Jobs with states, leases and an ordered record of events.

What holds at every moment: a job's events are numbered 1, 2, 3, ... without gaps; a job has at most one owner with a
living lease; its state changes only along ``NEXT``; every change of state stands in its events; the columns say the
same as the document.
"""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast, overload

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from engine.control.store import documents
from engine.control.store.database import Database
from engine.control.store.tables import job, job_event
from fw_sdk.types import (
    Evaluation,
    FineTuningJob,
    FwError,
    Job,
    JobEvent,
    JobKind,
    JobState,
    Page,
    Pipeline,
    Wire,
    not_found,
)

J = TypeVar("J", bound=Job)

KINDS: dict[JobKind, type[Job]] = {
    JobKind.PULL: Job,
    JobKind.FINETUNE: FineTuningJob,
    JobKind.EVALUATE: Evaluation,
    JobKind.PIPELINE: Pipeline,
}
COLLECTIONS: dict[JobKind, str] = {
    JobKind.PULL: "jobs",
    JobKind.FINETUNE: "supervisedFineTuningJobs",
    JobKind.EVALUATE: "evaluationJobs",
    JobKind.PIPELINE: "pipelines",
}
NOUNS = {JobKind.FINETUNE: "fine-tune", JobKind.EVALUATE: "evaluation", JobKind.PIPELINE: "pipeline"}
NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {JobState.PENDING, JobState.CANCELLING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.CANCELLING: frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
    JobState.COMPLETED: frozenset(),
}
ACTIVE = (JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True)
class ProgramEvent:
    """One event as a program wrote it. ``time`` is ISO 8601."""

    time: str
    type: str
    data: dict[str, Any]


class JobTable:
    """Jobs of every kind by id; ids are unique across kinds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(job_id)`` after each committed change, in the thread that made it."""
        self._listeners.append(listener)

    def create(self, value: J, *, request: Wire | None = None, key: str | None = None) -> J:
        """Store a new job; ``request`` and ``key`` as in ``Collection.create``. Appends its first state event."""
        print_, collection = documents.fingerprint(request), COLLECTIONS[value.kind]
        with self._database.write() as connection:
            earlier = documents.replayed_id(connection, collection, key, print_)
            existing = _row(connection, earlier or value.id)
            if existing is not None:
                same = existing.kind == value.kind and print_ is not None and existing.fingerprint == print_
                if earlier is None and not same:
                    raise documents.taken("job", value.id)
                return cast(J, _load(existing))
            row = {"id": value.id, "kind": value.kind, "fingerprint": print_, **_columns(value)}
            connection.execute(insert(job).values(row))
            documents.remember_key(connection, collection, key, print_, value.id)
            _append(connection, value.id, [_state_event(value)])
        self._changed(value.id)
        return value

    def replayed(
        self, kind: type[J], job_kind: JobKind, request: Wire, key: str | None, identifier: str | None = None
    ) -> J | None:
        """What an earlier equal request created, known by its idempotency key or by its explicit id.

        A different request under the same key or id is ``already_exists``.
        """
        print_ = documents.fingerprint(request)
        with self._database.read() as connection:
            earlier = documents.replayed_id(connection, COLLECTIONS[job_kind], key, print_)
            row = _row(connection, wanted) if (wanted := earlier or identifier) else None
        if row is None:
            return None
        value = _load(row)
        if earlier is None and (row.fingerprint != print_ or value.kind is not job_kind):
            raise documents.taken("job", row.id)
        assert isinstance(value, kind)
        return value

    @overload
    def get(self, identifier: str) -> Job: ...
    @overload
    def get(self, identifier: str, kind: type[J]) -> J: ...
    def get(self, identifier: str, kind: type[Job] = Job) -> Job:
        """The job; ``not_found`` (naming the nearest id) if there is none or it is not of ``kind``."""
        with self._database.read() as connection:
            row = _row(connection, identifier)
            value = _load(row) if row is not None else None
            if value is None or not isinstance(value, kind):
                raise _missing(connection, identifier, kind)
            return value

    def find(self, identifier: str) -> Job | None:
        """The job, or None."""
        with self._database.read() as connection:
            row = _row(connection, identifier)
        return _load(row) if row is not None else None

    @overload
    def update(self, identifier: str, change: Callable[[Job], Job]) -> Job: ...
    @overload
    def update(self, identifier: str, change: Callable[[J], J], kind: type[J]) -> J: ...
    def update(self, identifier: str, change: Callable[[Any], Any], kind: type[Job] = Job) -> Job:
        """Replace a job by ``change`` of what it is now; a change of state must follow ``NEXT`` and is recorded."""
        return self.record(identifier, (), change=change, kind=kind)

    def record(
        self,
        identifier: str,
        events: Iterable[ProgramEvent],
        *,
        offset: int | None = None,
        change: Callable[[Any], Any] | None = None,
        kind: type[Job] = Job,
    ) -> Job:
        """Append events, move the offset into the program's events file and change the job, all in one transaction."""
        with self._database.write() as connection:
            row = _row(connection, identifier)
            current = _load(row) if row is not None else None
            if current is None or not isinstance(current, kind):
                raise _missing(connection, identifier, kind)
            value: Job = change(current) if change else current
            appended = list(events)
            if value.state is not current.state:
                _check_next(current, value)
                appended.append(_state_event(value))
            value = value.model_copy(update={"update_time": datetime.now(UTC)})
            columns = _columns(value)
            if offset is not None:
                columns["events_offset"] = offset
            if value.state not in ACTIVE:
                columns |= {"owner": None, "lease_until": None}
            connection.execute(update(job).where(job.c.id == identifier).values(columns))
            _append(connection, identifier, appended)
        self._changed(identifier)
        return value

    def list(self, kind: JobKind | None = None, page_size: int = 0, page_token: str | None = None) -> Page[Job]:
        """One page of jobs, newest first, of one kind or of all."""
        size, before = documents.page_size(page_size), documents.decode_token(page_token)
        count, query = select(func.count()).select_from(job), select(job)
        if kind is not None:
            count, query = count.where(job.c.kind == kind), query.where(job.c.kind == kind)
        if before is not None:
            query = query.where(job.c.position < before)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(job.c.position.desc()).limit(size + 1)).all()
            total = connection.execute(count).scalar_one()
        token = documents.encode_token(rows[size - 1].position) if len(rows) > size else None
        return Page(items=[_load(row) for row in rows[:size]], next_page_token=token, total_size=total)

    def in_states(self, *states: JobState, kinds: Iterable[JobKind] | None = None) -> builtins.list[Job]:
        """Jobs that are in one of the states, oldest first."""
        query = select(job).where(job.c.state.in_(states)).order_by(job.c.position)
        if kinds is not None:
            query = query.where(job.c.kind.in_(builtins.list(kinds)))
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def unended(self) -> builtins.list[Job]:
        """Every job of any kind that has not ended, oldest first."""
        return self.in_states(*(state for state in JobState if not state.ended))

    def delete(self, identifier: str) -> None:
        """Remove an ended job and its events."""
        with self._database.write() as connection:
            row = _row(connection, identifier)
            if row is None:
                raise _missing(connection, identifier, Job)
            if not JobState(row.state).ended:
                raise FwError(
                    "failed_precondition",
                    f"Job '{identifier}' is {_word(row.state)}.",
                    not_done="it was not deleted",
                    hint="cancel it first",
                )
            connection.execute(delete(job).where(job.c.id == identifier))
            documents.forget_keys(connection, COLLECTIONS[JobKind(row.kind)], identifier)
        self._changed(identifier)

    def claim(self, owner: str, lease_s: float, kinds: Iterable[JobKind] = tuple(KINDS)) -> Job | None:
        """Take the oldest pending job that nobody holds: it becomes RUNNING under a lease of ``owner``."""
        now = time.time()
        free = or_(job.c.lease_until.is_(None), job.c.lease_until < now)
        query = select(job).where(job.c.state == JobState.PENDING, job.c.kind.in_(builtins.list(kinds)), free)
        with self._database.write() as connection:
            row = connection.execute(query.order_by(job.c.position).limit(1)).one_or_none()
            if row is None:
                return None
            old = _load(row)
            times = {"update_time": datetime.now(UTC), "start_time": old.start_time or datetime.now(UTC)}
            value = old.model_copy(update={"state": JobState.RUNNING, "completed_time": None, **times})
            lease = {"owner": owner, "lease_until": now + lease_s}
            connection.execute(update(job).where(job.c.id == row.id).values({**_columns(value), **lease}))
            _append(connection, row.id, [_state_event(value)])
        self._changed(value.id)
        return value

    def renew(self, owner: str, lease_s: float) -> int:
        """Prolong every lease of ``owner``; returns how many jobs it holds."""
        held = update(job).where(job.c.owner == owner, job.c.state.in_(ACTIVE))
        with self._database.write() as connection:
            return int(connection.execute(held.values(lease_until=time.time() + lease_s)).rowcount)

    def take_over(self, owner: str, lease_s: float, kinds: Iterable[JobKind]) -> builtins.list[Job]:
        """Make ``owner`` the holder of every active job of ``kinds``.

        Call it only where something else proves that the earlier owners are gone (the daemon's lock on its home).
        """
        mine = (job.c.state.in_(ACTIVE)) & (job.c.kind.in_(builtins.list(kinds)))
        with self._database.write() as connection:
            connection.execute(update(job).where(mine).values(owner=owner, lease_until=time.time() + lease_s))
            return [_load(row) for row in connection.execute(select(job).where(mine).order_by(job.c.position))]

    def append_event(self, job_id: str, type: str, data: dict[str, Any]) -> JobEvent:
        """Append one event; its ``seq`` follows the last one's."""
        event = ProgramEvent(datetime.now(UTC).isoformat(), type, data)
        with self._database.write() as connection:
            if _row(connection, job_id) is None:
                raise _missing(connection, job_id, Job)
            seq = _append(connection, job_id, [event])
        self._changed(job_id)
        return JobEvent(seq=seq, time=datetime.fromisoformat(event.time), type=type, data=data)

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> builtins.list[JobEvent]:
        """Events with ``seq`` above ``after``, in order, at most ``limit``."""
        query = select(job_event).where(job_event.c.job_id == job_id, job_event.c.seq > after)
        with self._database.read() as connection:
            if _row(connection, job_id) is None:
                raise _missing(connection, job_id, Job)
            rows = connection.execute(query.order_by(job_event.c.seq).limit(limit)).all()
        return [JobEvent(seq=row.seq, time=row.time, type=row.type, data=json.loads(row.data)) for row in rows]

    def events_offset(self, job_id: str) -> int:
        """How many bytes of the program's events file stand in the record already."""
        with self._database.read() as connection:
            query = select(job.c.events_offset).where(job.c.id == job_id)
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def _changed(self, identifier: str) -> None:
        for listener in self._listeners:
            listener(identifier)


def _row(connection: Connection, identifier: str) -> Row[Any] | None:
    return connection.execute(select(job).where(job.c.id == identifier)).one_or_none()


def _load(row: Row[Any]) -> Job:
    return documents.load(KINDS[JobKind(row.kind)], row.document)


def _columns(value: Job) -> dict[str, Any]:
    return {"state": value.state, "attempt": value.attempt, "document": documents.dump(value)}


def _state_event(value: Job) -> ProgramEvent:
    data: dict[str, Any] = {"state": value.state, "attempt": value.attempt}
    if value.failure is not None and value.state is JobState.FAILED:
        data |= {"code": value.failure.code, "message": value.failure.message}
    return ProgramEvent(datetime.now(UTC).isoformat(), "state", data)


def _append(connection: Connection, job_id: str, events: Sequence[ProgramEvent]) -> int:
    """Number and insert events; returns the job's last ``seq``."""
    last = int(connection.execute(select(job.c.last_seq).where(job.c.id == job_id)).scalar_one())
    if not events:
        return last
    rows = [
        {"job_id": job_id, "seq": last + index, "time": event.time, "type": event.type, "data": json.dumps(event.data)}
        for index, event in enumerate(events, 1)
    ]
    connection.execute(insert(job_event), rows)
    connection.execute(update(job).where(job.c.id == job_id).values(last_seq=last + len(rows)))
    return last + len(rows)


def _check_next(current: Job, value: Job) -> None:
    if value.state not in NEXT[current.state]:
        raise FwError(
            "failed_precondition",
            f"Job '{current.id}' is {_word(current.state)} and cannot become {_word(value.state)}.",
            not_done="the job was not changed",
        )


def _word(state: str) -> str:
    return str(state).removeprefix("JOB_STATE_").lower()


def _missing(connection: Connection, identifier: str, kind: type[Job]) -> FwError:
    kinds = [name for name, type_ in KINDS.items() if issubclass(type_, kind)]
    noun, collection = ("job", "jobs") if len(kinds) > 1 else (NOUNS[kinds[0]], COLLECTIONS[kinds[0]])
    query = select(job.c.id).where(job.c.kind.in_(kinds)).order_by(job.c.position.desc()).limit(1000)
    known = [str(name) for name in connection.execute(query).scalars()]
    return not_found(noun, identifier, known, f"GET /v1/accounts/local/{collection} lists them")
