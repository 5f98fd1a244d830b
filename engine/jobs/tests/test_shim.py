"""A job's directory tells how its process lived and ended, whatever happened to it."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.jobs.files import read_json, read_lines, tail, write_json
from engine.jobs.process import ProcessId

SHIM = (sys.executable, "-m", "engine.jobs.shim")
PROGRAM = (sys.executable, "-m", "engine.jobs.tests.sample_program")


def start(job_dir, **spec):
    job_dir.mkdir(exist_ok=True)
    write_json(job_dir / "spec.json", spec)
    command = [*SHIM, str(job_dir), *PROGRAM]
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
    wait_for(lambda: (tmp_path / "events.jsonl").exists() and read_json(tmp_path / "run.json")["program"])
    run = {name: ProcessId.from_json(read_json(tmp_path / "run.json")[name]) for name in ("shim", "program")}
    assert run["shim"].alive and run["program"].alive
    os.kill(run[victim].pid, signal.SIGKILL)
    shim.wait(20)
    if victim == "program":
        assert read_json(tmp_path / "exit.json")["status"] == -9
    else:
        assert read_json(tmp_path / "exit.json") is None
        if platform.system() != "Linux":  # there the kernel ends the program
            run["program"].send_signal(signal.SIGKILL)
    wait_for(lambda: not run["program"].alive and not run["shim"].alive)


def test_a_pid_with_another_start_time_is_another_process():
    me = ProcessId.of(os.getpid())
    assert me.alive and ProcessId.from_json(me.to_json()) == me
    assert not ProcessId(me.pid, me.start_ticks - 1).alive


def test_setting_the_clock_changes_nobodys_identity(monkeypatch):
    me, boot_s = ProcessId.of(os.getpid()), psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_s + 3e7)
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_s + 3e7)
    assert psutil.Process().create_time() > time.time() and me.alive


def test_a_record_of_the_first_release_is_still_the_same_process():
    stat = Path("/proc/self/stat")
    if not stat.exists():
        pytest.skip("the first release ran where there is /proc")
    ticks = int(stat.read_text().rsplit(")", 1)[1].split()[19])
    assert ProcessId.from_json({"pid": os.getpid(), "startTicks": ticks}).alive


def test_a_process_is_found_by_its_command_line(tmp_path):
    shim = start(tmp_path, end="wait")
    wait_for(lambda: ProcessId.running(("engine.jobs.shim", str(tmp_path))) == ProcessId.of(shim.pid))
    shim.terminate()
    shim.wait(20)
    assert ProcessId.running(("engine.jobs.shim", str(tmp_path))) is None


def limit_files(pid, size):
    """Let a process write files of at most ``size`` bytes: to it, the disk is full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_on_a_full_disk_the_shim_waits_before_its_program_starts_and_after_it_ends(tmp_path):
    write_json(tmp_path / "spec.json", {"end": "wait"})
    (tmp_path / "log.txt").touch()
    command = [*SHIM, str(tmp_path), *PROGRAM]
    with (tmp_path / "said").open("w") as said:
        full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))}
        shim = subprocess.Popen(command, start_new_session=True, stderr=said, **full)
    wait_for(lambda: ProcessId.running(("engine.jobs.shim", str(tmp_path))) and (tmp_path / "said").stat().st_size)
    assert shim.poll() is None
    assert not (tmp_path / "run.json").exists() and not psutil.Process(shim.pid).children()
    limit_files(shim.pid, resource.RLIM_INFINITY)
    wait_for(lambda: (tmp_path / "run.json").exists() and read_json(tmp_path / "run.json")["program"])
    wait_for(lambda: (tmp_path / "events.jsonl").exists())
    limit_files(shim.pid, 1)
    os.kill(shim.pid, signal.SIGTERM)
    wait_for(lambda: not psutil.Process(shim.pid).children())
    assert shim.poll() is None and not (tmp_path / "exit.json").exists()
    limit_files(shim.pid, resource.RLIM_INFINITY)
    shim.wait(20)
    assert read_json(tmp_path / "exit.json")["status"] == 4


def test_a_program_that_runs_for_too_long_is_ended_and_that_is_recorded(tmp_path):
    write_json(tmp_path / "spec.json", {"end": "wait"})
    command = [*SHIM, str(tmp_path), "--timeout-s", "0.5", *PROGRAM]
    assert subprocess.run(command, check=False, timeout=60).returncode == 1
    ended = read_json(tmp_path / "exit.json")
    assert ended["timedOut"] is True and ended["status"] in (4, -signal.SIGTERM)
