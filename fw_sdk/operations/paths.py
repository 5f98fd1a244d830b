"""Paths of the control plane, and the small calls that every resource has."""

from __future__ import annotations

from typing import Any, TypeVar

from fw_sdk.calls import CONTROL, Call, Listing
from fw_sdk.types import JobPlan, Resource, resource_id

R = TypeVar("R", bound=Resource)


def collection_path(collection: str) -> str:
    """``/v1/accounts/local/<collection>``."""
    return f"{CONTROL}/{collection}"


def item_path(collection: str, name: str, verb: str = "") -> str:
    """Path of one resource by bare id or full name, with ``:verb`` behind it if given."""
    return f"{CONTROL}/{collection}/{_identifier(collection, name)}" + (f":{verb}" if verb else "")


def get(kind: type[R], collection: str, name: str) -> Call[R]:
    """Fetch one resource."""
    return Call("GET", item_path(collection, name), kind.model_validate)


def listing(kind: type[R], collection: str, page_size: int) -> Listing[R]:
    """Walk a collection, newest first."""
    return Listing(collection_path(collection), collection, kind.model_validate, page_size)


def act(kind: type[R], collection: str, name: str, verb: str) -> Call[R]:
    """A verb without arguments on one resource (``:cancel``, ``:resume``)."""
    return Call("POST", item_path(collection, name, verb), kind.model_validate, body={})


def delete(collection: str, name: str) -> Call[None]:
    """Delete one resource."""
    return Call("DELETE", item_path(collection, name), nothing)


def start(kind: type[R], collection: str, body: dict[str, Any], *, reuse: bool, **query: Any) -> Call[R]:
    """Create a job; with ``reuse`` the one that did the same work about the same digests, if there is one."""
    wanted = present(reuse="true" if reuse else None, **query)
    return Call("POST", collection_path(collection), kind.model_validate, query=wanted, body=body)


def plan(collection: str, body: dict[str, Any], **query: Any) -> Call[JobPlan]:
    """The id that a job with ``reuse`` would have, and whether there is one. Starts nothing."""
    path = f"{collection_path(collection)}:plan"
    return Call("POST", path, JobPlan.model_validate, query=present(**query), body=body)


def nothing(body: Any) -> None:
    """Parser of replies that carry nothing."""


def present(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {key: value for key, value in fields.items() if value is not None}


def _identifier(collection: str, name: str) -> str:
    return resource_id(name, collection)
