"""Comparisons: two completed evaluations of the same rows, paired line by line, held with all their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

from engine.control.context import Context
from engine.control.evidence.scores import all_scores, digest_scores
from engine.control.inventory.questions import scored_questions, trained_questions
from engine.control.inventory.references import digest_now
from engine.evals.statistics import compare, compare_extra, scores_by_line
from engine.jobs.rows import canonical
from engine.jobs.specs import RowsRef
from fw_sdk.types import (
    Comparison,
    CreateComparison,
    Evaluation,
    Evidence,
    FwError,
    JobState,
    Model,
    Ref,
    RowScore,
    resource_id,
    resource_name,
)

NOT_DONE = "nothing was compared"


def create(context: Context, request: CreateComparison) -> Comparison:
    """Compare two evaluations; the same two, with the same scores, are compared once.

    Raises:
        FwError: ``failed_precondition`` unless both are completed and scored the same rows by the same evaluator;
            ``already_exists`` if the id has a comparison of others, also of earlier ones under the same names.
    """
    sides = [_completed(context, name) for name in (request.baseline, request.candidate)]
    baseline, candidate = sides
    _check_same_rows(baseline, candidate)
    rows = [all_scores(context, side.id) for side in sides]
    evidence = [_evidence(side, scores) for side, scores in zip(sides, rows, strict=True)]
    evaluator = _ref(candidate.evaluator, candidate.evaluator_digest)
    refs = [ref for side in evidence for ref in (side.evaluation, side.model, _configured(side))]
    refs += [ref for ref in (_split_rows(candidate), evaluator) if ref]
    identifier = resource_id(request.comparison_id or _derived_id(candidate, refs), "comparisons")
    existing = context.store.comparisons.replayed(request, identifier, refs)
    if existing is not None:
        return existing
    before, after = map(scores_by_line, rows)
    if set(before) != set(after):
        raise _different("rows", f"{len(before)} lines", f"{len(after)} lines", "give both evaluations the same limit")
    comparison = Comparison(
        name=resource_name("comparisons", identifier),
        baseline=baseline.name,
        candidate=candidate.name,
        baseline_model=baseline.model,
        candidate_model=candidate.model,
        baseline_evidence=evidence[0],
        candidate_evidence=evidence[1],
        dataset=_ref(candidate.input_dataset, candidate.dataset_digest),
        split=candidate.input_split,
        evaluator=evaluator,
        verified=all(side.configuration is not None for side in evidence),
        trained_on=_trained_on(context, candidate, set(after)),
        extra=compare_extra(*rows),
        cost=_cost("baseline", baseline) | _cost("candidate", candidate),
        **asdict(compare(before, after, candidate.summary.score_range if candidate.summary else None)),
    )
    return context.store.comparisons.create(comparison, request=request, refs=refs)


def shown(context: Context, comparison: Comparison) -> Comparison:
    """A comparison with what its names stand for today, where that is not what was compared."""
    sides = [side for side in (comparison.baseline_evidence, comparison.candidate_evidence) if side]
    refs = [side.model for side in sides] + [ref for ref in (comparison.dataset, comparison.evaluator) if ref]
    superseded = []
    for ref in {ref.name: ref for ref in refs}.values():
        now = digest_now(context, ref)
        if now != ref.digest:
            what = f"is {now[:19]} now" if now else "is gone"
            superseded.append(f"'{ref.id}' {what}; this is about {str(ref.digest)[:19]}")
    return comparison.model_copy(update={"superseded": superseded})


def delete(context: Context, identifier: str) -> None:
    """Remove a comparison; ``failed_precondition`` if a deployment rests on it."""

    def check(found: Comparison) -> None:
        for deployment in context.store.deployments.all():
            served = filter(None, (deployment, deployment.previous))
            if any(one.comparison == found.name for one in served):
                raise FwError(
                    "failed_precondition",
                    f"Comparison '{identifier}' is why deployment '{deployment.id}' is served.",
                    not_done="it was not deleted",
                    hint="delete that deployment first, or replace it",
                )

    context.store.comparisons.delete(identifier, check)


def _completed(context: Context, name: str) -> Evaluation:
    evaluation = context.store.jobs.get(resource_id(name, "evaluationJobs"), Evaluation)
    if evaluation.state is not JobState.COMPLETED:
        word = evaluation.state.removeprefix("JOB_STATE_").lower()
        raise FwError(
            "failed_precondition",
            f"Evaluation '{evaluation.id}' is {word}, not completed.",
            not_done=NOT_DONE,
            hint=f"wait for it: GET /v1/accounts/local/jobs/{evaluation.id}:wait",
        )
    return evaluation


def _evidence(evaluation: Evaluation, scores: Sequence[RowScore]) -> Evidence:
    configuration = evaluation.configuration
    digest = configuration.serving_digest if configuration else None
    return Evidence(
        evaluation=Ref(name=evaluation.name, digest=digest_scores(scores)),
        model=Ref(
            name=str(evaluation.model), digest=configuration.model_digest if configuration else evaluation.model_digest
        ),
        deployment=Ref(name=evaluation.deployment, digest=digest) if evaluation.deployment else None,
        configuration=configuration,
    )


def _configured(side: Evidence) -> Ref:
    """How a side was asked: other sampling may give the same scores, and is another measurement."""
    configuration = side.configuration.to_wire() if side.configuration else None
    return Ref(name=side.evaluation.name, digest=hashlib.sha256(canonical(configuration)).hexdigest())


def _derived_id(candidate: Evaluation, refs: Sequence[Ref]) -> str:
    """The id under which a comparison of these very scores of these very weights is found."""
    digest = hashlib.sha256(canonical([ref.to_wire() for ref in refs])).hexdigest()[:8]
    return f"cmp-{(candidate.model or 'model').rsplit('/', 1)[-1][:48].rstrip('-._')}-{digest}"


def _split_rows(evaluation: Evaluation) -> Ref | None:
    """The dataset as the evaluation used it: its rows and their split."""
    used = (ref for ref in evaluation.uses if ref.name == evaluation.input_dataset)
    return next(used, _ref(evaluation.input_dataset, evaluation.dataset_digest))


def _ref(name: str | None, digest: str | None) -> Ref | None:
    return Ref(name=name, digest=digest) if name else None


def _trained_on(context: Context, evaluation: Evaluation, lines: set[int]) -> int | None:
    """How many of the scored rows ask what the model's training had asked; None if that is not known any more."""
    model = _scored_model(context, evaluation)
    taught = trained_questions(context, model) if model is not None else None
    if taught is None or not taught:
        return taught if taught is None else 0
    asked = scored_questions(context.home, _scored_rows(evaluation), lines)
    return None if asked is None else sum(question in taught for question in asked)


def _scored_rows(evaluation: Evaluation) -> RowsRef:
    """The rows of an evaluation, by digest."""
    rows = evaluation.spec.get("rows")
    if rows is not None:
        return RowsRef.model_validate(rows, extra="ignore")
    return RowsRef(path="", split=evaluation.input_split, digest=str(evaluation.dataset_digest), name="")


def _scored_model(context: Context, evaluation: Evaluation) -> Model | None:
    """The model with the weights that were scored, under whatever name it has today."""
    configuration = evaluation.configuration
    digest = configuration.model_digest if configuration else evaluation.model_digest
    named = context.store.models.find(resource_id(evaluation.model or "", "models"))
    if named is not None and named.digest == digest:
        return named
    return next((model for model in context.store.models.all() if model.digest == digest), None)


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
