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

from engine.control.store import documents, records
from engine.control.store.database import Database
from engine.control.store.tables import job, job_event
from engine.control.store.uses import remember_uses, require_as_it_was, require_reserved
from fw_sdk.types import (
    JOB_TYPES,
    FwError,
    Job,
    JobEvent,
    JobKind,
    JobState,
    OtherJob,
    Page,
    Wire,
    not_found,
)

J = TypeVar("J", bound=Job)

JOBS = "jobs"
"""The collection in which every job can be found, and whose names are counted; ids are unique across kinds."""
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

    def create(self, value: J, *, request: Wire | None = None) -> J:
        """Store a new job, as the next generation of its name; appends its first state event.

        What it uses, and the model that it makes, must be there.

        With ``request`` a repetition of the same request about the same things (``uses``) returns what exists
        already; anything else under a taken id is ``already_exists``.
        """
        wanted = documents.fingerprint(request, value.uses)
        with self._database.write() as connection:
            existing = _row(connection, value.id)
            if existing is not None:
                return cast(J, _same(existing, value.kind, wanted))
            value = value.model_copy(update={"generation": documents.next_generation(connection, JOBS, value.id)})
            row = {"id": value.id, "kind": value.kind, "fingerprint": wanted, **_columns(value)}
            connection.execute(insert(job).values(row))
            remember_uses(connection, value.id, value.uses)
            _require_reserved(connection, value, f"job '{value.id}' was not made")
            _append(connection, value.id, [_state_event(value)])
        self._changed(value.id)
        return value

    def replayed(self, value: J, request: Wire) -> J | None:
        """What an earlier equal request made under the id of ``value``; ``already_exists`` if a different one did."""
        with self._database.read() as connection:
            existing = _row(connection, value.id)
        wanted = documents.fingerprint(request, value.uses)
        return cast(J, _same(existing, value.kind, wanted)) if existing is not None else None

    def next_generation(self, identifier: str) -> int:
        """The generation that a job of this id will be of if it is made now."""
        with self._database.read() as connection:
            return documents.next_generation(connection, JOBS, identifier)

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
                if current.state.ended:
                    not_done = f"job '{identifier}' was not resumed"
                    require_as_it_was(connection, value.uses, f"since job '{identifier}' ended", not_done)
                    _require_reserved(connection, value, not_done)
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

    def delete(self, identifier: str, release: Callable[[], None] = lambda: None) -> None:
        """Remove an ended job and its events; ``release`` parts with its files in the transaction, or refuses."""
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
            release()
            connection.execute(delete(job).where(job.c.id == identifier))
            documents.count_deletion(connection, JOBS, identifier)
        self._changed(identifier)

    def claim(self, identifier: str, owner: str, lease_s: float) -> Job | None:
        """Take a pending job that nobody holds: it becomes RUNNING under a lease of ``owner``; None if it cannot be."""
        now = time.time()
        free = or_(job.c.lease_until.is_(None), job.c.lease_until < now)
        query = select(job).where(job.c.id == identifier, job.c.state == JobState.PENDING, free)
        with self._database.write() as connection:
            row = connection.execute(query).one_or_none()
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
        with self._database.read() as connection:
            if _row(connection, job_id) is None:
                raise _missing(connection, job_id, Job)
            return _events(connection, job_id, after, limit)

    def follow(self, job_id: str, after: int, limit: int) -> tuple[Job | None, builtins.list[JobEvent]]:
        """The job, or None, and its events with ``seq`` above ``after``, both as of one moment."""
        with self._database.read() as connection:
            row = _row(connection, job_id)
            return _load(row) if row is not None else None, _events(connection, job_id, after, limit)

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


def _events(connection: Connection, job_id: str, after: int, limit: int) -> builtins.list[JobEvent]:
    query = select(job_event).where(job_event.c.job_id == job_id, job_event.c.seq > after)
    rows = connection.execute(query.order_by(job_event.c.seq).limit(limit)).all()
    return [JobEvent(seq=row.seq, time=row.time, type=row.type, data=json.loads(row.data)) for row in rows]


def _load(row: Row[Any]) -> Job:
    known = JOB_TYPES.get(JobKind(row.kind))
    return records.load(row.kind, known.record if known else OtherJob, row.version, row.document)


def _same(existing: Row[Any], kind: JobKind, wanted: str | None) -> Job:
    if existing.kind != kind or wanted is None or existing.fingerprint != wanted:
        raise documents.taken("job", str(existing.id))
    return _load(existing)


def _require_reserved(connection: Connection, value: Job, not_done: str) -> None:
    """A job has the model that it makes; a pipeline's is reserved by its fine-tune, later."""
    if value.makes and value.kind is not JobKind.PIPELINE:
        require_reserved(connection, value.makes, value.name, not_done)


def _columns(value: Job) -> dict[str, Any]:
    return {"state": value.state, "attempt": value.attempt, **records.columns(value.kind, value)}


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
    types = [job_type for job_type in JOB_TYPES.values() if issubclass(job_type.record, kind)]
    noun, collection = ("job", JOBS) if len(types) > 1 else (types[0].noun, types[0].collection)
    query = select(job.c.id).order_by(job.c.position.desc()).limit(1000)
    if kind is not Job:
        query = query.where(job.c.kind.in_([job_type.kind for job_type in types]))
    known = [str(name) for name in connection.execute(query).scalars()]
    return not_found(noun, identifier, known, f"GET /v1/accounts/local/{collection} lists them")
