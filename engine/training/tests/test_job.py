"""The program as control starts it: a process with a job directory, killed and cancelled at bad moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.catalog import digest_file, digest_tree, read_adapter_info
from engine.jobs.files import read_lines, write_json
from engine.jobs.program import EXIT_CANCELLED, EXIT_DONE, EXIT_FAILED

ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Answer with one JSON object and nothing else."},
            {"role": "user", "content": f"What is the weather in city {number}?"},
            {"role": "assistant", "content": json.dumps({"city": number, "days": [1, 2, 3]})},
        ]
    }
    for number in range(40)
]


@pytest.fixture
def start(tiny_llama_dir, tmp_path):
    """Starts a fine-tune in a job directory of the given name; the same name continues it."""
    running = []

    def launch(name, rows=None, **config):
        job = tmp_path / name
        data = tmp_path / f"{name}.jsonl"
        if not job.exists():
            job.mkdir()
            data.write_text("".join(json.dumps(row) + "\n" for row in rows or ROWS))
            reference = {"path": str(data), "digest": digest_file(data), "name": "rows"}
            settings = {"epochs": 3, "batch_size": 150, "lora_rank": 4, "checkpoint_interval_steps": 3, **config}
            write_json(
                job / "spec.json",
                {
                    "base_model": "tiny",
                    "base_path": str(tiny_llama_dir),
                    "base_digest": "sha256:tiny",
                    "rows": reference,
                    "heldout": reference,
                    "adapters_dir": str(tmp_path / f"{name}-adapters"),
                    "config": settings,
                    "device": "cpu",
                },
            )
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "engine.training.job", str(job)]
        with (job / "log.txt").open("ab") as log:
            running.append(subprocess.Popen(command, env=environment, stderr=log))
        return job, running[-1]

    yield launch
    for process in running:
        process.kill()
        process.wait()


def events(job: Path, kind: str):
    return [value["data"] for value, _ in read_lines(job / "events.jsonl") if value["type"] == kind]


def wait_for_step(job: Path, process, step: int):
    deadline = time.monotonic() + 120
    while not any(metric["step"] >= step for metric in events(job, "metric")):
        assert process.poll() is None, (job / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def result_of(job: Path, process):
    assert process.wait(timeout=120) == EXIT_DONE, (job / "log.txt").read_text()
    return json.loads((job / "result.json").read_text())


def test_a_killed_run_resumes_to_the_same_bits_and_a_cancelled_one_saves_first(start, tiny_llama_dir):
    job, process = start("whole")
    whole = result_of(job, process)

    job, process = start("killed")
    wait_for_step(job, process, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (job / "result.json").exists()
    job, process = start("killed")
    wait_for_step(job, process, 8)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == EXIT_CANCELLED
    cancelled_at = events(job, "metric")[-1]["step"]
    job, process = start("killed")
    resumed = result_of(job, process)

    told = " ".join(event["text"] for event in events(job, "message"))
    assert "behind step 3 of" in told or "behind step 6 of" in told
    assert f"behind step {cancelled_at} of" in told
    assert resumed["adapterDigest"] == whole["adapterDigest"] == digest_tree(Path(whole["adapterPath"]))
    assert resumed["loss"] == whole["loss"]
    assert resumed["heldoutLoss"] == whole["heldoutLoss"] < whole["firstLoss"]
    assert [step for step, _ in whole["loss"]] == list(range(1, whole["steps"] + 1))
    info = read_adapter_info(Path(whole["adapterPath"]))
    assert (info.rank, info.base) == (4, "tiny")
    last = events(job, "progress")[-1]
    assert last["done"] == last["total"] == whole["steps"]
    assert set(events(job, "metric")[-1]) == {
        "step", "loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "config", "code", "said"),
    [
        ([{"messages": ROWS[0]["messages"][:2]}], {}, "dataset_invalid", "token to train on"),
        (ROWS[:5], {"max_context_length": 20}, "dataset_invalid", "line 1"),
    ],
    ids=["nothing to train on", "too long"],
)
def test_what_cannot_be_trained_fails_with_its_reason_and_leaves_no_adapter(start, tmp_path, rows, config, code, said):
    job, process = start("failing", rows, **config)
    assert process.wait(timeout=120) == EXIT_FAILED
    failure = json.loads((job / "failure.json").read_text())
    assert failure["code"] == code
    assert said in failure["message"]
    assert failure["notDone"] and failure["hint"]
    assert not (job / "result.json").exists()
    assert not list(tmp_path.glob("failing-adapters/*"))
