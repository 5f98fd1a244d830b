"""Rows of one dataset that also stand in another: held-out rows that were trained on measure memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from engine.jobs.rows import Row, answer_key, canonical
from fw_sdk.types import Overlap, OverlapPair

MAX_PAIRS = 1_000
MARKS_BEHIND_WORDS = re.compile(r"(?<=\w)[.,;:!?…]+(?= |$)")
PROMPT_CHARS = 120


def overlap(rows: Sequence[Row], other: Sequence[Row]) -> Overlap:
    """Rows of ``rows`` whose question stands in ``other``, whatever its case, spacing, marks or system prompt."""
    asked: dict[str, list[Row]] = {}
    for row in other:
        asked.setdefault(question_key(row), []).append(row)
    found = [(row, same) for row in rows if (same := asked.get(question_key(row)))]
    pairs = [_pair(row, same) for row, same in found[:MAX_PAIRS]]
    return Overlap(
        rows=len(rows), other_rows=len(other), shared=len(found), pairs=pairs, pairs_omitted=len(found) - len(pairs)
    )


def _pair(row: Row, same: Sequence[Row]) -> OverlapPair:
    return OverlapPair(
        line=row.line,
        other_line=same[0].line,
        also_other_lines=[other.line for other in same[1:]],
        prompt=_last_words(row),
        same_answer=all(answer_key(other) == answer_key(row) for other in same),
    )


def _last_words(row: Row) -> str:
    """The beginning of the prompt's last message, on one line."""
    content = row.prompt[-1].get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return " ".join(" ".join(str(part.get("text") or "") for part in parts).split())[:PROMPT_CHARS]


def question_key(row: Row, *, system: bool = False) -> str:
    """Digest of a row's prompt without letter case, spacing and marks behind words: ``It?`` asks what ``it`` does.

    With ``system`` it is of its system message and tools too.
    """
    turns = [
        {**message, "content": _folded(message.get("content"))}
        for message in row.prompt
        if system or message.get("role") != "system"
    ]
    return hashlib.sha256(canonical([turns, row.tools] if system else turns)).hexdigest()


def _folded(content: Any) -> Any:
    if not isinstance(content, str):
        return content
    words = " ".join(content.casefold().split())
    return MARKS_BEHIND_WORDS.sub("", words) or words
