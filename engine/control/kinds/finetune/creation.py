"""Supervised fine-tunes: what they need is checked before they are queued; the adapter is taken in at their end."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.catalog.reading import read_config
from engine.control.inventory.datasets import with_tokens
from engine.control.inventory.references import ready_base, ready_dataset, ref_of, require_rows, rows_ref
from engine.control.inventory.token_lengths import load_renderer
from engine.control.jobs.context import QueueContext
from engine.control.jobs.kind import Draft
from engine.control.kinds.models_made import forget_unmade, model_made, parse_result
from engine.control.store import Store
from engine.jobs.rows import read_rows
from engine.jobs.specs import RowsRef, TrainResult, TrainSpec
from engine.training.estimates import estimate
from engine.training.examples import render_examples, rows_too_long
from fw_sdk.types import (
    Dataset,
    Estimate,
    FineTuningJob,
    FwError,
    Job,
    JobKind,
    Lineage,
    Model,
    ModelKind,
    PeftDetails,
    Ref,
    SupervisedFineTuning,
    resource_id,
    resource_name,
)

NOT_DONE = "nothing was trained"
BUSY_LOAD = 1.5
"""Load of a core above which a plan warns that it will take longer."""


def draft(context: QueueContext, request: SupervisedFineTuning) -> Draft:
    """A fine-tune of a READY base on READY rows, each with its digest."""
    dataset, base = _checked(context, request)
    check_lengths(context, request)
    output = resource_id(request.output_model, "models") if request.output_model else None
    other = ready_dataset(context, request.evaluation_dataset) if request.evaluation_dataset else None
    heldout = rows_ref(context.home, other, request.validation_split) if other else None
    uses = [ref_of(base), ref_of(dataset)]
    if other is not None and other.id != dataset.id:
        uses.append(ref_of(other))
    job = FineTuningJob(
        name="",
        display_name=request.display_name,
        kind=JobKind.FINETUNE,
        spec=_spec(context, request, dataset, base, heldout).to_wire(),
        uses=uses,
        base_model=base.name,
        dataset=dataset.name,
        output_model=resource_name("models", output) if output else None,
        training=request.config().to_wire(),
    )
    return Draft(job, f"ft-{base.id}")


def estimate_cost(context: QueueContext, request: SupervisedFineTuning) -> Estimate:
    """What the fine-tune would cost here. Starts nothing."""
    dataset, base = _checked(context, request)
    rows = rows_ref(context.home, dataset, request.dataset_split)
    _, totals, trained_tokens = _lengths(rows.model_dump_json(), str(base.path))
    found = estimate(read_config(Path(str(base.path))), totals, trained_tokens, request.config())
    return found.model_copy(update={"warnings": [*found.warnings, *_busy()]})


def check_lengths(context: QueueContext, request: SupervisedFineTuning) -> None:
    """Raise ``dataset_invalid`` with their lines if rows are longer than the model, or the request, allows."""
    dataset, base = _checked(context, request)
    rows = rows_ref(context.home, dataset, request.dataset_split)
    lines, totals, _ = _lengths(rows.model_dump_json(), str(base.path))
    context_length = read_config(Path(str(base.path))).max_context
    limit = min(context_length, request.max_context_length or context_length)
    too_long = [(line, total) for line, total in zip(lines, totals, strict=True) if total > limit]
    if too_long:
        raise rows_too_long(too_long, limit)


def _busy() -> list[str]:
    """A warning if others compute here, since the estimate takes all cores for its own."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < BUSY_LOAD * cores:
        return []
    times = f"expect about {load / cores:.0f} times as long"
    return [f"this machine is busy (a load of {load:.0f} on {cores} cores): {times}"]


def _checked(context: QueueContext, request: SupervisedFineTuning) -> tuple[Dataset, Model]:
    dataset, base = ready_dataset(context, request.dataset), ready_base(context, request.base_model)
    require_rows(dataset, request.dataset_split, NOT_DONE)
    if request.evaluation_dataset:
        require_rows(ready_dataset(context, request.evaluation_dataset), request.validation_split, NOT_DONE)
    limit = base.context_length
    if request.max_context_length and limit and request.max_context_length > limit:
        raise FwError(
            "invalid_argument",
            f"'maxContextLength': {request.max_context_length} is more than the {limit} tokens of '{base.id}'",
            not_done=NOT_DONE,
            param="maxContextLength",
        )
    return with_tokens(context, dataset, base.id), base


def _spec(
    context: QueueContext, request: SupervisedFineTuning, dataset: Dataset, base: Model, heldout: RowsRef | None
) -> TrainSpec:
    assert base.path is not None and base.digest is not None
    return TrainSpec(
        base_model=base.id,
        base_path=base.path,
        base_digest=base.digest,
        rows=rows_ref(context.home, dataset, request.dataset_split),
        heldout=heldout,
        adapters_dir=str(context.home.adapters),
        config=request.config(),
    )


def reserve_output(context: QueueContext, job: Job) -> Job:
    """Store the output model before its job, so that no completed job is without one; returns the job that names it."""
    assert isinstance(job, FineTuningJob) and job.dataset is not None and job.base_model is not None
    dataset = job.dataset.rsplit("/", 1)[-1]
    output = job.output_model or resource_name("models", context.store.next_id(f"{dataset}-lora"))
    job = job.model_copy(update={"output_model": output, "makes": output})
    identifier = resource_id(output, "models")
    forget_unmade(context.store, identifier)
    known = context.store.models.find(identifier)
    if known is not None and known.job != job.name:
        raise FwError(
            "already_exists",
            f"There is already a model '{identifier}'.",
            not_done=NOT_DONE,
            hint="choose another outputModel, or delete that model",
            param="outputModel",
        )
    if known is None:
        context.store.models.create(_expected(context, job, output))
    return job


def _expected(context: QueueContext, job: FineTuningJob, output: str) -> Model:
    """The adapter as it is known before it is trained: with the digests of what it comes from."""
    base = context.store.models.get(resource_id(str(job.base_model), "models"))
    rows = TrainSpec.model_validate(job.spec).rows
    refs: dict[str, Ref] = {ref.name: ref for ref in job.uses}
    lineage = Lineage(
        base_model=base.name,
        base_digest=str(refs[base.name].digest),
        dataset=job.dataset,
        dataset_digest=rows.digest,
        split=rows.split,
        heldout_fraction=rows.heldout_fraction,
        split_seed=rows.split_seed,
        job=job.name,
        training=job.training,
    )
    return Model(
        name=output,
        kind=ModelKind.ADAPTER,
        context_length=base.context_length,
        licence=base.licence,
        lineage=lineage,
        job=job.name,
    )


def trained(store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """The adapter that was written becomes the job's model."""
    found = parse_result(TrainResult, result)
    assert isinstance(job, FineTuningJob) and job.base_model
    details = PeftDetails(
        base_model=job.base_model, r=found.rank, alpha=found.alpha, target_modules=found.target_modules
    )
    fields = {"path": found.adapter_path, "digest": found.adapter_digest, "bytes": found.bytes}
    model_made(store, job, {**fields, "peft_details": details})
    return {}


@lru_cache(maxsize=8)
def _lengths(rows_json: str, base_path: str) -> tuple[list[int], list[int], list[int]]:
    """Line, tokens and trained tokens of each row. Rows and weights are named by digest, so answers stay true."""
    rows = RowsRef.model_validate_json(rows_json)
    found = read_rows(Path(rows.path), rows.split, heldout_fraction=rows.heldout_fraction, split_seed=rows.split_seed)
    examples = render_examples(found, load_renderer(base_path))
    lines, totals = [example.line for example in examples], [len(example.tokens) for example in examples]
    return lines, totals, [example.trained_tokens for example in examples]
