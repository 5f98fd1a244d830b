"""The gateway: finds or starts the worker for a model name and passes bytes on, counting tokens as they go by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from engine.control.deployments import Deployments
from engine.control.metering import Meter, StreamMeter, renamed
from engine.control.store import Store
from engine.control.targets import Target, find_served, target_of_model
from engine.control.workers import Lease, Worker, Workers
from fw_sdk.types import Deployment, FwError

T = TypeVar("T")

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True)
class Ask:
    """One inference request, understood as far as the gateway needs to.

    Attributes:
        path: ``/v1/chat/completions`` or ``/v1/completions``.
        body: its JSON object.
        served: the name of the model as the client wrote it.
        request_id: also sent to the worker.
    """

    path: str
    body: Mapping[str, Any]
    served: str
    request_id: str

    @classmethod
    def parse(cls, path: str, body: Any, request_id: str) -> Ask:
        """Check the only field that the gateway reads; the worker checks the others."""
        name = body.get("model") if isinstance(body, dict) else None
        if not isinstance(name, str) or not name:
            what = "The body is not a JSON object" if not isinstance(body, dict) else "'model' is missing"
            raise FwError(
                "invalid_argument",
                what if name is None else f"'model' must be a name, got {name!r:.80}",
                not_done="no tokens were generated",
                hint="pass a deployment's or a model's id; GET /v1/models lists what answers now",
                param="model",
            )
        return cls(path, body, name, request_id)

    @property
    def streams(self) -> bool:
        """Whether the reply comes as server-sent events."""
        return self.body.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage event of a stream."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def for_worker(self, model: str) -> bytes:
        """The body with the worker's name for the model; a stream always counts its tokens, for the meter."""
        changes: dict[str, Any] = {"model": model}
        options = self.body.get("stream_options")
        if self.streams and (options is None or isinstance(options, dict)):
            changes["stream_options"] = {**(options or {}), "include_usage": True}
        return json.dumps({**self.body, **changes}).encode()


class Gateway:
    """Relays inference requests to workers.

    Attributes:
        meter: what was relayed since the daemon started.
    """

    def __init__(self, store: Store, workers: Workers, deployments: Deployments) -> None:
        self._store = store
        self._workers = workers
        self._deployments = deployments
        self.meter = Meter()

    async def relay(self, request: Request, ask: Ask) -> Response:
        """Answer one request through the model's worker, streaming if the client asked for it."""
        target, reply, lease = await _while_connected(request, self._open(ask))
        headers = served_headers(target, lease.worker)
        if ask.streams and not reply.is_error:
            events = self._stream(ask, target, reply, lease)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers | STREAM_HEADERS)
        try:
            content = await _while_connected(request, reply.aread())
        except httpx.TransportError as error:
            raise self._workers.lost(lease.worker) from error
        finally:
            lease.release()
            await reply.aclose()
        if not reply.is_error:
            self.meter.add(target.model.id, json.loads(content).get("usage"))
            content = renamed(content, lease.model, ask.served)
        return Response(content, reply.status_code, headers, media_type="application/json")

    def models(self) -> dict[str, Any]:
        """OpenAI's list: READY deployments, and the models whose worker runs now."""
        loaded = {
            digest for worker in self._workers.running() for digest in (worker.facts.model_digest, *worker.adapters)
        }
        models = [self._store.models.find(identifier) for identifier in self._store.models.ids()]
        running = [model for model in models if model is not None and model.digest in loaded]
        items = {
            item.id: {
                "id": item.id,
                "object": "model",
                "created": int(item.create_time.timestamp()),
                "owned_by": "local",
            }
            for item in [*self._deployments.ready(), *running]
        }
        return {"object": "list", "data": list(items.values())}

    async def _target(self, name: str) -> Target:
        served = find_served(self._store, name)
        if isinstance(served, Deployment):
            return await self._deployments.target(served.id)
        return target_of_model(self._store, served)

    async def _open(self, ask: Ask) -> tuple[Target, httpx.Response, Lease]:
        """Send to the worker; one that dies before it answers is replaced once, since nothing was relayed yet."""
        for last in (False, True):
            target = await self._target(ask.served)
            lease = await self._workers.acquire(target.base, target.adapter)
            try:
                reply = await self._send(ask, lease)
                if reply.status_code != 503 or last or await self._workers.healthy(lease.worker):
                    return target, reply, lease
                await reply.aclose()
            except httpx.TransportError as error:
                if last:
                    lease.release()
                    raise self._workers.lost(lease.worker) from error
            except BaseException:
                lease.release()
                raise
            lease.release()
        raise AssertionError("unreachable")

    async def _send(self, ask: Ask, lease: Lease) -> httpx.Response:
        headers = {
            **lease.headers,
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-request-id": ask.request_id,
        }
        content = ask.for_worker(lease.model)
        call = self._workers.client.build_request("POST", lease.url(ask.path), content=content, headers=headers)
        return await self._workers.client.send(call, stream=True)

    async def _stream(self, ask: Ask, target: Target, reply: httpx.Response, lease: Lease) -> AsyncIterator[bytes]:
        """The worker's events; if it dies before its end, an error event, and no ``[DONE]``."""
        stream = StreamMeter(lease.model, ask.served, keep_usage=ask.wants_usage)
        try:
            async for chunk in reply.aiter_raw():
                if events := stream.feed(chunk):
                    yield events
            if not stream.done:
                yield _error_event(self._workers.lost(lease.worker), ask.request_id)
        except httpx.TransportError:
            yield _error_event(self._workers.lost(lease.worker), ask.request_id)
        finally:
            self.meter.add(target.model.id, stream.usage)
            lease.release()
            await reply.aclose()


def served_headers(target: Target, worker: Worker) -> dict[str, str]:
    """What exactly answered: the configuration that evaluations are keyed by."""
    return {
        "x-fw-model-digest": target.digest,
        "x-fw-base-digest": target.base.digest,
        "x-fw-dtype": worker.facts.dtype,
        "x-fw-numerics": worker.facts.numerics,
        "x-fw-template-digest": worker.facts.template_digest,
    }


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise FwError("cancelled", "The client closed the connection.", not_done="the answer was not finished")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error_event(error: FwError, request_id: str) -> bytes:
    error.request_id = request_id
    return b"data: " + json.dumps(error.openai_body()).encode() + b"\n\n"
