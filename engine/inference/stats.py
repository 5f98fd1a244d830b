"""What the engine counts for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counters for metrics. Gauges: running, waiting, kv_usage (share of pages in use); the rest only grow.

    ``masked_rows`` and ``mask_seconds`` are what grammars cost. ``drafts`` counts how often a request had guesses to
    verify, ``drafted_tokens`` the guesses and ``accepted_tokens`` those that held.
    """

    running: int
    waiting: int
    kv_usage: float
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    restarts: int
    masked_rows: int
    mask_seconds: float
    drafted_tokens: int
    accepted_tokens: int
    drafts: int
