"""A pipeline as a job: names that exist, and the digests that they stand for."""

from __future__ import annotations

from engine.control.inventory.references import ref_of
from engine.control.inventory.resolution import named_model
from engine.control.jobs.context import QueueContext
from engine.control.jobs.kind import Draft
from engine.control.kinds.pipeline.plan import Plan
from fw_sdk.types import CreatePipeline, Job, JobKind, Pipeline, resource_id, resource_name


def draft(context: QueueContext, request: CreatePipeline) -> Draft:
    """A pipeline that begins by itself. Unknown names are refused here, their states are checked by its first step."""
    store = context.store
    base = named_model(store, request.base_model)
    dataset = store.datasets.get(resource_id(request.dataset, "datasets"))
    uses = [ref_of(base), ref_of(dataset), ref_of(store.evaluators.get(resource_id(request.evaluator, "evaluators")))]
    if request.evaluation_dataset:
        other = store.datasets.get(resource_id(request.evaluation_dataset, "datasets"))
        uses += [ref_of(other)] if other.id != dataset.id else []
    pipeline = Pipeline(
        name="", kind=JobKind.PIPELINE, request=request.to_wire(), steps=Plan.first_steps(request), uses=uses
    )
    return Draft(pipeline, dataset.id)


def name_output(context: QueueContext, job: Job) -> Job:
    """The job with the name of the model that it will make."""
    assert isinstance(job, Pipeline)
    generation = context.store.jobs.next_generation(job.id)
    plan = Plan(job.id, CreatePipeline.model_validate(job.request, extra="ignore"), generation)
    return job.model_copy(update={"makes": resource_name("models", plan.output_model)})
