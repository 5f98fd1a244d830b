"""Deployments that are replaced, withdrawn, tried again and raced for, with real workers of a tiny model."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from safetensors.numpy import load_file, save_file

from engine.control.http.services import Services
from engine.control.kinds.pipeline.plan import Plan
from engine.control.serving.worker_process import WorkerFiles
from engine.control.supervision import Backoff
from engine.control.tests.support import ROOT, error_of, running_app, wait_ended, wait_for
from engine.jobs.process import ProcessId
from fw_sdk.types import CreatePipeline, Deployment, DeploymentState, JobKind, JobState, Pipeline, StepName, StepState
from fw_sdk.types.home import Home

WAIT_S = 180.0


class Server:
    """A running app with two base models, ``one`` and ``other``."""

    def __init__(self, client: httpx.Client, app: FastAPI, folder: Path, model: Path) -> None:
        self.client, self.app = client, app
        self.services: Services = app.state.services
        self.other = folder / "other"
        shutil.copytree(model, self.other)
        (weights,) = self.other.glob("*.safetensors")
        tensors = load_file(weights)
        save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, weights, {"format": "pt"})
        self.pull("one", model)
        self.pull("other", self.other)

    def pull(self, name: str, source: Path) -> None:
        made = self.client.post(f"{ROOT}/models:pull", json={"source": str(source), "modelId": name})
        assert wait_ended(self.services.store, made.json()["job"].rsplit("/", 1)[-1], WAIT_S).state.ended

    def deploy(self, name: str, model: str) -> Any:
        made = self.client.post(f"{ROOT}/deployments?deploymentId={name}", json={"baseModel": model, "force": True})
        made.raise_for_status()
        return made.json()

    def deployment(self, name: str) -> Any:
        return self.client.get(f"{ROOT}/deployments/{name}").json()

    def until(self, name: str, state: str) -> Any:
        wait_for(lambda: self.deployment(name)["state"] == state, WAIT_S)
        return self.deployment(name)

    def answers(self, name: str) -> str:
        """The id of the model whose weights answer under a name."""
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        reply = self.client.post("/v1/completions", json=body)
        assert reply.status_code == 200, reply.text
        digests = {model.digest: model.id for model in self.services.store.models.all()}
        return digests[reply.headers["x-fw-model-digest"]]

    def processes(self) -> list[ProcessId]:
        return [record.process for record in WorkerFiles(self.services.home).living() if record.process]

    def deploy_step(self, name: str, model: str) -> None:
        """A pipeline in its last step, which deploys ``model`` as ``name``."""
        fields = {"baseModel": "one", "dataset": "x", "evaluator": "y", "outputModel": model}
        plan = Plan(name, CreatePipeline.model_validate(fields))
        done = [
            step.model_copy(update={"state": StepState.RUNNING if step.name is StepName.DEPLOY else StepState.DONE})
            for step in Plan.first_steps(plan.request)
        ]
        pipeline = Pipeline(
            name=f"accounts/local/pipelines/{name}",
            kind=JobKind.PIPELINE,
            request=plan.request.to_wire(),
            steps=done,
            state=JobState.RUNNING,
        )
        self.services.store.jobs.create(pipeline)

    def cancel_pipeline(self, name: str) -> None:
        self.client.post(f"{ROOT}/pipelines/{name}:cancel", json={}).raise_for_status()
        assert wait_ended(self.services.store, name, WAIT_S).state is JobState.CANCELLED


@pytest.fixture
def server(home: Home, tmp_path: Path, tiny_llama_dir: Path) -> Iterator[Server]:
    with running_app(home) as (client, app):
        app.state.ending.keep_workers = False
        yield Server(client, app, tmp_path, tiny_llama_dir)
    assert WorkerFiles(home).living() == []


def freeze_new(server: Server, known: list[ProcessId]) -> ProcessId:
    """The worker that starts now, which from now on gets no further."""
    (process,) = wait_for(lambda: [process for process in server.processes() if process not in known], WAIT_S)
    os.killpg(process.pid, signal.SIGSTOP)
    return process


def test_a_pipeline_cancelled_in_its_deploy_step_leaves_no_deployment(server: Server) -> None:
    server.deploy("live", "one")
    process = freeze_new(server, [])
    server.deploy_step("live", "one")
    server.cancel_pipeline("live")
    assert server.client.get(f"{ROOT}/deployments/live").status_code == 404
    assert not process.alive and server.processes() == []


def test_what_was_served_answers_while_it_is_replaced_and_after_a_cancellation(server: Server) -> None:
    server.deploy("live", "one")
    server.until("live", "READY")
    before = server.processes()
    server.deploy("live", "other")
    process = freeze_new(server, before)
    assert server.deployment("live")["state"] == "CREATING" and server.answers("live") == "one"
    assert "live" in {item["id"] for item in server.client.get("/v1/models").json()["data"]}
    refused = server.client.delete(f"{ROOT}/models/one")
    assert "deployment 'live'" in error_of(refused)["message"], "weights that answer are not removed"
    server.deploy_step("live", "other")
    server.cancel_pipeline("live")
    ready = server.until("live", "READY")
    assert ready["baseModel"].endswith("/one") and "previous" not in ready and server.answers("live") == "one"
    assert not process.alive, "the start of what was withdrawn was given up"

    server.deploy("live", "other")
    ready = server.until("live", "READY")
    assert ready["baseModel"].endswith("/other") and "previous" not in ready and server.answers("live") == "other"
    server.client.delete(f"{ROOT}/deployments/live").raise_for_status()


def test_a_deployment_that_has_passed_stays_when_its_pipeline_is_cancelled(server: Server) -> None:
    server.deploy("live", "one")
    server.until("live", "READY")
    (process,) = server.processes()
    process.signal_group(signal.SIGKILL)
    again = freeze_new(server, [process])
    server.deploy_step("live", "one")
    server.cancel_pipeline("live")
    assert server.deployment("live")["state"] == "CREATING", "it comes back after the death of its worker"
    os.killpg(again.pid, signal.SIGCONT)
    server.until("live", "READY")
    assert server.answers("live") == "one"


def test_a_failure_that_mends_is_tried_again_and_what_was_served_answers_meanwhile(server: Server) -> None:
    server.services.deployments._retries = Backoff(0.1, 0.5)
    server.deploy("live", "one")
    server.until("live", "READY")
    config = Path(str(server.services.store.models.get("other").path)) / "config.json"
    whole = config.read_text()
    config.write_text("{}")
    server.deploy("live", "other")
    failed = server.until("live", "FAILED")
    assert failed["retryTime"] and "It is tried again at" in failed["status"]["message"]
    assert "'one' is still served" in failed["status"]["message"] and server.answers("live") == "one"
    config.write_text(whole)
    ready = server.until("live", "READY")
    assert "retryTime" not in ready and server.answers("live") == "other"


def test_a_failure_that_no_retry_mends_stays(server: Server) -> None:
    server.services.deployments._retries = Backoff(0.01, 0.01)
    shutil.rmtree(str(server.services.store.models.get("other").path))
    server.deploy("gone", "other")
    failed = server.until("gone", "FAILED")
    assert "retryTime" not in failed and "are gone" in failed["status"]["message"]
    reply = server.client.post("/v1/completions", json={"model": "gone", "prompt": "a"})
    assert reply.status_code == 409 and "pull the model again" in reply.text


def test_after_too_many_crashes_a_deployment_comes_back_by_itself(server: Server) -> None:
    workers = server.services.workers
    workers._limits = replace(workers._limits, max_crashes=1, crash_window_s=4.0)
    server.services.deployments._retries = Backoff(0.5, 1.0)
    server.deploy("live", "one")
    server.until("live", "READY")
    (process,) = server.processes()
    process.signal_group(signal.SIGKILL)
    failed = server.until("live", "FAILED")
    assert "died 1 times" in failed["status"]["message"] and failed["retryTime"]
    server.until("live", "READY")
    assert server.processes() not in ([], [process])


def test_the_url_is_where_the_daemon_listens_now(home: Home) -> None:
    name = "accounts/local/deployments/old"
    for url in ("http://127.0.0.1:1111", "http://127.0.0.1:2222"):
        with running_app(home, base_url=url) as (client, app):
            store = app.state.services.store.deployments
            if store.find("old") is None:
                store.create(
                    Deployment(name=name, base_model="m", state=DeploymentState.FAILED, url="http://stored/v1")
                )
            assert client.get(f"{ROOT}/deployments/old").json()["url"] == f"{url}/v1"
            assert client.get(f"{ROOT}/deployments").json()["deployments"][0]["url"] == f"{url}/v1"


def test_parallel_clients_that_deploy_and_delete_one_name_leave_nothing_behind(server: Server) -> None:
    def act(seed: int) -> list[int]:
        draw, codes = random.Random(seed), []
        for _ in range(12):
            if draw.random() < 0.6:
                body = {"baseModel": draw.choice(("one", "one", "other")), "force": True}
                codes.append(server.client.post(f"{ROOT}/deployments?deploymentId=raced", json=body).status_code)
            else:
                codes.append(server.client.delete(f"{ROOT}/deployments/raced").status_code)
        return codes

    with ThreadPoolExecutor(6) as pool:
        codes = [code for codes in pool.map(act, range(6)) for code in codes]
    assert set(codes) <= {200, 404, 409}
    found = server.services.store.deployments.find("raced")
    if found is not None:
        wait_for(lambda: server.deployment("raced")["state"] == "READY", WAIT_S)
        assert server.answers("raced") == found.base_model.rsplit("/", 1)[-1]
        server.client.delete(f"{ROOT}/deployments/raced").raise_for_status()
    assert server.services.store.deployments.ids() == []
    wait_for(lambda: not server.services.workers._pins)
