"""What a LoRA adapter folder in PEFT's format says about itself, read without torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog.config import TARGETS
from fw_sdk.types import FwError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_HEADER_BYTES = 100 << 20
PLAIN_FIELDS = {
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "lora_bias": False,
    "fan_in_fan_out": False,
}


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter: rank, alpha (the update is scaled by alpha / rank), what it changes, which base it was made for."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str | None = None


def read_adapter_info(path: Path) -> AdapterInfo:
    """Read ``adapter_config.json`` and the header of ``adapter_model.safetensors`` in a PEFT folder.

    Raises:
        FwError: ``not_found`` if the folder or a file is missing, ``model_unsupported`` for what fw cannot apply.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise FwError(
                "not_found",
                f"There is no {name} in '{path}'.",
                not_done="No adapter was loaded.",
                hint=f"a LoRA adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as PEFT saves it",
                param="path",
            )
    try:
        info = _info(json.loads((path / CONFIG_FILE).read_bytes()))
        shapes = safetensors_shapes(path / WEIGHTS_FILE)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unsupported(f"it cannot be read: {error}") from error
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith("lora_A.weight")}
    if ranks != {info.rank}:
        raise _unsupported(f"its configuration says rank {info.rank}, its tensors {sorted(ranks)}")
    return info


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone; ValueError if the header is malformed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError("the safetensors header is longer than the file")
        header = json.loads(file.read(length))
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if any(entry["data_offsets"][1] > size - 8 - length for entry in entries.values()):
        raise ValueError("the safetensors file is truncated")
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _info(fields: dict[str, Any]) -> AdapterInfo:
    if fields.get("peft_type") != "LORA":
        raise _unsupported(f"its type is {fields.get('peft_type')!r}, not 'LORA'")
    for name, plain in PLAIN_FIELDS.items():
        if fields.get(name) not in (plain, None, {}, []):
            raise _unsupported(f"it sets {name} to {fields[name]!r}")
    targets = fields["target_modules"]
    names = {str(target).rsplit(".", 1)[-1] for target in ([targets] if isinstance(targets, str) else targets)}
    if names == {"all-linear"}:
        names = set(TARGETS)
    unknown = sorted(names - set(TARGETS))
    if unknown or not names:
        raise _unsupported(f"it changes {', '.join(unknown) or 'nothing'}; known are {', '.join(TARGETS)}")
    ordered = tuple(target for target in TARGETS if target in names)
    return AdapterInfo(int(fields["r"]), float(fields["lora_alpha"]), ordered, fields.get("base_model_name_or_path"))


def _unsupported(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This adapter cannot be used: {reason}.",
        not_done="No adapter was loaded.",
        hint="fw applies plain LoRA adapters in PEFT's format",
    )
