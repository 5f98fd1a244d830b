"""JSON as models write it: read strictly, written so that every protocol can carry it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_DIGITS = 4000


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    """A number; one that no float can hold becomes the largest that one can."""
    value = float(digits)
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else _finite(digits)


DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)


def strict_json(text: str) -> Any:
    """JSON without the constants that Python adds."""

    try:
        return DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def inside_string(text: str) -> bool:
    """Whether JSON that begins with ``text`` is inside a string where ``text`` ends."""
    inside = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif inside and character == "\\":
            escaped = True
        elif character == '"':
            inside = not inside
    return inside


def dump(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON text; characters that no UTF-8 can express stay escaped."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text if text.isascii() or text.encode("utf-8", "ignore").decode() == text else json.dumps(arguments)
