"""One collection of resources, newest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from engine.control.store import documents, records
from engine.control.store.database import Database
from engine.control.store.tables import removed, resource
from engine.control.store.uses import refuse_used
from fw_sdk.types import FwError, Page, Ref, Resource, Wire, not_found

T = TypeVar("T", bound=Resource)


class Collection(Generic[T]):
    """Resources of one type by id.

    Args:
        database: where they are kept.
        name: the collection's part of a resource name, e.g. ``datasets``.
        kind: the wire type.
        noun: what one is called in messages.
        has_files: whether a deleted record is kept until ``drop_removed`` has seen to its files.
    """

    def __init__(self, database: Database, name: str, kind: type[T], noun: str, *, has_files: bool = False) -> None:
        self.name = name
        self.noun = noun
        self._has_files = has_files
        self._database = database
        self._kind = kind

    def get(self, identifier: str) -> T:
        """The resource; ``not_found`` names the nearest id."""
        found = self.find(identifier)
        if found is None:
            raise self._missing(identifier, self.ids())
        return found

    def find(self, identifier: str) -> T | None:
        """The resource, or None."""
        with self._database.read() as connection:
            return self._select(connection, identifier)

    def create(
        self,
        value: T,
        *,
        request: Wire | None = None,
        refs: Sequence[Ref] = (),
        place: Callable[[], object] = lambda: None,
    ) -> T:
        """Store a new resource, as the next generation of its name; ``place`` puts its file there in the transaction,
        or raises what speaks against it.

        With ``request`` a repetition of the same request, about the same ``refs``, returns what exists already;
        anything else under a taken id is ``already_exists``.
        """
        wanted = documents.fingerprint(request, refs)
        with self._database.write() as connection:
            existing = self._row(connection, value.id)
            if existing is not None:
                return self._same(existing, wanted)
            generation = documents.next_generation(connection, self.name, value.id)
            value = value.model_copy(update={"generation": generation})
            row = {"collection": self.name, "id": value.id, "fingerprint": wanted}
            connection.execute(insert(resource).values(row | records.columns(self.name, value)))
            place()
        return value

    def replayed(self, request: Wire, identifier: str, refs: Sequence[Ref] = ()) -> T | None:
        """What an earlier equal request made under this id; ``already_exists`` if it is from a different one."""
        with self._database.read() as connection:
            existing = self._row(connection, identifier)
        return self._same(existing, documents.fingerprint(request, refs)) if existing is not None else None

    def _same(self, existing: Row[Any], wanted: str | None) -> T:
        if wanted is None or existing.fingerprint != wanted:
            raise documents.taken(self.noun, str(existing.id))
        return self._load(existing)

    def update(self, identifier: str, change: Callable[[T], T]) -> T:
        """Replace a resource by ``change`` of what it is now, in one transaction; sets ``update_time``."""
        return self._update(identifier, change, lambda _connection, _current: None)

    def update_unused(self, identifier: str, change: Callable[[T], T]) -> T:
        """Update a resource; ``failed_precondition`` names the unended job that uses the resource, as in ``delete``."""
        return self._update(identifier, change, lambda connection, it: refuse_used(connection, self.noun, it.name))

    def _update(self, identifier: str, change: Callable[[T], T], check: Callable[[Connection, T], None]) -> T:
        with self._database.write() as connection:
            current = self._select(connection, identifier)
            if current is None:
                raise self._missing(identifier, self._ids(connection))
            check(connection, current)
            value = change(current).model_copy(update={"update_time": datetime.now(UTC)})
            columns = records.columns(self.name, value)
            connection.execute(update(resource).where(self._is(identifier)).values(columns))
        return value

    def list(self, page_size: int = 0, page_token: str | None = None) -> Page[T]:
        """One page, newest first."""
        size, before = documents.page_size(page_size), documents.decode_token(page_token)
        mine = resource.c.collection == self.name
        query = select(resource).where(mine).order_by(resource.c.position.desc()).limit(size + 1)
        if before is not None:
            query = query.where(resource.c.position < before)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            total = connection.execute(select(func.count()).select_from(resource).where(mine)).scalar_one()
        items = [self._load(row) for row in rows[:size]]
        token = documents.encode_token(rows[size - 1].position) if len(rows) > size else None
        return Page(items=items, next_page_token=token, total_size=total)

    def all(self) -> Sequence[T]:
        """Every resource, oldest first."""
        query = select(resource).where(resource.c.collection == self.name).order_by(resource.c.position)
        with self._database.read() as connection:
            return [self._load(row) for row in connection.execute(query)]

    def delete(self, identifier: str, check: Callable[[T], None] = lambda _: None) -> T:
        """Remove a resource that no unended job uses, and return it; ``check`` raises what else speaks against it.

        Raises:
            FwError: ``not_found``; ``failed_precondition`` naming the job that uses it; what ``check`` raises.
        """
        with self._database.write() as connection:
            found = self._select(connection, identifier)
            if found is None:
                raise self._missing(identifier, self._ids(connection))
            refuse_used(connection, self.noun, found.name)
            check(found)
            self._remove(connection, found)
        return found

    def discard(self, identifier: str, condition: Callable[[T], bool]) -> bool:
        """Remove a resource if it exists and ``condition`` holds for it, which no unended job may use then."""
        with self._database.write() as connection:
            found = self._select(connection, identifier)
            if found is None or not condition(found):
                return False
            self._remove(connection, found)
        return True

    def _remove(self, connection: Connection, found: T) -> None:
        refuse_used(connection, self.noun, found.name)
        connection.execute(delete(resource).where(self._is(found.id)))
        if self._has_files:
            row = {"collection": self.name, **records.columns(self.name, found)}
            connection.execute(insert(removed).values(row))
        documents.count_deletion(connection, self.name, found.id)

    def removed(self) -> Sequence[T]:
        """Deleted records whose files nobody has seen to yet."""
        query = select(removed).where(removed.c.collection == self.name).order_by(removed.c.position)
        with self._database.read() as connection:
            return [self._load(row) for row in connection.execute(query)]

    def drop_removed(self, drop: Callable[[T], bool]) -> None:
        """Let ``drop`` see to the files of deleted records; those for which it returns True are forgotten.

        It is called with the write lock held: no record comes to name a file at the same time.
        """
        query = select(removed).where(removed.c.collection == self.name).order_by(removed.c.position)
        with self._database.write() as connection:
            done = [row.position for row in connection.execute(query).all() if drop(self._load(row))]
            connection.execute(delete(removed).where(removed.c.position.in_(done)))

    def ids(self) -> Sequence[str]:
        """Every id, oldest first."""
        with self._database.read() as connection:
            return self._ids(connection)

    def digests(self) -> set[str]:
        """The digests that resources have, each once."""
        digest = func.json_extract(resource.c.document, "$.digest")
        query = select(digest).where(resource.c.collection == self.name, digest.is_not(None)).distinct()
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def _is(self, identifier: str) -> ColumnElement[bool]:
        return (resource.c.collection == self.name) & (resource.c.id == identifier)

    def _row(self, connection: Connection, identifier: str) -> Row[Any] | None:
        return connection.execute(select(resource).where(self._is(identifier))).one_or_none()

    def _select(self, connection: Connection, identifier: str) -> T | None:
        row = self._row(connection, identifier)
        return self._load(row) if row is not None else None

    def _load(self, row: Row[Any]) -> T:
        return records.load(self.name, self._kind, row.version, row.document)

    def _ids(self, connection: Connection) -> Sequence[str]:
        query = select(resource.c.id).where(resource.c.collection == self.name).order_by(resource.c.position)
        return [str(identifier) for identifier in connection.execute(query).scalars()]

    def _missing(self, identifier: str, known: Sequence[str]) -> FwError:
        return not_found(self.noun, identifier, known, f"GET /v1/accounts/local/{self.name} lists them")
