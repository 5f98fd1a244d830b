"""The machine that jobs and models run on; asks the kernel, never torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from fw_sdk.types import Device

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def device() -> Device:
    """Where models run on this machine."""
    gpu = gpu_name()
    total, available = memory()
    return Device(
        kind="cuda" if gpu else "cpu",
        name=gpu or _cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=total,
        memory_available_bytes=available,
        bf16=bool(gpu) or bool(BF16_FLAGS & _cpu_flags()),
    )


def memory() -> tuple[int, int]:
    """Bytes of main memory that we may use in all, and that are available now."""
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    limit = _cgroup_limit()
    total = min(fields["MemTotal"], limit) if limit else fields["MemTotal"]
    return total, min(total, fields.get("MemAvailable", total))


def _cgroup_limit() -> int | None:
    """The memory limit of our own container, if there is one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cpu_lines() -> dict[str, str]:
    lines: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())
    return lines


def _cpu_name() -> str:
    lines = _cpu_lines()
    return lines.get("model name") or lines.get("Processor") or platform.machine()


def _cpu_flags() -> set[str]:
    lines = _cpu_lines()
    return set((lines.get("flags") or lines.get("Features") or "").split())


def gpu_name() -> str | None:
    """The first NVIDIA GPU that programs here may open, by its driver's files."""
    if not Path("/dev/nvidiactl").exists():
        return None
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "NVIDIA GPU"
