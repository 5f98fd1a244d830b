"""The gateway: finds or starts the worker for a model name and passes bytes on, counting tokens as they go by."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.control.gateway.connected import while_connected
from engine.control.gateway.meter import Counts, Meter, StreamMeter
from engine.control.inventory.resolution import DEPLOYMENTS, resolve
from engine.control.serving.deployments import Deployments
from engine.control.serving.leases import Lease, Worker
from engine.control.serving.targets import Target, target_of_model
from engine.control.serving.workers import Workers
from engine.control.store import Store
from fw_sdk.types import Deployment, FwError

TENANT = "owner"
"""For whom workers keep prefixes and responses apart: the daemon has one token, so there is one."""

STORED_TIMEOUT_S = 10.0
"""How long a worker may take to find a response in its memory; one that hangs is passed over."""

RETRY_HEADERS = ("retry-after", "x-should-retry")
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


COUNT_WHEN_ASKED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Protocols whose streams tell the counts only if the request wants them."""


SAMPLED = COUNT_WHEN_ASKED | {"/v1/responses", "/v1/messages"}
"""Protocols that draw tokens."""


@dataclass(frozen=True)
class Ask:
    """One inference request, understood as far as the gateway needs to.

    Attributes:
        path: the worker's path, such as ``/v1/chat/completions``.
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

    def for_worker(self, model: str, sampling: Mapping[str, float]) -> bytes:
        """The body with the worker's name for the model, sampled as it was scored unless the client says how.

        A stream always counts its tokens, for the meter.
        """
        changes: dict[str, Any] = {"model": model}
        if self.path in SAMPLED:
            changes |= {name: value for name, value in sampling.items() if self.body.get(name) is None}
        options = self.body.get("stream_options")
        if self.streams and self.path in COUNT_WHEN_ASKED and (options is None or isinstance(options, dict)):
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
        async with AsyncExitStack() as held:
            target, reply, lease = await while_connected(request, self._open(ask, held))
            headers = served_headers(target, lease.worker)
            if ask.streams and not reply.is_error:
                events = self._stream(ask, target, reply, lease)
                return Relayed(events, held.pop_all(), headers | STREAM_HEADERS)
            try:
                content = await while_connected(request, reply.aread())
            except httpx.TransportError as error:
                raise self._workers.lost(lease.worker) from error
        if not reply.is_error:
            self.meter.add(target.model.id, Counts.of(json.loads(content)))
        headers |= {name: reply.headers[name] for name in RETRY_HEADERS if name in reply.headers}
        return Response(content, reply.status_code, headers, media_type="application/json")

    async def stored(self, method: str, identifier: str) -> Response:
        """A stored response, read or deleted: it is in the memory of the worker that gave it, so all are asked."""
        for worker in self._workers.running():
            url = f"{worker.facts.url.rstrip('/')}/v1/responses/{quote(identifier, safe='')}"
            headers = {"authorization": f"Bearer {worker.record.token}", "x-fw-tenant": TENANT}
            with suppress(httpx.TransportError):
                reply = await self._workers.client.request(method, url, headers=headers, timeout=STORED_TIMEOUT_S)
                if not reply.is_error:
                    return Response(reply.content, reply.status_code, media_type="application/json")
        raise FwError(
            "not_found",
            f"No running worker has a response '{identifier:.80}'.",
            hint="responses are kept in a worker's memory for an hour, and until it stops",
            param="response_id",
        )

    async def models(self) -> dict[str, Any]:
        """Deployments that answer and models whose worker runs, in a list that clients of OpenAI and Anthropic read."""
        loaded = {
            digest for worker in self._workers.running() for digest in (worker.facts.model_digest, *worker.adapters)
        }
        return await self._store.run(self._listing, loaded)

    def _listing(self, loaded: Collection[str]) -> dict[str, Any]:
        running = [model for model in self._store.models.all() if model.digest in loaded]
        items = {
            item.id: {
                "id": item.id,
                "object": "model",
                "type": "model",
                "display_name": item.display_name or item.id,
                "created": int(item.create_time.timestamp()),
                "created_at": item.create_time.isoformat(),
                "owned_by": "local",
            }
            for item in [*self._deployments.answering(), *running]
        }
        ends = {"first_id": next(iter(items), None), "last_id": next(reversed(items), None)}
        return {"object": "list", "data": list(items.values()), "has_more": False, **ends}

    async def _target(self, name: str) -> Target:
        served = await self._store.run(self._find, name)
        return await self._deployments.target(served.id) if isinstance(served, Deployment) else served

    def _find(self, name: str) -> Deployment | Target:
        served = resolve(self._store, name, DEPLOYMENTS).found
        return served if isinstance(served, Deployment) else target_of_model(self._store, served)

    async def _open(self, ask: Ask, held: AsyncExitStack) -> tuple[Target, httpx.Response, Lease]:
        """Send to the worker; one that dies before it answers is replaced once, since nothing was relayed yet.

        ``held`` gives the lease and the connection back, however the request ends.
        """
        for last in (False, True):
            target = await self._target(ask.served)
            lease = await self._workers.acquire(target.base, target.adapter)
            held.callback(lease.release)
            try:
                reply = await self._send(ask, lease, target.sampling)
            except httpx.TransportError as error:
                if last:
                    raise self._workers.lost(lease.worker) from error
            else:
                held.push_async_callback(reply.aclose)
                if reply.status_code != 503 or last or await self._workers.healthy(lease.worker):
                    return target, reply, lease
            await held.aclose()
        raise AssertionError("unreachable")

    async def _send(self, ask: Ask, lease: Lease, sampling: Mapping[str, float]) -> httpx.Response:
        headers = {
            **lease.headers,
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-request-id": ask.request_id,
            "x-fw-model-name": ask.served,
            "x-fw-tenant": TENANT,
        }
        content = ask.for_worker(lease.model, sampling)
        call = self._workers.client.build_request("POST", lease.url(ask.path), content=content, headers=headers)
        return await self._workers.client.send(call, stream=True)

    async def _stream(self, ask: Ask, target: Target, reply: httpx.Response, lease: Lease) -> AsyncIterator[bytes]:
        """The worker's events; if it dies before their end, an error event in its place."""
        stream = StreamMeter(ask.path, keep_usage=ask.wants_usage)
        try:
            with suppress(httpx.TransportError):
                async for chunk in reply.aiter_raw():
                    if events := stream.feed(chunk):
                        yield events
            if not stream.done:
                error = self._workers.lost(lease.worker)
                error.request_id = ask.request_id
                yield stream.broken(error)
        finally:
            self.meter.add(target.model.id, stream.counts)


class Relayed(StreamingResponse):
    """A worker's events; ``held`` is given back when they end, and also if the client left before the first one."""

    def __init__(self, events: AsyncIterator[bytes], held: AsyncExitStack, headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            await super().__call__(scope, receive, send)


def served_headers(target: Target, worker: Worker) -> dict[str, str]:
    """What exactly answered: the configuration that evaluations are keyed by."""
    return {
        "x-fw-model-digest": target.digest,
        "x-fw-base-digest": target.base.digest,
        "x-fw-dtype": worker.facts.dtype,
        "x-fw-numerics": worker.facts.numerics,
        "x-fw-template-digest": worker.facts.template_digest,
        "fw-digest": target.serving_digest(worker.facts),
    }
