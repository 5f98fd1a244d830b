"""The probe of a deployment: a real question, answered by exactly the weights that are to be served."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from engine.control.serving.leases import Lease
from engine.control.serving.targets import Target
from engine.control.serving.workers import worker_error
from fw_sdk.types import FwError

QUESTION = "Name three primary colours."
MAX_TOKENS = 8


@dataclass(frozen=True)
class ProbeResult:
    """What came of a probe.

    Attributes:
        latency_s: seconds until the whole answer was there.
        differs_from_base: False if an adapter's answer has exactly its base's tokens and log-probabilities.
    """

    latency_s: float
    differs_from_base: bool


async def probe(client: httpx.AsyncClient, lease: Lease, target: Target) -> ProbeResult:
    """Ask the worker; for an adapter also ask its base, and see that the adapter makes a difference.

    Raises:
        FwError: what the worker answered, or ``unavailable`` if it answered without a token or not at all.
    """
    started = time.monotonic()
    answer = await _ask(client, lease, lease.model)
    latency_s = time.monotonic() - started
    if target.adapter is None:
        return ProbeResult(latency_s, True)
    return ProbeResult(latency_s, answer != await _ask(client, lease, target.base.digest))


async def _ask(client: httpx.AsyncClient, lease: Lease, model: str) -> list[tuple[str, float]]:
    """Tokens of a greedy answer with their log-probabilities."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "logprobs": True,
    }
    url = lease.url("/v1/chat/completions")
    try:
        reply = await client.post(url, json=body, headers=dict(lease.headers), timeout=120.0)
    except httpx.TransportError as error:
        raise FwError(
            "unavailable",
            f"The worker did not answer the probe ({type(error).__name__}).",
            not_done="the deployment is not ready",
            hint="fw logs shows why; deploy it again",
        ) from error
    if reply.is_error:
        raise worker_error(reply)
    value: dict[str, Any] = reply.json()
    entries = (value["choices"][0].get("logprobs") or {}).get("content") or []
    if value["usage"]["completion_tokens"] < 1 or not entries:
        raise FwError(
            "unavailable",
            "The worker answered the probe without a token.",
            not_done="the deployment is not ready",
            hint="the model may end every answer at once; try it with POST /v1/completions",
        )
    return [(str(entry["token"]), float(entry["logprob"])) for entry in entries]
