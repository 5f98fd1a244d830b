"""JSON from outside: parsed within limits, and refused where a parser would guess or another place would stumble."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fw_sdk.types import FwError

MAX_DEPTH = 128
MAX_VALUES = 2_000_000
"""Commas and opening brackets in one text: what parses in a second."""
INT_LIMIT = 2**63
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        FwError: ``invalid_argument`` for what is no JSON, for integers beyond 64 bits, numbers that are not finite,
            keys given twice, halves of surrogate pairs, and nesting deeper than 128; ``payload_too_large`` for more
            than 2 million values.
    """
    openings = data.count(b"[") + data.count(b"{")
    if openings + data.count(b",") > MAX_VALUES:
        raise FwError("payload_too_large", f"The body has more than {MAX_VALUES:,} values.", not_done="it was not read")
    try:
        value = json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            parse_int=_int,
            parse_float=finite_float,
            object_pairs_hook=_object,
        )
        if openings > MAX_DEPTH:
            check_depth(value)
        if _SURROGATE.search(data) and (lone := _LONE.search(json.dumps(value, ensure_ascii=False))):
            raise ValueError(f"'\\u{ord(lone[0]):x}' is half of a surrogate pair")
    except UnicodeDecodeError:
        raise FwError("invalid_argument", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FwError("invalid_argument", f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise FwError("invalid_argument", _TOO_DEEP) from None
    except ValueError as error:
        raise FwError("invalid_argument", f"The body cannot be used: {error}.") from None
    return value


_TOO_DEEP = f"The body is nested more than {MAX_DEPTH} levels deep."


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _int(text: str) -> int:
    value = int(text) if len(text) < 21 else INT_LIMIT
    if not -INT_LIMIT <= value < INT_LIMIT:
        raise ValueError(f"the number {text[:24]}{'...' if len(text) > 24 else ''} does not fit in 64 bits")
    return value


def finite_float(text: str) -> float:
    """A number of a JSON text; ``ValueError`` for one like 1e999, which no reply could repeat."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in found if names.count(key) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice in one object")
    return found


def check_depth(value: Any) -> None:
    """Raise ``RecursionError`` for a value that is nested more than ``MAX_DEPTH`` levels deep."""
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = _containers(inner for one in level for inner in (one.values() if isinstance(one, dict) else one))
    if level:
        raise RecursionError


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]
