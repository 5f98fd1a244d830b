"""One record as people read it: the fields that help, in words, on one screen; ``--format json`` has the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

MAX_LINES = 24
MAX_VALUE_CHARS = 100
MAX_ITEMS = 4
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
NAMES = {"createTime": "created", "updateTime": "updated", "startTime": "started", "completedTime": "ended"}
LEFT_OUT = frozenset({"spec", "updateTime", "displayName", "result", "histogram", "logTail"})
"""What says nothing to a person, or says again what another field says."""


def record_lines(fields: Mapping[str, Any]) -> list[str]:
    """``name  value`` lines of a record as the wire has it, at most one screen of them."""
    found = [(name, value) for name, value in _entries(fields) if value]
    width = max((len(name) for name, _ in found), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in found]
    left = len(lines) - MAX_LINES
    return lines if left <= 0 else [*lines[:MAX_LINES], f"{left} more fields: --format json"]


def _entries(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields of the record, and of what it holds one level down the simple ones on one line."""
    for key, value in fields.items():
        if key in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            parts = (f"{_label(name)} {_said(name, item)}" for name, item in value.items() if _is_simple(name, item))
            yield _label(key), _cut(", ".join(parts))
        else:
            yield _label(key), _said(key, value)


def _is_simple(key: str, value: Any) -> bool:
    return key not in LEFT_OUT and not isinstance(value, Mapping | list) and value not in (None, "")


def _label(key: str) -> str:
    words = NAMES.get(key) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).replace("_", " ").lower()
    return " ".join((words.removesuffix(" bytes").removesuffix(" s") or words).split())


def _said(key: str, value: Any) -> str:
    if isinstance(value, list):
        simple = len(value) <= MAX_ITEMS and not any(isinstance(item, Mapping | list) for item in value)
        return _cut(" ".join(", ".join(map(str, value)).split())) if simple else f"{len(value)} entries"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(key, value)
    text = "" if value is None else " ".join(str(value).split())
    if text.startswith("accounts/"):
        return text.rsplit("/", 1)[-1]
    if text.startswith("sha256:"):
        return text[:19]
    return moment(text) or _cut(text.removeprefix("JOB_STATE_"))


def _number(key: str, value: float) -> str:
    lower = key.lower()
    if lower.endswith("bytes"):
        return size(value)
    if lower.endswith(("seconds", "_s", "latencys", "etas")):
        return duration(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def size(amount: float) -> str:
    """``1.5 GiB``."""
    unit = 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {UNITS[unit]}" if unit else f"{amount:.0f} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(text: str) -> str:
    """A time of the wire as the clock on the wall shows it; empty for what is none."""
    if not re.match(r"\d{4}-\d{2}-\d{2}T\d", text):
        return ""
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…"
