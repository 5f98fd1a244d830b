"""The loop under every background task of the daemon: it survives what its ticks raise and says how it is."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from engine.control.supervision import AsyncLoop, Backoff, Loop, ThreadLoop
from engine.control.tests.support import running_app, wait_for
from fw_sdk.types import FwError, LoopState
from fw_sdk.types.home import Home

QUICK = Backoff(first_s=0.001, most_s=0.01)
STORE_FAILURES = (
    FwError("unavailable", "The database is locked."),
    FwError("resource_exhausted", "The database cannot be written: disk is full."),
    FwError("failed_precondition", "fw.db is not a readable database."),
    OperationalError("SELECT 1", {}, Exception("no such table: resource")),
    OSError(24, "Too many open files"),
    ValueError("a document that no type reads"),
)


class Ticks:
    """A tick that fails in each way once, then twice more in the first way, and succeeds from then on."""

    def __init__(self) -> None:
        self.script = [*STORE_FAILURES, STORE_FAILURES[0], STORE_FAILURES[0]]
        self.count = 0

    def tick(self) -> None:
        self.count += 1
        if self.count <= len(self.script):
            raise self.script[self.count - 1]

    async def async_tick(self) -> None:
        self.tick()


async def reaches(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def started(kind: type[AsyncLoop] | type[ThreadLoop], ticks: Ticks) -> AsyncLoop | ThreadLoop:
    loop = kind("store-reader", 0.001, backoff=QUICK)
    assert loop.health.state is LoopState.STOPPED
    loop.start(ticks.async_tick if isinstance(loop, AsyncLoop) else ticks.tick)  # type: ignore[arg-type]
    return loop


@pytest.mark.parametrize("kind", [AsyncLoop, ThreadLoop])
def test_a_loop_goes_on_after_every_kind_of_failure(
    kind: type[AsyncLoop] | type[ThreadLoop], caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Ticks()

    async def life() -> Loop:
        loop = started(kind, ticks)
        await reaches(lambda: loop.health.state is LoopState.FAILING)
        await reaches(lambda: ticks.count > len(ticks.script) + 3)
        assert loop.health.state is LoopState.OK and loop.health.consecutive_failures == 0
        await loop.stop()
        return loop

    with caplog.at_level(logging.ERROR, "fw.supervision"):
        loop = asyncio.run(life())
    assert loop.health.state is LoopState.STOPPED and loop.health.last_error == "FwError unavailable"
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == len(STORE_FAILURES), "each kind has one traceback, however often it comes"
    count = ticks.count
    asyncio.run(asyncio.sleep(0.05))
    assert ticks.count == count, "a stopped loop ticks no more"


def test_pauses_after_failures_double_up_to_their_bound() -> None:
    backoff = Backoff(first_s=0.5, most_s=30.0)
    assert [backoff.pause_s(failures) for failures in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_a_failure_tells_its_kind_but_no_path() -> None:
    async def life() -> AsyncLoop:
        loop = AsyncLoop("reader", 0.001, backoff=Backoff(60.0, 60.0))

        async def tick() -> None:
            raise FwError("resource_exhausted", "The database /home/me/.fw/fw.db cannot be written.")

        loop.start(tick)
        await reaches(lambda: loop.health.consecutive_failures == 1)
        await loop.stop()
        return loop

    assert "/home" not in asyncio.run(life()).health.model_dump_json()


def test_a_tick_that_hangs_is_overdue_and_the_loop_stops_all_the_same() -> None:
    release = threading.Event()

    async def life() -> None:
        hanging = AsyncLoop("hanging", 0.001, overdue_s=0.05)
        hanging.start(asyncio.Event().wait)  # type: ignore[arg-type]
        thread = ThreadLoop("hanging-thread", 0.001, overdue_s=0.05)
        thread.start(lambda: (release.wait(), None)[1])
        late = AsyncLoop("paused", 3600.0, overdue_s=0.05)
        late.start(lambda: asyncio.sleep(0))
        await reaches(lambda: hanging.health.state is LoopState.OVERDUE)
        await reaches(lambda: thread.health.state is LoopState.OVERDUE)
        assert late.health.state is LoopState.OK, "a long pause is no delay"
        for loop in (hanging, thread, late):
            await loop.stop()
            assert loop.health.state is LoopState.STOPPED
        release.set()

    asyncio.run(life())


def test_a_part_that_fails_leaves_the_other_parts_alone() -> None:
    seen: list[int] = []

    async def life() -> None:
        loop = AsyncLoop("parts", 0.001, backoff=Backoff(60.0, 60.0))

        async def tick() -> None:
            for number in range(3):
                with loop.part(f"part {number}"):
                    if number == 1:
                        raise OSError(5, "Input/output error")
                    seen.append(number)

        loop.start(tick)
        await reaches(lambda: len(seen) >= 6)
        assert loop.health.state is LoopState.FAILING, "no pause of a minute, but it is shown"
        await loop.stop()

    asyncio.run(life())
    assert seen[:4] == [0, 2, 0, 2]


def test_a_tick_that_waits_for_something_cancelled_goes_on() -> None:
    count = 0

    async def tick() -> None:
        nonlocal count
        count += 1
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async def life() -> None:
        loop = AsyncLoop("cancelled", 0.001, backoff=QUICK)
        loop.start(tick)
        await reaches(lambda: count >= 3)
        await loop.stop()

    asyncio.run(life())


def put_folder(path: Path) -> None:
    """A folder where the database was, although loops may make a new file there meanwhile."""
    while not path.is_dir():
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            path.mkdir()


def test_every_loop_goes_on_after_the_store_failed_and_says_so_meanwhile(home: Home, little: None) -> None:
    with running_app(home) as (client, app):
        loops = {loop.name: loop for loop in app.state.loops}
        assert set(loops) == {"workers", "deployments", "jobs", "pipelines"}
        wait_for(lambda: client.get("/v1/health").json()["status"] == "ok")
        path, hidden = home.database, home.database.with_suffix(".away")
        app.state.services.store._database.close()  # open connections would go on reading the renamed file
        path.rename(hidden)
        put_folder(path)
        failing = {"deployments", "jobs", "pipelines"}
        wait_for(lambda: {n for n in failing if loops[n].health.state == "failing"} == failing)
        said = client.get("/v1/health").json()
        assert said["status"] == "degraded"
        errors = {loop["name"]: loop.get("lastError") for loop in said["supervision"]}
        assert errors["jobs"] == "FwError failed_precondition"
        path.rmdir()
        hidden.rename(path)
        wait_for(lambda: client.get("/v1/health").json()["status"] == "ok", 60)
        assert {loop["state"] for loop in client.get("/v1/health").json()["supervision"]} == {"ok"}
