"""The call that an agent meant: its own, with the name that the error suggests in place of the wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fw_sdk.results.spelling import literal
from fw_sdk.types import FwError

MAX_CALL_CHARS = 400


def corrected(tool: str, arguments: Mapping[str, Any], error: FwError) -> str:
    """The call that ``error`` suggests, ready to be made; empty when it suggests no name or none fits.

    The wrong argument is the one that the error names, else the one whose value its message quotes.
    """
    suggestion = error.details.get("didYouMean")
    if not isinstance(suggestion, str):
        return ""
    quoted = (key for key, value in arguments.items() if isinstance(value, str) and f"'{_id(value)}'" in error.message)
    wrong = error.param if error.param in arguments else next(quoted, None)
    leads_on = wrong is not None and arguments[wrong] != suggestion
    return written(tool, arguments, {wrong: suggestion}) if wrong and leads_on else ""


def renamed(tool: str, arguments: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The call with some arguments under other names; empty when a name is taken, or twice."""
    if set(names.values()) & set(arguments) or len(set(names.values())) < len(names):
        return ""
    moved = {names[key]: value for key, value in arguments.items() if key in names}
    return written(tool, {key: value for key, value in arguments.items() if key not in names}, moved)


def written(tool: str, arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """The call as text; of a long one only what changes, the other arguments standing as ``...``."""
    whole = _call(tool, {**arguments, **changes})
    return whole if len(whole) <= MAX_CALL_CHARS else f"{_call(tool, changes)[:-1]}, ...) with the other arguments kept"


def _call(tool: str, arguments: Mapping[str, Any]) -> str:
    return f"{tool}({', '.join(f'{key}={literal(value)}' for key, value in arguments.items())})"


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1] if name.startswith("accounts/") else name
