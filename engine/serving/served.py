"""What the endpoints of a worker share: the model, the running engine, and who is asking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers

from engine.inference.loop import EngineLoop
from engine.serving.metrics import Metrics
from engine.serving.responses_store import ResponseStore
from engine.text import Renderer
from fw_sdk.types import not_found

SHOWN_HEADER, TENANT_HEADER = "x-fw-model-name", "x-fw-tenant"


@dataclass(frozen=True)
class Caller:
    """Who asks, from the headers that the daemon's gateway adds.

    Attributes:
        shown: the model's name as the client knows it; None repeats the name of the request.
        tenant: whom the request belongs to.
    """

    shown: str | None
    tenant: str

    @classmethod
    def of(cls, headers: Headers) -> Caller:
        """From a request's headers."""
        return cls(headers.get(SHOWN_HEADER), headers.get(TENANT_HEADER, ""))


@dataclass(frozen=True)
class Served:
    """What the endpoints work with.

    Attributes:
        name: the base model's name.
        loop: the running engine.
        renderer: the model's tokenizer and chat template.
        metrics: what ``/metrics`` shows.
        created: when the worker began to serve, in seconds since 1970.
        responses: finished responses that may be continued.
    """

    name: str
    loop: EngineLoop
    renderer: Renderer
    metrics: Metrics
    created: int
    responses: ResponseStore = field(default_factory=ResponseStore)

    @classmethod
    def of(cls, name: str, loop: EngineLoop, renderer: Renderer) -> Served:
        """With fresh metrics."""
        return cls(name, loop, renderer, Metrics(name, lambda: loop.stats), int(time.time()))

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.loop.engine.context

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a model name means, None for the base; ``not_found`` otherwise."""
        adapters = self.loop.engine.adapters
        if model == self.name:
            return None
        if model not in adapters:
            raise not_found("model", model, [self.name, *adapters], "list the models with GET /v1/models")
        return model

    def models(self) -> dict[str, Any]:
        """The base and its adapters, in a list that OpenAI's clients and Anthropic's both read."""
        return model_list([self.name, *self.loop.engine.adapters], self.name, self.created, self.context)


def model_list(names: Sequence[str], base: str, created: int, context: int) -> dict[str, Any]:
    """What ``/v1/models`` answers: ``base`` and its adapters, which can be asked up to ``context`` tokens."""
    models = [
        {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": created,
            "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
            "owned_by": "fw",
            "parent": None if name == base else base,
            "max_model_len": context,
        }
        for name in names
    ]
    return {"object": "list", "data": models, "has_more": False, "first_id": names[0], "last_id": names[-1]}
