"""A place to run fw in: a home, a port and a workspace of its own, and every process that was started there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fw_sdk as fw
from fw_sdk.types import JobState, ModelState, Pipeline
from fw_sdk.types.home import Home

EXAMPLE = Path(__file__).parents[2] / "examples" / "function-calling"
BASE = "smollm2-135m"


@dataclass(frozen=True)
class Place:
    """Where one test's daemon lives."""

    folder: Path
    port: int

    @classmethod
    def prepare(cls, folder: Path) -> Place:
        """An empty home and a workspace with a few rows of the example and its evaluator."""
        place = cls(folder, free_port())
        place.workspace.mkdir(parents=True)
        write_shortest("train.jsonl", 16, place.workspace)
        write_shortest("heldout.jsonl", 8, place.workspace)
        shutil.copy(EXAMPLE / "evaluator.py", place.workspace)
        return place

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of processes here; nothing of the tester's own fw."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FW_", "CLAUDE"))}
        return {
            **kept,
            "FW_HOME": str(self.home.root),
            "FW_PORT": str(self.port),
            "FW_WORKSPACE": str(self.workspace),
            "OMP_NUM_THREADS": "2",
        }

    def run(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run ``fw …`` in the workspace."""
        command = [sys.executable, "-m", "fw_sdk.cli", *arguments]
        return subprocess.run(
            command,
            cwd=self.workspace,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def fw(self, *arguments: str) -> dict:
        """``fw … --format json`` that must succeed; its JSON."""
        done = self.run(*arguments, "--format", "json")
        assert done.returncode == 0, f"fw {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else {}

    def up(self) -> None:
        """Start the daemon."""
        self.fw("up", "--detach", "--port", str(self.port))

    def pull(self, gguf: Path) -> None:
        """Bring the base model here from a local file."""
        self.fw("model", "pull", str(gguf), "--id", BASE)

    def client(self) -> fw.Client:
        """A client of the daemon here."""
        return fw.Client(base_url=f"http://127.0.0.1:{self.port}", api_key=self.home.token())

    def daemon_pid(self) -> int:
        return int(json.loads(self.home.daemon_file.read_text())["pid"])

    def kill_daemon(self) -> None:
        """``kill -9``, as if the machine had dropped it."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 10, "the daemon to die")

    def program(self, job: str) -> int:
        """Process id of a job's program, once it runs."""
        file = self.home.jobs / job / "run.json"
        wait_until(lambda: file.exists() and json.loads(file.read_text())["program"], 30, f"{job} to run")
        return int(json.loads(file.read_text())["program"]["pid"])

    def close(self) -> None:
        """Stop the daemon, then whatever was started here and still lives."""
        self.run("down", timeout_s=30)
        for pid in processes_of(self.home.root):
            os.kill(pid, signal.SIGKILL)


def processes_of(home: Path) -> list[int]:
    """Ids of the processes whose ``FW_HOME`` is ``home``, other than the tester's."""
    mark = f"FW_HOME={home}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def write_shortest(name: str, count: int, folder: Path) -> None:
    """The ``count`` shortest rows of the example's file of that name, in its order."""
    lines = (EXAMPLE / name).read_text(encoding="utf-8").splitlines()
    chosen = sorted(sorted(range(len(lines)), key=lambda number: len(lines[number]))[:count])
    (folder / name).write_text("".join(f"{lines[number]}\n" for number in chosen), encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)


def check_outcome(place: Place, client: fw.Client, pipeline: Pipeline) -> str:
    """What must be true of every pipeline that ended; the name under which its model answers."""
    assert pipeline.state is JobState.COMPLETED, pipeline.failure
    outcome = pipeline.outcome
    assert outcome is not None and outcome.comparison is not None and outcome.tuned is not None
    comparison = outcome.comparison
    assert comparison.n == 8 == comparison.wins + comparison.losses + comparison.ties
    assert -1 <= comparison.ci.low <= comparison.delta <= comparison.ci.high <= 1
    assert comparison.ci.level == 0.95
    assert comparison.verdict in {"better", "worse", "inconclusive"}
    assert abs(comparison.candidate_mean - comparison.baseline_mean - comparison.delta) < 1e-9
    assert outcome.tuned.n == 8 and abs(outcome.tuned.mean - comparison.candidate_mean) < 1e-9
    assert outcome.loss and all(loss > 0 for _, loss in outcome.loss)
    assert all(seconds >= 0 for seconds in outcome.timings.values())
    assert outcome.model.rsplit("/", 1)[-1] == BASE and outcome.adapter is not None
    model = client.models.get(outcome.adapter)
    assert model.state is ModelState.READY and model.path is not None
    assert (Path(model.path) / "adapter_model.safetensors").stat().st_size > 0
    assert Path(model.path).is_relative_to(place.home.adapters)
    if outcome.deployment is None:
        assert comparison.verdict != "better" and outcome.not_deployed_because
        return model.id
    assert comparison.verdict == "better"
    assert client.deployments.get(outcome.deployment).state == "READY"
    return outcome.deployment.rsplit("/", 1)[-1]


def check_store(place: Place, client: fw.Client) -> None:
    """The database is sound, events have no gaps, and what is READY is really there."""
    with sqlite3.connect(f"file:{place.home.database}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    for job in client.jobs.list():
        numbers = [event.seq for event in client.jobs.past_events(job.id)]
        assert numbers == list(range(1, len(numbers) + 1)), job.id
        assert (job.state is JobState.FAILED) == (job.failure is not None), job.id
    for model in client.models.list():
        if model.state is ModelState.READY:
            assert model.digest and model.path and Path(model.path).exists(), model.id
