"""fw's worker over HTTP for the CPU benchmark: a worker process, and this process as its client on the same cores."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

NAME = "base"
START_TIMEOUT_S = 120


class Client:
    """A worker of its own, and a plain client of it that answers the benchmark's commands."""

    def __init__(self, model: str) -> None:
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="fw-bench-") as folder:
            ready = Path(folder) / "ready.json"
            command = [sys.executable, "-m", "engine.serving", "--model", model, "--name", NAME, "--port", "0"]
            environment = {**os.environ, "FW_WORKER_TOKEN": token}
            self._worker = subprocess.Popen([*command, "--ready-file", str(ready)], env=environment)
            atexit.register(self._stop)
            url = self._wait(ready)["url"]
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=None, trust_env=False)

    def facts(self) -> dict[str, Any]:
        """What runs here; the process is the worker, not its client."""
        return {"pid": self._worker.pid, "versions": f"httpx {httpx.__version__}"}

    def generate(self, prompts: list[list[int]], tokens: int) -> dict[str, float]:
        """Seconds until the whole answer to one prompt has been streamed."""
        (prompt,) = prompts
        sampling = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body = {"model": NAME, "prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **sampling}
        usage: dict[str, Any] = {}
        started = time.perf_counter()
        with self._client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    usage = json.loads(line.removeprefix("data: "))["usage"] or usage
        seconds = time.perf_counter() - started
        assert usage["completion_tokens"] == tokens, usage
        return {"total_s": seconds}

    def _stop(self) -> None:
        self._worker.terminate()
        self._worker.wait()

    def _wait(self, ready: Path) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if self._worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start (status {self._worker.poll()})")
            time.sleep(0.05)
        facts: dict[str, Any] = json.loads(ready.read_text())
        return facts


def commands(model: str, threads: int) -> dict[str, Callable[..., Any]]:
    """``facts`` and ``generate``. A worker takes as many threads as there are cores, so these must be the same."""
    assert len(os.sched_getaffinity(0)) == threads
    side = Client(model)
    return {"facts": side.facts, "generate": side.generate}
