"""What goes wrong on purpose: each fault has a typed error, leaves a sound store, and loses no finished work."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

import fw_sdk as fw
from fw_sdk.exceptions import BY_CODE
from fw_sdk.types import FwError, Job, JobState, ModelState
from tests.e2e.place import BASE, Place, alive, check_store, wait_until

pytestmark = pytest.mark.model

LONG = {"epochs": 2, "batch_size": 16, "checkpoint_interval_steps": 2}
"""One short row a step: a training that is quick, and long enough to be interrupted."""


def fault(action: Callable[[], Any]) -> FwError:
    """The error of an action that must fail, as the class of its code."""
    with pytest.raises(FwError) as caught:
        action()
    assert caught.value.message and type(caught.value) is BY_CODE[caught.value.code]
    return caught.value


def test_a_wrong_path(shared_place: Place) -> None:
    place = shared_place
    done = place.run("pipeline", "start", BASE, "trian.jsonl", "evaluator.py", "--format", "json")
    error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    assert done.returncode == 3 and error["code"] == "not_found" and done.stdout == ""
    assert "train.jsonl" in error["message"] and error["notDone"] and error["hint"]
    with place.client() as client:
        check_store(place, client)


def test_an_unknown_model(shared_place: Place) -> None:
    with shared_place.client() as client:
        rows = client.datasets.create(shared_place.workspace / "train.jsonl", id="for-unknown")
        error = fault(lambda: client.finetunes.create("smollm2-153m", rows.id))
        assert error.code == "not_found" and BASE in error.message
        error = fault(lambda: client.chat("smollm2-153m", "hello"))
        assert error.code == "not_found" and BASE in error.message
        check_store(shared_place, client)


def test_a_dataset_with_one_bad_line(shared_place: Place) -> None:
    lines = (shared_place.workspace / "train.jsonl").read_text().splitlines()
    lines[4] = lines[4][:-10]
    broken = shared_place.workspace / "broken.jsonl"
    broken.write_text("\n".join(lines) + "\n")
    with shared_place.client() as client:
        error = fault(lambda: client.datasets.create(broken))
        assert error.code == "dataset_invalid" and error.hint
        problems = [problem for problem in error.details["report"]["problems"] if problem["severity"] == "error"]
        assert [problem["line"] for problem in problems] == [5]
        assert fault(lambda: client.finetunes.create(BASE, "broken")).code == "not_found"
        broken.write_text((shared_place.workspace / "train.jsonl").read_text())
        assert client.datasets.create(broken).state == "READY"
        check_store(shared_place, client)


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("raises", "def evaluate(messages, ground_truth=None, **row):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("nan", "def evaluate(messages, ground_truth=None, **row):\n    return float('nan')\n", "nan"),
    ],
)
def test_an_evaluator_that_fails(shared_place: Place, name: str, source: str, says: str) -> None:
    with shared_place.client() as client:
        heldout = client.datasets.create(shared_place.workspace / "heldout.jsonl", id=f"for-{name}")
        client.evaluators.create(source, id=name)
        scores = client.evaluators.check(name, dataset=heldout.id, limit=2)
        assert scores and all(score.score is None and says in str(score.error) for score in scores)
        job = client.evaluations.create(BASE, heldout.id, name, split="all", limit=2, max_tokens=4)
        ended = client.jobs.wait(job.id, timeout_s=120)
        assert ended.state is JobState.FAILED and ended.failure is not None
        assert ended.failure.code == "evaluator_failed" and ended.failure.hint
        assert says.lower() in json.dumps(ended.failure.to_wire()).lower()
        check_store(shared_place, client)


def test_an_evaluator_that_is_no_python(shared_place: Place) -> None:
    with shared_place.client() as client:
        error = fault(lambda: client.evaluators.create("def evaluate(messages:\n    pass\n", id="syntax"))
        assert error.code == "evaluator_invalid" and "line 1" in error.message.lower() + str(error.details).lower()
        assert fault(lambda: client.evaluators.get("syntax")).code == "not_found"


def test_a_port_in_use(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.port))
        other.listen()
        done = place.run("up", "--detach", "--port", str(place.port), "--format", "json")
    error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    assert done.returncode == 9 and error["code"] == "port_in_use" and str(place.port) in error["message"]
    assert error["hint"] and not place.home.daemon_file.exists()
    place.up()
    with place.client() as client:
        check_store(place, client)


def test_a_killed_job_is_tried_again(shared_place: Place) -> None:
    with shared_place.client() as client:
        rows = client.datasets.create(short_rows(), id="for-killed")
        job = client.finetunes.create(BASE, rows.id, id="killed", output_model="after-kill", **LONG)
        first = in_training(shared_place, client, job.id)
        os.kill(first, signal.SIGKILL)
        ended = client.jobs.wait(job.id, timeout_s=200)
        assert ended.state is JobState.COMPLETED and ended.attempt == 2, ended.failure
        assert client.models.get("after-kill").state is ModelState.READY
        assert metric_steps(client, ended) == steps_of(ended)
        check_store(shared_place, client)


def test_a_killed_daemon_adopts_its_job(shared_place: Place) -> None:
    """Last of the file: it leaves a daemon behind that is not the one it found."""
    place = shared_place
    with place.client() as client:
        rows = client.datasets.create(short_rows(), id="for-adopted")
        job = client.finetunes.create(BASE, rows.id, id="adopted", output_model="after-adoption", **LONG)
        program = in_training(place, client, job.id)
        place.kill_daemon()
        assert alive(program)
        error = fault(lambda: fw.Client(f"http://127.0.0.1:{place.port}", place.home.token(), max_retries=0).overview())
        assert error.code == "unavailable" and error.retryable and "fw up" in error.hint
        place.up()
        adopted = client.jobs.get(job.id)
        assert adopted.state.ended or place.program(job.id) == program
        ended = client.jobs.wait(job.id, timeout_s=200)
        assert ended.state is JobState.COMPLETED and ended.attempt == 1, ended.failure
        assert client.models.get("after-adoption").state is ModelState.READY
        assert metric_steps(client, ended) == steps_of(ended)
        check_store(place, client)


def short_rows() -> list[dict[str, Any]]:
    words = [
        f"{tens} {ones}" for tens in ("ten", "twenty", "thirty") for ones in ("one", "two", "three", "four", "five")
    ]
    return [
        {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}]}
        for word in words
    ]


def in_training(place: Place, client: fw.Client, job: str) -> int:
    """Wait until some optimiser steps are done; the program's process id."""
    wait_until(lambda: len(metric_numbers(client, job)) >= 4, 90, f"{job} to train")
    return place.program(job)


def metric_numbers(client: fw.Client, job: str) -> list[int]:
    return [event.data["step"] for event in client.jobs.past_events(job) if event.type == "metric"]


def metric_steps(client: fw.Client, job: Job) -> list[int]:
    """The distinct steps that were reported, in order; a later attempt may repeat those since its checkpoint."""
    return sorted(set(metric_numbers(client, job.id)))


def steps_of(job: Job) -> list[int]:
    assert job.result is not None
    return list(range(1, int(job.result["steps"]) + 1))
