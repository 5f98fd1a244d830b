"""The document of this API, ``/openapi.json``: made from the routes and the types that they read and give."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from engine.control.http.bodies import BodyOf
from fw_sdk.types import CODES, RequestBody, Wire, speaks_anthropic

REF = "#/components/schemas/{model}"
OWN_API = "/v1/accounts/"
MUTATIONS = frozenset({"post", "put", "patch", "delete"})
ALWAYS = (400, 401, 403, 404, 429, 500, 503)
"""Statuses that any request may end with; a query or an id may be wrong, and a machine may be full."""
OF_MUTATIONS = (409, 413, 415, 422, 501)
OF_ANSWERS = (409, 413, 415, 422, 499, 501, 504, 507)
LISTED, VERBS = "list", {"get": "get", "delete": "delete", "post": "create"}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "a repetition with the same key gets the first reply and changes nothing",
    "schema": {"type": "string", "maxLength": 255},
}


class ErrorFields(Wire):
    """The fields of every error."""

    code: str = Field(json_schema_extra={"enum": [*CODES]})
    message: str
    not_done: str = ""
    hint: str = ""
    retryable: bool = False
    param: str | None = None
    request_id: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class ControlPlaneError(Wire):
    """An error of our own API; ``code`` is google.rpc's."""

    code: int
    message: str
    details: list[ErrorFields]


class OpenAIError(Wire):
    """An error as OpenAI's clients read it."""

    error: dict[str, Any]


class AnthropicError(BaseModel):
    """An error as Anthropic's clients read it."""

    type: str
    error: dict[str, Any]
    request_id: str | None


class Ask(BaseModel, extra="allow"):
    """A request to a model in the shape of OpenAI's or Anthropic's API; the worker checks its fields."""

    model: str


def openapi_json(app: FastAPI, routes: Iterable[APIRoute]) -> bytes:
    """The document as JSON text."""
    document = get_openapi(
        title="fw",
        version=version("fw"),
        description="Customize, evaluate and serve language models on this machine. docs/http.md says how to read it.",
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    bodies = dict(_bodies(routes))
    schemas = document["components"]["schemas"]
    schemas |= _schemas([*bodies.values(), ControlPlaneError, OpenAIError, AnthropicError, Ask])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation, bodies.get((path, method)))
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "the content of FW_HOME/token"},
        "key": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "the same, for Anthropic's clients",
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _bodies(routes: Iterable[APIRoute]) -> Iterator[tuple[tuple[str, str], type[RequestBody]]]:
    for route in routes:
        for kind in _body_kinds(route.dependant):
            yield from (((route.path_format, method.lower()), kind) for method in route.methods or ())


def _body_kinds(dependant: Dependant) -> Iterator[type[RequestBody]]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, BodyOf):
            yield inner.call.kind
        yield from _body_kinds(inner)


def _schemas(kinds: Iterable[type[BaseModel]]) -> dict[str, Any]:
    wanted = [(kind, "validation") for kind in dict.fromkeys(kinds)]
    _, found = models_json_schema(wanted, ref_template=REF)  # type: ignore[arg-type]
    return dict(found["$defs"])


def _complete(path: str, method: str, operation: dict[str, Any], body: type[RequestBody] | None) -> None:
    """Add what the framework does not know: the body, the errors, the key, who may ask, and a name that stays."""
    own = path.startswith(OWN_API)
    operation["operationId"] = operation_id(path, method)
    operation["responses"].pop("422", None)
    operation["security"] = [] if path == "/v1/health" else [{"bearer": []}, {"key": []}]
    kind = body.__name__ if body else "Ask" if method == "post" and not own else None
    if kind:
        operation["requestBody"] = {"required": kind != "Nothing", "content": _json_of(kind)}
    if own and method in MUTATIONS:
        operation.setdefault("parameters", []).append(KEY)
    error = "ControlPlaneError" if own or path == "/v1/health" else _envelope(path)
    for status in _statuses(path, method, own):
        words = " or ".join(code for code, fields in CODES.items() if fields.http == status)
        operation["responses"][str(status)] = {"description": words, "content": _json_of(error)}


def _statuses(path: str, method: str, own: bool) -> tuple[int, ...]:
    if path == "/v1/health":
        return (400, 403)
    if own:
        return ALWAYS + OF_MUTATIONS if method in MUTATIONS else (*ALWAYS, 409, 422)
    return ALWAYS + OF_ANSWERS


def _envelope(path: str) -> str:
    return "AnthropicError" if speaks_anthropic(path) else "OpenAIError"


def _json_of(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=name)}}}


def operation_id(path: str, method: str) -> str:
    """A name that follows from path and method alone: ``datasets_upload``, ``pull_models``, ``jobs_list``."""
    if not path.startswith(OWN_API):
        name = re.sub(r"\W+", "_", re.sub(r"\{.*?\}", "", path.removeprefix("/v1"))).strip("_")
        return name if method == "post" or "{" not in path else f"{name}_{method}"
    parts = path.removeprefix(f"{OWN_API}local/").split("/")
    thing, _, verb = parts[-1].partition(":")
    if verb:
        return f"{parts[0]}_{verb}" if len(parts) > 1 else f"{verb}_{thing}"
    one = thing.startswith("{")
    return f"{parts[0]}_{VERBS[method] if one or method != 'get' else LISTED}"
