"""What the daemon says about itself and its machine; asks the kernel, never torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from engine.control.http.services import Services
from engine.control.machine import device
from engine.control.supervision import Loop
from fw_sdk.types import DatasetState, Health, Job, JobState, LoopState, Overview, Resource

VERSION = version("fw")
SHOWN = 20


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


def overview(services: Services) -> Overview:
    """Everything there is, newest first, each list at most 20 long, and how many there are in all."""
    store = services.store
    models, datasets, evaluators = store.models.list(SHOWN), store.datasets.list(SHOWN), store.evaluators.list(SHOWN)
    jobs, deployments = store.jobs.list(page_size=SHOWN), store.deployments.list(SHOWN)
    found = Overview(
        version=VERSION,
        home=str(services.home.root),
        device=device(),
        models=[
            _brief(m, state=m.state, kind=m.kind, contextLength=m.context_length, digest=m.digest) for m in models.items
        ],
        datasets=[
            _brief(d, state=d.state, rows=int(d.example_count), tokens=d.estimated_token_count) for d in datasets.items
        ],
        evaluators=[_brief(e, description=e.description) for e in evaluators.items],
        jobs=[_brief_job(job) for job in jobs.items],
        deployments=[_brief(d, state=d.state, model=d.base_model) for d in deployments.items],
        counts={
            "models": models.total_size,
            "datasets": datasets.total_size,
            "evaluators": evaluators.total_size,
            "jobs": jobs.total_size,
            "comparisons": store.comparisons.list(1).total_size,
            "deployments": deployments.total_size,
        },
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
