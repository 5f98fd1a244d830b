"""Validation of uploaded rows: every problem with its line, in one pass that holds no file in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.control.inventory.dataset_shapes import file_shape, row_shape
from engine.control.inventory.token_lengths import LengthCounter
from engine.control.json_text import MAX_DEPTH, check_depth, finite_float
from engine.evals.overlap import question_key
from engine.jobs.rows import Row, answer_key, canonical, is_heldout
from fw_sdk.types import DatasetReport, RowProblem

MAX_PROBLEMS = 100
BEGINNING_CHARS = 160
MAX_LABELS, ROWS_PER_LABEL = 24, 8
MAX_NAMES, MAX_NAME_CHARS = 8, 40
MAX_HEADER_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 1024**2
ROLES = ("system", "user", "assistant", "tool")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SplitRule:
    """How rows fall on the two sides of a split."""

    heldout_fraction: float
    seed: int


@dataclass
class Validation:
    """What one pass over a file found."""

    report: DatasetReport = field(default_factory=DatasetReport)
    digest: str = ""
    bytes: int = 0


class RowError(Exception):
    """One thing that is wrong with a row: a code and a sentence, and whether that quotes the row."""

    def __init__(self, code: str, message: str, *, quotes: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.quotes = quotes


def validate_file(path: Path, rule: SplitRule, lengths: LengthCounter | None = None) -> Validation:
    """Check every line of a JSONL file, count its split, and digest its bytes.

    Args:
        path: the file.
        rule: how its rows are split.
        lengths: counts tokens with one model's renderer; None where no model is present yet.
    """
    found = Validation()
    digest = hashlib.sha256()
    checker = _Checker(found.report, rule, lengths)
    shape = _shape(path)
    if shape is not None:
        checker.problem(1, "not_jsonl", shape)
    for number, line in _lines(path, digest, found):
        if shape is None:
            checker.check(number, line)
    checker.end()
    if found.report.rows == 0 and shape is None:
        checker.problem(1, "empty", "the file has no rows")
    found.digest = f"sha256:{digest.hexdigest()}"
    found.report.tokens = lengths.stats() if lengths else None
    return found


def _shape(path: Path) -> str | None:
    with path.open("rb") as file:
        return file_shape(file.readline(MAX_HEADER_BYTES), file.readline(MAX_HEADER_BYTES))


def readable_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file that have no error of their own, whatever the others are like."""
    rows = []
    for number, line in _lines(path, hashlib.sha256(), Validation()):
        with suppress(RowError):
            row = Row(number, parse_row(line, first=number == 1))
            check_messages(row.data)
            rows.append(row)
    return rows


def _lines(path: Path, digest: Any, found: Validation) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their end; None for one that is too long to be a row."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            whole = line.endswith(b"\n") or len(line) < MAX_LINE_BYTES
            digest.update(line)
            found.bytes += len(line)
            yield number, line.rstrip(b"\r\n") if whole else None
            while not whole and (line := file.readline(MAX_LINE_BYTES)):
                digest.update(line)
                found.bytes += len(line)
                whole = line.endswith(b"\n")


class _Checker:
    """Takes lines and fills a report."""

    def __init__(self, report: DatasetReport, rule: SplitRule, lengths: LengthCounter | None) -> None:
        self._report, self._rule, self._lengths = report, rule, lengths
        self._seen: dict[bytes, int] = {}
        self._answers: dict[str, tuple[int, str, bytes]] = {}
        self._labels: dict[str, list[int]] = {}
        self._beginning = ""

    def problem(self, line: int, code: str, message: str, severity: str = "error", *, quotes: bool = False) -> None:
        """Note a problem; errors come before warnings when there are too many."""
        problems = self._report.problems
        entry = RowProblem(
            line=line, code=code, message=message, severity=severity, quotes=quotes, beginning=self._beginning
        )
        if len(problems) < MAX_PROBLEMS:
            problems.append(entry)
            return
        self._report.problems_omitted += 1
        if severity == "error" and not any(known.severity == "error" for known in problems):
            problems[-1] = entry

    def check(self, number: int, line: bytes | None) -> None:
        """Check one line; blank ones are no rows."""
        if line is not None and not line.strip():
            return
        self._report.rows += 1
        self._beginning = (line or b"")[: 4 * BEGINNING_CHARS].decode(errors="replace")[:BEGINNING_CHARS]
        try:
            row = Row(number, parse_row(line, first=number == 1))
            warning = check_messages(row.data)
        except RowError as error:
            self.problem(number, error.code, str(error), quotes=error.quotes)
            return
        if self._lengths is None or self._fits(row, self._lengths):
            if warning:
                self.problem(number, *warning, severity="warning")
            self._count(row)

    def _count(self, row: Row) -> None:
        report = self._report
        report.valid_rows += 1
        key = hashlib.sha256(canonical(row.data)).digest()[:16]
        first = self._seen.setdefault(key, row.line)
        if first != row.line:
            report.duplicate_rows += 1
            self.problem(row.line, "duplicate", f"the same row as line {first}", "warning")
        else:
            self._compare_answers(row)
        if len(self._labels) <= MAX_LABELS:
            self._labels.setdefault(answer_key(row), []).append(row.line)
        if is_heldout(row, self._rule.heldout_fraction, self._rule.seed):
            report.heldout_rows += 1
        else:
            report.train_rows += 1

    def _compare_answers(self, row: Row) -> None:
        """Warn of a row that asks what an earlier one asks, under the same system message, whatever it wants."""
        answer, said = answer_key(row), canonical(row.messages[-1])
        question = question_key(row, system=True)
        first, wanted, said_first = self._answers.setdefault(question, (row.line, answer, said))
        if first == row.line:
            return
        if answer == wanted and said == said_first:
            self._report.duplicate_rows += 1
            same = f"the prompt of line {first} (case, spacing and marks apart) with the same answer"
            self.problem(row.line, "duplicate", same, "warning")
        elif answer != wanted:
            conflict = f"the same prompt as line {first}, with another answer"
            self.problem(row.line, "conflicting_answers", conflict, "warning")

    def end(self) -> None:
        """Warn of answers that one row alone wants where all others are labels that repeat: mostly a typing error."""
        self._beginning = ""
        rows = sum(len(lines) for lines in self._labels.values())
        if len(self._labels) <= MAX_LABELS and rows >= ROWS_PER_LABEL * len(self._labels):
            others = f"the other {rows - 1} rows want few that repeat"
            for line in (lines[0] for lines in self._labels.values() if len(lines) == 1):
                self.problem(line, "rare_answer", f"no other row wants this answer; {others}", "warning")

    def _fits(self, row: Row, lengths: LengthCounter) -> bool:
        """Whether a row can be used; one that a model cannot take is an error only if that very model was asked for."""
        found = lengths.count(row)
        severity = "error" if lengths.asked_for else "warning"
        if found.problem:
            message = f"'{lengths.model}' cannot render it: {found.problem}"
            self.problem(row.line, "not_renderable", message, severity, quotes=True)
        elif found.total > lengths.context:
            message = f"{found.total} tokens, but the context of '{lengths.model}' has {lengths.context}"
            self.problem(row.line, "too_long", message, severity)
        else:
            return True
        return not lengths.asked_for


def parse_row(line: bytes | None, *, first: bool = False) -> dict[str, Any]:
    """One line as a JSON object."""
    if line is None:
        raise RowError("line_too_long", f"the line is longer than {MAX_LINE_BYTES // 1024**2} MiB")
    if first and line.startswith(BOM):
        raise RowError("byte_order_mark", "the file begins with a byte order mark; save it as UTF-8 without one")
    if b"\0" in line:
        raise RowError("nul_byte", "the line has a NUL byte; is this a text file?")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, parse_float=finite_float)
        check_depth(value)
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RowError(
            "bad_json", f"not JSON: {error.msg.lower().removesuffix(' at')} at column {error.colno}"
        ) from None
    except RecursionError:
        raise RowError("bad_json", f"JSON that is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise RowError("bad_json", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError("not_an_object", f"the row is a {_json_type(value)}, not an object")
    try:
        canonical(value)
    except UnicodeEncodeError:
        raise RowError("invalid_unicode", "a text has half of a surrogate pair, which is no character") from None
    return value


def check_messages(data: dict[str, Any]) -> tuple[str, str] | None:
    """Check the conversation of a row; returns a warning (code, sentence) if it can be evaluated but not trained on."""
    messages = data.get("messages")
    if "messages" not in data:
        shape = row_shape(data)
        names = "" if shape else _names(data)
        seen = f"; {shape or names}" if shape or names else ""
        raise RowError("no_messages", f"'messages' is missing{seen}", quotes=bool(names))
    if not isinstance(messages, list) or not messages:
        raise RowError("no_messages", f"'messages' is {'empty' if messages == [] else 'no list'}")
    for index, message in enumerate(messages):
        _check_message(index, message)
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise RowError("role_order", f"message {roles.index('system', 1) + 1}: 'system' may only come first")
    opening = roles[1] if roles[0] == "system" and len(roles) > 1 else roles[0]
    if opening != "user":
        raise RowError("role_order", f"the conversation begins with '{opening}', not with 'user'")
    if roles[-1] == "assistant":
        return None
    if "ground_truth" in data:
        return "no_answer", f"ends with '{roles[-1]}': good for evaluation (it has ground_truth), not for training"
    raise RowError("role_order", f"the last message is from '{roles[-1]}', not from 'assistant'; nothing to learn")


def _check_message(index: int, message: Any) -> None:
    where = f"message {index + 1}"
    if not isinstance(message, dict):
        raise RowError("bad_message", f"{where} is a {_json_type(message)}, not an object")
    role = message.get("role")
    if role is None:
        raise RowError("no_role", f"{where} has no role")
    if role not in ROLES:
        raise RowError("unknown_role", f"{where}: role {role!r:.40} is none of {', '.join(ROLES)}", quotes=True)
    text = _text(message.get("content"))
    calls = role == "assistant" and bool(message.get("tool_calls"))
    if text is None and not calls:
        missing = message.get("content") is None
        raise RowError("no_content", f"{where} ({role}) has {'no content' if missing else 'content that is no text'}")
    if role == "user" and not (text or "").strip():
        raise RowError("no_content", f"{where} (user) is empty")
    if role == "assistant" and not calls and not (text or "").strip():
        raise RowError("empty_completion", f"{where}: the assistant's answer is empty")


def _text(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    return None


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _names(data: dict[str, Any]) -> str:
    """The first names of a row in which nothing looks like a conversation."""
    names = ", ".join(f"'{name[:MAX_NAME_CHARS]}'" for name in list(data)[:MAX_NAMES])
    return f"the row has {names}" if names else ""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
