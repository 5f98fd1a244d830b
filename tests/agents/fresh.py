"""Records of attempts by independent agents: a trace condensed to what can be read and compared.

    python -m tests.agents.fresh add DIR --task FILE --outcome success|failure --note TEXT [--slug WORDS]
    python -m tests.agents.fresh --write

``add`` reads the ``trace.jsonl`` of a session folder, ``--write`` renders the table of the page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from tests.agents.agent import WAIT
from tests.agents.exchange import LISTS, Exchange, read_trace
from tests.agents.page import put_table
from tests.agents.session import Session

FOLDER = Path(__file__).with_name("fresh")
HEADING = "Fresh attempts"
OUTCOMES = ("success", "failure")
MAX_TASK_CHARS, MAX_NOTE_CHARS, MAX_SAID_CHARS = 2_000, 600, 240
MAX_ERRORS, MAX_STEPS = 20, 200
PATH = re.compile(r"(?<![\w/.:])/(?:tmp|root|home|work|var|usr|opt|private|Users)(?:/[\w.@+-]+)+")


@dataclass(frozen=True)
class Record:
    """One attempt.

    Attributes:
        id: number and a few words.
        task: what the agent was told.
        outcome: whether the end that was asked for was reached, as somebody else checked it.
        note: what happened, and what was changed because of it.
        calls: besides waits; read pages and prompts count too.
        waits: calls of ``job_wait``.
        tokens: of arguments and results together, without what a client lists at the start.
        seconds: from the first exchange to the end of the last.
        errors: ``{call, said, next, recovered_in}``; the last is how many exchanges later the same call succeeded, or
            null.
        steps: what was called, in order; ``job_wait x3`` for three in a row.
    """

    id: str
    task: str
    outcome: str
    note: str
    calls: int
    waits: int
    tokens: int
    seconds: float
    errors: list[dict[str, Any]]
    steps: list[str]


def condense(trace: Sequence[Exchange], session: Session, *, id: str, task: str, outcome: str, note: str) -> Record:
    """The record of a trace, with placeholders where paths of the machine stood."""
    done = [item for item in trace if item.method not in LISTS]
    waits = sum(item.name == WAIT for item in done)
    errors = [_error(done, number, session) for number, item in enumerate(done) if item.is_error]
    steps = [(name, len(list(same))) for name, same in groupby(item.name for item in done)]
    return Record(
        id=id,
        task=masked(task.strip(), session)[:MAX_TASK_CHARS],
        outcome=outcome,
        note=masked(note.strip(), session)[:MAX_NOTE_CHARS],
        calls=len(done) - waits,
        waits=waits,
        tokens=sum(item.tokens for item in done),
        seconds=round(_seconds(done), 1),
        errors=errors[:MAX_ERRORS],
        steps=[name if count == 1 else f"{name} x{count}" for name, count in steps][:MAX_STEPS],
    )


def masked(text: str, session: Session) -> str:
    """``text`` without paths of the machine."""
    for name, path in (("workspace", session.workspace), ("home", session.home), ("session", session.folder)):
        text = text.replace(path, f"<{name}>")
    return PATH.sub("<path>", text)


def _error(done: Sequence[Exchange], number: int, session: Session) -> dict[str, Any]:
    failed = done[number]
    later = (
        after
        for after, item in enumerate(done[number + 1 :], 1)
        if (item.method, item.name) == (failed.method, failed.name) and not item.is_error
    )
    said, _, rest = failed.text.partition("\nnext: ")
    shown = [masked(" ".join(part.split()), session)[:MAX_SAID_CHARS] for part in (said, rest.partition("\n")[0])]
    return {"call": failed.name, "said": shown[0], "next": shown[1], "recovered_in": next(later, None)}


def _seconds(done: Sequence[Exchange]) -> float:
    if not done:
        return 0.0
    first, last = (datetime.fromisoformat(item.at) for item in (done[0], done[-1]))
    return (last - first).total_seconds() + done[-1].seconds


def records() -> list[Record]:
    """Every attempt, in the order of its number."""
    return [Record(**json.loads(file.read_text(encoding="utf-8"))) for file in sorted(FOLDER.glob("*.json"))]


def table(found: Sequence[Record]) -> str:
    """Markdown, one attempt a line; the last one counts the successes and has the medians."""
    head = "| task | outcome | calls | waits | tokens | errors, recovered in | minutes |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *(_line(record) for record in found), _summary(found)])


def _summary(found: Sequence[Record]) -> str:
    good = sum(record.outcome == "success" for record in found)
    calls, waits, tokens, errors, seconds = (
        median(column)
        for column in zip(*((r.calls, r.waits, r.tokens, len(r.errors), r.seconds) for r in found), strict=True)
    )
    figures = f"{calls:.0f} | {waits:.0f} | {tokens:,.0f} | {errors:.0f} | {seconds / 60:.0f}"
    return f"| **in all, medians** | {good} of {len(found)} | {figures} |"


def _line(record: Record) -> str:
    task = re.sub(r"[-_]+", " ", record.id.partition("-")[2])
    recovered = ", ".join(str(error["recovered_in"] or "never") for error in record.errors)
    errors = f"{len(record.errors)}: {recovered}" if record.errors else "0"
    figures = f"{record.calls} | {record.waits} | {record.tokens:,} | {errors} | {record.seconds / 60:.0f}"
    return f"| {task} | {record.outcome} | {figures} |"


def add(folder: Path, task: str, outcome: str, note: str, slug: str) -> Path:
    """Condense the session in ``folder`` into a record of its own; the record's file."""
    session = Session.load(folder)
    words = slug or " ".join(re.findall(r"[a-z0-9]+", task.lower())[:6])
    number = 1 + max((int(record.id.partition("-")[0]) for record in records()), default=0)
    identifier = f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')[:48]}"
    record = condense(read_trace(session.trace), session, id=identifier, task=task, outcome=outcome, note=note)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{identifier}.json"
    path.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Add a record, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.agents.fresh")
    parser.add_argument("--write", action="store_true", help="render the table into the page")
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("add", help="condense a session into a record")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--task", type=Path, required=True, help="file with what the agent was told")
    one.add_argument("--outcome", choices=OUTCOMES, required=True)
    one.add_argument("--note", required=True)
    one.add_argument("--write", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    one.add_argument("--slug", default="", help="a few words for the table; default: the task's first")
    given = parser.parse_args()
    if given.command == "add":
        print(add(given.folder, given.task.read_text(encoding="utf-8"), given.outcome, given.note, given.slug))
    if given.write:
        put_table(HEADING, table(records()))
    if not given.write and given.command is None:
        parser.error("say add or --write")


if __name__ == "__main__":
    main()
