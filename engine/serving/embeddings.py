"""A worker of an embedding model: OpenAI's ``/v1/embeddings``, and the facts that every worker tells."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import StrictBool, StrictInt, StrictStr

from engine.inference.embedding import Embeddings
from engine.inference.embedding_loop import EmbeddingLoop
from engine.serving.app import CALLS, SURFACES, json_body, new_app, refuse, unless_gone
from engine.serving.guard import Guard
from engine.serving.protocol import InferenceBody, TokenIds, anything, parse_inference
from engine.serving.served import Caller, model_list
from fw_sdk.types import not_found

NEUTRAL = {"user": anything, "metadata": anything}


class EmbeddingsBody(InferenceBody):
    """Body of ``POST /v1/embeddings``. ``truncate`` is ours: cut inputs that are too long instead of refusing them."""

    model: StrictStr
    input: StrictStr | list[StrictStr] | TokenIds | list[TokenIds]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = None
    truncate: StrictBool = False

    def inputs(self) -> list[str] | list[list[int]]:
        """One entry per vector wanted."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [self.input]  # type: ignore[list-item]
        return self.input  # type: ignore[return-value]


@dataclass(frozen=True)
class ServedEmbeddings:
    """What the endpoints work with: the model's name, its running loop, when it began (seconds since 1970)."""

    name: str
    loop: EmbeddingLoop
    created: int

    @classmethod
    def of(cls, name: str, loop: EmbeddingLoop) -> ServedEmbeddings:
        """As of now."""
        return cls(name, loop, int(time.time()))

    async def embed(self, value: Any, caller: Caller) -> dict[str, Any]:
        """Answer one request's body."""
        body = parse_inference(EmbeddingsBody, value, NEUTRAL)
        if body.model != self.name:
            raise not_found("model", body.model, [self.name], "list the models with GET /v1/models")
        found = await self.loop.embed(body.inputs(), truncate=body.truncate, dimensions=body.dimensions)
        return _answer(found, caller.shown or body.model, body.encoding_format)


def create_embedding_app(served: ServedEmbeddings, *, token: str, host: str) -> Guard:
    """The ASGI application of an embedding worker; arguments as ``create_app``."""
    app = new_app()
    registry = CollectorRegistry()
    registry.register(_Collector(served))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> JSONResponse:
        work = served.embed(await json_body(request), Caller.of(request.headers))
        return JSONResponse(await unless_gone(request, work))

    refuse(app, (*SURFACES, *CALLS), f"'{served.name}' gives embeddings; it generates no text", "use /v1/embeddings")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list([served.name], served.name, served.created, served.loop.engine.context)

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = served.loop.alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(app, token=token, host=host)


def _answer(found: Embeddings, model: str, form: str) -> dict[str, Any]:
    """OpenAI's shape; base64 is of little-endian float32, as its clients ask for by themselves."""
    vectors = found.vectors.astype(np.dtype("<f4"))
    packed = form == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(found.token_counts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


class _Collector(Collector):
    """The loop's counters at the time of the scrape, under the names of a generating worker's."""

    def __init__(self, served: ServedEmbeddings) -> None:
        self._served = served

    def collect(self) -> Iterable[Metric]:
        """One sample per metric."""
        stats, label = self._served.loop.stats, [self._served.name]
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Inputs that no batch has yet.", labels=["model_name"])
        waiting.add_metric(label, stats.waiting)
        tokens = CounterMetricFamily("vllm:prompt_tokens", "Tokens embedded.", labels=["model_name"])
        tokens.add_metric(label, stats.tokens)
        return waiting, tokens
