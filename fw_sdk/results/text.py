"""A report as plain text: for a terminal, a log or a chat message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fw_sdk.results.actions import Spell, Step
from fw_sdk.results.report import Line, Report, interval

MAX_STEPS = 3
COMMENT_COLUMN = 56


def page(report: Report, *, aligned: bool = True) -> Iterator[str]:
    """The lines of a page: verdict, table, facts, caveats. What to do next is ``next_lines``.

    The table is ``aligned`` for eyes, else its cells stand between tabs.
    """
    yield report.headline
    if report.lines:
        headers, rows = score_table(report.lines)
        yield ""
        yield from table(headers, rows) if aligned else ("\t".join(cells) for cells in (headers, *rows))
        yield ""
    yield from report.facts
    yield from (f"caveat: {words}" for words in report.caveats)


def markdown(report: Report, spell: Spell) -> str:
    """The whole report as Markdown, the headline in bold."""
    parts = [f"**{report.headline}**"]
    if report.lines:
        headers, rows = score_table(report.lines)
        lines = [headers, ["---"] * len(headers), *rows]
        parts.append("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
    parts.append("\n".join(f"- {words}" for words in (*report.facts, *(f"caveat: {item}" for item in report.caveats))))
    parts += [f"Next: {step.text(spell)}" for step in report.steps[:1]]
    return "\n\n".join(part for part in parts if part)


def score_table(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """(headers, rows) of the scores."""
    headers = ["model", "score", "95 % interval", "n"]
    return headers, [[line.label, *_score(line)] for line in lines]


def _score(line: Line) -> list[str]:
    found = line.score
    return [f"{found.mean:.3f}", interval(found.ci), str(found.n)] if found else ["-", "-", "0"]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of an aligned table: the first column at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for cells in (headers, ["─" * width for width in widths], *rows):
        first, *others = zip(cells, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())
    return lines


def next_lines(steps: Sequence[Step], spell: Spell) -> list[str]:
    """The next steps: each command, and what it does as a comment."""
    return [line for step in steps[:MAX_STEPS] for line in _next_lines(step, spell)]


def _next_lines(step: Step, spell: Spell) -> list[str]:
    """The command with its comment, which stands on a line before a command that is too long for it."""
    written = spell(step.action) if step.action else ""
    if not (written and step.says):
        return [written or f"# {step.says}"]
    fits = len(written) <= COMMENT_COLUMN
    return [f"{written:<{COMMENT_COLUMN}}  # {step.says}"] if fits else [f"# {step.says}:", written]
