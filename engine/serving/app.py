"""The worker's endpoints."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from engine.inference.loop import EngineLoop
from engine.serving.formats import ChatFormat, TextFormat
from engine.serving.generation import Ask, Generation
from engine.serving.guard import Guard, error_response
from engine.serving.metrics import Metrics
from engine.serving.protocol import (
    NOT_DONE,
    ChatBody,
    CompletionBody,
    LoadAdapterBody,
    UnloadAdapterBody,
    parse_inference,
)
from engine.text import Renderer, Tokenizer
from fw_sdk.types import FwError, not_found, parse_request

COMPLETION_TOKENS = 16
"""Answer length of plain completions if the request does not say, as OpenAI has it."""


@dataclass(frozen=True)
class Served:
    """What the endpoints work with.

    Attributes:
        name: the base model's name.
        loop: the running engine.
        renderer: the model's tokenizer and chat template.
        metrics: what ``/metrics`` shows.
        created: when the worker began to serve, in seconds since 1970.
    """

    name: str
    loop: EngineLoop
    renderer: Renderer
    metrics: Metrics
    created: int

    @classmethod
    def of(cls, name: str, loop: EngineLoop, renderer: Renderer) -> Served:
        """With fresh metrics."""
        return cls(name, loop, renderer, Metrics(name, lambda: loop.stats), int(time.time()))

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a model name means, None for the base; ``not_found`` otherwise."""
        adapters = self.loop.engine.adapters
        if model == self.name:
            return None
        if model not in adapters:
            raise not_found("model", model, [self.name, *adapters], "list the models with GET /v1/models")
        return model

    def chat(self, body: ChatBody) -> Ask:
        """A chat request, rendered."""
        if body.top_logprobs is not None and not body.logprobs:
            raise FwError(
                "invalid_argument", "'top_logprobs' needs 'logprobs': true", not_done=NOT_DONE, param="top_logprobs"
            )
        if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
            raise FwError(
                "invalid_argument",
                f"'max_tokens' ({body.max_tokens}) and 'max_completion_tokens' ({body.max_completion_tokens}) differ",
                not_done=NOT_DONE,
                hint="send one of them",
                param="max_completion_tokens",
            )
        if body.max_completion_tokens is not None:
            body = body.model_copy(update={"max_tokens": body.max_completion_tokens})
        adapter = self.adapter_of(body.model)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return Ask(
            model=body.model,
            adapter=adapter,
            sampling=body.sampling(max_tokens=self.loop.engine.context, logprobs=logprobs),
            prompts=[self.renderer.render([message.plain() for message in body.messages])],
            n=body.n,
            form=ChatFormat(self.renderer.tokenizer, logprobs=bool(body.logprobs), token_ids=body.return_token_ids),
            include_usage=body.include_usage,
            prompt_token_ids=body.return_token_ids,
        )

    def completion(self, body: CompletionBody) -> Ask:
        """A completion request, tokenised."""
        tokenizer, wanted = self.renderer.tokenizer, body.logprobs
        return Ask(
            model=body.model,
            adapter=self.adapter_of(body.model),
            sampling=body.sampling(max_tokens=COMPLETION_TOKENS, logprobs=wanted),
            prompts=_prompts(body.prompt, tokenizer),
            n=body.n,
            form=TextFormat(tokenizer, logprobs=wanted is not None, token_ids=body.return_token_ids),
            include_usage=body.include_usage,
            prompt_token_ids=body.return_token_ids,
        )

    def models(self) -> list[dict[str, Any]]:
        """The base and its adapters as ``/v1/models`` lists them."""
        common = {"object": "model", "created": self.created, "owned_by": "fw"}
        length = {"max_model_len": self.loop.engine.context}
        base = {"id": self.name, **common, "parent": None, **length}
        return [base, *({"id": name, **common, "parent": self.name, **length} for name in self.loop.engine.adapters)]


def create_app(served: Served, *, token: str, host: str) -> Guard:
    """The ASGI application of a worker.

    Args:
        served: model and engine.
        token: the bearer token.
        host: the address it will listen on.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(FwError, _fw_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    _add_inference(app, served)
    _add_adapters(app, served)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": served.models()}

    @app.get("/health")
    async def health() -> JSONResponse:
        if served.loop.alive:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "dead", "error": repr(served.loop.error)}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(app, token=token, host=host)


def _add_inference(app: FastAPI, served: Served) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = parse_inference(ChatBody, await _json(request))
        return await _answer(request, served, served.chat(body), stream=body.stream)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse_inference(CompletionBody, await _json(request))
        return await _answer(request, served, served.completion(body), stream=body.stream)


def _add_adapters(app: FastAPI, served: Served) -> None:
    @app.post("/v1/load_lora_adapter")
    async def load_adapter(request: Request) -> dict[str, Any]:
        body = parse_request(LoadAdapterBody, await _json(request), not_done="nothing was loaded")
        if body.lora_name == served.name:
            raise FwError(
                "already_exists",
                f"'{served.name}' is the base model's name",
                not_done="nothing was loaded",
                hint="choose another name",
                param="lora_name",
            )
        await served.loop.load_adapter(body.lora_name, body.lora_path)
        return {"status": "ok", "lora_name": body.lora_name}

    @app.post("/v1/unload_lora_adapter")
    async def unload_adapter(request: Request) -> dict[str, Any]:
        body = parse_request(UnloadAdapterBody, await _json(request), not_done="nothing was unloaded")
        await served.loop.unload_adapter(body.lora_name)
        return {"status": "ok", "lora_name": body.lora_name}


async def _answer(request: Request, served: Served, ask: Ask, *, stream: bool) -> Response:
    generation = Generation(ask, served.loop, served.metrics)
    if stream:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(generation.events(), media_type="text/event-stream", headers=headers)
    return JSONResponse(await _unless_gone(request, generation.collect()))


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Await ``work``, but cancel it when the client closes the connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise FwError("cancelled", "the client closed the connection", not_done="the answer is incomplete")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise FwError("invalid_argument", f"the body is not JSON: {error}", not_done=NOT_DONE) from None


def _prompts(prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[Any]:
    """Token ids of each prompt in any of the four shapes."""
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    if prompt and all(isinstance(item, int) for item in prompt):
        return [prompt]
    if not prompt:
        raise FwError("invalid_argument", "the prompt is empty", not_done=NOT_DONE, param="prompt")
    return [tokenizer.encode(item) if isinstance(item, str) else item for item in prompt]


async def _fw_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FwError)
    return error_response(error, request.state.request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path or the wrong method."""
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code in (404, 405) else "invalid_argument"
    fields = FwError(code, f"{request.method} {request.url.path}: {error.detail}", not_done="nothing was done")
    return error_response(fields, request.state.request_id)


async def _bug(request: Request, error: Exception) -> Response:
    """Anything unforeseen; the server logs the traceback."""
    return error_response(FwError("internal", f"{type(error).__name__} in the worker"), request.state.request_id)
