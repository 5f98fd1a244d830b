"""Running the real app for tests: uvicorn in a thread or the daemon in a process, and clients of both."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import uvicorn

from engine.control.http.app import create_app
from engine.control.http.protocol import Protocol
from engine.control.jobs.program import python
from engine.control.kinds import KINDS, register
from engine.control.settings import Settings
from engine.control.tests.loop_guard import check_offences, no_statement_on
from engine.jobs.process import ProcessId
from fw_sdk.types import Job, JobKind
from fw_sdk.types.home import Home

ROOT = "/v1/accounts/local"
LITTLE = "engine.control.tests.little_program"
DAEMON = """
import sys
from pathlib import Path
from engine.control.http.daemon import serve
from engine.control.tests.loop_guard import write_offences
from engine.control.tests.support import run_as_pull
from fw_sdk.types import FwError
from fw_sdk.types.home import Home
if sys.argv[3]:
    run_as_pull(sys.argv[3])
write_offences(Path(sys.argv[1]) / "on-the-loop.txt")
try:
    serve(Home(Path(sys.argv[1])), int(sys.argv[2]))
except FwError as error:
    sys.exit(f"{error.code}: {error.message}")
"""


def wait_for(condition, timeout_s=20.0):
    """Poll until ``condition()`` is true; returns its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)
    return value


@contextmanager
def running_app(home: Home, **settings):
    """The app under uvicorn in a thread; yields (client with the token, app)."""
    app = create_app(home, Settings(**{"tick_s": 0.02, "cancel_grace_s": 1.0, **settings}))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=Protocol, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run)
    with no_statement_on(thread), _served(server, thread, app):
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"authorization": f"Bearer {home.token()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as client:
            yield client, app


@contextmanager
def _served(server, thread, app):
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        yield
    finally:
        app.state.services.jobs.changes.close()
        server.should_exit = True
        thread.join()


class DaemonProcess:
    """``serve`` in a process of its own."""

    def __init__(self, home: Home, port: int = 0, *, program: str = LITTLE, preexec=None):
        self.home = home
        home.prepare()
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(home.root), str(port), program],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )

    def started(self) -> "DaemonProcess":
        """Wait until it listens."""
        wait_for(lambda: self._file().get("pid") == self.process.pid or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()
        return self

    def _file(self):
        try:
            return json.loads(self.home.daemon_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    @property
    def url(self) -> str:
        return self._file()["url"]

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.home.token()}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        check_offences(self.home.root / "on-the-loop.txt")
        self.process.stderr.close()
        return status


def submit_little(services, identifier: str, **spec) -> Job:
    """Queue a job of the little program (its kind is pull)."""
    job = Job(name=f"accounts/local/jobs/{identifier}", kind=JobKind.PULL, spec=spec)
    return services.jobs.submit(job)


def wait_ended(store, identifier: str, timeout_s: float = 20.0) -> Job:
    """The job once it has ended."""
    wait_for(lambda: store.jobs.get(identifier).state.ended, timeout_s)
    return store.jobs.get(identifier)


def program_of(home: Home, identifier: str) -> ProcessId | None:
    """The identity of a job's program, if its shim has said it."""
    path = home.jobs / identifier / "run.json"
    value = json.loads(path.read_bytes()) if path.exists() else {}
    return ProcessId.from_json(value["program"]) if value.get("program") else None


def write_rows(path: Path, count: int, prefix: str = "q") -> Path:
    """A JSONL file of ``count`` different one-turn conversations."""
    rows = (
        {"messages": [{"role": "user", "content": f"{prefix} {i}"}, {"role": "assistant", "content": f"a {i}"}]}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def upload(client, identifier: str, path: Path, **fields):
    """Create a dataset and upload a file; returns the upload's response."""
    client.post(f"{ROOT}/datasets", json={"datasetId": identifier, "dataset": fields}).raise_for_status()
    return client.post(f"{ROOT}/datasets/{identifier}:upload", files={"file": path.read_bytes()})


def error_of(response) -> dict:
    """Our fields of a control-plane error reply."""
    body = response.json()
    assert set(body) == {"code", "message", "details"} and response.headers["x-request-id"]
    assert body["details"][0]["requestId"] == response.headers["x-request-id"]
    return body["details"][0]


def use_little_program(monkeypatch) -> None:
    """Make pulls run the little program in this process's services."""
    monkeypatch.setitem(KINDS, JobKind.PULL, replace(KINDS[JobKind.PULL], program=python(LITTLE)))


def run_as_pull(module: str) -> None:
    """Make pulls run a program of the tests in this whole process."""
    register(replace(KINDS[JobKind.PULL], program=python(module)))
