"""What the daemon says about itself and its machine; asks the kernel, never torch."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.control.http.services import Services
from engine.jobs.machine import cpu_flags, cpu_name, memory, usable_cores
from fw_sdk.types import DatasetState, Device, Health, Job, JobState, Overview, Resource

SHOWN = 20
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def health() -> Health:
    """Who answers, and how evaluators are confined here."""
    return Health(version=version("fw"), pid=os.getpid(), evaluator_isolation="limits")


def device() -> Device:
    """Where models run on this machine."""
    gpu = _gpu_name()
    total, available = memory()
    return Device(
        kind="cuda" if gpu else "cpu",
        name=gpu or cpu_name(),
        cores=usable_cores(),
        memory_bytes=total,
        memory_available_bytes=available,
        bf16=bool(gpu) or bool(BF16_FLAGS & cpu_flags()),
    )


def overview(services: Services) -> Overview:
    """Everything there is, newest first, each list at most 20 long."""
    store = services.store
    found = Overview(
        version=version("fw"),
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


def _gpu_name() -> str | None:
    """The first NVIDIA GPU that programs here may open, by its driver's files."""
    if not Path("/dev/nvidiactl").exists():
        return None
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "NVIDIA GPU"
