"""What the daemon says about itself and its machine; asks the kernel, never torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.control.http.services import Services
from engine.control.supervision import Loop
from fw_sdk.types import DatasetState, Device, Health, Job, JobState, LoopState, Overview, Resource

VERSION = version("fw")
SHOWN = 20
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def health(loops: Sequence[Loop]) -> Health:
    """Who answers, how evaluators are confined here, and how the background loops are. Asks nothing that may block."""
    found = [loop.health for loop in loops]
    degraded = any(loop.state is not LoopState.OK for loop in found)
    return Health(
        status="degraded" if degraded else "ok",
        version=VERSION,
        pid=os.getpid(),
        evaluator_isolation="limits",
        supervision=found,
    )


def device() -> Device:
    """Where models run on this machine."""
    gpu = _gpu_name()
    total, available = _memory()
    return Device(
        kind="cuda" if gpu else "cpu",
        name=gpu or _cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=total,
        memory_available_bytes=available,
        bf16=bool(gpu) or bool(BF16_FLAGS & _cpu_flags()),
    )


def overview(services: Services) -> Overview:
    """Everything there is, newest first, each list at most 20 long."""
    store = services.store
    found = Overview(
        version=VERSION,
        home=str(services.home.root),
        device=device(),
        models=[
            _brief(m, state=m.state, kind=m.kind, contextLength=m.context_length, digest=m.digest)
            for m in store.models.list(SHOWN).items
        ],
        datasets=[
            _brief(d, state=d.state, rows=int(d.example_count), tokens=d.estimated_token_count)
            for d in store.datasets.list(SHOWN).items
        ],
        evaluators=[_brief(e, description=e.description) for e in store.evaluators.list(SHOWN).items],
        jobs=[_brief_job(job) for job in store.jobs.list(page_size=SHOWN).items],
        deployments=[_brief(d, state=d.state, model=d.base_model) for d in store.deployments.list(SHOWN).items],
    )
    return found.model_copy(update={"next": _next_call(services)})


def _brief(resource: Resource, **fields: Any) -> dict[str, object]:
    shown = {"id": resource.id, "name": resource.name, "displayName": resource.display_name, **fields}
    return {key: value for key, value in shown.items() if value is not None}


def _brief_job(job: Job) -> dict[str, object]:
    failure = job.failure.message if job.failure else None
    return _brief(job, kind=job.kind, state=job.state, percent=job.progress.percent, failure=failure)


def _next_call(services: Services) -> str:
    """The most useful next call, in the control plane's own words."""
    store, root = services.store, "/v1/accounts/local"
    running = store.jobs.unended()
    if running:
        return f"GET {root}/jobs/{running[-1].id}:wait"
    if not store.models.ids():
        return f'POST {root}/models:pull {{"source": "smollm2-135m"}}'
    if not any(dataset.state is DatasetState.READY for dataset in store.datasets.list(SHOWN).items):
        return f"POST {root}/datasets, then its :upload"
    if not store.evaluators.ids():
        return f"POST {root}/evaluatorsV2"
    newest = store.jobs.list(page_size=1).items
    if newest and newest[0].state is JobState.FAILED:
        return f"POST {root}/jobs/{newest[0].id}:resume, after reading its failure"
    return f"POST {root}/pipelines" if not newest else "POST /v1/chat/completions"


def _memory() -> tuple[int, int]:
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


def _gpu_name() -> str | None:
    """The first NVIDIA GPU that programs here may open, by its driver's files."""
    if not Path("/dev/nvidiactl").exists():
        return None
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "NVIDIA GPU"
