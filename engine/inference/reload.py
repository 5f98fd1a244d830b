"""New weights for a model in use: read beside the present ones, refused unless they can take their place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

import torch

from engine.catalog import ModelConfig, read_config
from engine.models import CausalLM, PackedModel, load_for_inference
from fw_sdk.types import FwError

UpdateMode = Literal["abort", "wait", "keep"]
"""What becomes of requests that are running when their weights change.

``abort``: they end with what they have. ``wait``: they are finished with the old weights. ``keep``: they go on with the
new ones; keys and values that stand in the cache stay, so a token after the change attends to some of the old weights.
"""

NOT_DONE = "the weights were not changed"
AS_ASKED = frozenset({"int8", "int4", "bfloat16", "float32"})
"""Formats that weights of any file can be brought to; others are the file's own."""
FREE = frozenset({"eos_ids", "bos_id", "max_context"})
"""What may differ: the engine keeps what it was loaded with."""


def load_alike(path: Path, model: CausalLM | PackedModel) -> CausalLM | PackedModel:
    """The weights at ``path``, held as those of ``model`` are; both are in memory then.

    Raises:
        FwError: what loading raises, and ``failed_precondition`` for another architecture or format.
    """
    other = _difference(read_config(path), model.config)
    if other is not None:
        raise FwError(
            "failed_precondition",
            f"the model at {path} is another one: {other}",
            not_done=NOT_DONE,
            hint="update with weights of the same architecture",
        )
    held = model.format if model.format in AS_ASKED else "stored"
    packed = isinstance(model, PackedModel)
    device = torch.device("cpu") if isinstance(model, PackedModel) else model.device
    numerics = model.numerics if isinstance(model, PackedModel) else "auto"
    new = load_for_inference(path, dtype=held, device=device, numerics=numerics)
    if isinstance(new, PackedModel) != packed or new.format != model.format:
        raise FwError(
            "failed_precondition",
            f"the weights at {path} are held as {new.format}, those in use as {model.format}",
            not_done=NOT_DONE,
            hint="serve with dtype int8, int4, bfloat16 or float32 to update from safetensors",
        )
    return new


def _difference(new: ModelConfig, old: ModelConfig) -> str | None:
    """The first field in which two architectures differ."""
    for field in fields(old):
        mine, theirs = getattr(old, field.name), getattr(new, field.name, None)
        if field.name not in FREE and mine != theirs:
            return f"its {field.name} is {theirs}, not {mine}"
    return None
