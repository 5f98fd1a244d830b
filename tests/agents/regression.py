"""What the scripted tasks cost: run them, keep the figures, and see whether they got dearer."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fw_mcp.tools.job_wait import WATCHED_WAIT_S
from tests.agents.agent import WAIT
from tests.agents.exchange import LISTS, Exchange
from tests.agents.mistakes import MISTAKES
from tests.agents.page import put_table
from tests.agents.tasks import TASKS, Solve
from tests.agents.world import World, title_of

HEADINGS: dict[str, tuple[Solve, ...]] = {"Scripted tasks": TASKS, "Wrong first attempts": MISTAKES}
RECORD = Path(__file__).with_name("regression.json")
TOLERANCE = 0.10
SLACK_TOKENS = 40
"""Ids and measured figures change their length from run to run."""


@dataclass(frozen=True)
class Cost:
    """What a task took.

    Attributes:
        task: the function's name.
        title: the task as a person put it.
        calls: besides waits.
        waits: calls of ``job_wait``.
        errors: results that were errors.
        tokens: of arguments and results together; what a client lists at the start is not counted.
        seconds: wall time, waits included.
    """

    task: str
    title: str
    calls: int
    waits: int
    errors: int
    tokens: int
    seconds: float

    @classmethod
    def of(cls, solve: Solve, trace: Iterable[Exchange], seconds: float) -> Cost:
        done = [item for item in trace if item.method not in LISTS]
        waits = sum(item.name == WAIT for item in done)
        return cls(
            solve.__name__,
            title_of(solve),
            calls=len(done) - waits,
            waits=waits,
            errors=sum(item.is_error for item in done),
            tokens=sum(item.tokens for item in done),
            seconds=round(seconds, 1),
        )


@dataclass(frozen=True)
class Outcome:
    """A task's cost, and why it failed if it did."""

    cost: Cost
    trace: list[Exchange]
    failure: str = ""


def run_all(world: World, tasks: Iterable[Solve] = (*TASKS, *MISTAKES)) -> dict[str, Outcome]:
    """Every task in its order; one that fails does not stop the others."""
    return {solve.__name__: asyncio.run(_run(world, solve)) for solve in tasks}


async def _run(world: World, solve: Solve) -> Outcome:
    began, failure = time.monotonic(), ""
    async with world.agent(solve.__name__) as agent:
        try:
            await solve(agent, world)
        except Exception as error:  # noqa: BLE001  whatever goes wrong is that task's failure
            failure = _said(error)
    cost = Cost.of(solve, agent.trace, time.monotonic() - began)
    print(f"{solve.__name__}: {failure or 'ok'}, {cost}", file=sys.stderr)
    return Outcome(cost, agent.trace, failure)


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(line.filename).name}:{line.lineno}: {error}"


def recorded() -> dict[str, Cost]:
    """The costs of the last recorded run, by task."""
    return {item["task"]: Cost(**item) for item in json.loads(RECORD.read_text())["tasks"]}


def record(costs: Iterable[Cost]) -> None:
    """Keep these costs as the ones to compare with; tasks that did not run keep theirs."""
    known = (recorded() if RECORD.exists() else {}) | {cost.task: cost for cost in costs}
    order = [solve.__name__ for solved in HEADINGS.values() for solve in solved]
    kept = [asdict(known[task]) for task in order if task in known]
    text = json.dumps({"tasks": kept}, indent=1, ensure_ascii=False)
    RECORD.write_text(f"{text}\n")


def write_page() -> None:
    """The record's tables, into the page."""
    costs = recorded()
    for heading, solved in HEADINGS.items():
        put_table(heading, table(costs[solve.__name__] for solve in solved))


def dearer(now: Cost, before: Cost) -> list[str]:
    """What got worse, one sentence each. Wall time is reported and never judged, nor the waits that it explains."""
    patience = {"waits": int(now.seconds // WATCHED_WAIT_S)}
    found = [
        f"{what}: {getattr(now, what)}, recorded {getattr(before, what)}"
        for what in ("calls", "waits", "errors")
        if getattr(now, what) > getattr(before, what) + patience.get(what, 0)
    ]
    if now.tokens > before.tokens * (1 + TOLERANCE) + SLACK_TOKENS:
        found.append(f"tokens: {now.tokens}, recorded {before.tokens}")
    return found


def table(costs: Iterable[Cost]) -> str:
    """Markdown, one task a line."""
    head = "| task | calls | waits | errors | tokens | seconds |\n|---|---|---|---|---|---|\n"
    lines = (f"| {c.title} | {c.calls} | {c.waits} | {c.errors} | {c.tokens:,} | {c.seconds:.0f} |" for c in costs)
    return head + "\n".join(lines)
