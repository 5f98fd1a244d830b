"""A dozen tasks and the usual wrong first attempts, solved by following ``next``; none costs more than last time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fw_mcp.tools.job_wait import WATCHED_WAIT_S
from tests.agents import regression
from tests.agents.mistakes import MISTAKES
from tests.agents.page import table_under
from tests.agents.regression import Cost, Outcome, dearer, recorded
from tests.agents.tasks import TASKS, customize
from tests.agents.world import World
from tests.e2e.place import Place

MOST_CALLS, MOST_WAITS, MOST_TOKENS = 5, 2, 6_000
"""The bars of the customization task."""
AGAIN = "if that is meant: python -m tests.agents --write"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Iterator[dict[str, Outcome]]:
    """Every task, run once against one daemon."""
    place = Place.prepare(tmp_path_factory.mktemp("agents"))
    try:
        place.up()
        place.pull(starter_gguf)
        yield regression.run_all(World(place, starter_gguf))
    finally:
        place.close()


@pytest.mark.parametrize("task", [solve.__name__ for solve in (*TASKS, *MISTAKES)])
@pytest.mark.model
@pytest.mark.timeout(2_400)
def test_a_task_ends_well_and_got_no_dearer(task: str, outcomes: dict[str, Outcome]) -> None:
    assert not outcomes[task].failure
    assert dearer(outcomes[task].cost, recorded()[task]) == [], AGAIN


@pytest.mark.model
def test_customization_stays_below_its_bars(outcomes: dict[str, Outcome]) -> None:
    assert within_bars(outcomes["customize"].cost)


@pytest.mark.parametrize("task", [solve.__name__ for solve in MISTAKES])
@pytest.mark.model
def test_a_wrong_first_attempt_recovers_in_one_more_call(task: str, outcomes: dict[str, Outcome]) -> None:
    cost = outcomes[task].cost
    assert cost.calls <= 2 and cost.errors <= 1 and cost.waits == 0


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(3_600)
def test_customization_at_full_size(tmp_path: Path, starter_gguf: Path) -> None:
    place = Place.prepare(tmp_path)
    try:
        place.up()
        place.pull(starter_gguf)
        found = regression.run_all(World(place, starter_gguf, small=False), [customize])["customize"]
    finally:
        place.close()
    assert not found.failure and within_bars(found.cost), found.cost


def test_every_task_is_recorded_and_on_the_page() -> None:
    costs = recorded()
    for heading, solved in regression.HEADINGS.items():
        assert table_under(heading) == regression.table(costs[solve.__name__] for solve in solved)
    assert len(costs) == len(TASKS) + len(MISTAKES) and len(TASKS) >= 12
    assert within_bars(costs["customize"])


def test_what_counts_as_dearer() -> None:
    before = Cost("t", "T", calls=3, waits=1, errors=0, tokens=1_000, seconds=10.0)
    assert dearer(before, before) == dearer(replace(before, tokens=1_100, seconds=99.0), before) == []
    assert dearer(replace(before, waits=2, seconds=WATCHED_WAIT_S + 10), before) == []
    for change in ({"calls": 4}, {"waits": 2}, {"errors": 1}, {"tokens": 1_200}):
        assert len(dearer(replace(before, **change), before)) == 1, change


def within_bars(cost: Cost) -> bool:
    return cost.calls <= MOST_CALLS and cost.waits <= MOST_WAITS and cost.tokens <= MOST_TOKENS
