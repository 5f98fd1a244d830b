"""A real daemon in a process of its own, and what tests ask of it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save_file

from engine.control.tests.loop_guard import check_offences
from engine.jobs.files import read_json
from engine.jobs.process import ProcessId
from fw_sdk.types.home import Home

MAIN = """
import sys
from pathlib import Path
from engine.control.http.daemon import serve
from engine.control.tests.loop_guard import write_offences
from fw_sdk.types.home import Home
write_offences(Path(sys.argv[1]) / "on-the-loop.txt")
serve(Home(Path(sys.argv[1])), int(sys.argv[2]))
"""
TIMEOUT_S = 90.0


class Daemon:
    """One home and the daemon that runs on it, always on one port, which may be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root).prepare()
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])

    @property
    def url(self) -> str:
        """Where the daemon listens now."""
        return str(read_json(self.home.daemon_file)["url"])

    def start(self) -> Daemon:
        """Start it and wait until it answers."""
        self.home.daemon_file.unlink(missing_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen([sys.executable, "-c", MAIN, str(self.home.root), self._port], env=environment)
        self.until(lambda: self.home.daemon_file.exists() and self._answers(), "the daemon to answer")
        return self

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def shut_down(self) -> None:
        """Stop the daemon, its workers and its jobs."""
        if not self.running:
            self.start()
        self.call("POST", "daemon:shutdown", {"keepJobs": False})
        assert self._process is not None
        self._process.wait(timeout=40)
        check_offences(self.home.root / "on-the-loop.txt")

    def call(self, method: str, path: str, body: Any = None, *, expect: int = 200, **options: Any) -> Any:
        """A control-plane call; the reply's JSON."""
        reply = self.request(method, f"/v1/accounts/local/{path}", json=body, **options)
        assert reply.status_code == expect, reply.text
        return reply.json()

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Any call with the owner's token."""
        headers = {"authorization": f"Bearer {self.home.token()}", **(headers or {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=TIMEOUT_S, trust_env=False, **options)

    def until(self, done: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Poll until ``done()`` is true and return what it returned."""
        deadline = time.monotonic() + timeout_s
        while not (found := done()):
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}\n{self.daemon_log()}"
            time.sleep(0.05)
        return found

    def wait_job(self, identifier: str, state: str = "JOB_STATE_COMPLETED") -> Any:
        """The job once it has ended, which must be in ``state``."""
        ended = ("JOB_STATE_COMPLETED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
        job = self.until(
            lambda: (job := self.call("GET", f"jobs/{identifier}")) and job["state"] in ended and job, identifier
        )
        assert job["state"] == state, json.dumps(job, indent=1)
        return job

    def wait_deployment(self, identifier: str, state: str = "READY") -> Any:
        """The deployment once it is READY or FAILED, which must be ``state``."""
        found = self.until(
            lambda: (item := self.call("GET", f"deployments/{identifier}"))["state"] != "CREATING" and item, identifier
        )
        assert found["state"] == state, found
        return found

    def workers(self) -> list[ProcessId]:
        """Processes of workers that live."""
        records = [read_json(path) for path in (self.home.root / "workers").glob("*.json")]
        found = [ProcessId.from_json(record["process"]) for record in records if record and record["process"]]
        return [process for process in found if process.alive]

    def pull(self, source: Path, model: str) -> Any:
        """Register a folder as a base model and return it."""
        pulled = self.call("POST", "models:pull", {"source": str(source), "modelId": model})
        self.wait_job(pulled["job"].rsplit("/", 1)[-1])
        return self.call("GET", f"models/{model}")

    def daemon_log(self) -> str:
        """The end of the daemon's log."""
        path = self.home.logs / "daemon.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/health", timeout=5, trust_env=False).status_code == 200
        except (httpx.HTTPError, TypeError):
            return False


def kill_now(process: ProcessId) -> None:
    """kill -9 of exactly this process; returns when it is gone."""
    assert process.alive
    os.kill(process.pid, signal.SIGKILL)
    while process.alive:
        time.sleep(0.01)


def write_adapter(folder: Path, *, scale: float = 1.0, rank: int = 4) -> Path:
    """A PEFT folder for the tiny model with a random update of its query projections."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    tensors = {}
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, 64)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = (scale * random.standard_normal((64, rank))).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
