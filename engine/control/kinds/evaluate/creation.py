"""What an evaluation needs is checked, and pinned by digest, before it is queued; its result is taken in."""

from __future__ import annotations

from typing import Any

from engine.control.inventory.references import (
    evaluator_of,
    evaluator_path,
    model_refs,
    ready_dataset,
    ref_of,
    require_rows,
    rows_ref,
)
from engine.control.inventory.resolution import MODELS, not_ready, resolve
from engine.control.jobs.context import QueueContext
from engine.control.jobs.kind import Draft
from engine.control.kinds.models_made import parse_result
from engine.control.store import Store
from engine.jobs.specs import EvaluateResult, EvaluateSpec, FewShotRows
from fw_sdk.types import (
    CreateEvaluation,
    Dataset,
    Deployment,
    DeploymentState,
    Evaluation,
    EvaluationFields,
    Evaluator,
    FwError,
    Job,
    JobKind,
    Model,
    ModelState,
    Ref,
    resource_id,
)

NOT_DONE = "nothing was evaluated"


def draft(context: QueueContext, request: CreateEvaluation) -> Draft:
    """An evaluation of a READY model, or of what a deployment serves, each input with its digest."""
    fields = request.evaluation_job
    evaluator, dataset = evaluator_of(context, fields.evaluator), ready_dataset(context, fields.input_dataset)
    require_rows(dataset, fields.input_split, NOT_DONE)
    named = resolve(context.store, fields.model, MODELS)
    deployment = named.found if isinstance(named.found, Deployment) else None
    model = _scored_model(context.store, named.found)
    uses = [*model_refs(context, model), ref_of(dataset), ref_of(evaluator)]
    if deployment is not None:
        uses.append(Ref(name=deployment.name, digest=deployment.serving_digest or deployment.model_digest))
    examples = ready_dataset(context, fields.few_shot.dataset) if fields.few_shot else None
    if examples is not None and examples.id != dataset.id:
        uses.append(ref_of(examples))
    job = Evaluation(
        name="",
        display_name=fields.display_name,
        kind=JobKind.EVALUATE,
        spec=_spec(context, fields, evaluator, dataset, examples, (deployment or model).name, model).to_wire(),
        uses=uses,
        evaluator=evaluator.name,
        evaluator_digest=evaluator.digest,
        input_dataset=dataset.name,
        dataset_digest=dataset.digest,
        input_split=fields.input_split,
        model=model.name,
        model_digest=model.digest,
        deployment=deployment.name if deployment else None,
        notes=[_shadow(fields.model, named.found, named.shadowed)] if named.shadowed else [],
    )
    return Draft(job, f"eval-{(deployment or model).id}")


def _scored_model(store: Store, found: Deployment | Model) -> Model:
    """The model to score, READY; of a deployment, the one that it serves."""
    if isinstance(found, Deployment):
        if found.state not in (DeploymentState.READY, DeploymentState.CREATING):
            raise FwError(
                "failed_precondition",
                f"Deployment '{found.id}' is {found.state}.",
                not_done=NOT_DONE,
                hint="deploy the model again, or evaluate the model itself",
                param="model",
            )
        found = store.models.get(resource_id(found.base_model, "models"))
    if found.state is not ModelState.READY:
        raise not_ready(store, found)
    return found


def _shadow(name: str, found: Deployment | Model, shadowed: Deployment | Model) -> str:
    """What to say where one bare id names a model and a deployment."""
    deployment = shadowed if isinstance(shadowed, Deployment) else found
    assert isinstance(deployment, Deployment)
    served = deployment.base_model.rsplit("/", 1)[-1]
    taken = "the deployment" if deployment is found else "the model"
    other = "models" if deployment is found else "deployments"
    return (
        f"'{name}' names a model and a deployment, which serves '{served}'; this is about {taken}. "
        f"'{other}/{shadowed.id}' names the other."
    )


def _spec(
    context: QueueContext,
    fields: EvaluationFields,
    evaluator: Evaluator,
    dataset: Dataset,
    examples: Dataset | None,
    asked: str,
    model: Model,
) -> EvaluateSpec:
    few_shot = None
    if fields.few_shot and examples is not None:
        require_rows(examples, fields.few_shot.split, NOT_DONE)
        rows = rows_ref(context.home, examples, fields.few_shot.split)
        few_shot = FewShotRows(rows=rows, count=fields.few_shot.count, seed=fields.few_shot.seed)
    return EvaluateSpec(
        model=asked,
        model_digest=model.digest,
        base_url=context.settings.base_url,
        rows=rows_ref(context.home, dataset, fields.input_split),
        evaluator_path=str(evaluator_path(context.home, evaluator.digest)),
        evaluator_digest=evaluator.digest,
        entry_function=evaluator.entry_function,
        inference=fields.inference_parameters,
        few_shot=few_shot,
        limit=fields.limit,
    )


def scored(_store: Store, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """The summary and the configuration that was scored become fields of the evaluation."""
    found = parse_result(EvaluateResult, result)
    assert isinstance(job, Evaluation)
    names = ("configuration", "summary", "tokens_generated", "tokens_prompt", "seconds")
    return {name: getattr(found, name) for name in names}
