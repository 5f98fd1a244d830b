"""Evaluators: Python files that score rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fw_sdk.calls import Call, Listing
from fw_sdk.files import evaluator_source, id_from
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path, item_path
from fw_sdk.types import CheckEvaluator, CreateEvaluator, Evaluator, RowScore, parse_request

COLLECTION = "evaluators"


def create(
    evaluator: str | Path,
    *,
    id: str | None = None,
    entry_function: str = "evaluate",
    display_name: str | None = None,
    description: str | None = None,
) -> Call[Evaluator]:
    """Register an evaluator.

    Args:
        evaluator: path of a Python file, or its source (a string with a line break).
        id: its id; the file's stem by default.
        entry_function: the function that scores one row: ``evaluate(messages, ground_truth=None, **row)``.
        display_name: a name for people.
        description: what the score means.

    Raises:
        EvaluatorInvalidError: the source has a syntax error or lacks the function.
        NotFoundError: no such file.
    """
    not_done = "no evaluator was created"
    source, stem = evaluator_source(evaluator, not_done=not_done)
    fields = paths.present(
        evaluator_id=id or id_from(stem or "evaluator", "evaluator"),
        source=source,
        entry_function=entry_function,
        display_name=display_name,
        description=description,
    )
    body = parse_request(CreateEvaluator, fields, not_done=not_done)
    return Call("POST", collection_path("evaluatorsV2"), Evaluator.model_validate, body=body.to_wire())


def get(evaluator: str) -> Call[Evaluator]:
    """One evaluator by id or full name."""
    return paths.get(Evaluator, COLLECTION, evaluator)


def list_all(*, page_size: int = 50) -> Listing[Evaluator]:
    """Every evaluator, newest first."""
    return paths.listing(Evaluator, COLLECTION, page_size)


def delete(evaluator: str) -> Call[None]:
    """Delete an evaluator that nothing uses."""
    return paths.delete(COLLECTION, evaluator)


def check(
    evaluator: str,
    *,
    dataset: str | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    answers: Sequence[str] | None = None,
    limit: int = 5,
) -> Call[list[RowScore]]:
    """Score a few rows: given answers, or the rows' own last assistant messages. Exactly one of dataset and rows."""
    fields = paths.present(dataset=dataset, rows=rows, answers=answers, limit=limit)
    body = parse_request(CheckEvaluator, fields, not_done="nothing was scored")
    return Call("POST", item_path(COLLECTION, evaluator, "check"), _scores, body=body.to_wire(), timeout_s=600)


def _scores(body: Any) -> list[RowScore]:
    return [RowScore.model_validate(score) for score in body["scores"]]
