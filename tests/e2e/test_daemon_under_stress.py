"""The daemon while something hangs: it ends in time, answers ``/v1/health``, and its loops go on after failures."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.control.tests.daemon_process import Daemon, kill_now
from engine.control.tests.support import ROOT, wait_for
from engine.jobs.process import ProcessId

LIMIT_S = 12.0
"""The daemon ends within 10 s; the rest is for a busy machine."""

STREAM = {"model": "tiny", "prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True}


@pytest.fixture
def daemon(tmp_path: Path, tiny_llama_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "home").start()
    daemon.pull(tiny_llama_dir, "tiny")
    yield daemon
    for worker in daemon.workers():
        worker.signal_group(signal.SIGKILL)
    if daemon.running:
        daemon.kill()


def health(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/v1/health", timeout=5, trust_env=False).json()


def frozen(daemon: Daemon) -> ProcessId:
    """The only worker, which from now on answers nothing and takes no notice of SIGTERM."""
    (worker,) = daemon.until(daemon.workers, "a worker")
    os.killpg(worker.pid, signal.SIGSTOP)
    return worker


def shut_down_in_time(daemon: Daemon) -> None:
    began = time.monotonic()
    daemon.call("POST", "daemon:shutdown", {})
    daemon.until(lambda: not daemon.running, "the daemon to end", LIMIT_S)
    assert time.monotonic() - began < LIMIT_S and daemon.workers() == []


def test_it_ends_in_time_with_a_hung_stream_and_a_worker_that_ignores_signals(daemon: Daemon) -> None:
    headers = {"authorization": f"Bearer {daemon.home.token()}"}
    with ExitStack() as stack:
        streams = []
        for _ in range(3):
            call = httpx.stream("POST", f"{daemon.url}/v1/completions", json=STREAM, headers=headers, timeout=60)
            streams.append(stack.enter_context(call))
            next(streams[-1].iter_lines())
        worker = frozen(daemon)
        assert health(daemon.url)["status"] == "ok"
        shut_down_in_time(daemon)
    assert not worker.alive


def test_it_ends_in_time_with_a_worker_that_starts_and_a_probe_that_hangs(daemon: Daemon) -> None:
    daemon.call("POST", "deployments?deploymentId=live", {"baseModel": "tiny", "force": True})
    worker = frozen(daemon)
    assert daemon.call("GET", "deployments/live")["state"] == "CREATING"
    shut_down_in_time(daemon)
    assert not worker.alive


def test_writers_that_wait_neither_delay_health_nor_keep_the_process_alive(daemon: Daemon) -> None:
    writer = sqlite3.connect(daemon.home.database, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    bodies = [("deployments", {"baseModel": "tiny", "force": True})] * 8
    bodies += [("datasets", {"datasetId": f"d{number}", "dataset": {}}) for number in range(48)]
    bodies += [("pipelines/none:cancel", {})] * 8
    with ThreadPoolExecutor(len(bodies)) as pool:
        calls = [pool.submit(daemon.request, "POST", f"{ROOT}/{path}", json=body) for path, body in bodies]
        wait_for(lambda: all(call.running() or call.done() for call in calls))
        for _ in range(20):
            assert health(daemon.url)["pid"]
        created = [call for call in calls[:56] if call.done() and call.result().is_success]
        assert not created, "the database is locked all the while"
        shut_down_in_time(daemon)
    writer.close()


def test_the_sweep_of_workers_goes_on_after_a_failure(daemon: Daemon) -> None:
    def sweeper() -> dict[str, Any]:
        return next(loop for loop in health(daemon.url)["supervision"] if loop["name"] == "workers")

    ask = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    assert daemon.request("POST", "/v1/completions", json=ask).is_success
    (worker,) = daemon.workers()
    (record,) = (daemon.home.root / "workers").glob("*.json")
    record.unlink()
    record.mkdir()
    kill_now(worker)
    daemon.until(lambda: sweeper().get("lastError"), "the sweep to fail on the folder")
    record.rmdir()
    daemon.until(lambda: sweeper()["state"] == "ok", "the sweep to succeed")
    assert daemon.request("POST", "/v1/completions", json=ask).is_success
