"""What this machine has, as the kernel says: cores, memory, the CPU's name and features. Imports no torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def usable_cores() -> int:
    """Cores that this process may use; all there are where the system has no such limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Bytes of memory in all, and those that are available, within the limit of our own container."""
    found = psutil.virtual_memory()
    total = min(found.total, _container_limit() or found.total)
    return total, min(total, found.available)


def _container_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def cpu_name() -> str:
    """The CPU's name, else its architecture."""
    lines = _cpu_lines()
    return lines.get("model name") or lines.get("Processor") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first core as Linux names them; empty on other systems."""
    lines = _cpu_lines()
    return frozenset((lines.get("flags") or lines.get("Features") or "").split())


def _cpu_lines() -> dict[str, str]:
    """The first value of each field of ``/proc/cpuinfo``."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())
    return lines
