"""Counting tokens that the gateway passed on: exact numbers from the workers' own usage fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest

from fw_sdk.types import FwError, speaks_anthropic

LAST_EVENTS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed", "error"})
"""Events after which a stream is over, besides OpenAI's ``[DONE]``."""


@dataclass(frozen=True)
class Counts:
    """Tokens of a prompt, those found in a cache included, and of its answer."""

    prompt: int
    completion: int

    @classmethod
    def of(cls, answer: Any) -> Counts | None:
        """From an answer or an event of any protocol, where ``usage`` stands at the top or one level below."""
        if not isinstance(answer, dict):
            return None
        places = (answer, answer.get("response"), answer.get("message"))
        usage = next((place["usage"] for place in places if isinstance(place, dict) and place.get("usage")), None)
        if not isinstance(usage, dict):
            return None
        names = ("prompt_tokens", "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        prompt = sum(usage.get(name) or 0 for name in names)
        return cls(prompt, sum(usage.get(name) or 0 for name in ("completion_tokens", "output_tokens")))


class Meter:
    """Requests and tokens per model since the daemon started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("fw_gateway_requests", "Answered requests", ["model"], registry=self._registry)
        self._tokens = Counter(
            "fw_gateway_tokens", "Tokens of answered requests", ["model", "kind"], registry=self._registry
        )

    def add(self, model: str, counts: Counts | None) -> None:
        """Count one answered request; ``counts`` is None if it had none or broke off before them."""
        self._requests.labels(model).inc()
        if counts is not None:
            self._tokens.labels(model, "prompt").inc(counts.prompt)
            self._tokens.labels(model, "completion").inc(counts.completion)

    def tokens(self, model: str, kind: str) -> int:
        """Tokens of ``kind`` (``prompt`` or ``completion``) counted for a model."""
        labels = {"model": model, "kind": kind}
        return int(self._registry.get_sample_value("fw_gateway_tokens_total", labels) or 0)

    def exposition(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self._registry)


class StreamMeter:
    """Lets the events of one stream pass and reads the counts in them.

    Args:
        path: of the request, which decides how an error is written.
        keep_usage: whether the client asked for OpenAI's event of counts; otherwise it is kept back.

    Attributes:
        counts: of the last event that had them.
        done: whether the stream's last event went by.
    """

    def __init__(self, path: str, *, keep_usage: bool) -> None:
        self.counts: Counts | None = None
        self.done = False
        self._path = path
        self._keep_usage = keep_usage
        self._buffer = b""
        self._events = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes of the stream and return the whole events that may be sent on."""
        *events, self._buffer = (self._buffer + chunk).split(b"\n\n")
        self._events += len(events)
        return b"".join(event + b"\n\n" for event in events if self._passes(event))

    def broken(self, error: FwError) -> bytes:
        """The event that ends a stream whose worker is gone."""
        if speaks_anthropic(self._path):
            return _event("error", error.anthropic_body())
        body = error.openai_body()
        if not self._path.endswith("/responses"):
            return b"data: " + json.dumps(body).encode() + b"\n\n"
        fields = {"type": "error", "sequence_number": self._events, "code": error.code, "message": error.message}
        return _event("error", {**fields, "param": None, **body})

    def _passes(self, event: bytes) -> bool:
        head, _, data = event.partition(b"data:")
        data = data.strip()
        last = data == b"[DONE]" or data.startswith(b'{"error":')
        self.done |= last or head.removeprefix(b"event:").strip().decode("latin-1") in LAST_EVENTS
        if b'"usage"' not in data:
            return True
        try:
            value = json.loads(data)
        except ValueError:
            return True
        counts = Counts.of(value)
        if counts is None:
            return True
        self.counts = counts
        return self._keep_usage or value.get("choices") != []


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()
