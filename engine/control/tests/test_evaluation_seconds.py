"""The seconds of an evaluation are those of its work, whether or not it had to start the model's worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.control.evidence.gates import Candidate, decide
from engine.control.tests.daemon_process import Daemon, kill_now
from engine.control.tests.support import write_rows
from fw_sdk.types import Comparison, Gate, GateKind

START_S = 3.0
SLOW_START = f"""
import sys, time
if any(argument.startswith("engine.serving") for argument in sys.orig_argv):
    time.sleep({START_S})
"""
EVALUATOR = "def evaluate(messages, **row):\n    return 1.0\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Iterator[Daemon]:
    """A daemon whose workers take ``START_S`` longer to start: what Python runs first in them sleeps."""
    folder = tmp_path_factory.mktemp("seconds")
    (folder / "sitecustomize.py").write_text(SLOW_START)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        daemon = Daemon(folder / "home").start()
    try:
        daemon.pull(tiny_llama_dir, "tiny")
        daemon.call("POST", "evaluatorsV2", {"evaluatorId": "ones", "source": EVALUATOR})
        daemon.call("POST", "datasets", {"datasetId": "rows", "dataset": {}})
        content = write_rows(folder / "rows.jsonl", 8).read_bytes()
        daemon.call("POST", "datasets/rows:upload", files={"file": ("rows.jsonl", content)})
        yield daemon
    finally:
        daemon.shut_down()


def evaluate(daemon: Daemon, identifier: str) -> dict[str, Any]:
    fields = {"model": "tiny", "inputDataset": "rows", "evaluator": "ones", "inferenceParameters": {"maxTokens": 4}}
    daemon.call("POST", "evaluationJobs", {"evaluationJobId": identifier, "evaluationJob": fields})
    daemon.wait_job(identifier)
    return daemon.call("GET", f"evaluationJobs/{identifier}")


def uncounted_s(evaluation: dict[str, Any]) -> float:
    """What of the job's life is not counted as its work."""
    began, ended = (datetime.fromisoformat(evaluation[key]) for key in ("startTime", "completedTime"))
    return (ended - began).total_seconds() - evaluation["seconds"]


def of_another_model(comparison: Comparison) -> Comparison:
    """The comparison as if its baseline were of other weights: no gate takes a model compared with itself."""
    side = comparison.baseline_evidence
    assert side is not None and side.configuration is not None
    other = side.configuration.model_copy(update={"model_digest": "sha256:" + "0" * 64})
    return comparison.model_copy(update={"baseline_evidence": side.model_copy(update={"configuration": other})})


def test_a_worker_s_start_is_no_cost_on_either_side(daemon: Daemon) -> None:
    cold = evaluate(daemon, "cold")
    warm = evaluate(daemon, "warm")
    (worker,) = daemon.workers()
    kill_now(worker)
    cold_again = evaluate(daemon, "cold-again")
    for started in (cold, cold_again):
        assert started["seconds"] > 0 and uncounted_s(started) >= START_S
    for baseline, candidate in ((cold, warm), (warm, cold_again)):
        sides = {"baseline": baseline["name"], "candidate": candidate["name"]}
        found = Comparison.model_validate(daemon.call("POST", "comparisons", sides))
        assert found.cost["baseline_tokens"] == found.cost["candidate_tokens"], "a warm-up is not counted"
        assert found.cost["candidate_seconds"] == candidate["seconds"]
        found = of_another_model(found)
        served = Candidate(candidate["model"], candidate["configuration"]["modelDigest"])
        decision = decide(Gate(kind=GateKind.NOT_WORSE, margin=1.0), found, served)
        assert decision.holds, decision.reason
