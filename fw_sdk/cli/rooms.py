"""Doors to the rooms that the command line puts together, opened only by the command that needs them."""

from __future__ import annotations

import importlib
from typing import Any

from fw_sdk.types import FwError


def open_room(module: str, name: str) -> Any:
    """The object ``name`` of ``module``; ``unimplemented`` if this installation lacks that module.

    Rooms are named as strings because clients must not depend on the engine: whoever imports the SDK imports no room.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise FwError(
            "unimplemented", f"this installation has no {module}", hint="pip install the whole of fw"
        ) from error
