"""What the endpoints of a worker share: the model, the running engine, and who is asking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers

from engine.inference.loop import EngineLoop
from engine.inference.request import SamplingParams
from engine.serving.digests import ServedDigests
from engine.serving.generation import Ask
from engine.serving.grammars import GrammarPool
from engine.serving.metrics import Metrics
from engine.serving.protocol import SamplingBody
from engine.serving.responses_store import ResponseStore
from engine.text import Renderer
from engine.text.grammar import GrammarCompiler
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
        grammars: compiles what answers must look like.
        responses: finished responses that may be continued.
        digests: what exactly answers.
    """

    name: str
    loop: EngineLoop
    renderer: Renderer
    metrics: Metrics
    created: int
    grammars: GrammarPool
    digests: ServedDigests
    responses: ResponseStore = field(default_factory=ResponseStore)

    @classmethod
    def of(cls, name: str, loop: EngineLoop, renderer: Renderer, base_digest: str) -> Served:
        """With fresh metrics; ``base_digest`` is that of the base's weights."""
        compiler = GrammarCompiler(renderer.tokenizer, loop.engine.model.config.vocab_size, renderer.stop_ids)
        metrics = Metrics(name, lambda: loop.stats)
        engine = loop.engine
        held = {"dtype": engine.format, "numerics": engine.numerics, "template": renderer.template_digest}
        digests = ServedDigests(name, base_digest, **held)
        return cls(name, loop, renderer, metrics, int(time.time()), GrammarPool(compiler), digests)

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.loop.engine.context

    def check_model(self, model: str) -> None:
        """Raise ``not_found`` unless it is the base's name or an adapter's."""
        adapters = self.loop.engine.adapters
        if model != self.name and model not in adapters:
            raise not_found("model", model, [self.name, *adapters], "list the models with GET /v1/models")

    def ask(
        self,
        identifier: str,
        body: SamplingBody,
        caller: Caller,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        **options: Any,
    ) -> Ask:
        """What a request wants; ``options`` are the rest of ``Ask``.

        A cache salt makes a tenant of its own: beginnings are not shared with whoever does not know it.
        """
        combined = tuple((body.adapters or {}).items())
        return Ask(
            id=identifier,
            adapter=None if body.model == self.name else body.model,
            adapters=combined,
            prompts=prompts,
            sampling=sampling,
            priority=body.priority,
            tenant=caller.tenant if body.cache_salt is None else f"{caller.tenant}\n{body.cache_salt}",
            **options,
        )

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
