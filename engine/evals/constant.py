"""What a model that always gives the same answer would score: below that, nothing of the question was understood."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from engine.evals.evaluators import EvaluatorProcess
from engine.evals.statistics import mean_bar, too_many_missing
from engine.jobs.rows import Row
from fw_sdk.types import ConstantAnswer, RowScore

MIN_ROWS = 8
MAX_DISTINCT = 24
"""Wanted answers that are more various than that are no labels, and none of them is common."""
BUDGET_S = 20.0


def distinct_answers(scores: Sequence[RowScore]) -> int:
    """How many different answers the model gave, spaces around them apart."""
    return len({row.output.strip() for row in scores if row.output or row.error is None})


def commonest_answer(rows: Sequence[Row]) -> tuple[str, float] | None:
    """The text that most rows want, and the share that wants it; None where rows are few or all want another."""
    wanted = [text.strip() for row in rows if (text := _wanted(row))]
    if len(wanted) < MIN_ROWS or len(wanted) < len(rows):
        return None
    counted = Counter(wanted)
    answer, count = min(counted.items(), key=lambda item: (-item[1], item[0]))
    return (answer, count / len(rows)) if count > 1 and len(counted) <= MAX_DISTINCT else None


def constant_baseline(evaluator: EvaluatorProcess, rows: Sequence[Row]) -> ConstantAnswer | None:
    """Score the commonest answer on every row; None if there is none, or the evaluator fails or is too slow for it."""
    found = commonest_answer(rows)
    if found is None:
        return None
    answer, share = found
    message = {"role": "assistant", "content": answer}
    scores: list[float | None] = []
    deadline = time.monotonic() + BUDGET_S
    for row in rows:
        if time.monotonic() > deadline:
            return None
        scores.append(evaluator.score([*row.prompt, message], row.ground_truth, row.data).score)
    if too_many_missing(scores.count(None), len(scores)):
        return None
    return ConstantAnswer(answer=answer, share=share, mean=mean_bar(scores, evaluator.score_range))


def _wanted(row: Row) -> str | None:
    """What the row's last assistant message says; None if it says nothing or calls a tool."""
    last = row.messages[-1]
    content = last.get("content") if last.get("role") == "assistant" and not last.get("tool_calls") else None
    return content if isinstance(content, str) else None
