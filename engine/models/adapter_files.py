"""Adapters on disk, in PEFT's own format, both ways."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.catalog import ModelConfig, read_adapter_info
from engine.catalog.adapters import CONFIG_FILE, WEIGHTS_FILE
from engine.jobs.files import write_atomic, write_json
from engine.models.adapters import Adapter
from fw_sdk.types import FwError

MODULE = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)


def load_adapter(path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> Adapter:
    """Read a PEFT folder for a model of this configuration; frozen.

    Raises:
        FwError: ``not_found``, or ``model_unsupported`` if it is damaged, not plain LoRA, or made for another shape.
    """
    info = read_adapter_info(path)
    other = [target for target in info.targets if target not in config.targets]
    if other:
        raise _unsupported(
            f"it changes {', '.join(other)}; in a mixture of experts only {', '.join(config.targets)} can be"
        )
    weights: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    try:
        with safe_open(path / WEIGHTS_FILE, framework="pt") as file:
            names = set(file.keys())
            for layer in range(config.layers):
                for target in (name for name in info.targets if name in config.layer_targets(layer)):
                    down_name, up_name = _name(layer, target, "A"), _name(layer, target, "B")
                    if down_name not in names and up_name not in names:
                        continue
                    pair = (file.get_tensor(down_name), file.get_tensor(up_name))
                    _check_shapes(pair, info.rank, config.target_shape(target), down_name)
                    weights[layer, target] = (pair[0].to(device, dtype), pair[1].to(device, dtype))
                    names -= {down_name, up_name}
    except SafetensorError as error:
        raise _unsupported(f"its weights cannot be read: {error}") from error
    if names or not weights:
        raise _unsupported(f"it was made for another model: unexpected {sorted(names)[:1] or 'nothing'}")
    return Adapter(info.rank, info.alpha, info.targets, weights)


def save_adapter(path: Path, adapter: Adapter, base_model: str) -> None:
    """Write the folder that PEFT and ``load_adapter`` read; float32, each file whole or absent.

    Args:
        path: the folder; made if missing.
        adapter: what to save.
        base_model: the base's name, recorded for people and for PEFT.
    """
    tensors = {
        _name(layer, target, side): tensor.detach().to("cpu", torch.float32).contiguous()
        for (layer, target), pair in adapter.weights.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapter.targets),
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path / WEIGHTS_FILE, save(tensors, {"format": "pt"}))
    write_json(path / CONFIG_FILE, fields)


def _name(layer: int, target: str, side: str) -> str:
    return f"base_model.model.model.layers.{layer}.{MODULE[target]}.{target}.lora_{side}.weight"


def _check_shapes(pair: tuple[Tensor, Tensor], rank: int, shape: tuple[int, int], name: str) -> None:
    inputs, outputs = shape
    if pair[0].shape != (rank, inputs) or pair[1].shape != (outputs, rank):
        found = f"{tuple(pair[0].shape)} and {tuple(pair[1].shape)}"
        raise _unsupported(f"{name} and its B are {found}, this model needs {(rank, inputs)} and {(outputs, rank)}")


def _unsupported(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This adapter cannot be used: {reason}.",
        not_done="No adapter was loaded.",
        hint="load it with the base model it was trained on",
    )
