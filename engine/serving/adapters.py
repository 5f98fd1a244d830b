"""Loading and unloading adapters while the worker serves."""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictStr

from engine.serving.protocol import InferenceBody
from engine.serving.served import Served
from fw_sdk.types import FwError, parse_request


class LoadAdapterBody(InferenceBody):
    """Body of ``POST /v1/load_lora_adapter``."""

    lora_name: StrictStr = Field(min_length=1, max_length=256)
    lora_path: StrictStr = Field(min_length=1)


class UnloadAdapterBody(InferenceBody):
    """Body of ``POST /v1/unload_lora_adapter``."""

    lora_name: StrictStr


async def load_adapter(served: Served, value: Any) -> dict[str, Any]:
    """Load an adapter under a name of its own."""
    body = parse_request(LoadAdapterBody, value, not_done="nothing was loaded")
    if body.lora_name == served.name:
        raise FwError(
            "already_exists",
            f"'{served.name}' is the base model's name",
            not_done="nothing was loaded",
            hint="choose another name",
            param="lora_name",
        )
    await served.loop.load_adapter(body.lora_name, body.lora_path)
    await served.digests.loaded(body.lora_name, body.lora_path)
    return {"status": "ok", "lora_name": body.lora_name}


async def unload_adapter(served: Served, value: Any) -> dict[str, Any]:
    """Forget an adapter; requests that use it are finished with it."""
    body = parse_request(UnloadAdapterBody, value, not_done="nothing was unloaded")
    await served.loop.unload_adapter(body.lora_name)
    served.digests.unloaded(body.lora_name)
    return {"status": "ok", "lora_name": body.lora_name}
