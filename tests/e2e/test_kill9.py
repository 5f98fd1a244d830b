"""kill -9 at random instants, of whatever lives: nothing is lost, nothing is done twice, and the numbers are the same.

A pipeline is run once undisturbed. Then the same is run again and again while daemon, shim, job program, worker and
evaluator are killed at instants that are drawn in parts of the undisturbed run's time, so that a slow machine is hit in
the same places. Whatever was killed, the client does no more than start the daemon again and resume what FAILED.

``pytest -m slow -k 'shard and 3' tests/e2e/test_kill9.py`` runs one shard of the long version alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.control.tests.daemon_process import Daemon
from engine.jobs.files import read_json, read_lines
from engine.jobs.process import ProcessId
from tests.e2e.place import processes_of

VICTIMS = ("daemon", "shim", "program", "worker", "evaluator")
CHILDREN = ("base", "finetune", "scored")
ENDED = {"JOB_STATE_COMPLETED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"}
KILLS_IN_CI, SHARDS, KILLS_PER_SHARD = 30, 8, 25
PACE = 12
"""How many kills fall on average into a time as long as an undisturbed run."""
MOST_RESUMES = 40
EVALUATOR = """
def evaluate(messages, ground_truth=None, **row):
    answer = messages[-1]["content"]
    return sum(ours == theirs for ours, theirs in zip(answer, ground_truth)) / len(ground_truth)
"""


@dataclass(frozen=True)
class Numbers:
    """What a run came to, as far as it must be the same for every run."""

    adapter: str
    scores: dict[str, list[dict[str, Any]]]
    comparison: dict[str, Any]


@pytest.fixture
def daemon(tmp_path: Path, tiny_llama_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "home").start()
    try:
        daemon.pull(tiny_llama_dir, "tiny")
        daemon.call("POST", "datasets", {"datasetId": "rows", "dataset": {"heldoutFraction": 0.4}})
        turns = [[("user", f"question {number}"), ("assistant", "the city is Berlin")] for number in range(20)]
        rows = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        daemon.call("POST", "datasets/rows:upload", files={"file": ("rows.jsonl", content)})
        daemon.call("POST", "evaluatorsV2", {"evaluatorId": "same", "source": EVALUATOR})
        yield daemon
    finally:
        daemon.shut_down()
        for pid in processes_of(daemon.home.root):
            os.kill(pid, signal.SIGKILL)


def start(daemon: Daemon, name: str) -> None:
    training = {"epochs": 6, "learningRate": 0.02, "loraRank": 4, "batchSize": 128, "checkpointIntervalSteps": 1}
    body = {"pipelineId": name, "baseModel": "tiny", "dataset": "rows", "evaluator": "same", "training": training}
    more = {"inferenceParameters": {"maxTokens": 8}, "fewShotCount": 0, "forceDeploy": True}
    daemon.call("POST", "pipelines", {**body, **more})


def living(daemon: Daemon) -> dict[str, list[ProcessId]]:
    """Every process of this home that lives now, by what it is."""
    found: dict[str, list[ProcessId]] = {name: [] for name in VICTIMS}
    if daemon.running and (pid := (read_json(daemon.home.daemon_file) or {}).get("pid")):
        found["daemon"] += [process] if (process := ProcessId.of(pid)) else []
    for path in daemon.home.jobs.glob("*/run.json"):
        for what, fields in (read_json(path) or {}).items():
            if what in ("shim", "program") and fields and (process := ProcessId.from_json(fields)).alive:
                found[what].append(process)
    found["worker"] = daemon.workers()
    found["evaluator"] = [child for program in found["program"] for child in children(program)]
    return found


def children(process: ProcessId) -> list[ProcessId]:
    try:
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [child for pid in pids if (child := ProcessId.of(pid)) is not None]


def find_victim(daemon: Daemon, draw: random.Random, hits: Counter[str], patience_s: float) -> str:
    """A kind of process that lives: the one hit least if it comes in time, at any point of its life."""
    wanted = min(VICTIMS, key=lambda name: (hits[name], draw.random()))
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if living(daemon)[wanted]:
            time.sleep(draw.choice((0, draw.uniform(0, patience_s / 4))))
            break
        time.sleep(0.02)
    found = {name for name, processes in living(daemon).items() if processes}
    return wanted if wanted in found else min(found, key=lambda name: (hits[name], draw.random()), default="")


def kill_one(daemon: Daemon, draw: random.Random, hits: Counter[str], patience_s: float) -> None:
    """kill -9 of one living process, rather of a kind that was seldom hit."""
    victim = find_victim(daemon, draw, hits, patience_s)
    alive = [process for process in living(daemon).get(victim, []) if process.alive]
    if not alive:
        return
    process = draw.choice(alive)
    if victim == "daemon":
        daemon.kill()
        daemon.start()
    else:
        process.send_signal(signal.SIGKILL)
    hits[victim] += 1


def carry(daemon: Daemon, name: str, disturb: Callable[[], None]) -> int:
    """Take a pipeline to its end as a client would; returns how often it had to be resumed."""
    resumes = 0
    while (pipeline := daemon.call("GET", f"pipelines/{name}"))["state"] != "JOB_STATE_COMPLETED":
        if pipeline["state"] in ENDED:
            assert resumes < MOST_RESUMES, json.dumps(pipeline, indent=1) + daemon.daemon_log()
            assert pipeline["failure"]["code"] in ("worker_lost", "unavailable"), pipeline["failure"]
            daemon.call("POST", f"pipelines/{name}:resume", {})
            resumes += 1
        disturb()
    return resumes


def numbers_of(daemon: Daemon, name: str) -> Numbers:
    outcome = daemon.call("GET", f"pipelines/{name}")["outcome"]
    comparison = outcome["comparison"]
    kept = ("n", "delta", "ci", "verdict", "baselineMean", "candidateMean", "wins", "losses", "ties")
    return Numbers(
        adapter=daemon.call("GET", f"models/{outcome['adapter']}")["digest"],
        scores={label: scores_of(daemon, f"{name}-{label}") for label in ("base", "scored")},
        comparison={field: comparison[field] for field in kept},
    )


def scores_of(daemon: Daemon, job: str) -> list[dict[str, Any]]:
    scores = daemon.call("GET", f"evaluationJobs/{job}:scores?pageSize=200")["scores"]
    return [{field: row.get(field) for field in ("index", "line", "score", "output")} for row in scores]


def check_run(daemon: Daemon, name: str) -> None:
    """What must be true of a pipeline that completed, whatever was killed on the way."""
    pipeline = daemon.call("GET", f"pipelines/{name}")
    jobs = {job["name"].rsplit("/", 1)[-1]: job for job in daemon.call("GET", "jobs?pageSize=200")["jobs"]}
    mine = {job for job in jobs if job.startswith(f"{name}-")}
    assert mine == {f"{name}-{label}" for label in CHILDREN}, "one job for each step"
    assert all(jobs[job]["state"] == "JOB_STATE_COMPLETED" and jobs[job]["generation"] == 1 for job in mine)
    assert {step["state"] for step in pipeline["steps"]} <= {"done", "skipped"}
    for job in (name, *mine):
        events = daemon.call("GET", f"jobs/{job}:events?follow=false")["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert sum(event["type"] == "result" for event in events) == 1
        forwarded = [(e["data"]["job"], e["data"]["jobSeq"]) for e in events if "jobSeq" in e["data"]]
        assert len(forwarded) == len(set(forwarded))
    check_training(daemon, f"{name}-finetune")
    assert daemon.wait_deployment(name)["state"] == "READY"


class Kept:
    """The rows that were seen scored, each with the clock of its score: a row that is scored again tells another time.

    Args:
        daemon: whose jobs are looked at.
        name: the pipeline.
    """

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._files = [daemon.home.jobs / f"{name}-{label}" / "scores.jsonl" for label in ("base", "scored")]
        self._seen: dict[tuple[Path, int], Any] = {}

    def check(self) -> None:
        """No row that was seen before was lost or scored again, and none stands there twice."""
        found: dict[tuple[Path, int], Any] = {}
        for file in self._files:
            for row, _ in read_lines(file):
                assert (file, row["line"]) not in found, "a row is scored once"
                found[file, row["line"]] = row
        assert {key: found.get(key) for key in self._seen} == self._seen, "a score that was kept stays"
        self._seen |= found


def check_training(daemon: Daemon, job: str) -> None:
    """Every step is there; it is told again only by an attempt that went on from a checkpoint before it."""
    events = daemon.call("GET", f"jobs/{job}:events?follow=false")["events"]
    steps: list[list[int]] = [[]]
    for event in events:
        if event["type"] == "state" and event["data"]["state"] == "JOB_STATE_RUNNING":
            steps.append([])
        if event["type"] == "metric":
            steps[-1].append(event["data"]["step"])
    total = daemon.call("GET", f"jobs/{job}")["result"]["steps"]
    assert {step for attempt in steps for step in attempt} == set(range(1, total + 1))
    for attempt in steps:
        assert attempt == sorted(set(attempt)), steps


def check_nothing_left(daemon: Daemon) -> None:
    """No process of an ended job, no worker that nobody knows, no file that was only on its way."""
    found = living(daemon)
    assert not found["shim"] and not found["program"] and not found["evaluator"], found
    known = {process.pid for kind in ("daemon", "worker") for process in found[kind]}
    known |= {child.pid for pid in known for child in psutil.Process(pid).children(recursive=True)}
    daemon.until(lambda: set(processes_of(daemon.home.root)) <= known, "processes that nobody knows to end", 20)
    for folder in (daemon.home.adapters, daemon.home.models, daemon.home.datasets, daemon.home.evaluators):
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def attack(daemon: Daemon, kills: int, seed: int) -> tuple[Counter[str], int, int]:
    """Kill ``kills`` times, each kind at least once, in as many pipelines as that takes.

    Returns hits, pipelines and resumes.
    """
    began = time.monotonic()
    start(daemon, "undisturbed")
    carry(daemon, "undisturbed", lambda: time.sleep(0.05))
    check_run(daemon, "undisturbed")
    wanted, reach_s = numbers_of(daemon, "undisturbed"), 2 * (time.monotonic() - began) / PACE
    draw, hits, number, resumes = random.Random(seed), Counter[str](), 0, 0

    def disturb(kept: Kept) -> None:
        time.sleep(draw.uniform(0, reach_s))
        kept.check()
        if hits.total() < kills or not all_hit():
            kill_one(daemon, draw, hits, reach_s)

    def all_hit() -> bool:
        return all(hits[name] for name in VICTIMS)

    while hits.total() < kills or not all_hit():
        name = f"run-{number}"
        kept = Kept(daemon, name)
        daemon.call("DELETE", f"deployments/{f'run-{number - 1}' if number else 'undisturbed'}")
        start(daemon, name)
        resumes += carry(daemon, name, partial(disturb, kept))
        kept.check()
        check_run(daemon, name)
        assert numbers_of(daemon, name) == wanted
        check_nothing_left(daemon)
        number += 1
    return hits, number, resumes


def shown(title: str, hits: Counter[str], pipelines: int, resumes: int) -> str:
    """A small table: who was killed how often while it lived."""
    rows = [f"  {name:<10}{hits[name]:>4}" for name in VICTIMS]
    return "\n".join([f"\n{title}: {hits.total()} kills in {pipelines} pipelines, {resumes} resumes", *rows])


@pytest.mark.timeout(900)
def test_thirty_kills_change_nothing(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    hits, pipelines, resumes = attack(daemon, KILLS_IN_CI, seed=9)
    with capsys.disabled():
        print(shown("kill -9", hits, pipelines, resumes))
    assert hits.total() >= KILLS_IN_CI


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS), ids="shard-{}".format)
def test_two_hundred_kills_change_nothing(daemon: Daemon, capsys: pytest.CaptureFixture[str], shard: int) -> None:
    hits, pipelines, resumes = attack(daemon, KILLS_PER_SHARD, seed=1000 + shard)
    with capsys.disabled():
        print(shown(f"shard {shard}", hits, pipelines, resumes))
    assert hits.total() >= KILLS_PER_SHARD
