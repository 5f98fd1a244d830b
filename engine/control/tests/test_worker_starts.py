"""Starting workers under cancellation: whoever leaves, no process is lost and none is started twice."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from engine.catalog import digest_model, digest_tree
from engine.control.serving.leases import AdapterWeights, Lease
from engine.control.serving.worker_process import BaseWeights
from engine.control.serving.workers import WorkerLimits, Workers
from engine.control.tests.daemon_process import write_adapter
from engine.jobs.process import ProcessId
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

LIMITS = WorkerLimits(device="cpu", dtype="float32", sweep_s=0.05)
IMPATIENT = WorkerLimits(device="cpu", dtype="float32", sweep_s=0.05, idle_s=0.2)


@pytest.fixture(scope="module")
def base(tiny_llama_dir: Path) -> BaseWeights:
    return BaseWeights("tiny", digest_model(tiny_llama_dir), tiny_llama_dir)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home").prepare()
    yield home
    for process in processes(home):
        process.signal_group(signal.SIGKILL)


def processes(home: Home) -> list[ProcessId]:
    """Every living worker of this home, recorded or not, by its command line."""
    mark, found = str(home.root / "workers").encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        process = ProcessId.of(int(entry.name)) if ours else None
        found += [process] if process is not None else []
    return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def leaves(task: asyncio.Task[Lease]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def gone(task: asyncio.Task[Lease]) -> None:
    """A client that leaves, before or after it got its lease."""
    if task.done():
        task.result().release()
    else:
        task.cancel()


def with_pool(home: Home, limits: WorkerLimits, life: Callable[[Workers], Awaitable[None]]) -> None:
    """Run ``life`` with a started pool, and see that its end leaves no process."""

    async def run() -> None:
        workers = Workers(home, limits)
        await workers.start()
        try:
            await life(workers)
        finally:
            await workers.stop(keep_processes=False)

    asyncio.run(run())
    assert processes(home) == [] and list((home.root / "workers").iterdir()) == []


async def a_start_under_way(workers: Workers, home: Home, base: BaseWeights) -> asyncio.Task[Lease]:
    task = asyncio.create_task(workers.acquire(base))
    await until(lambda: processes(home))
    return task


def test_a_start_that_the_client_left_is_swept_like_an_idle_worker(home: Home, base: BaseWeights) -> None:
    async def life(workers: Workers) -> None:
        await leaves(await a_start_under_way(workers, home, base))
        assert workers.running() == []
        await until(lambda: not processes(home))

    with_pool(home, IMPATIENT, life)


def test_memory_that_is_wanted_now_is_freed_from_a_start_too(home: Home, base: BaseWeights) -> None:
    async def life(workers: Workers) -> None:
        task = await a_start_under_way(workers, home, base)
        await workers.sweep(idle_s=0)
        assert processes(home), "somebody waits for it"
        await leaves(task)
        await workers.sweep(idle_s=0)
        assert processes(home) == []

    with_pool(home, LIMITS, life)


def test_a_deployment_deleted_while_its_worker_starts_frees_it_at_once(home: Home, base: BaseWeights) -> None:
    async def life(workers: Workers) -> None:
        workers.pin("deployed", base, None)
        task = await a_start_under_way(workers, home, base)
        await leaves(task)
        await workers.release_base(base, None)
        assert processes(home), "a pinned start goes on"
        workers.unpin("deployed")
        await workers.release_base(base, None)
        assert processes(home) == []
        with await workers.acquire(base) as lease:
            assert lease.worker.alive, "and the next request starts it anew"

    with_pool(home, LIMITS, life)


def test_who_waits_on_gets_the_start_of_who_left(home: Home, base: BaseWeights) -> None:
    async def life(workers: Workers) -> None:
        first = await a_start_under_way(workers, home, base)
        (process,) = processes(home)
        others = [asyncio.create_task(workers.acquire(base)) for _ in range(8)]
        await asyncio.sleep(0)
        await asyncio.gather(leaves(first), *(leaves(other) for other in others[::2]))
        await workers.release_base(base, None)
        leases = await asyncio.gather(*others[1::2])
        assert {lease.worker.record.process for lease in leases} == {process}
        assert leases[0].worker.in_use.total() == len(leases), "who left holds nothing"
        for lease in leases:
            lease.release()

    with_pool(home, LIMITS, life)


def test_the_end_of_the_daemon_ends_a_start_or_leaves_it_to_the_next(home: Home, base: BaseWeights) -> None:
    async def first_daemon() -> ProcessId:
        workers = Workers(home, LIMITS)
        await workers.start()
        task = await a_start_under_way(workers, home, base)
        (process,) = processes(home)
        await workers.stop(keep_processes=True)
        with pytest.raises(FwError, match="being stopped"):
            await task
        with pytest.raises(FwError, match="being stopped"):
            await workers.acquire(base)
        return process

    process = asyncio.run(first_daemon())
    assert process.alive

    async def life(workers: Workers) -> None:
        with await workers.acquire(base) as lease:
            assert lease.worker.record.process == process and processes(home) == [process]

    with_pool(home, LIMITS, life)


def test_an_adapter_is_listed_though_its_client_left_while_it_was_loaded(
    home: Home, base: BaseWeights, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "adapter")
    adapter = AdapterWeights(digest_tree(path), path)

    async def life(workers: Workers) -> None:
        with await workers.acquire(base) as lease:
            worker = lease.worker
        task = asyncio.create_task(workers.acquire(base, adapter))
        await until(worker.loading.locked)
        await leaves(task)
        assert worker.in_use.total() == 0
        await until(lambda: adapter.digest in worker.adapters)
        await workers.release_base(base, adapter)
        assert processes(home) == []

    with_pool(home, LIMITS, life)


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_coming_and_going_loses_a_process(home: Home, base: BaseWeights, seed: int) -> None:
    draw = random.Random(seed)

    async def life(workers: Workers) -> None:
        waiting: list[asyncio.Task[Lease]] = []
        for _ in range(30):
            act = draw.choice(("come", "come", "go", "pin", "unpin", "free", "sweep", "wait"))
            if act == "come":
                waiting.append(asyncio.create_task(workers.acquire(base)))
            elif act == "go" and waiting:
                await gone(waiting.pop(draw.randrange(len(waiting))))
            elif act == "pin":
                workers.pin("deployed", base, None)
            elif act == "unpin":
                workers.unpin("deployed")
            elif act == "free":
                await workers.release_base(base, None)
            elif act == "sweep":
                await workers.sweep(idle_s=0)
            await asyncio.sleep(draw.choice((0, 0, 0.01, 0.1)))
            assert len(processes(home)) <= 1, "one key has one worker"
        await asyncio.gather(*waiting)
        for task in waiting:
            await gone(task)
        with await workers.acquire(base) as lease:
            assert lease.worker.alive and lease.worker.in_use.total() == 1, "nobody else holds anything"
        workers.unpin("deployed")
        await workers.sweep(idle_s=0)
        assert processes(home) == [] and workers.running() == []

    with_pool(home, LIMITS, life)
