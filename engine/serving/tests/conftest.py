"""A real worker process of a tiny model, shared by all tests of this room."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import anthropic
import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.inference.tests.tiny import tiny_adapter, tiny_model

TOKEN = "secret-of-the-test"


def start(folder, *arguments, token=TOKEN):
    environment = {**os.environ, "FW_WORKER_TOKEN": token, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "engine.serving", "--model", str(folder / "model"), "--name", "tiny"]
    return subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


class Worker:
    def __init__(self, folder):
        self.folder = folder
        self.ready_file = folder / "run" / "ready.json"
        tiny_model(folder / "model", max_position_embeddings=20_000)
        self.adapter = tiny_adapter(folder / "adapter", folder / "model", seed=3)
        self.process = start(
            folder, "--dtype", "float32", "--ready-file", str(self.ready_file), "--adapter", f"first={self.adapter}"
        )
        deadline = time.monotonic() + 60
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, "the worker did not become ready"
            time.sleep(0.05)
        self.ready = json.loads(self.ready_file.read_text())
        self.client = openai.OpenAI(base_url=self.ready["url"] + "/v1", api_key=TOKEN, max_retries=0)
        self.claude = anthropic.Anthropic(base_url=self.ready["url"], api_key=TOKEN, max_retries=0)
        headers = {"authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=self.ready["url"], headers=headers, timeout=30)

    def metrics(self):
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return {
            (sample.name, sample.labels.get("finished_reason")): sample.value
            for family in families
            for sample in family.samples
            if "le" not in sample.labels
        }

    def wait_idle(self):
        deadline = time.monotonic() + 20
        while self.metrics()["vllm:num_requests_running", None] or self.metrics()["vllm:num_requests_waiting", None]:
            assert time.monotonic() < deadline, "requests are still running"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("worker"))
    yield worker
    # Told to stop in the middle of an answer, it stops in time, quietly.
    endless = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True, "stream": True}
    with worker.http.stream("POST", "/v1/chat/completions", json=endless) as response:
        next(response.iter_lines())
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(worker.ready["url"].rsplit(":", 1)[1]))) != 0
    errors = worker.process.stderr.read()
    assert "key-value cache" in errors
    assert "Traceback" not in errors
