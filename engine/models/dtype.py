"""Which device and which number format to compute with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from fw_sdk.types import FwError
from kernels.native import library, status, torch_multiplies_bf16_well, usable_variants

DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32, "float32": torch.float32}


def pick_device(requested: str = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes a GPU if torch sees one.

    Raises:
        FwError: ``invalid_argument`` for an unknown name, ``failed_precondition`` for a GPU that is not there.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise FwError(
            "invalid_argument", f"Unknown device '{requested}'.", hint="use auto, cpu or cuda", param="device"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FwError(
            "failed_precondition",
            "torch sees no GPU here.",
            hint="use --device cpu, or install a CUDA build of torch",
            param="device",
        )
    return device


def pick_dtype(device: torch.device | str, requested: str = "auto") -> torch.dtype:
    """The format of weights and activations: ``auto`` takes bfloat16 where the device multiplies it natively.

    Raises:
        FwError: ``invalid_argument`` for an unknown name.
    """
    if requested == "auto":
        return torch.bfloat16 if _has_bfloat16(torch.device(device)) else torch.float32
    if requested not in DTYPES:
        raise FwError(
            "invalid_argument",
            f"Unknown dtype '{requested}'.",
            hint="use auto, bfloat16, float32, or to serve on a CPU stored, int8 or int4",
            param="dtype",
        )
    return DTYPES[requested]


def pick_numerics(device: torch.device, dtype: torch.dtype, requested: str = "auto", *, recurrent: bool = False) -> str:
    """How a model in full precision computes, ``fast`` or ``exact`` (see ``kernels.numerics``).

    ``auto`` is ``exact`` where that costs nothing worth speaking of: on a CPU with compiled kernels for its vectors, in
    float32, and in bfloat16 unless the processor has instructions for it that outrun float32. On a GPU, where
    it runs in Triton's kernels, its cost has not been measured, and ``auto`` is ``fast``.

    Args:
        device: where the model is.
        dtype: of its activations.
        requested: auto, fast or exact.
        recurrent: whether the model has recurrent layers.

    Raises:
        FwError: ``failed_precondition`` if ``exact`` cannot be had here.
    """
    reason = _why_not_exact(device, recurrent)
    if requested == "exact" and reason is not None:
        raise FwError(
            "failed_precondition",
            f"numerics 'exact' cannot be had here: {reason}.",
            not_done="No model was loaded.",
            hint="use numerics auto; fw doctor says what is missing for compiled kernels",
            param="numerics",
        )
    if requested != "auto":
        return requested
    cheap = dtype is torch.float32 or not torch_multiplies_bf16_well()
    on_cpu = reason is None and device.type == "cpu"
    return "exact" if on_cpu and cheap and usable_variants()[0].name != "portable" else "fast"


def _why_not_exact(device: torch.device, recurrent: bool) -> str | None:
    """Why a row cannot be given the same bits in any batch there; None if it can."""
    if device.type == "cpu":
        return None if library() is not None else status()
    if device.type != "cuda":
        return "that needs a CPU or a CUDA GPU"
    if recurrent:
        return "that needs a CPU for a model with recurrent layers"
    return None if find_spec("triton") else "on a GPU that needs Triton: pip install triton"


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags
