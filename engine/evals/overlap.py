"""Rows of one dataset that also stand in another: held-out rows that were trained on measure memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from engine.jobs.rows import Row, canonical
from fw_sdk.types import Overlap

MAX_EXAMPLES = 10


def overlap(rows: Sequence[Row], other: Sequence[Row]) -> Overlap:
    """Rows of ``rows`` whose question stands in ``other``, whatever its case, spacing or system prompt."""
    lines: dict[str, int] = {}
    for row in other:
        lines.setdefault(question_key(row), row.line)
    pairs = [(row.line, lines[key]) for row in rows if (key := question_key(row)) in lines]
    return Overlap(rows=len(rows), other_rows=len(other), shared=len(pairs), examples=pairs[:MAX_EXAMPLES])


def question_key(row: Row, *, system: bool = False) -> str:
    """Digest of a row's prompt without letter case and spacing; with ``system`` of its system message and tools too."""
    turns = [
        {**message, "content": _folded(message.get("content"))}
        for message in row.prompt
        if system or message.get("role") != "system"
    ]
    return hashlib.sha256(canonical([turns, row.tools] if system else turns)).hexdigest()


def _folded(content: Any) -> Any:
    return " ".join(content.casefold().split()) if isinstance(content, str) else content
