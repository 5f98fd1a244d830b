"""Changing weights in place while the worker serves, for reinforcement learning."""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictStr

from engine.inference.reload import UpdateMode
from engine.serving.protocol import InferenceBody
from engine.serving.served import Served
from fw_sdk.types import not_found, parse_request

NOT_DONE = "no weights were changed"


class UpdateWeightsBody(InferenceBody):
    """Body of ``POST /v1/update_weights``: the base's weights, or with ``lora_name`` those of an adapter."""

    path: StrictStr = Field(min_length=1)
    mode: UpdateMode = "wait"
    lora_name: StrictStr | None = None


async def update_weights(served: Served, value: Any) -> dict[str, Any]:
    """Put other weights in place; the answer says which version tokens are stamped with from now on."""
    body = parse_request(UpdateWeightsBody, value, not_done=NOT_DONE)
    if body.lora_name is None:
        version = await served.loop.update_weights(body.path, mode=body.mode)
    elif body.lora_name in served.loop.engine.adapters:
        version = await served.loop.load_adapter(body.lora_name, body.path, mode=body.mode)
    else:
        raise not_found("adapter", body.lora_name, served.loop.engine.adapters, "load it first")
    await served.digests.loaded(body.lora_name, body.path)
    return {"status": "ok", "weight_version": version}
