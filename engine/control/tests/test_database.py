"""The database under contention: who waits for whom, for how long, and what is said then."""

import asyncio
import sqlite3
import threading
from contextlib import contextmanager

import pytest

from engine.control.store import Store, database
from engine.control.tests.support import ROOT, error_of, running_app
from engine.control.tests.test_store import dataset
from fw_sdk.types import FwError


@contextmanager
def locked_by_another_process(path):
    """The write lock is held, as by a backup or by somebody's shell."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture
def impatient(monkeypatch):
    """Writers give up soon."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.3)


def test_reads_go_on_while_another_process_writes_and_writes_say_try_again(tmp_path, impatient):
    store = Store(tmp_path / "fw.db")
    store.datasets.create(dataset("a"))
    with locked_by_another_process(tmp_path / "fw.db"):
        assert store.datasets.ids() == ["a"] and store.datasets.list().total_size == 1
        with pytest.raises(FwError, match="locked") as caught:
            store.datasets.create(dataset("b"))
        assert caught.value.code == "unavailable" and caught.value.retryable and caught.value.not_done
    assert store.datasets.create(dataset("b")).id == "b"
    store.close()


def test_reads_go_on_while_a_writer_of_this_process_works_and_other_writers_say_try_again(tmp_path, impatient):
    store = Store(tmp_path / "fw.db")
    store.datasets.create(dataset("a"))
    inside, go_on = threading.Event(), threading.Event()

    def slow(current):
        inside.set()
        go_on.wait(30)
        return current

    writer = threading.Thread(target=store.datasets.update, args=("a", slow))
    writer.start()
    inside.wait(30)
    assert store.datasets.get("a").id == "a"
    with pytest.raises(FwError, match="locked"):
        store.datasets.create(dataset("b"))
    go_on.set()
    writer.join()
    assert store.datasets.create(dataset("b")).id == "b"
    store.close()


def test_a_locked_database_leaves_the_daemon_answering(home, little, impatient):
    with running_app(home) as (client, _):
        client.post(f"{ROOT}/datasets", json={"datasetId": "a"}).raise_for_status()
        with locked_by_another_process(home.database):
            refused = client.post(f"{ROOT}/datasets", json={"datasetId": "b"})
            assert refused.status_code == 503 and error_of(refused)["retryable"] and refused.headers["retry-after"]
            for path in ("/v1/health", "/v1/models", f"{ROOT}/overview", f"{ROOT}/datasets/a", f"{ROOT}/jobs"):
                assert client.get(path).status_code == 200
        client.post(f"{ROOT}/datasets", json={"datasetId": "b"}).raise_for_status()


def test_coroutines_ask_in_threads_that_are_there_for_nothing_else(tmp_path):
    store = Store(tmp_path / "fw.db")
    store.datasets.create(dataset("a"))

    async def ask():
        name = await store.run(lambda: threading.current_thread().name)
        return name, await store.run(store.datasets.get, identifier="a")

    name, found = asyncio.run(ask())
    assert name.startswith("fw-store") and found.id == "a"
    store.close()
