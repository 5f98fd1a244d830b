"""Comparisons: two completed evaluations of the same rows, paired line by line."""

from __future__ import annotations

from dataclasses import asdict

from engine.control.http.services import Services
from engine.control.inventory.references import rows_of
from engine.control.kinds.evaluate.creation import all_scores
from engine.evals.overlap import question_key
from engine.evals.statistics import compare, compare_extra, scores_by_line
from engine.jobs.rows import Row
from engine.jobs.specs import TrainSpec
from fw_sdk.types import (
    Comparison,
    CreateComparison,
    Evaluation,
    FineTuningJob,
    FwError,
    JobState,
    Split,
    resource_id,
    resource_name,
)

NOT_DONE = "nothing was compared"


def create(services: Services, request: CreateComparison, key: str | None) -> Comparison:
    """Compare two evaluations.

    Raises:
        FwError: ``failed_precondition`` unless both are completed and scored the same rows by the same evaluator.
    """
    wanted = resource_id(request.comparison_id, "comparisons") if request.comparison_id else None
    existing = services.store.comparisons.replayed(request, key, wanted)
    if existing is not None:
        return existing
    baseline, candidate = _completed(services, request.baseline), _completed(services, request.candidate)
    _check_same_rows(baseline, candidate)
    rows = [all_scores(services, side.id) for side in (baseline, candidate)]
    before, after = map(scores_by_line, rows)
    if set(before) != set(after):
        raise _different("rows", f"{len(before)} lines", f"{len(after)} lines", "give both evaluations the same limit")
    numbers = compare(before, after, candidate.summary.score_range if candidate.summary else None)
    model = (candidate.model or "model").rsplit("/", 1)[-1]
    comparison = Comparison(
        name=resource_name("comparisons", wanted or services.store.next_id(f"cmp-{model}")),
        baseline=baseline.name,
        candidate=candidate.name,
        baseline_model=baseline.model,
        candidate_model=candidate.model,
        trained_on=_trained_on(services, candidate, set(after)),
        extra=compare_extra(*rows),
        cost=_cost("baseline", baseline) | _cost("candidate", candidate),
        **asdict(numbers),
    )
    return services.store.comparisons.create(comparison, request=request, key=key)


def _completed(services: Services, name: str) -> Evaluation:
    evaluation = services.store.jobs.get(resource_id(name, "evaluationJobs"), Evaluation)
    if evaluation.state is not JobState.COMPLETED:
        word = evaluation.state.removeprefix("JOB_STATE_").lower()
        raise FwError(
            "failed_precondition",
            f"Evaluation '{evaluation.id}' is {word}, not completed.",
            not_done=NOT_DONE,
            hint=f"wait for it: GET /v1/accounts/local/jobs/{evaluation.id}:wait",
        )
    return evaluation


def _trained_on(services: Services, evaluation: Evaluation, lines: set[int]) -> int:
    """How many of the scored rows ask what the model's training had asked; 0 for a model that was not trained here."""
    model = services.store.models.find(resource_id(evaluation.model or "", "models"))
    job = model.lineage.job if model is not None and model.lineage is not None else None
    training = services.store.jobs.find(resource_id(job, "supervisedFineTuningJobs")) if job else None
    if not isinstance(training, FineTuningJob) or not training.dataset or not evaluation.input_dataset:
        return 0
    split = TrainSpec.model_validate(training.spec).rows.split
    taught = {question_key(row) for row in _rows(services, training.dataset, split)}
    scored = _rows(services, evaluation.input_dataset, evaluation.input_split)
    return sum(row.line in lines and question_key(row) in taught for row in scored)


def _rows(services: Services, dataset: str, split: Split) -> list[Row]:
    return rows_of(services.home, services.store.datasets.get(resource_id(dataset, "datasets")), split)


def _check_same_rows(one: Evaluation, two: Evaluation) -> None:
    fields = {"dataset digest": "dataset_digest", "split": "input_split", "evaluator digest": "evaluator_digest"}
    for words, field in fields.items():
        if getattr(one, field) != getattr(two, field):
            hint = "evaluate both on the same dataset, split and evaluator"
            raise _different(words, str(getattr(one, field)), str(getattr(two, field)), hint)


def _different(what: str, one: str, two: str, hint: str) -> FwError:
    message = f"The evaluations cannot be paired: their {what} differ ({one} and {two})."
    return FwError("failed_precondition", message, not_done=NOT_DONE, hint=hint)


def _cost(side: str, evaluation: Evaluation) -> dict[str, float]:
    prompt, generated = evaluation.tokens_prompt, evaluation.tokens_generated
    return {
        f"{side}_tokens": float(prompt + generated),
        f"{side}_prompt_tokens": float(prompt),
        f"{side}_generated_tokens": float(generated),
        f"{side}_seconds": evaluation.seconds,
    }
