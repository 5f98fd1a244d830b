"""The worker's endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from engine.serving.adapters import load_adapter, unload_adapter
from engine.serving.completions import completion
from engine.serving.digests import HEADER
from engine.serving.generation import Ask, Choices, Writer
from engine.serving.guard import Guard, error_response
from engine.serving.messages_answer import count_tokens, message
from engine.serving.openai_chat import chat
from engine.serving.protocol import NOT_DONE, SamplingBody
from engine.serving.responses_answer import response
from engine.serving.served import Caller, Served
from engine.serving.tokens import detokenize, tokenize
from engine.serving.weights import update_weights
from fw_sdk.types import FwError

Surface = Callable[[Served, Any, Caller], tuple[SamplingBody, Ask, Writer]]
"""Understands a request: its body, what to generate, and how to write the answer."""

SURFACES: dict[str, Surface] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/responses": response,
    "/v1/messages": message,
}
CALLS: dict[str, Callable[[Served, Any], dict[str, Any]]] = {
    "/v1/messages/count_tokens": count_tokens,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}
"""What is answered at once."""

ADAPTER_CALLS: dict[str, Callable[[Served, Any], Coroutine[Any, Any, dict[str, Any]]]] = {
    "/v1/load_lora_adapter": load_adapter,
    "/v1/unload_lora_adapter": unload_adapter,
    "/v1/update_weights": update_weights,
}
LARGE_BYTES = 32 << 10
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def create_app(served: Served, *, token: str, host: str) -> Guard:
    """The ASGI application of a worker.

    Args:
        served: model and engine.
        token: the bearer token.
        host: the address it will listen on.
    """
    app = new_app()
    for path, surface in SURFACES.items():
        app.add_api_route(path, _generating(served, surface), methods=["POST"])
    for path, call in CALLS.items():
        app.add_api_route(path, _calling(served, call), methods=["POST"])
    for path, action in ADAPTER_CALLS.items():
        app.add_api_route(path, _acting(served, action), methods=["POST"])
    refuse(
        app, ("/v1/embeddings",), f"'{served.name}' generates text; it gives no embeddings", "use an embedding model"
    )
    _add_responses(app, served)
    _add_facts(app, served)
    return Guard(app, token=token, host=host)


def new_app() -> FastAPI:
    """An application without endpoints that answers every error in fw's way."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(FwError, _fw_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    return app


def refuse(app: FastAPI, paths: Iterable[str], reason: str, hint: str) -> None:
    """Say plainly that this worker's model is not of the kind that these paths are for."""

    async def refused(request: Request) -> Response:
        raise FwError("invalid_argument", reason, not_done=NOT_DONE, hint=hint, param="model")

    for path in paths:
        app.add_api_route(path, refused, methods=["POST"])


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed at once when the client goes, however that shows."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**STREAM_HEADERS, **headers})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def _generating(served: Served, surface: Surface) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        value, caller = await json_body(request), Caller.of(request.headers)
        # Rendering takes time with the length of the conversation; a short one is not worth a thread.
        large = len(await request.body()) > LARGE_BYTES
        work = partial(surface, served, value, caller)
        body, ask, writer = await asyncio.to_thread(work) if large else work()
        choices = await Choices.submit(ask, served.loop, served.metrics, served.grammars)
        headers = {HEADER: served.digests.of(body.model)}
        if body.stream:
            return EventStream(choices.events(writer), headers)
        return JSONResponse(await unless_gone(request, choices.collect(writer)), headers=headers)

    return answer


def _calling(served: Served, call: Callable[[Served, Any], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return JSONResponse(call(served, await json_body(request)))

    return answer


def _acting(
    served: Served, action: Callable[[Served, Any], Coroutine[Any, Any, dict[str, Any]]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return JSONResponse(await action(served, await json_body(request)))

    return answer


def _add_responses(app: FastAPI, served: Served) -> None:
    @app.get("/v1/responses/{identifier}")
    async def retrieve(identifier: str, request: Request) -> JSONResponse:
        return JSONResponse(served.responses.get(identifier, Caller.of(request.headers).tenant).body)

    @app.delete("/v1/responses/{identifier}")
    async def delete(identifier: str, request: Request) -> dict[str, Any]:
        served.responses.delete(identifier, Caller.of(request.headers).tenant)
        return {"id": identifier, "object": "response", "deleted": True}


def _add_facts(app: FastAPI, served: Served) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return served.models()

    @app.get("/health")
    async def health() -> JSONResponse:
        found = served.loop.health
        return JSONResponse(found.fields(), 200 if found.status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
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


async def json_body(request: Request) -> Any:
    """The body; half a surrogate pair in it, which no answer could repeat, is refused as broken UTF-8 is."""
    body = await request.body()
    try:
        value = json.loads(body)
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FwError("invalid_argument", f"the body is not JSON: {error!r:.200}", not_done=NOT_DONE) from None
    return value


async def _fw_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FwError)
    return error_response(error, request.url.path, request.state.request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path or the wrong method."""
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code in (404, 405) else "invalid_argument"
    fields = FwError(code, f"{request.method} {request.url.path}: {error.detail}", not_done="nothing was done")
    return error_response(fields, request.url.path, request.state.request_id)


async def _bug(request: Request, error: Exception) -> Response:
    """Anything unforeseen; the server logs the traceback."""
    fields = FwError("internal", f"{type(error).__name__} in the worker")
    return error_response(fields, request.url.path, request.state.request_id)
