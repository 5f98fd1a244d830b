"""Shared bases of the wire types: camelCase on the wire, snake_case in Python, unknown request fields refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from inspect import isclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from fw_sdk.types.errors import FwError, nearest

ACCOUNT = "local"
ID_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?\Z")

T = TypeVar("T")
R = TypeVar("R", bound="Wire")


class Wire(BaseModel):
    """A value of the control plane: camelCase JSON; unknown fields of replies are kept out, not refused.

    ``_request_id`` is the id of the request whose reply it was, as OpenAI's client calls it; None where it was none.
    It takes no part in comparing and is not written.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", protected_namespaces=())
    _request_id: ClassVar[str | None] = None

    def came_with(self, request_id: str | None) -> None:
        """Note the id of the request whose reply this is."""
        object.__setattr__(self, "_request_id", request_id)

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready camelCase mapping without the fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class RequestBody(Wire):
    """A value that a client sends: unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


class Ref(Wire):
    """A stored thing as it was when it was named: its full name, and the digest of its content.

    Two things that bear one name at different times differ in their digests.
    """

    name: str
    digest: str | None = None

    @property
    def id(self) -> str:
        """The last part of ``name``."""
        return self.name.rsplit("/", 1)[-1]


class Resource(Wire):
    """What every stored thing has. ``name`` is ``accounts/local/<collection>/<id>``.

    A name may be used again after a delete; ``generation`` counts how often it was.
    """

    name: str
    generation: int = 1
    display_name: str | None = None
    create_time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    update_time: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def id(self) -> str:
        """The last part of ``name``."""
        return self.name.rsplit("/", 1)[-1]


class Page(Wire, Generic[T]):
    """One page of a list, before it takes the collection's own key on the wire."""

    items: list[T]
    next_page_token: str | None = None
    total_size: int = 0


def parse_request(kind: type[R], body: Any, *, not_done: str) -> R:
    """Validate ``body`` as ``kind``; a mistake becomes one ``FwError`` sentence that names the nearest field."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problems = [_problem(kind, item) for item in error.errors(include_url=False)]
        param = ".".join(str(part) for part in error.errors()[0]["loc"]) or None
        raise FwError("invalid_argument", "; ".join(problems), not_done=not_done, param=param) from None


def _problem(kind: type[BaseModel], item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        fields = _model_at(kind, item["loc"][:-1]).model_fields
        near = nearest(str(item["loc"][-1]), {info.alias or key for key, info in fields.items()})
        return f"unknown field '{path}'" + (f" (did you mean '{near}'?)" if near else "")
    if item["type"] == "missing":
        return f"'{path}' is missing"
    return f"'{path}': {item['msg'].lower()}, got {item['input']!r:.80}"


def _model_at(kind: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The model of the field at ``path``; where a field is no model, the last one on the way."""
    for part in path:
        for name, info in kind.model_fields.items():
            inner = next((t for t in (info.annotation, *get_args(info.annotation)) if isclass(t)), None)
            if part in (name, info.alias) and inner is not None and issubclass(inner, BaseModel):
                kind = inner
    return kind


def resource_name(collection: str, identifier: str) -> str:
    """``accounts/local/<collection>/<id>``."""
    return f"accounts/{ACCOUNT}/{collection}/{identifier}"


def resource_id(name: str, collection: str) -> str:
    """The id in a full name or a bare id; anything else raises ``invalid_argument``."""
    prefix = f"accounts/{ACCOUNT}/{collection}/"
    identifier = name.removeprefix(prefix)
    if not ID_PATTERN.fullmatch(identifier):
        raise FwError(
            "invalid_argument",
            f"{name!r:.200} is no id of {collection}: use lower-case letters, digits, '-', '.' and '_', at most 63",
            param=collection,
        )
    return identifier
