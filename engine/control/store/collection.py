"""One collection of resources, newest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from engine.control.store import documents
from engine.control.store.database import Database
from engine.control.store.tables import resource
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
    """

    def __init__(self, database: Database, name: str, kind: type[T], noun: str) -> None:
        self.name = name
        self.noun = noun
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

    def create(self, value: T, *, request: Wire | None = None, refs: Sequence[Ref] = ()) -> T:
        """Store a new resource, as the next generation of its name.

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
            row = {"collection": self.name, "id": value.id, "document": documents.dump(value), "fingerprint": wanted}
            connection.execute(insert(resource).values(row))
        return value

    def replayed(self, request: Wire, identifier: str, refs: Sequence[Ref] = ()) -> T | None:
        """What an earlier equal request made under this id; ``already_exists`` if it is from a different one."""
        with self._database.read() as connection:
            existing = self._row(connection, identifier)
        return self._same(existing, documents.fingerprint(request, refs)) if existing is not None else None

    def _same(self, existing: Row[Any], wanted: str | None) -> T:
        if wanted is None or existing.fingerprint != wanted:
            raise documents.taken(self.noun, str(existing.id))
        return documents.load(self._kind, existing.document)

    def update(self, identifier: str, change: Callable[[T], T]) -> T:
        """Replace a resource by ``change`` of what it is now, in one transaction; sets ``update_time``."""
        with self._database.write() as connection:
            current = self._select(connection, identifier)
            if current is None:
                raise self._missing(identifier, self._ids(connection))
            value = change(current).model_copy(update={"update_time": datetime.now(UTC)})
            connection.execute(update(resource).where(self._is(identifier)).values(document=documents.dump(value)))
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
        items = [documents.load(self._kind, row.document) for row in rows[:size]]
        token = documents.encode_token(rows[size - 1].position) if len(rows) > size else None
        return Page(items=items, next_page_token=token, total_size=total)

    def all(self) -> Sequence[T]:
        """Every resource, oldest first."""
        query = select(resource).where(resource.c.collection == self.name).order_by(resource.c.position)
        with self._database.read() as connection:
            return [documents.load(self._kind, row.document) for row in connection.execute(query)]

    def require_unused(self, identifier: str) -> T:
        """The resource, if no unended job uses it; ``not_found`` or ``failed_precondition`` as ``delete``."""
        found = self.get(identifier)
        with self._database.read() as connection:
            refuse_used(connection, self.noun, found.name)
        return found

    def delete(self, identifier: str) -> T:
        """Remove a resource that no unended job uses, and return it.

        Raises:
            FwError: ``not_found``; ``failed_precondition`` naming the job that uses it.
        """
        with self._database.write() as connection:
            found = self._select(connection, identifier)
            if found is None:
                raise self._missing(identifier, self._ids(connection))
            refuse_used(connection, self.noun, found.name)
            connection.execute(delete(resource).where(self._is(identifier)))
            documents.count_deletion(connection, self.name, identifier)
        return found

    def ids(self) -> Sequence[str]:
        """Every id, oldest first."""
        with self._database.read() as connection:
            return self._ids(connection)

    def _is(self, identifier: str) -> ColumnElement[bool]:
        return (resource.c.collection == self.name) & (resource.c.id == identifier)

    def _row(self, connection: Connection, identifier: str) -> Row[Any] | None:
        return connection.execute(select(resource).where(self._is(identifier))).one_or_none()

    def _select(self, connection: Connection, identifier: str) -> T | None:
        row = self._row(connection, identifier)
        return documents.load(self._kind, row.document) if row is not None else None

    def _ids(self, connection: Connection) -> Sequence[str]:
        query = select(resource.c.id).where(resource.c.collection == self.name).order_by(resource.c.position)
        return [str(identifier) for identifier in connection.execute(query).scalars()]

    def _missing(self, identifier: str, known: Sequence[str]) -> FwError:
        return not_found(self.noun, identifier, known, f"GET /v1/accounts/local/{self.name} lists them")
