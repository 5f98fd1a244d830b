"""The daemon as a process: killed, restarted, doubled, out of disk; no job is lost and none runs twice."""

import json
import resource
import signal
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from engine.control.http.daemon import serve
from engine.control.store.database import Database
from engine.control.tests.support import (
    ROOT,
    DaemonProcess,
    error_of,
    program_of,
    wait_for,
    write_rows,
)
from engine.jobs.process import ProcessId
from fw_sdk.types import FwError, JobState
from fw_sdk.types.home import Home


@pytest.fixture
def daemons(home):
    """Starts daemons, and ends whatever of them is left."""
    started = []

    def start(**options):
        started.append(DaemonProcess(home, **options))
        return started[-1]

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.kill()
        elif daemon.process.stderr and not daemon.process.stderr.closed:
            daemon.process.stderr.close()
    for path in home.jobs.glob("*/run.json"):
        ProcessId.from_json(json.loads(path.read_bytes())["shim"]).signal_group(signal.SIGKILL)


def slow_job(client):
    """Start a pull, whose program here works until it is told to finish."""
    client.post(f"{ROOT}/models:pull", json={"source": "/", "modelId": "slow"}).raise_for_status()
    return client.get(f"{ROOT}/models/slow").json()["job"].rsplit("/", 1)[-1]


SLOW = "engine.control.tests.slow_program"


def job_of(client, identifier):
    return client.get(f"{ROOT}/jobs/{identifier}").json()


def test_jobs_outlive_a_killed_daemon_and_are_adopted_with_nothing_lost_or_doubled(daemons, home):
    daemon = daemons(program=SLOW).started()
    with daemon.client() as client:
        identifier = slow_job(client)
        wait_for(lambda: job_of(client, identifier)["progress"]["done"] >= 3)
        seen = client.get(f"{ROOT}/jobs/{identifier}:events?follow=false").json()["events"]
    program = program_of(home, identifier)
    daemon.kill()
    assert program.alive
    written = (home.jobs / identifier / "work.txt").stat().st_size
    wait_for(lambda: (home.jobs / identifier / "work.txt").stat().st_size > written)
    daemon = daemons(program=SLOW).started()
    with daemon.client() as client:
        assert program.alive and program_of(home, identifier) == program
        (home.jobs / identifier / "finish").touch()
        job = client.get(f"{ROOT}/jobs/{identifier}:wait?timeoutS=30").json()
        assert job["state"] == JobState.COMPLETED and job["attempt"] == 1
        events = client.get(f"{ROOT}/jobs/{identifier}:events?follow=false").json()["events"]
        assert client.get(f"{ROOT}/models/slow").json()["state"] == "READY"
    assert events[: len(seen)] == seen and [e["seq"] for e in events] == list(range(1, len(events) + 1))
    done = [e["data"]["done"] for e in events if e["type"] == "progress"]
    assert done == list(range(1, len(done) + 1))
    assert daemon.stop() == 0 and not home.daemon_file.exists()


def test_a_job_that_ended_while_no_daemon_ran_is_found_ended(daemons, home):
    daemon = daemons(program=SLOW).started()
    with daemon.client() as client:
        identifier = slow_job(client)
        wait_for(lambda: job_of(client, identifier)["progress"]["done"] >= 1)
    daemon.kill()
    (home.jobs / identifier / "finish").touch()
    wait_for(lambda: (home.jobs / identifier / "exit.json").exists())
    with daemons(program=SLOW).started().client() as client:
        assert client.get(f"{ROOT}/jobs/{identifier}:wait?timeoutS=30").json()["state"] == JobState.COMPLETED


def test_a_job_that_died_with_the_daemon_goes_on_in_a_new_attempt(daemons, home):
    daemon = daemons(program=SLOW).started()
    with daemon.client() as client:
        identifier = slow_job(client)
        wait_for(lambda: job_of(client, identifier)["progress"]["done"] >= 2)
    daemon.kill()
    program = program_of(home, identifier)
    shim = ProcessId.from_json(json.loads((home.jobs / identifier / "run.json").read_bytes())["shim"])
    shim.signal_group(signal.SIGKILL)
    wait_for(lambda: not program.alive and not shim.alive)
    (home.jobs / identifier / "finish").touch()
    with daemons(program=SLOW).started().client() as client:
        job = client.get(f"{ROOT}/jobs/{identifier}:wait?timeoutS=30").json()
    assert job["state"] == JobState.COMPLETED and job["attempt"] == 2
    lines = (home.jobs / identifier / "work.txt").read_text().splitlines()
    assert lines == [str(n) for n in range(1, len(lines) + 1)]


def test_a_second_daemon_and_a_taken_port_are_refused_by_name(daemons, home, tmp_path):
    daemon = daemons().started()
    second = daemons()
    assert second.process.wait(20) == 1
    said = second.process.stderr.read()
    assert said.startswith("failed_precondition") and f"pid {daemon.process.pid}" in said
    port = int(daemon.url.rsplit(":", 1)[1])
    other_home = type(home)(tmp_path / "other")
    third = DaemonProcess(other_home, port)
    assert third.process.wait(20) == 1
    said = third.process.stderr.read()
    third.process.stderr.close()
    assert said.startswith("port_in_use") and f"another home (pid {daemon.process.pid})" in said
    assert not other_home.database.exists()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        fourth = DaemonProcess(other_home, stranger.getsockname()[1])
        assert fourth.process.wait(20) == 1 and "another program" in fourth.process.stderr.read()
        fourth.process.stderr.close()
    assert daemon.client().get("/v1/health").json()["pid"] == daemon.process.pid


def test_shutdown_ends_streams_and_leaves_jobs_alone_unless_told(daemons, home):
    daemon = daemons(program=SLOW).started()
    with daemon.client() as client:
        identifier = slow_job(client)
        wait_for(lambda: job_of(client, identifier)["progress"]["done"] >= 1)
        with client.stream("GET", f"{ROOT}/jobs/{identifier}:events") as stream:
            next(stream.iter_lines())
            began = time.monotonic()
            assert daemon.client().post(f"{ROOT}/daemon:shutdown", json={"keepJobs": True}).status_code == 200
            stream.close()
    assert daemon.process.wait(20) == 0 and time.monotonic() - began < 4
    assert program_of(home, identifier).alive and not home.daemon_file.exists()
    daemon = daemons(program=SLOW).started()
    daemon.client().post(f"{ROOT}/daemon:shutdown", json={"keepJobs": False}).raise_for_status()
    assert daemon.process.wait(20) == 0
    wait_for(lambda: not program_of(home, identifier).alive)
    with daemons(program=SLOW).started().client() as client:
        assert job_of(client, identifier)["state"] == JobState.CANCELLED


def test_a_full_disk_stores_nothing_half_and_the_daemon_goes_on(daemons, home, tmp_path):
    limit = 400_000

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    daemon = daemons(preexec=small_files).started()
    with daemon.client() as client:
        client.post(f"{ROOT}/datasets", json={"datasetId": "big"}).raise_for_status()
        rows = write_rows(tmp_path / "rows.jsonl", 6000).read_bytes()
        assert len(rows) > limit
        refused = client.post(f"{ROOT}/datasets/big:upload", files={"file": rows})
        assert error_of(refused)["code"] == "resource_exhausted" and refused.status_code == 429
        assert list(home.datasets.iterdir()) == []
        made, reply = 0, None
        for number in range(300):
            source = f"#{'x' * 20_000}\ndef evaluate(messages):\n    return {number}\n"
            body = {"evaluatorId": f"e{number}", "source": source, "description": "y" * 20_000}
            reply = client.post(f"{ROOT}/evaluatorsV2", json=body)
            if reply.status_code != 200:
                break
            made += 1
        assert error_of(reply)["code"] == "resource_exhausted" and made > 3
        large = {"evaluatorId": "large", "source": f"#{'x' * limit}\ndef evaluate(messages):\n    return 1\n"}
        reply = client.post(f"{ROOT}/evaluatorsV2", json=large)
        assert error_of(reply)["code"] == "resource_exhausted" and reply.headers["x-should-retry"] == "true"
        assert client.get("/v1/health").json()["status"] == "ok"
        assert client.get(f"{ROOT}/evaluators").json()["totalSize"] == made
    daemon.kill()
    with daemons().started().client() as client:
        assert client.get(f"{ROOT}/evaluators").json()["totalSize"] == made
        assert client.get(f"{ROOT}/datasets/big").json()["state"] == "UPLOADING"
        body = {"evaluatorId": "after", "source": "def evaluate(messages):\n    return 1\n"}
        assert client.post(f"{ROOT}/evaluatorsV2", json=body).status_code == 200


def test_secrets_and_the_database_are_the_owners_alone(daemons, home):
    daemon = daemons().started()
    assert home.token_file.stat().st_mode & 0o777 == 0o600 and home.root.stat().st_mode & 0o777 == 0o700
    assert home.token() not in (home.logs / "daemon.log").read_text()
    assert home.daemon_file.stat().st_mode & 0o777 == 0o600
    fields = json.loads(home.daemon_file.read_bytes())
    assert ProcessId.from_json(fields) == ProcessId.of(daemon.process.pid) and fields["version"]


def altered(statement):
    """A way to make a database: a good one, changed by a statement."""

    def make(path):
        Database(path).close()
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()

    return make


def overwritten(start, end):
    def make(path):
        Database(path).close()
        data = path.read_bytes()
        path.write_bytes(data[:start] + b"\x5a" * (len(data[:end]) - start) + data[end:])

    return make


def truncated(path):
    Database(path).close()
    path.write_bytes(path.read_bytes()[:5000])


UNUSABLE = {
    "a text": (lambda path: path.write_text("hello\n" * 500), "not a readable database"),
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "truncated": (truncated, "not a readable database"),
    "another header": (overwritten(0, 100), "not a readable database"),
    "another first page": (overwritten(100, 4096), "not a readable database"),
    "other pages": (overwritten(4096, 1 << 30), "not a readable database"),
    "a table lost": (altered("DROP TABLE job_event"), "its tables job_event are missing"),
    "no version": (altered("DELETE FROM alembic_version"), "not a readable database"),
    "two versions": (altered("INSERT INTO alembic_version VALUES ('0001')"), "not a readable database"),
    "a version that is none": (altered("UPDATE alembic_version SET version_num = 'x'"), "newer version"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_database_that_cannot_be_used_is_named_with_what_to_do(home, kind):
    make, words = UNUSABLE[kind]
    make(home.database)
    before = home.database.read_bytes() if home.database.is_file() else None
    with pytest.raises(FwError, match=words) as caught:
        serve(home, 0)
    assert (
        caught.value.code == "failed_precondition" and str(home.database) in caught.value.message and caught.value.hint
    )
    assert before is None or home.database.read_bytes()[:4096] == before[:4096]


@pytest.mark.parametrize("name", ["a file", "below a file", "below /proc"])
def test_a_home_that_cannot_be_written_is_the_users_to_mend(tmp_path, name):
    (tmp_path / "file").write_text("x")
    roots = {"a file": tmp_path / "file", "below a file": tmp_path / "file/home", "below /proc": Path("/proc/fw/home")}
    with pytest.raises(FwError, match="cannot be used") as caught:
        serve(Home(roots[name]), 0)
    assert caught.value.code == "failed_precondition" and "FW_HOME" in caught.value.hint
