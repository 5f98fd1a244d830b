"""What collections and jobs share: documents in and out, page tokens, fingerprints, idempotency keys."""

from __future__ import annotations

import base64
import hashlib
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, delete, insert, select

from engine.control.store.tables import idempotency
from engine.jobs.rows import canonical
from fw_sdk.types import FwError, Resource, Wire

MAX_PAGE_SIZE = 200
DEFAULT_PAGE_SIZE = 50

R = TypeVar("R", bound=Resource)


def load(kind: type[R], document: str) -> R:
    """A stored document as its wire type."""
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        raise FwError(
            "failed_precondition",
            f"A stored {kind.__name__} cannot be read by this version: {error.errors()[0]['msg']}.",
            hint="use the version of fw that wrote it",
        ) from error


def dump(value: Resource) -> str:
    """A wire type as the document to store."""
    return value.model_dump_json(by_alias=True, exclude_none=True)


def fingerprint(request: Wire | None) -> str | None:
    """A digest of what was asked for; equal requests have equal fingerprints."""
    return hashlib.sha256(canonical(request.to_wire())).hexdigest() if request is not None else None


def page_size(wanted: int) -> int:
    """``wanted`` within the limits; 0 means the default."""
    if wanted < 0:
        raise FwError("invalid_argument", f"'pageSize': must not be negative, got {wanted}", param="pageSize")
    return min(wanted or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(position: int) -> str:
    """An opaque page token: the position after which the next page starts."""
    return base64.urlsafe_b64encode(f"p{position}".encode()).decode().rstrip("=")


def decode_token(token: str | None) -> int | None:
    """Inverse of ``encode_token``; None or '' for the first page."""
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError:
        text = ""
    digits = text[1:] if len(text) < 20 else ""
    if digits.isascii() and digits.isdigit() and encode_token(int(digits)) == token:
        return int(digits)
    raise FwError(
        "invalid_argument",
        f"'pageToken': {token[:40]!r} is not a page token",
        hint="pass nextPageToken of the last reply unchanged, or leave it out for the first page",
        param="pageToken",
    )


def replayed_id(connection: Connection, collection: str, key: str | None, print_: str | None) -> str | None:
    """The id that an earlier request with this idempotency key created; a different request is an error."""
    if key is None:
        return None
    where = (idempotency.c.collection == collection) & (idempotency.c.key == key)
    row = connection.execute(select(idempotency).where(where)).one_or_none()
    if row is None:
        return None
    if row.fingerprint != (print_ or ""):
        raise FwError(
            "already_exists",
            f"The Idempotency-Key '{key[:80]}' was used for a different request, which created '{row.id}'.",
            not_done="nothing was created",
            hint="send a new key with a new request",
        )
    return str(row.id)


def remember_key(connection: Connection, collection: str, key: str | None, print_: str | None, identifier: str) -> None:
    """Bind an idempotency key to what it created."""
    if key is not None:
        values = {"collection": collection, "key": key, "fingerprint": print_ or "", "id": identifier}
        connection.execute(insert(idempotency).values(values))


def forget_keys(connection: Connection, collection: str, identifier: str) -> None:
    """Drop the idempotency keys of something that is deleted."""
    where = (idempotency.c.collection == collection) & (idempotency.c.id == identifier)
    connection.execute(delete(idempotency).where(where))


def taken(noun: str, identifier: str) -> FwError:
    """The error of a create whose id already names something different."""
    return FwError(
        "already_exists",
        f"There is already a {noun} '{identifier}', made from a different request.",
        not_done="nothing was created or changed",
        hint="choose another id, or delete the old one first",
    )
