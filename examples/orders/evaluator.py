"""Does the answer fit the schema, and does it say what stands in the e-mail?

``score`` is 1.0 if every field is right. ``fits_schema``: one JSON object with exactly these fields and types;
``fields_right``: the share of right fields, 0 for an answer that does not fit.
"""

from __future__ import annotations

import json
import re
from typing import Any

ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
MAX_ANSWER = 10_000


def evaluate(messages: list[dict[str, Any]], ground_truth: Any = None, **row: Any) -> dict[str, float]:
    answer = parsed(str(messages[-1].get("content") or ""))
    if answer is None:
        return {"score": 0.0, "fits_schema": 0.0, "fields_right": 0.0}
    right = [answer[name] == value for name, value in ground_truth.items()]
    return {"score": float(all(right)), "fits_schema": 1.0, "fields_right": sum(right) / len(right)}


def parsed(text: str) -> dict[str, Any] | None:
    """The object, if it is one of the schema."""
    try:
        answer = json.loads(text) if len(text) <= MAX_ANSWER else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or set(answer) != {"customer", "item", "quantity", "city", "date"}:
        return None
    texts = all(isinstance(answer[name], str) for name in ("customer", "item", "city"))
    date = answer["date"]
    dated = date is None or (isinstance(date, str) and ISO_DATE.fullmatch(date) is not None)
    return answer if texts and type(answer["quantity"]) is int and dated else None
