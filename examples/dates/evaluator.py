"""Is the value exactly in its standard form?

``right_date``, ``right_time`` and ``right_amount`` are reported for the rows of that kind alone.
"""

from __future__ import annotations

from typing import Any


def evaluate(messages: list[dict[str, Any]], ground_truth: Any = None, **row: Any) -> dict[str, float]:
    right = float(str(messages[-1].get("content") or "").strip() == ground_truth)
    return {"score": right, f"right_{row['kind']}": right}
