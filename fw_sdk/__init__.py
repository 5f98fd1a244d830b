"""The HTTP clients of fw: ``import fw_sdk as fw``.

    result = fw.customize("smollm2-135m", "train.jsonl", "evaluator.py", heldout="heldout.jsonl")
    print(result.comparison.verdict, result.chat("What is the weather in Paris?"))

Names are imported on first use, so that ``fw --help`` and ``import fw_sdk`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fw_sdk.client import AsyncClient as AsyncClient
    from fw_sdk.client import Client as Client
    from fw_sdk.daemon import ensure_daemon as ensure_daemon
    from fw_sdk.exceptions import *  # noqa: F403
    from fw_sdk.loop import Result as Result
    from fw_sdk.loop import customize as customize
    from fw_sdk.operations.jobs import raise_if_failed as raise_if_failed
    from fw_sdk.replies import RawResponse as RawResponse
    from fw_sdk.types import *  # noqa: F403

_HOMES = {
    "Client": "fw_sdk.client",
    "AsyncClient": "fw_sdk.client",
    "Result": "fw_sdk.loop",
    "RawResponse": "fw_sdk.replies",
    "customize": "fw_sdk.loop",
    "ensure_daemon": "fw_sdk.daemon",
    "raise_if_failed": "fw_sdk.operations.jobs",
}
_OTHER_HOMES = ("fw_sdk.exceptions", "fw_sdk.types")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    modules = (_HOMES[name],) if name in _HOMES else _OTHER_HOMES
    for module in map(importlib.import_module, modules):
        if name in getattr(module, "__all__", ()) or name in _HOMES:
            value = getattr(module, name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'fw_sdk' has no attribute '{name}'")


def __dir__() -> list[str]:
    exported = [importlib.import_module(module).__all__ for module in _OTHER_HOMES]
    return sorted({*_HOMES, *(name for names in exported for name in names)})
