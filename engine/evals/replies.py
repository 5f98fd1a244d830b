"""What an evaluator's process replied, as far as it can be trusted: typed, bounded and fit to be stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_REPLY_BYTES = 1 << 18
"""Four times what ``evaluator_child`` lets through."""
MAX_DEPTH = 32
MAX_INTEGER = 2**63
RANGE = "SCORE_RANGE"
ScoreRange = tuple[float, float]
FOREIGN = "the evaluator wrote to its reply channel"


class ForeignReply(Exception):
    """A line that our part of the evaluator's process did not write."""

    def __init__(self) -> None:
        super().__init__(FOREIGN)


@dataclass(frozen=True)
class Scored:
    """What came of one row: a finite score, or the reason why there is none; ``details`` is what else was returned."""

    score: float | None
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def parse_reply(line: bytes) -> dict[str, Any]:
    """One reply line, fit to be stored except for its ``value``, which is for ``read_value``; its depth is bounded.

    Raises:
        ForeignReply: it is not what ``evaluator_child`` writes.
    """
    try:
        reply = json.loads(line)
        if not isinstance(reply, dict):
            raise ForeignReply
        stored = storable(reply)
    except (ValueError, RecursionError):
        raise ForeignReply from None
    error = stored.get("error")
    if not isinstance(stored.get("printed", ""), str) or not (error is None or _is_error(error)):
        raise ForeignReply
    return {**stored, "value": reply.get("value")}


def _is_error(error: Any) -> bool:
    if not isinstance(error, dict):
        return False
    line = error.get("line")
    texts = isinstance(error.get("type"), str) and isinstance(error.get("message"), str)
    return texts and (line is None or type(line) is int)


def storable(value: Any, depth: int = 0) -> Any:
    """The same value with what JSON in UTF-8 has no word for, infinite numbers and lone surrogates, as plain text."""
    if depth > MAX_DEPTH:
        raise ValueError("deeper than our part of the process writes")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= MAX_INTEGER:
        return str(value)
    if isinstance(value, dict):
        return {storable(key, depth + 1): storable(item, depth + 1) for key, item in value.items()}
    return [storable(item, depth + 1) for item in value] if isinstance(value, list) else value


def read_value(value: Any, score_range: ScoreRange | None = None) -> Scored:
    """The score in what an evaluator returned: a finite number or bool, alone or under ``score`` in a dict.

    A number outside the range that the evaluator declares is none.
    """
    details = storable({key: item for key, item in value.items() if key != "score"}) if isinstance(value, dict) else {}
    if isinstance(value, dict) and "score" not in value:
        what = f"is unusable: {details['unusable']}" if set(value) == {"unusable"} else "has no 'score'"
        return Scored(None, f"the returned value {what}; return a number or a dict with 'score'", details)
    score = value["score"] if isinstance(value, dict) else value
    if not isinstance(score, bool | int | float):
        kind = "None" if score is None else f"{type(score).__name__} {score!r:.80}"
        return Scored(None, f"the score is {kind}, not a number", details)
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return Scored(None, f"the score is {number}, not a finite number", details)
    if score_range is not None and not score_range[0] <= number <= score_range[1]:
        low, high = score_range
        return Scored(None, f"the score is {number:g}, outside the {RANGE} ({low:g}, {high:g}) it declares", details)
    return Scored(number, None, details)


def error_text(error: Mapping[str, Any]) -> str:
    """``raised ValueError at line 3: message``."""
    where = f" at line {error['line']}" if error.get("line") else ""
    what = f": {error['message']}" if error.get("message") else ""
    return f"raised {error.get('type', 'an error')}{where}{what}"
