"""The whole loop on a tiny model with real jobs, through a daemon that is killed on the way."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.tests.daemon_process import Daemon
from engine.control.workflows.steps import leaves_room
from fw_sdk.types import Device, Estimate

EVALUATOR = """
def evaluate(messages, ground_truth=None, **row):
    answer = messages[-1]["content"]
    same = 0
    for ours, theirs in zip(answer, ground_truth):
        if ours != theirs:
            break
        same += 1
    return {"score": same / len(ground_truth), "length": len(answer)}
"""
RAISES = "def evaluate(messages, ground_truth=None, **row):\n    raise KeyError('no such thing')\n"
ANSWER = "the city is Berlin"
TRAINING = {"epochs": 12, "learningRate": 0.02, "loraRank": 8, "batchSize": 256, "checkpointIntervalSteps": 2}
STEPS = ["check", "baseline", "few_shot", "finetune", "evaluate", "compare", "deploy"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("loop") / "home").start()
    try:
        daemon.pull(tiny_llama_dir, "tiny")
        upload(daemon, "rows", [f"question {number}" for number in range(48)], heldoutFraction=0.3)
        for name, source in (("prefix", EVALUATOR), ("raises", RAISES)):
            daemon.call("POST", "evaluatorsV2", {"evaluatorId": name, "source": source})
        yield daemon
    finally:
        daemon.shut_down()


def upload(daemon: Daemon, name: str, questions: list[str], **fields) -> None:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]}
        for question in questions
    ]
    daemon.call("POST", "datasets", {"datasetId": name, "dataset": fields})
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    daemon.call("POST", f"datasets/{name}:upload", files={"file": ("rows.jsonl", content)})


def request(identifier: str, **changes) -> dict:
    body = {
        "pipelineId": identifier,
        "baseModel": "tiny",
        "dataset": "rows",
        "evaluator": "prefix",
        "training": TRAINING,
        "inferenceParameters": {"maxTokens": 12},
        "fewShotCount": 2,
    }
    return {**body, **changes}


def states(pipeline: dict) -> dict[str, str]:
    return {step["name"]: step["state"] for step in pipeline["steps"]}


def check_completed(daemon: Daemon, identifier: str) -> dict:
    """What must be true of a completed pipeline, whatever happened on the way."""
    pipeline = daemon.call("GET", f"pipelines/{identifier}")
    outcome = pipeline["outcome"]
    assert [step["name"] for step in pipeline["steps"]] == STEPS
    assert set(states(pipeline).values()) == {"done"}, states(pipeline)
    assert set(outcome["evaluations"]) == {"base", "few_shot", "tuned"}
    assert {baseline["label"] for baseline in outcome["baselines"]} == {"base", "few_shot"}
    assert outcome["comparison"] in [baseline["comparison"] for baseline in outcome["baselines"]]
    assert outcome["comparison"]["baselineMean"] == max(item["summary"]["mean"] for item in outcome["baselines"])
    assert outcome["comparison"]["verdict"] == "better" and outcome["tuned"]["mean"] > 0.5
    assert set(outcome["timings"]) == set(STEPS) and all(seconds >= 0 for seconds in outcome["timings"].values())
    assert outcome["loss"][0][1] > outcome["loss"][-1][1]
    assert "the gate 'better' holds" in outcome["deployedBecause"] and not outcome["notDeployedBecause"]
    assert pipeline["progress"]["done"] == 7
    deployment = daemon.call("GET", f"deployments/{outcome['deployment']}")
    assert deployment["state"] == "READY" and deployment["comparison"] == outcome["comparison"]["name"]
    body = {"model": identifier, "messages": [{"role": "user", "content": "question 99"}], "max_tokens": 12}
    reply = daemon.request("POST", "/v1/chat/completions", json=body | {"temperature": 0})
    assert reply.json()["choices"][0]["message"]["content"].startswith("the city")
    adapter = daemon.call("GET", f"models/{outcome['adapter']}")
    assert reply.headers["x-fw-model-digest"] == adapter["digest"] == deployment["modelDigest"]
    return pipeline


def check_events(daemon: Daemon, identifier: str) -> None:
    """One gapless record that has the children's metrics, each once."""
    events = daemon.call("GET", f"jobs/{identifier}:events?follow=false")["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    origins = [(event["data"]["job"], event["data"]["jobSeq"]) for event in events if "jobSeq" in event["data"]]
    assert len(origins) == len(set(origins))
    assert any(event["type"] == "metric" and event["data"]["pipelineStep"] == "finetune" for event in events)
    assert events[-1]["data"]["state"] == "JOB_STATE_COMPLETED" and events[-2]["type"] == "result"


def test_the_loop_survives_kill_9_of_the_daemon_at_every_step(daemon: Daemon) -> None:
    created = daemon.call("POST", "pipelines", request("loop"))
    assert daemon.call("POST", "pipelines", request("loop"))["createTime"] == created["createTime"]
    killed = []
    while len(killed) < len(STEPS):
        pipeline = daemon.call("GET", "pipelines/loop")
        passed = [step["name"] for step in pipeline["steps"] if step["state"] != "pending"]
        if pipeline["state"] == "JOB_STATE_COMPLETED" or (passed and passed[-1] not in killed):
            daemon.kill()
            killed = passed
            daemon.start()
        time.sleep(0.02)
    daemon.wait_job("loop")
    daemon.wait_deployment("loop")
    check_completed(daemon, "loop")
    check_events(daemon, "loop")
    jobs = daemon.call("GET", "jobs")["jobs"]
    children = [job for job in jobs if job["name"].rsplit("/", 1)[-1].startswith("loop-")]
    assert len(children) == 4, "no step was done twice"
    daemon.call("DELETE", "deployments/loop")


def test_cancel_ends_the_running_child_and_resume_goes_on(daemon: Daemon) -> None:
    slow = {**TRAINING, "epochs": 40}
    daemon.call("POST", "pipelines", request("stopped", training=slow, fewShotCount=0, deploy=False))
    daemon.until(lambda: states(daemon.call("GET", "pipelines/stopped"))["finetune"] == "running", "training")
    daemon.until(lambda: daemon.call("GET", "jobs/stopped-finetune")["progress"]["done"] > 2, "training steps")
    daemon.call("POST", "pipelines/stopped:cancel", {})
    cancelled = daemon.wait_job("stopped", "JOB_STATE_CANCELLED")
    assert cancelled["attempt"] == 1
    assert daemon.call("GET", "jobs/stopped-finetune")["state"] == "JOB_STATE_CANCELLED"
    before = daemon.call("GET", "pipelines/stopped")
    assert states(before) == dict.fromkeys(STEPS, "pending") | dict(check="done", baseline="done", few_shot="skipped")
    daemon.call("POST", "pipelines/stopped:resume", {})
    daemon.wait_job("stopped")
    after = daemon.call("GET", "pipelines/stopped")
    assert after["steps"][1]["seconds"] == before["steps"][1]["seconds"], "finished steps are kept"
    assert after["outcome"]["timings"].keys() == set(STEPS) - {"few_shot", "deploy"}
    assert states(after)["deploy"] == "skipped" and after["outcome"]["notDeployedBecause"] == "not wanted"
    assert "deployment" not in after["outcome"]


def test_no_other_evaluation_of_its_baselines_name_is_taken_for_its_own(daemon: Daemon) -> None:
    slow = {**TRAINING, "epochs": 40}
    daemon.call("POST", "pipelines", request("taken", training=slow, fewShotCount=0, deploy=False))
    daemon.until(lambda: states(daemon.call("GET", "pipelines/taken"))["finetune"] == "running", "training")
    daemon.call("POST", "pipelines/taken:cancel", {})
    daemon.wait_job("taken", "JOB_STATE_CANCELLED")
    daemon.call("DELETE", "jobs/taken-base")
    fields = {"model": "tiny", "inputDataset": "rows", "evaluator": "prefix", "inferenceParameters": {"maxTokens": 1}}
    daemon.call("POST", "evaluationJobs", {"evaluationJobId": "taken-base", "evaluationJob": fields})
    daemon.wait_job("taken-base")
    daemon.call("POST", "pipelines/taken:resume", {})
    failed = daemon.wait_job("taken", "JOB_STATE_FAILED")
    assert failed["failure"]["code"] == "already_exists" and "'taken-base'" in failed["failure"]["message"]
    assert states(daemon.call("GET", "pipelines/taken"))["compare"] == "failed"


def test_a_childs_failure_is_the_pipelines_with_its_step_hint_and_log(daemon: Daemon) -> None:
    daemon.call("POST", "pipelines", request("broken", evaluator="raises"))
    failure = daemon.wait_job("broken", "JOB_STATE_FAILED")["failure"]
    child = daemon.call("GET", "jobs/broken-base")["failure"]
    assert failure["code"] == child["code"] == "evaluator_failed"
    assert failure["message"] == f"Step 'baseline' failed: {child['message']}"
    assert failure["details"]["step"] == "baseline" and failure["details"]["job"] == "broken-base"
    assert child["hint"] in failure["hint"] and "resume pipeline 'broken'" in failure["hint"]
    assert failure.get("logTail") == child.get("logTail")
    pipeline = daemon.call("GET", "pipelines/broken")
    assert states(pipeline)["baseline"] == "failed" and states(pipeline)["finetune"] == "pending"
    daemon.call("POST", "jobs/broken:resume", {})
    assert daemon.wait_job("broken", "JOB_STATE_FAILED")["attempt"] == 2
    assert daemon.call("GET", "jobs/broken-base")["attempt"] >= 2, "the failed step was tried again"


def test_rows_on_both_sides_stop_it_before_any_time_is_spent(daemon: Daemon) -> None:
    upload(daemon, "leaky", ["question 1", "QUESTION  2", "something else"])
    daemon.call("POST", "pipelines", request("leak", evaluationDataset="leaky"))
    failure = daemon.wait_job("leak", "JOB_STATE_FAILED")["failure"]
    assert "2 of the 3 rows" in failure["message"] and failure["details"]["overlap"]["shared"] == 2
    assert daemon.request("GET", "/v1/accounts/local/jobs/leak-base").status_code == 404


@pytest.mark.parametrize("field", ["baseModel", "dataset", "evaluator", "evaluationDataset"])
def test_unknown_names_are_refused_at_once(daemon: Daemon, field: str) -> None:
    error = daemon.call("POST", "pipelines", request("unknown", **{field: "row"}), expect=404)
    assert error["details"][0]["code"] == "not_found"
    assert daemon.request("GET", "/v1/accounts/local/pipelines/unknown").status_code == 404


def test_a_gate_that_does_not_hold_skips_the_deployment(daemon: Daemon) -> None:
    lazy = {**TRAINING, "epochs": 1, "learningRate": 1e-9}
    daemon.call("POST", "pipelines", request("lazy", training=lazy, fewShotCount=0))
    daemon.wait_job("lazy")
    pipeline = daemon.call("GET", "pipelines/lazy")
    assert pipeline["steps"][-1]["state"] == "skipped"
    assert pipeline["outcome"]["notDeployedBecause"].startswith("The gate 'better' is not met")
    assert pipeline["outcome"]["deployedBecause"] == ""
    assert daemon.request("GET", "/v1/accounts/local/deployments/lazy").status_code == 404


def test_a_worker_stays_beside_a_training_that_leaves_room(daemon: Daemon) -> None:
    def workers() -> list[str]:
        return [path.read_text() for path in (daemon.home.root / "workers").glob("*.json")]

    daemon.call("POST", "pipelines", request("roomy", fewShotCount=0, deploy=False))
    daemon.until(lambda: states(daemon.call("GET", "pipelines/roomy"))["baseline"] == "done", "the base's scores")
    before = workers()
    daemon.wait_job("roomy")
    assert len(before) == 1 and workers() == before


def test_workers_make_room_where_memory_is_short_and_on_a_gpu() -> None:
    estimate = Estimate(rows=1, tokens_per_epoch=1, trained_tokens_per_epoch=1, steps=1, peak_memory_bytes=2 << 30)
    machine = Device(kind="cpu", name="", cores=2, memory_bytes=8 << 30, memory_available_bytes=5 << 30, bf16=False)
    assert leaves_room(machine, estimate)
    assert not leaves_room(machine.model_copy(update={"memory_available_bytes": 4 << 30}), estimate)
    assert not leaves_room(machine.model_copy(update={"kind": "cuda"}), estimate)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_loop_survives_kill_9_at_any_time(daemon: Daemon, seed: int) -> None:
    rng, name = random.Random(seed), f"any-{seed}"
    daemon.call("POST", "pipelines", request(name))
    while daemon.call("GET", f"pipelines/{name}")["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
        time.sleep(rng.uniform(0, 1.5))
        daemon.kill()
        daemon.start()
    daemon.wait_job(name)
    daemon.wait_deployment(name)
    check_completed(daemon, name)
    check_events(daemon, name)
    daemon.call("DELETE", f"deployments/{name}")
