"""Is the model's answer exactly the function call that was asked for?

The rules are those of BFCL's checker for Python calls:

* the name must be equal, and no argument may be unknown or missing; an argument may be left out only if ``""``
  stands among its listed alternatives;
* every argument must equal one of its alternatives: strings without regard to case, spaces and ``, . / - _ * ^``
  (and ``'`` counts as ``"``); a whole number passes for a float, a float not for a whole number; booleans only for
  booleans; lists element by element in order; in objects each key has a list of alternatives of its own.

The answer must be one JSON object and nothing else; white space and a Markdown code fence around it are allowed.
"""

from __future__ import annotations

import json
import re
from typing import Any

FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
IGNORED = re.compile(r"[ ,./\-_*^]")
MAX_ANSWER = 100_000


def evaluate(messages: list[dict[str, Any]], ground_truth: Any = None, **row: Any) -> dict[str, float]:
    """``score`` 1.0 for the exact call, else 0.0; ``valid_json`` and ``right_name`` say how far the answer got."""
    call = parse_call(str(messages[-1].get("content") or ""))
    right_name = call is not None and call["name"] == ground_truth["name"]
    exact = call is not None and right_name and same_arguments(call["arguments"], ground_truth["arguments"])
    return {"score": float(exact), "valid_json": float(call is not None), "right_name": float(right_name)}


def parse_call(text: str) -> dict[str, Any] | None:
    """The call in an answer: an object with exactly a string ``name`` and an object ``arguments``; else None."""
    text = text[:MAX_ANSWER].strip()
    fenced = FENCE.match(text)
    try:
        call = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return None
    return call if isinstance(call["name"], str) and isinstance(call["arguments"], dict) else None


def same_arguments(given: dict[str, Any], listed: dict[str, list[Any]]) -> bool:
    """Whether each argument matches an alternative, none is unknown, and only optional ones are missing."""
    if any(name not in listed for name in given):
        return False
    return all(
        matches(given[name], alternatives) if name in given else "" in alternatives
        for name, alternatives in listed.items()
    )


def matches(value: Any, alternatives: list[Any]) -> bool:
    """Whether ``value`` equals one alternative. The mark ``""`` is a value only among strings."""
    if value == "" and not all(isinstance(alternative, str) for alternative in alternatives):
        return False
    return any(same(value, alternative) for alternative in alternatives)


def same(value: Any, alternative: Any) -> bool:
    """Whether ``value`` equals one listed alternative by the rules above."""
    if isinstance(alternative, str):
        return isinstance(value, str) and plain(value) == plain(alternative)
    if isinstance(alternative, bool):
        return isinstance(value, bool) and value == alternative
    if isinstance(alternative, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and value == alternative
    if isinstance(alternative, list):
        return isinstance(value, list) and len(value) == len(alternative) and all(map(same, value, alternative))
    if isinstance(alternative, dict):
        return isinstance(value, dict) and same_arguments(value, alternative)
    return type(value) is type(alternative) and bool(value == alternative)


def plain(text: str) -> str:
    """A string as BFCL compares it."""
    return IGNORED.sub("", text).lower().replace("'", '"')
