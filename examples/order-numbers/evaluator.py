"""Is the answer the order number and nothing else? ``has_it`` allows words around it."""

from __future__ import annotations

from typing import Any


def evaluate(messages: list[dict[str, Any]], ground_truth: Any = None, **row: Any) -> dict[str, float]:
    answer = str(messages[-1].get("content") or "").strip()
    return {"score": float(answer == ground_truth), "has_it": float(str(ground_truth) in answer)}
