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
from engine.control.tests.support import ROOT, running_app, wait_for
from engine.jobs.process import ProcessId
from fw_sdk.types.home import Home

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
        assert sum(call.running() for call in calls) >= 48, "they wait for the database all the while"
        assert not any(call.done() for call in calls[8:56])
        shut_down_in_time(daemon)
    writer.close()


def test_every_loop_goes_on_after_the_store_failed_and_says_so_meanwhile(home: Home, little: None) -> None:
    with running_app(home) as (client, app):
        loops = {loop.name: loop for loop in app.state.loops}
        assert set(loops) == {"workers", "deployments", "jobs", "pipelines"}
        wait_for(lambda: client.get("/v1/health").json()["status"] == "ok")
        path, hidden = home.database, home.database.with_suffix(".away")
        app.state.services.store.close()
        path.rename(hidden)
        path.mkdir()
        failing = {"deployments", "jobs", "pipelines"}
        wait_for(lambda: {n for n in failing if loops[n].health.state == "failing"} == failing)
        said = client.get("/v1/health").json()
        assert said["status"] == "degraded"
        errors = {loop["name"]: loop.get("lastError") for loop in said["supervision"]}
        assert errors["jobs"] == "FwError resource_exhausted"
        path.rmdir()
        hidden.rename(path)
        wait_for(lambda: client.get("/v1/health").json()["status"] == "ok", 60)
        assert {loop["state"] for loop in client.get("/v1/health").json()["supervision"]} == {"ok"}


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
