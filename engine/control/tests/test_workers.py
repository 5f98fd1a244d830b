"""The worker pool with real workers of a tiny model."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.catalog import digest_model, digest_tree
from engine.control.serving.leases import AdapterWeights, Lease
from engine.control.serving.worker_process import BaseWeights, WorkerFiles, WorkerRecord, spawn, wait_ready
from engine.control.serving.workers import WorkerLimits, Workers
from engine.control.tests.daemon_process import kill_now, write_adapter
from engine.jobs.process import ProcessId
from fw_sdk.types import FwError
from fw_sdk.types.home import Home

QUICK = WorkerLimits(device="cpu", dtype="float32", sweep_s=0.1, max_adapters=2)


@pytest.fixture(scope="module")
def base(tiny_llama_dir: Path) -> BaseWeights:
    return BaseWeights("tiny", digest_model(tiny_llama_dir), tiny_llama_dir)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home").prepare()
    yield home
    for record in WorkerFiles(home).living():
        assert record.process is not None
        record.process.signal_group(signal.SIGKILL)


def adapter(folder: Path, scale: float) -> AdapterWeights:
    path = write_adapter(folder / f"adapter-{scale}", scale=scale)
    return AdapterWeights(digest_tree(path), path)


async def ask(workers: Workers, lease: Lease, model: str | None = None) -> str:
    body = {"model": model or lease.model, "prompt": "hello", "max_tokens": 6, "temperature": 0}
    reply = await workers.client.post(lease.url("/v1/completions"), json=body, headers=dict(lease.headers))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def test_a_worker_from_first_requests_to_its_end(home: Home, base: BaseWeights, tmp_path: Path) -> None:
    async def life() -> None:
        workers = Workers(home, QUICK)
        await workers.start()
        try:
            first = await one_worker_for_many_first_requests(workers, base)
            await adapters_are_loaded_and_the_oldest_unloaded(workers, base, tmp_path)
            second = await a_killed_worker_is_replaced(workers, base, first)
        finally:
            await workers.stop(keep_processes=True)
        assert second.alive
        await the_next_daemon_adopts_it_and_stops_it_when_idle(home, base, second)

    asyncio.run(life())


async def one_worker_for_many_first_requests(workers: Workers, base: BaseWeights) -> ProcessId:
    leases = await asyncio.gather(*(workers.acquire(base) for _ in range(32)))
    processes = {lease.worker.record.process for lease in leases}
    assert len(processes) == 1 and len(workers.running()) == 1
    assert leases[0].worker.facts.model_digest == base.digest
    assert await ask(workers, leases[0]) == await ask(workers, leases[1])
    for lease in leases:
        lease.release()
        lease.release()
    assert leases[0].worker.in_use.total() == 0
    (process,) = processes
    assert process is not None
    return process


async def adapters_are_loaded_and_the_oldest_unloaded(workers: Workers, base: BaseWeights, folder: Path) -> None:
    made = [adapter(folder, scale) for scale in (1.0, 2.0, 3.0, 4.0)]
    workers.pin("deployed", base, made[0])
    held = await workers.acquire(base, made[1])
    answers = set()
    for one in made:
        with await workers.acquire(base, one) as lease:
            answers.add(await ask(workers, lease))
    assert len(answers) > 1, "adapters must change the answers"
    listed = await workers.client.get(held.url("/v1/models"), headers=dict(held.headers))
    names = {item["id"] for item in listed.json()["data"]}
    assert names == {base.digest, *held.worker.adapters}
    assert made[0].digest in names and made[1].digest in names, "pinned and used ones stay"
    assert made[3].digest in names and made[2].digest not in names, "of the others, the oldest went"
    held.release()
    workers.unpin("deployed")


async def a_killed_worker_is_replaced(workers: Workers, base: BaseWeights, first: ProcessId) -> ProcessId:
    kill_now(first)
    with await workers.acquire(base) as lease:
        await ask(workers, lease)
        second = lease.worker.record.process
    assert second is not None and second != first
    return second


async def the_next_daemon_adopts_it_and_stops_it_when_idle(home: Home, base: BaseWeights, process: ProcessId) -> None:
    workers = Workers(home, WorkerLimits(device="cpu", dtype="float32", sweep_s=0.05, idle_s=0.3))
    await workers.start()
    try:
        assert [worker.record.process for worker in workers.running()] == [process]
        with await workers.acquire(base) as lease:
            assert lease.worker.record.process == process
            await ask(workers, lease)
            await asyncio.sleep(0.6)
            assert process.alive, "a worker with a request in flight is not idle"
        async with asyncio.timeout(15):
            while process.alive or list((home.root / "workers").iterdir()):
                await asyncio.sleep(0.05)
        assert workers.running() == []
    finally:
        await workers.stop(keep_processes=False)


def test_a_worker_imports_nothing_from_the_daemons_working_folder(
    home: Home, base: BaseWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = tmp_path / "project"
    stray.mkdir()
    (stray / "regex.py").write_text(f"open({str(stray / 'imported')!r}, 'w'); raise SystemExit('a stray module')")
    monkeypatch.chdir(stray)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *sys.path]))
    files = WorkerFiles(home)
    record = spawn(files, WorkerRecord.new(base, "float32", "cpu"))
    facts = asyncio.run(wait_ready(files, record, timeout_s=60))
    assert facts.model_digest == base.digest and not (stray / "imported").exists()


def test_a_worker_that_cannot_start_says_why(home: Home, base: BaseWeights, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base.path, broken)
    (broken / "config.json").write_text("{}")

    async def start() -> FwError:
        workers = Workers(home, QUICK)
        with pytest.raises(FwError) as caught:
            await workers.acquire(BaseWeights("broken", base.digest, broken))
        await workers.stop(keep_processes=False)
        return caught.value

    error = asyncio.run(start())
    assert error.code == "worker_lost" and "'broken'" in error.message
    assert any("error:" in line for line in error.details["logTail"]) and "worker-" in error.hint
    assert not list((home.root / "workers").iterdir())


def test_a_worker_whose_start_was_not_recorded_is_found_by_its_command_line(home: Home, base: BaseWeights) -> None:
    files = WorkerFiles(home)
    record = spawn(files, WorkerRecord.new(base, "float32", "cpu"))
    process = record.process
    assert process is not None
    files.save(WorkerRecord(record.id, record.base, record.dtype, record.device, record.token))
    found = files.living()
    assert [item.process for item in found] == [process]

    async def stop() -> None:
        workers = Workers(home, QUICK)
        await workers.stop(keep_processes=False)

    asyncio.run(stop())
    assert not process.alive and files.living() == []
