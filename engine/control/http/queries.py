"""Query parameters of our own API: one that a route does not know is an error, as an unknown field is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from fw_sdk.types import FwError, nearest


def known_query(request: Request) -> None:
    """A dependency that refuses query parameters that the route does not have, and those that are given twice."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = set(_names(route.dependant))
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            raise _unknown(name, known)
        if times > 1:
            raise FwError("invalid_argument", f"'{name}' is given {times} times", param=name)


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)


def _unknown(name: str, known: set[str]) -> FwError:
    near = nearest(name, known)
    meant = f" (did you mean '{near}'?)" if near else ""
    hint = f"this path takes {', '.join(sorted(known))}" if known else "this path takes no query parameters"
    return FwError("invalid_argument", f"unknown query parameter '{name[:80]}'{meant}", hint=hint, param=name[:80])
