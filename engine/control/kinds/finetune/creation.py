"""Supervised fine-tuning jobs: what they need is checked before they are queued."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from engine.catalog.reading import read_config
from engine.control.http.services import Services
from engine.control.inventory.datasets import with_tokens
from engine.control.inventory.references import ready_base, ready_dataset, require_rows, rows_ref
from engine.control.inventory.token_lengths import load_renderer
from engine.control.kinds.pull.creation import forget_failed
from engine.jobs.machine import usable_cores
from engine.jobs.rows import read_rows
from engine.jobs.specs import RowsRef, TrainSpec
from engine.training.estimates import estimate
from engine.training.examples import render_examples
from fw_sdk.types import (
    Dataset,
    Estimate,
    FineTuningJob,
    FwError,
    JobKind,
    Lineage,
    Model,
    ModelKind,
    SupervisedFineTuning,
    resource_id,
    resource_name,
)

COLLECTION = "supervisedFineTuningJobs"
NOT_DONE = "nothing was trained"
BUSY_LOAD = 1.5
"""Load of a core above which a plan warns that it will take longer."""


def create(services: Services, request: SupervisedFineTuning, identifier: str | None, key: str | None) -> FineTuningJob:
    """Queue a fine-tune; its output model exists from now on, UPLOADING until the job has completed."""
    identifier = resource_id(identifier, COLLECTION) if identifier else None
    existing = services.store.jobs.replayed(FineTuningJob, JobKind.FINETUNE, request, key, identifier)
    if existing is not None:
        return existing
    dataset, base = _checked(services, request)
    identifier = identifier or services.store.next_id(f"ft-{base.id}")
    output = request.output_model or services.store.next_id(f"{dataset.id}-lora")
    output = resource_id(output, "models")
    job = FineTuningJob(
        name=resource_name(COLLECTION, identifier),
        display_name=request.display_name,
        kind=JobKind.FINETUNE,
        spec=_spec(services, request, dataset, base).to_wire(),
        base_model=base.name,
        dataset=dataset.name,
        output_model=resource_name("models", output),
        training=request.config().to_wire(),
    )
    _reserve(services, job, dataset, base)
    return services.jobs.submit(job, request=request, key=key)


def estimate_cost(services: Services, request: SupervisedFineTuning) -> Estimate:
    """What the fine-tune would cost here. Starts nothing."""
    dataset, base = _checked(services, request)
    rows = rows_ref(services.home, dataset, request.dataset_split)
    totals, trained = _lengths(rows.model_dump_json(), str(base.path))
    found = estimate(read_config(Path(str(base.path))), totals, trained, request.config())
    return found.model_copy(update={"warnings": [*found.warnings, *_busy()]})


def _busy() -> list[str]:
    """A warning if others compute here, since the estimate takes all cores for its own."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load < BUSY_LOAD * cores:
        return []
    times = f"expect about {load / cores:.0f} times as long"
    return [f"this machine is busy (a load of {load:.0f} on {cores} cores): {times}"]


def _checked(services: Services, request: SupervisedFineTuning) -> tuple[Dataset, Model]:
    dataset, base = ready_dataset(services, request.dataset), ready_base(services, request.base_model)
    require_rows(dataset, request.dataset_split, NOT_DONE)
    if request.evaluation_dataset:
        require_rows(ready_dataset(services, request.evaluation_dataset), request.evaluation_split, NOT_DONE)
    limit = base.context_length
    if request.max_context_length and limit and request.max_context_length > limit:
        raise FwError(
            "invalid_argument",
            f"'maxContextLength': {request.max_context_length} is more than the {limit} tokens of '{base.id}'",
            not_done=NOT_DONE,
            param="maxContextLength",
        )
    return with_tokens(services, dataset, base.id), base


def _spec(services: Services, request: SupervisedFineTuning, dataset: Dataset, base: Model) -> TrainSpec:
    heldout: RowsRef | None = None
    if request.evaluation_dataset:
        other = ready_dataset(services, request.evaluation_dataset)
        heldout = rows_ref(services.home, other, request.evaluation_split)
    assert base.path is not None and base.digest is not None
    return TrainSpec(
        base_model=base.id,
        base_path=base.path,
        base_digest=base.digest,
        rows=rows_ref(services.home, dataset, request.dataset_split),
        heldout=heldout,
        adapters_dir=str(services.home.adapters),
        config=request.config(),
    )


def _reserve(services: Services, job: FineTuningJob, dataset: Dataset, base: Model) -> None:
    """Store the output model before its job, so that no completed job is without one."""
    assert job.output_model is not None and base.digest is not None
    identifier = resource_id(job.output_model, "models")
    forget_failed(services.store.models, identifier)
    known = services.store.models.find(identifier)
    if known is not None and known.job == job.name:
        return
    if known is not None:
        raise FwError(
            "already_exists",
            f"There is already a model '{identifier}'.",
            not_done=NOT_DONE,
            hint="choose another outputModel, or delete that model",
            param="outputModel",
        )
    lineage = Lineage(
        base_model=base.name,
        base_digest=base.digest,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        job=job.name,
        training=job.training,
    )
    model = Model(
        name=job.output_model,
        kind=ModelKind.ADAPTER,
        context_length=base.context_length,
        licence=base.licence,
        lineage=lineage,
        job=job.name,
    )
    services.store.models.create(model)


@lru_cache(maxsize=8)
def _lengths(rows_json: str, base_path: str) -> tuple[list[int], list[int]]:
    """Tokens and trained tokens of each row. Rows and weights are named by their digests, so answers stay true."""
    rows = RowsRef.model_validate_json(rows_json)
    found = read_rows(Path(rows.path), rows.split, heldout_fraction=rows.heldout_fraction, split_seed=rows.split_seed)
    examples = render_examples(found, load_renderer(base_path))
    return [len(example.tokens) for example in examples], [example.trained_tokens for example in examples]
