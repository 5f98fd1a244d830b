"""Scores of evaluations as they stand on disk, and the digest by which evidence names them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from engine.control.context import Context
from engine.control.store.documents import decode_token, encode_token, page_size
from engine.jobs.files import read_lines
from engine.jobs.rows import canonical
from fw_sdk.types import Evaluation, Page, RowScore


def all_scores(context: Context, identifier: str) -> list[RowScore]:
    """Every score that stands on disk by now, in the order of the file."""
    context.store.jobs.get(identifier, Evaluation)
    path = context.home.jobs / identifier / "scores.jsonl"
    return [RowScore.model_validate(value) for value, _ in read_lines(path)]


def page_of_scores(context: Context, identifier: str, size: int, token: str | None) -> Page[RowScore]:
    """One page of scores by row index; a running evaluation shows what is scored so far."""
    found = sorted(all_scores(context, identifier), key=lambda score: score.index)
    begin = decode_token(token) or 0
    end = begin + page_size(size)
    return Page(
        items=found[begin:end],
        next_page_token=encode_token(end) if end < len(found) else None,
        total_size=len(found),
    )


def digest_scores(scores: Sequence[RowScore]) -> str:
    """A digest of what was scored: line, answer and score of every row, whatever their order."""
    rows = sorted([score.line, score.output, score.score, score.error] for score in scores)
    return f"sha256:{hashlib.sha256(canonical(rows)).hexdigest()}"
