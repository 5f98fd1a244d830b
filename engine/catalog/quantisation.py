"""Which quantised safetensors fw reads, by what ``quantization_config`` says; all others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fw_sdk.types import FwError

SUPPORTED = "fp8 (per tensor, per channel or in blocks), compressed-tensors with 8-bit floats, and mxfp4"
FP8_METHODS = ("fp8", "fbgemm_fp8")


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored. They are dequantised when they are loaded.

    Attributes:
        kind: ``fp8`` or ``mxfp4``.
        block: fp8: rows and columns that share a scale; None if a whole tensor or a row does.
    """

    kind: str
    block: tuple[int, int] | None = None


def quantisation_of(fields: Mapping[str, Any]) -> Quantisation | None:
    """What a config.json says about its weights; None for weights in full precision.

    Raises:
        FwError: ``model_unsupported`` for a method or a variant of one that fw does not read.
    """
    stated = fields.get("quantization_config")
    if not stated:
        return None
    method = str(stated.get("quant_method", "")).lower()
    if method == "mxfp4":
        return Quantisation("mxfp4")
    if method in FP8_METHODS:
        if stated.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
            raise _refused(f"fp8 in the format {stated['fmt']}")
        return Quantisation("fp8", _block(stated.get("weight_block_size")))
    if method == "compressed-tensors":
        return _compressed(stated)
    bits = stated.get("bits") or ("4" if stated.get("load_in_4bit") else "")
    raise _refused(f"'{method}'{f' in {bits} bits' if bits else ''}")


def _compressed(stated: Mapping[str, Any]) -> Quantisation:
    """compressed-tensors: one way for all weights, floats of 8 bits."""
    blocks = set()
    for group in stated.get("config_groups", {}).values():
        weights = group.get("weights") or {}
        if weights.get("type") != "float" or weights.get("num_bits") != 8:
            kind = f"{weights.get('type')} of {weights.get('num_bits')} bits"
            raise _refused(f"'compressed-tensors' with weights in {kind} ({stated.get('format')})")
        blocks.add(_block(weights.get("block_structure")))
    if len(blocks) != 1:
        raise _refused("'compressed-tensors' with several ways to store weights")
    return Quantisation("fp8", blocks.pop())


def _block(stated: Any) -> tuple[int, int] | None:
    if stated is None:
        return None
    rows, columns = (int(part) for part in (stated.lower().split("x") if isinstance(stated, str) else stated))
    return rows, columns


def _refused(what: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's weights are quantised with {what}, which fw does not read.",
        not_done="No model was loaded.",
        hint=f"supported are {SUPPORTED}; or take the unquantised model or a GGUF file of it, and --dtype int8 or int4",
    )
