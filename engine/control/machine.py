"""The machine that jobs and models run on; asks the kernel, never torch."""

from __future__ import annotations

from pathlib import Path

from engine.jobs.machine import cpu_flags, cpu_name, memory, usable_cores
from fw_sdk.types import Device

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def device() -> Device:
    """Where models run on this machine."""
    gpu = gpu_name()
    total, available = memory()
    return Device(
        kind="cuda" if gpu else "cpu",
        name=gpu or cpu_name(),
        cores=usable_cores(),
        memory_bytes=total,
        memory_available_bytes=available,
        bf16=bool(gpu) or bool(BF16_FLAGS & cpu_flags()),
    )


def gpu_name() -> str | None:
    """The first NVIDIA GPU that programs here may open, by its driver's files."""
    if not Path("/dev/nvidiactl").exists():
        return None
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "NVIDIA GPU"
