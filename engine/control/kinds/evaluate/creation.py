"""Evaluation jobs and their scores."""

from __future__ import annotations

from engine.control.http.services import Services
from engine.control.inventory.model_names import ready_model
from engine.control.inventory.references import (
    evaluator_of,
    evaluator_path,
    ready_dataset,
    require_rows,
    rows_ref,
)
from engine.control.store.documents import decode_token, encode_token, page_size
from engine.jobs.files import read_lines
from engine.jobs.specs import EvaluateSpec, FewShotRows
from fw_sdk.types import (
    CreateEvaluation,
    Dataset,
    Evaluation,
    EvaluationFields,
    Evaluator,
    JobKind,
    Model,
    Page,
    RowScore,
    resource_id,
    resource_name,
)

COLLECTION = "evaluationJobs"
NOT_DONE = "nothing was evaluated"


def create(services: Services, request: CreateEvaluation, key: str | None) -> Evaluation:
    """Queue an evaluation of a READY model, or of what a deployment serves."""
    identifier = resource_id(request.evaluation_job_id, COLLECTION) if request.evaluation_job_id else None
    existing = services.store.jobs.replayed(Evaluation, JobKind.EVALUATE, request, key, identifier)
    if existing is not None:
        return existing
    fields = request.evaluation_job
    evaluator, dataset = evaluator_of(services, fields.evaluator), ready_dataset(services, fields.input_dataset)
    require_rows(dataset, fields.input_split, NOT_DONE)
    model = ready_model(services.store, _served_model(services, fields.model))
    identifier = identifier or services.store.next_id(f"eval-{model.id}")
    job = Evaluation(
        name=resource_name(COLLECTION, identifier),
        display_name=fields.display_name,
        kind=JobKind.EVALUATE,
        spec=_spec(services, fields, evaluator, dataset, model).to_wire(),
        evaluator=evaluator.name,
        evaluator_digest=evaluator.digest,
        input_dataset=dataset.name,
        dataset_digest=dataset.digest,
        input_split=fields.input_split,
        model=model.name,
    )
    return services.jobs.submit(job, request=request, key=key)


def _served_model(services: Services, name: str) -> str:
    """The model that a name stands for: a model's own, or the one behind a deployment."""
    deployment = services.store.deployments.find(name.removeprefix("accounts/local/deployments/"))
    known = services.store.models.find(name.removeprefix("accounts/local/models/"))
    return deployment.base_model if known is None and deployment is not None else name


def _spec(
    services: Services, fields: EvaluationFields, evaluator: Evaluator, dataset: Dataset, model: Model
) -> EvaluateSpec:
    few_shot = None
    if fields.few_shot:
        examples = ready_dataset(services, fields.few_shot.dataset)
        require_rows(examples, fields.few_shot.split, NOT_DONE)
        rows = rows_ref(services.home, examples, fields.few_shot.split)
        few_shot = FewShotRows(rows=rows, count=fields.few_shot.count, seed=fields.few_shot.seed)
    return EvaluateSpec(
        model=model.id,
        base_url=services.settings.base_url,
        rows=rows_ref(services.home, dataset, fields.input_split),
        evaluator_path=str(evaluator_path(services.home, evaluator.digest)),
        evaluator_digest=evaluator.digest,
        entry_function=evaluator.entry_function,
        inference=fields.inference_parameters,
        few_shot=few_shot,
        limit=fields.limit,
    )


def all_scores(services: Services, identifier: str) -> list[RowScore]:
    """Every score that stands on disk by now, in the order of the file."""
    services.store.jobs.get(identifier, Evaluation)
    path = services.jobs.directory(identifier) / "scores.jsonl"
    return [RowScore.model_validate(value) for value, _ in read_lines(path)]


def scores(services: Services, identifier: str, size: int, token: str | None) -> Page[RowScore]:
    """One page of scores by row index; a running evaluation shows what is scored so far."""
    found = sorted(all_scores(services, identifier), key=lambda score: score.index)
    begin = decode_token(token) or 0
    end = begin + page_size(size)
    return Page(
        items=found[begin:end],
        next_page_token=encode_token(end) if end < len(found) else None,
        total_size=len(found),
    )
