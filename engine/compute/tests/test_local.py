"""Detached processes: one per job directory at a time, found again by anyone who looks at the directory."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from engine.compute import LocalCompute, Phase, Status, Task
from engine.jobs.files import read_json, write_json
from engine.jobs.process import ProcessId
from fw_sdk.types import FwError

PROGRAM = (sys.executable, "-m", "engine.jobs.tests.sample_program")


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def submit(compute, job_dir, **spec):
    write_json(job_dir / "spec.json", spec)
    compute.submit(Task(job_dir, PROGRAM, {"FW_API_KEY": "key"}))


def test_any_instance_sees_a_task_from_its_start_to_its_status(tmp_path):
    one, other = LocalCompute(), LocalCompute()
    assert other.poll(tmp_path) == Status(Phase.GONE)
    submit(one, tmp_path, end="wait")
    assert other.poll(tmp_path).phase is Phase.RUNNING
    with pytest.raises(FwError, match="still runs"):
        submit(other, tmp_path, end="done")
    wait_for(lambda: (tmp_path / "run.json").exists())
    other.cancel(tmp_path, force=False)
    wait_for(lambda: other.poll(tmp_path).phase is not Phase.RUNNING)
    assert other.poll(tmp_path).phase is Phase.EXITED and other.poll(tmp_path).exit_status != 0
    submit(other, tmp_path, end="done")
    wait_for(lambda: one.poll(tmp_path) == Status(Phase.EXITED, 0))


def test_a_killed_shim_is_gone_and_takes_its_program_with_it(tmp_path):
    compute = LocalCompute()
    submit(compute, tmp_path, end="wait")
    wait_for(lambda: (read_json(tmp_path / "run.json") or {}).get("program"))
    run = read_json(tmp_path / "run.json")
    program = ProcessId.from_json(run["program"])
    os.kill(run["shim"]["pid"], signal.SIGKILL)
    wait_for(lambda: compute.poll(tmp_path) == Status(Phase.GONE))
    wait_for(lambda: not program.alive)


def test_programs_get_what_they_need_and_no_secrets_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_CLOUD_SECRET", "s3cr3t")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    compute = LocalCompute()
    submit(compute, tmp_path, end="wait")
    wait_for(lambda: (read_json(tmp_path / "run.json") or {}).get("program"))
    pid = read_json(tmp_path / "run.json")["program"]["pid"]
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environment = dict(pair.split(b"=", 1) for pair in pairs if pair)
    assert environment[b"FW_API_KEY"] == b"key" and environment[b"OMP_NUM_THREADS"] == b"2"
    assert b"SOME_CLOUD_SECRET" not in environment and Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    compute.cancel(tmp_path, force=True)
    wait_for(lambda: compute.poll(tmp_path) == Status(Phase.GONE))


def test_a_running_jobs_folder_may_vanish_and_it_still_runs_once(tmp_path):
    compute, job_dir = LocalCompute(), tmp_path / "job"
    job_dir.mkdir()
    submit(compute, job_dir, end="wait")
    wait_for(lambda: (job_dir / "events.jsonl").exists())
    shutil.rmtree(job_dir)
    job_dir.mkdir()
    assert LocalCompute().poll(job_dir).phase is Phase.RUNNING
    with pytest.raises(FwError, match="still runs"):
        submit(LocalCompute(), job_dir, end="done")
    wait_for(lambda: LocalCompute().cancel(job_dir, force=False))
    wait_for(lambda: compute.poll(job_dir) == Status(Phase.EXITED, 4))


def test_a_task_with_too_little_time_says_so(tmp_path):
    write_json(tmp_path / "spec.json", {"end": "wait"})
    compute = LocalCompute()
    compute.submit(Task(tmp_path, PROGRAM, timeout_s=0.5))
    wait_for(lambda: compute.poll(tmp_path).phase is Phase.EXITED)
    assert compute.poll(tmp_path).timed_out
