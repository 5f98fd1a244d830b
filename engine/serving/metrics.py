"""What Prometheus sees, under the names that dashboards and routers for vLLM read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.inference.loop import OutputStream
from engine.inference.request import Output
from engine.inference.stats import EngineStats

GAUGES = {
    "vllm:num_requests_running": ("running", "Requests that hold pages."),
    "vllm:num_requests_waiting": ("waiting", "Requests that wait for pages."),
    "vllm:kv_cache_usage_perc": ("kv_usage", "Share of the key-value cache in use, 1 is all of it."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Prompt tokens of requests that got a first token."),
    "vllm:generation_tokens": ("generation_tokens", "Tokens generated."),
    "vllm:prefix_cache_queries": ("prefix_queries", "Prompt tokens looked up in the prefix cache."),
    "vllm:prefix_cache_hits": ("prefix_hits", "Prompt tokens found in the prefix cache."),
    "vllm:num_preemptions": ("preemptions", "Requests that gave up their pages and were computed again."),
    "fw:engine_restarts": ("restarts", "Times that the engine began anew after a step that failed."),
    "vllm:spec_decode_num_drafts": ("drafts", "Times that guesses at the next tokens were verified."),
    "vllm:spec_decode_num_draft_tokens": ("drafted_tokens", "Guessed tokens."),
    "vllm:spec_decode_num_accepted_tokens": ("accepted_tokens", "Guessed tokens that held."),
}
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 2.0)
LENGTH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("Arrival to first token.", LATENCY_BUCKETS),
    "vllm:inter_token_latency_seconds": ("One token to the next.", TOKEN_BUCKETS),
    "vllm:e2e_request_latency_seconds": ("Arrival to last token.", LATENCY_BUCKETS),
    "vllm:request_queue_time_seconds": ("Arrival to the first step that computes something.", LATENCY_BUCKETS),
    "vllm:request_prefill_time_seconds": ("That step to the first token.", LATENCY_BUCKETS),
    "vllm:request_decode_time_seconds": ("First token to last token.", LATENCY_BUCKETS),
    "vllm:request_prompt_tokens": ("Tokens of a finished request's prompt.", LENGTH_BUCKETS),
    "vllm:request_generation_tokens": ("Tokens of a finished request's answer.", LENGTH_BUCKETS),
}


class _EngineCollector(Collector):
    """Reads the engine's counters at the time of the scrape."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._model_name = model_name
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """One sample per metric."""
        stats = self._stats()
        for name, (field, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric([self._model_name], getattr(stats, field))
            yield gauge
        for name, (field, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric([self._model_name], getattr(stats, field))
            yield counter


class Metrics:
    """The worker's metrics.

    Args:
        model_name: label of every sample.
        stats: reads the engine's counters.
    """

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(model_name, stats))
        self._model_name = model_name
        self._histograms = {
            name: Histogram(name, text, ["model_name"], buckets=buckets, registry=self._registry).labels(model_name)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._ends = Counter(
            "vllm:request_success",
            "Requests by the way they ended.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ends.labels(model_name, reason)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    async def watch(self, stream: OutputStream) -> AsyncGenerator[Output, None]:
        """Pass a request's outputs on and measure them; closing this cancels the request if it is not over."""
        started = last = time.perf_counter()
        first: float | None = None
        reason, output = "abort", None
        try:
            async with stream:
                async for output in stream:
                    now = time.perf_counter()
                    if first is None:
                        first = now
                        self._begun(now - started, output.usage.queue_s)
                    else:
                        self._observe("inter_token_latency_seconds", (now - last) / max(len(output.token_ids), 1))
                    last = now
                    reason = output.finish_reason or reason
                    yield output
        except Exception:
            reason = "error"
            raise
        finally:
            self._ended(reason, time.perf_counter() - started)
            if first is not None and output is not None and output.finished:
                self._observe("request_decode_time_seconds", last - first)
                self._observe("request_prompt_tokens", output.usage.prompt_tokens)
                self._observe("request_generation_tokens", output.usage.completion_tokens)

    def _begun(self, waited_s: float, queue_s: float) -> None:
        self._observe("time_to_first_token_seconds", waited_s)
        self._observe("request_queue_time_seconds", queue_s)
        self._observe("request_prefill_time_seconds", max(waited_s - queue_s, 0.0))

    def _ended(self, reason: str, taken_s: float) -> None:
        self._observe("e2e_request_latency_seconds", taken_s)
        self._ends.labels(self._model_name, reason).inc()

    def _observe(self, name: str, value: float) -> None:
        self._histograms[f"vllm:{name}"].observe(value)
