"""Is the ticket in the right queue?

``score`` is 1.0 for the queue's name and nothing else. ``right_<queue>`` is reported for the rows of that queue alone:
its mean is the queue's recall, and the mean of the eight is the macro accuracy. Each queue has equally many held-out
rows, so the mean of ``score`` is the macro accuracy too. ``is_a_queue`` tells a wrong queue from no queue at all.
"""

from __future__ import annotations

from typing import Any

QUEUES = ("access", "billing", "bug", "cancel", "delivery", "praise", "return", "sales")


def evaluate(messages: list[dict[str, Any]], ground_truth: Any = None, **row: Any) -> dict[str, float]:
    answer = str(messages[-1].get("content") or "").strip().lower().rstrip(".")
    right = float(answer == ground_truth)
    return {"score": right, f"right_{ground_truth}": right, "is_a_queue": float(answer in QUEUES)}
