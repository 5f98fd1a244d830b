"""What of a dataset's report, rows and overlap is shown: a page of each, and what rows say fenced."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from fw_mcp.results import Shown, page, untrusted
from fw_mcp.views import lone_problem_view, pair_view, problem_view, report_view, same_problems
from fw_sdk.types import DatasetReport, FwError, Overlap

PROBLEMS, PAIRS = 20, 20
BRIEF_SAMPLE, FULL_SAMPLE = 2, 10


@dataclass(frozen=True)
class Look:
    """How closely to look at what, from which entry on. In full, every problem stands beside its row's beginning."""

    full: bool = False
    pattern: re.Pattern[str] | None = None
    cursor: int = 0

    def report(self, report: DatasetReport, again: str, *, stored: bool = False) -> dict[str, Any]:
        """The report with a page of the findings that match, and the call that shows the next one.

        Only rows that are ``stored`` have a split: of a file it is not known yet what will be held out.
        """
        found = [item for item in report.problems if self._matches(f"{item.code} {item.severity} {item.message}")]
        groups = [[item] for item in found] if self.full else same_problems(found)
        shown = page(groups, lone_problem_view if self.full else problem_view, self.cursor, PROBLEMS)
        cursor = f"detail='full', cursor={shown.following}" if self.full else f"cursor={shown.following}"
        more = f"dataset({again}, {cursor}) lists the next ones" if shown.following else None
        beyond = report.problems_omitted
        note = f"{beyond} more problems were not kept: correct these first" if beyond and not more else None
        view = report_view(report, self.full)
        if not stored:
            view |= {"train_rows": None, "heldout_rows": None}
        return {**view, "problems": shown.shown, "more": more, "note": note}

    def overlap(self, overlap: Overlap, other: str, again: str) -> dict[str, Any]:
        """How many rows stand on both sides, and a page of the pairs that match."""
        matching = [pair for pair in overlap.pairs if self._matches(pair.prompt)]
        found = page(matching, pair_view, self.cursor, PAIRS)
        following = f"dataset({again}, overlap_with='{other}', cursor={found.following}) lists the next ones"
        beyond = overlap.pairs_omitted
        note = f"{beyond} more pairs were not kept: remove these first" if beyond and not found.following else None
        return {
            "other": other,
            "rows": overlap.rows,
            "other_rows": overlap.other_rows,
            "shared": overlap.shared,
            "pairs": found.shown,
            "more": following if found.following else None,
            "note": note,
        }

    def sample(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A few rows that match: one line each of them, fenced."""
        texts = [text for text in (json.dumps(row, ensure_ascii=False) for row in rows) if self._matches(text)]
        most, chars = (FULL_SAMPLE, 2_000) if self.full else (BRIEF_SAMPLE, 800)
        return {"sample": page(texts, lambda text: untrusted(text, chars), 0, most).shown}

    def refused(self, error: FwError, again: str) -> FwError:
        """``error``; if it brings a report, that as a check shows it."""
        if "report" not in error.details:
            return error
        report = DatasetReport.model_validate(error.details["report"])
        error.details = {"report": Shown(self.report(report, again))}
        first = next((item for item in report.problems if item.severity == "error"), None)
        if first is not None and first.quotes:
            error.message = (
                f"{report.rows - report.valid_rows} of {report.rows} rows cannot be used; line {first.line}: "
            )
            error.message += f"{first.code}."
        return error

    def _matches(self, text: str) -> bool:
        return self.pattern is None or bool(self.pattern.search(text))
