"""Evaluations: one score per row of (model, dataset split, evaluator); and comparisons of two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fw_sdk.calls import Call, Listing
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path, item_path
from fw_sdk.types import (
    Comparison,
    CreateComparison,
    CreateEvaluation,
    Evaluation,
    FewShot,
    JobPlan,
    RowScore,
    Split,
    parse_request,
)

COLLECTION = "evaluationJobs"
COMPARISONS = "comparisons"


def create(
    model: str,
    dataset: str,
    evaluator: str,
    *,
    id: str | None = None,
    split: Split | str = Split.HELDOUT,
    limit: int | None = None,
    few_shot: FewShot | Mapping[str, Any] | None = None,
    display_name: str | None = None,
    reuse: bool = False,
    **sampling: Any,
) -> Call[Evaluation]:
    """Start to score a model.

    Args:
        model: a model or deployment.
        dataset: the dataset whose prompts are asked.
        evaluator: what scores the answers.
        id: the job's id.
        split: which rows; by default those that a fine-tune by default does not train on.
        limit: only the first so many.
        few_shot: examples put before each prompt: a ``FewShot``, or a dict of its fields.
        display_name: a name for people.
        reuse: return the evaluation that did the same work with the same digests, if there is one.
        sampling: fields of ``InferenceParameters`` (max_tokens, temperature, top_p, seed); greedy by default.
    """
    body = _body(id, model, dataset, evaluator, split, limit, few_shot, display_name, sampling)
    return paths.start(Evaluation, COLLECTION, body, reuse=reuse)


def plan(
    model: str,
    dataset: str,
    evaluator: str,
    *,
    split: Split | str = Split.HELDOUT,
    limit: int | None = None,
    few_shot: FewShot | Mapping[str, Any] | None = None,
    **sampling: Any,
) -> Call[JobPlan]:
    """The id that ``create`` with ``reuse`` and the same arguments would give. Starts nothing."""
    return paths.plan(COLLECTION, _body(None, model, dataset, evaluator, split, limit, few_shot, None, sampling))


def _body(
    id: str | None,
    model: str,
    dataset: str,
    evaluator: str,
    split: Split | str,
    limit: int | None,
    few_shot: FewShot | Mapping[str, Any] | None,
    display_name: str | None,
    sampling: dict[str, Any],
) -> dict[str, Any]:
    fields = paths.present(
        model=model,
        input_dataset=dataset,
        evaluator=evaluator,
        input_split=split,
        limit=limit,
        few_shot=few_shot,
        display_name=display_name,
        inference_parameters=sampling or None,
    )
    request = paths.present(evaluation_job_id=id, evaluation_job=fields)
    return parse_request(CreateEvaluation, request, not_done="nothing was evaluated").to_wire()


def get(evaluation: str) -> Call[Evaluation]:
    """One evaluation by id or full name."""
    return paths.get(Evaluation, COLLECTION, evaluation)


def list_all(*, page_size: int = 50) -> Listing[Evaluation]:
    """Every evaluation, newest first."""
    return paths.listing(Evaluation, COLLECTION, page_size)


def cancel(evaluation: str) -> Call[Evaluation]:
    """Stop an evaluation; the rows that are scored stay."""
    return paths.act(Evaluation, COLLECTION, evaluation, "cancel")


def resume(evaluation: str) -> Call[Evaluation]:
    """Go on with the rows that have no score yet."""
    return paths.act(Evaluation, COLLECTION, evaluation, "resume")


def delete(evaluation: str) -> Call[None]:
    """Delete an ended evaluation with its scores."""
    return paths.delete(COLLECTION, evaluation)


def scores(evaluation: str, *, page_size: int = 100) -> Listing[RowScore]:
    """Every row's score, answer and error, in the dataset's order."""
    return Listing(item_path(COLLECTION, evaluation, "scores"), "scores", RowScore.model_validate, page_size)


def create_comparison(baseline: str, candidate: str, *, id: str | None = None) -> Call[Comparison]:
    """Pair two ended evaluations of the same rows; better, worse, inconclusive, or invalid."""
    fields = paths.present(baseline=baseline, candidate=candidate, comparison_id=id)
    body = parse_request(CreateComparison, fields, not_done="nothing was compared").to_wire()
    return Call("POST", collection_path(COMPARISONS), Comparison.model_validate, body=body)


def get_comparison(comparison: str) -> Call[Comparison]:
    """One comparison by id or full name."""
    return paths.get(Comparison, COMPARISONS, comparison)


def list_comparisons(*, page_size: int = 50) -> Listing[Comparison]:
    """Every comparison, newest first."""
    return paths.listing(Comparison, COMPARISONS, page_size)


def delete_comparison(comparison: str) -> Call[None]:
    """Delete a comparison; its evaluations stay."""
    return paths.delete(COMPARISONS, comparison)
