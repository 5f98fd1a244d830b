"""Counting tokens that the gateway passed on: exact numbers from the workers' own usage fields."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest


class Meter:
    """Requests and tokens per model since the daemon started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("fw_gateway_requests", "Answered requests", ["model"], registry=self._registry)
        self._tokens = Counter(
            "fw_gateway_tokens", "Tokens of answered requests", ["model", "kind"], registry=self._registry
        )

    def add(self, model: str, usage: Any) -> None:
        """Count one answered request; ``usage`` is OpenAI's object, or None if the answer broke off before it."""
        self._requests.labels(model).inc()
        if isinstance(usage, dict):
            self._tokens.labels(model, "prompt").inc(usage.get("prompt_tokens", 0))
            self._tokens.labels(model, "completion").inc(usage.get("completion_tokens", 0))

    def tokens(self, model: str, kind: str) -> int:
        """Tokens of ``kind`` (``prompt`` or ``completion``) counted for a model."""
        labels = {"model": model, "kind": kind}
        return int(self._registry.get_sample_value("fw_gateway_tokens_total", labels) or 0)

    def exposition(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self._registry)


class StreamMeter:
    """Lets the events of one stream pass, under the name that the client knows, and reads the usage event.

    Args:
        worker_name: the model's name inside the worker, replaced by
        client_name: the name that was asked for.
        keep_usage: whether the client asked for the usage event; otherwise it is kept back.

    Attributes:
        usage: OpenAI's usage object once it went by.
        done: whether ``[DONE]`` went by.
    """

    def __init__(self, worker_name: str, client_name: str, *, keep_usage: bool) -> None:
        self.usage: dict[str, Any] | None = None
        self.done = False
        self._names = worker_name, client_name
        self._keep_usage = keep_usage
        self._buffer = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes of the stream and return the whole events that may be sent on."""
        *events, self._buffer = (self._buffer + chunk).split(b"\n\n")
        return b"".join(renamed(event, *self._names) + b"\n\n" for event in events if self._passes(event))

    def _passes(self, event: bytes) -> bool:
        data = event.partition(b"data:")[2].strip()
        if data == b"[DONE]":
            self.done = True
        if b'"usage"' not in data:
            return True
        try:
            value = json.loads(data)
        except ValueError:
            return True
        if not isinstance(value, dict) or not isinstance(value.get("usage"), dict):
            return True
        self.usage = value["usage"]
        return self._keep_usage or bool(value.get("choices"))


def renamed(answer: bytes, worker_name: str, client_name: str) -> bytes:
    """An answer's JSON with the model under the client's name, all other bytes as they were.

    Quotes inside JSON text are escaped, so a quoted digest can only be a whole value, and the first one is ``model``.
    """
    return answer.replace(json.dumps(worker_name).encode(), json.dumps(client_name).encode(), 1)
