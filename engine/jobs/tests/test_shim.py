"""A job's directory tells how its process lived and ended, whatever happened to it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.jobs.files import read_json, read_lines, tail, write_json
from engine.jobs.process import ProcessId

PROGRAM = "engine.jobs.tests.sample_program"


def start(job_dir, **spec):
    job_dir.mkdir(exist_ok=True)
    write_json(job_dir / "spec.json", spec)
    command = [sys.executable, "-m", "engine.jobs.shim", str(job_dir), PROGRAM]
    return subprocess.Popen(command, start_new_session=True)


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def test_a_job_that_ends_well_leaves_result_events_and_status(tmp_path):
    assert start(tmp_path, end="done", count=4).wait(20) == 0
    assert read_json(tmp_path / "exit.json")["status"] == 0
    assert read_json(tmp_path / "result.json") == {"counted": 4}
    events = [value for value, _ in read_lines(tmp_path / "events.jsonl")]
    assert [event["data"]["done"] for event in events] == [1, 2, 3, 4]
    assert events[-1]["data"]["etaS"] == 0


def test_a_typed_failure_keeps_its_fields(tmp_path):
    assert start(tmp_path, end="typed").wait(20) == 1
    failure = read_json(tmp_path / "failure.json")
    assert (failure["code"], failure["notDone"], failure["hint"]) == (
        "dataset_invalid",
        "Nothing was trained.",
        "fix line 3",
    )
    assert "Traceback" not in "\n".join(tail(tmp_path / "log.txt", 50))


def test_a_bug_reaches_the_log_with_its_traceback(tmp_path):
    start(tmp_path, end="bug").wait(20)
    assert read_json(tmp_path / "failure.json")["code"] == "internal"
    log = "\n".join(tail(tmp_path / "log.txt", 50))
    assert "Traceback" in log and "ZeroDivisionError: a bug" in log


def test_cancel_goes_through_the_shim_to_the_program(tmp_path):
    shim = start(tmp_path, end="wait")
    wait_for(lambda: (tmp_path / "events.jsonl").exists() and (tmp_path / "run.json").exists())
    os.kill(shim.pid, signal.SIGTERM)
    shim.wait(20)
    assert read_json(tmp_path / "exit.json")["status"] == 4
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("victim", ["program", "shim"])
def test_kill_9_is_told_apart_from_an_end(tmp_path, victim):
    shim = start(tmp_path, end="wait")
    wait_for(lambda: (tmp_path / "events.jsonl").exists() and (tmp_path / "run.json").exists())
    run = {name: ProcessId.from_json(read_json(tmp_path / "run.json")[name]) for name in ("shim", "program")}
    assert run["shim"].alive and run["program"].alive
    os.kill(run[victim].pid, signal.SIGKILL)
    shim.wait(20)
    if victim == "program":
        assert read_json(tmp_path / "exit.json")["status"] == -9
    else:
        assert read_json(tmp_path / "exit.json") is None
        run["program"].signal_group(signal.SIGKILL)
        os.kill(run["program"].pid, signal.SIGKILL)
    wait_for(lambda: not run["program"].alive and not run["shim"].alive)


def test_a_pid_with_another_start_time_is_another_process():
    me = ProcessId.of(os.getpid())
    assert me.alive and ProcessId.from_json(me.to_json()) == me
    assert not ProcessId(me.pid, me.start_ticks - 1).alive
