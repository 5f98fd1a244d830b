"""Evaluators: stored by the digest of their source, and tried on a few rows before they count."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from engine.control.context import Context
from engine.control.inventory.dataset_rows import RowError, check_messages
from engine.control.inventory.files import UPLOAD, drop_sources, place
from engine.control.inventory.references import evaluator_path, ready_dataset, rows_of
from engine.evals.evaluators import EvaluatorProcess, check_source
from engine.jobs.rows import Row, canonical
from fw_sdk.types import (
    CheckEvaluator,
    CreateEvaluator,
    Evaluator,
    FwError,
    RowScore,
    Split,
    resource_id,
    resource_name,
)

BYTE_ORDER_MARK = "\ufeff"
"""What some editors write before the first character of a file; no part of the program."""


def create(context: Context, request: CreateEvaluator) -> Evaluator:
    """Store an evaluator whose source can be parsed and defines its entry function. Runs nothing."""
    identifier = resource_id(request.evaluator_id, "evaluators")
    existing = context.store.evaluators.replayed(request, identifier)
    if existing is not None:
        return existing
    source = request.source.removeprefix(BYTE_ORDER_MARK)
    score_range = check_source(source, request.entry_function)
    data = source.encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    evaluator = Evaluator(
        name=resource_name("evaluators", identifier),
        display_name=request.display_name,
        description=request.description,
        digest=digest,
        entry_function=request.entry_function,
        score_range=score_range,
    )
    with NamedTemporaryFile(prefix=UPLOAD, dir=context.home.evaluators) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        path = evaluator_path(context.home, digest)
        return context.store.evaluators.create(evaluator, request=request, place=lambda: place(Path(file.name), path))


def check(
    context: Context, identifier: str, request: CheckEvaluator, stop: threading.Event | None = None
) -> list[RowScore]:
    """Score a few rows in the evaluator's own process: given answers, or the rows' own.

    Raises:
        FwError: ``cancelled`` soon after ``stop`` was set.
    """
    evaluator = context.store.evaluators.get(identifier)
    rows = _sample(context, request)
    if request.answers is not None and len(request.answers) != len(rows):
        raise FwError(
            "invalid_argument",
            f"'answers' has {len(request.answers)} entries for {len(rows)} rows",
            not_done="nothing was scored",
            param="answers",
        )
    path = evaluator_path(context.home, evaluator.digest)
    with EvaluatorProcess(path, evaluator.entry_function, stop=stop) as process:
        return [_score(process, index, row, request.answers) for index, row in enumerate(rows)]


def _sample(context: Context, request: CheckEvaluator) -> list[Row]:
    if (request.dataset is None) == (request.rows is None):
        raise FwError("invalid_argument", "give either 'dataset' or 'rows'", not_done="nothing was scored")
    if request.dataset is not None:
        dataset = ready_dataset(context, request.dataset)
        return rows_of(context.home, dataset, Split.ALL)[: request.limit]
    rows = [Row(line, data) for line, data in enumerate(request.rows or [], 1)][: request.limit]
    for row in rows:
        try:
            check_messages({"ground_truth": None, **row.data, **_question(row.data)})
        except RowError as error:
            message = f"row {row.line}: {error}"
            raise FwError("invalid_argument", message, not_done="nothing was scored", param="rows") from None
    return rows


def _question(data: dict[str, Any]) -> dict[str, Any]:
    """The messages before the answer that ends them: any answer may be scored, an empty one too."""
    match data.get("messages"):
        case [_, *_, {"role": "assistant"}] as messages:
            return {"messages": messages[:-1]}
    return {}


def _score(process: EvaluatorProcess, index: int, row: Row, answers: list[str] | None) -> RowScore:
    message = _own_answer(row) if answers is None else {"role": "assistant", "content": answers[index]}
    others = {name: value for name, value in row.data.items() if name not in ("messages", "ground_truth")}
    scored = process.score([*row.prompt, message], row.ground_truth, others)
    calls = message.get("tool_calls")
    output = str(message.get("content") or (canonical(calls).decode() if calls else ""))
    return RowScore(
        index=index, line=row.line, score=scored.score, output=output, error=scored.error, details=scored.details
    )


def _own_answer(row: Row) -> dict[str, Any]:
    """The row's last assistant message; of a row that ends with the question, its ground truth if that is a text."""
    last = row.messages[-1]
    if last.get("role") == "assistant":
        return last
    return {"role": "assistant", "content": row.ground_truth if isinstance(row.ground_truth, str) else ""}


def delete(context: Context, identifier: str) -> None:
    """Remove an evaluator that no unfinished job uses, and its source unless another evaluator has the same."""
    context.store.evaluators.delete(identifier)
    drop_sources(context)
