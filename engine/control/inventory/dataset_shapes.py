"""Data in another shape than chat rows: which one it is, and what becomes of its parts in ours.

A wrong line is told by its number; a file or a row that is meant otherwise is told by what it is, so that whoever
brings it converts it at once instead of mending it line by line.
"""

from __future__ import annotations

import csv
from typing import Any

HOW = "docs page 'datasets', section 'From other formats'"
MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet (.xlsx)",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite format 3": "a SQLite database",
    b"ARROW1": "an Arrow file",
}
QUESTIONS = ("prompt", "instruction", "question", "input", "text", "query", "source")
ANSWERS = ("completion", "output", "response", "answer", "label", "target", "category")
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def file_shape(first: bytes, second: bytes) -> str | None:
    """What a file is that has no JSON lines, in a sentence, judged by its first two lines; None if it may have them."""
    for magic, kind in MAGIC.items():
        if first.startswith(magic):
            return f"the file is {kind}, not JSON lines; see the {HOW}"
    begin, then = (line.removeprefix(b"\xef\xbb\xbf").strip() for line in (first, second))
    if begin == b"[" or (begin.startswith(b"[{") and (then or not begin.endswith(b"]"))):
        return "the file is one JSON list; write each of its objects on a line of its own, without the commas between"
    if begin == b"{" and then.startswith(b'"'):
        return "the objects of the file go over several lines; write each on a line of its own"
    return None if begin.startswith((b"{", b"[", b'"')) else _table(begin, then)


def _table(begin: bytes, then: bytes) -> str | None:
    header, row = (line.decode("utf-8", errors="replace") for line in (begin, then))
    for mark, name in DELIMITERS.items():
        columns = next(csv.reader([header], delimiter=mark), [])
        if len(columns) > 1 and all(column.strip() for column in columns) and mark in row:
            return (
                f"the file is a table: {len(columns)} columns with {name} between them; one is what the user says, one"
                f" what the assistant answers: see the {HOW}"
            )
    return None


def row_shape(data: dict[str, Any]) -> str | None:
    """What a row without ``messages`` is, and how it becomes one that has them; None if nobody can tell."""
    for name in ("conversations", "conversation"):
        turns = data.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if "from" in turns[0] and "value" in turns[0]:
                return f"'{name}' is to be 'messages', 'from' 'role' (human: user, gpt: assistant), 'value' 'content'"
            if "role" in turns[0]:
                return f"'{name}' is to be 'messages'"
    question = next((name for name in QUESTIONS if name in data), None)
    answer = next((name for name in ANSWERS if name in data), None)
    if question and answer:
        more = " and 'input'" if question == "instruction" and data.get("input") else ""
        return f"'{question}'{more} is to be the content of a user message, '{answer}' of the assistant's after it"
    return None
