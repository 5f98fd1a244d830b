"""What collections and jobs share: page tokens, fingerprints of requests, generations of names."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from engine.control.store.tables import counter
from engine.jobs.rows import canonical
from fw_sdk.types import ACCOUNT, FwError, Ref, Wire

ACCOUNT_PREFIX = f"accounts/{ACCOUNT}/"
MAX_PAGE_SIZE = 200
DEFAULT_PAGE_SIZE = 50


def fingerprint(request: Wire | None, refs: Sequence[Ref] = ()) -> str | None:
    """A digest of what was asked for and of what its names stood for; None without a request.

    An equal request about things that were made anew under the same names is another one. A full name and a bare id
    are the same.
    """
    if request is None:
        return None
    return hashlib.sha256(canonical([_with_bare_ids(request.to_wire()), [ref.to_wire() for ref in refs]])).hexdigest()


def _with_bare_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_bare_ids(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bare_ids(item) for item in value]
    return value.rsplit("/", 1)[-1] if isinstance(value, str) and value.startswith(ACCOUNT_PREFIX) else value


def next_generation(connection: Connection, collection: str, identifier: str) -> int:
    """How often this name will have been used, counting the use that begins now."""
    deleted = select(counter.c.value).where(counter.c.name == _deletions(collection, identifier))
    return int(connection.execute(deleted).scalar_one_or_none() or 0) + 1


def count_deletion(connection: Connection, collection: str, identifier: str) -> None:
    """Let the next thing of this name be of a new generation."""
    query = insert(counter).values(name=_deletions(collection, identifier), value=1)
    added = {"value": counter.c.value + 1}
    connection.execute(query.on_conflict_do_update(index_elements=["name"], set_=added))


def _deletions(collection: str, identifier: str) -> str:
    return f"deleted:{collection}/{identifier}"


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


def taken(noun: str, identifier: str) -> FwError:
    """The error of a create whose id already names something different."""
    return FwError(
        "already_exists",
        f"There is already a {noun} '{identifier}', made from a different request.",
        not_done="nothing was created or changed",
        hint="choose another id, or delete the old one first",
    )
