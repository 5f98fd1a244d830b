"""Whatever users, models, evaluators or files do, ``/v1/health`` answers at once and the daemon ends when asked."""

import json
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from engine.control.tests.support import ROOT, DaemonProcess, error_of, wait_for
from fw_sdk.types.home import Home

JSON = {"content-type": "application/json"}
SLOW = "engine.control.tests.slow_program"
ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ANSWER_S = 1.0
END_S = 10.0


@pytest.fixture
def daemon(tmp_path):
    daemon = DaemonProcess(Home(tmp_path / "home"), program=SLOW).started()
    yield daemon
    if daemon.process.poll() is None:
        daemon.kill()


def health_s(url):
    """Seconds until ``/v1/health`` answered over a new connection."""
    began = time.monotonic()
    httpx.get(f"{url}/v1/health", trust_env=False, timeout=30).raise_for_status()
    return time.monotonic() - began


def rows_of(count):
    line = json.dumps({**ROW, "x": "y" * 200})
    return "".join(f'{line[:-1]}, "n": {number}}}\n' for number in range(count)).encode()


class Attempts:
    """Clients that do their worst at the same time, each in threads of its own, until the daemon ends."""

    def __init__(self, daemon, stack):
        self.daemon, self.stack = daemon, stack
        self.headers = {"authorization": f"Bearer {daemon.home.token()}"}
        self.pool = stack.enter_context(ThreadPoolExecutor(300))
        self.replies = {}

    def post(self, name, path, times=1, **options):
        url, headers = f"{self.daemon.url}{ROOT}/{path}", {**self.headers, **options.pop("headers", {})}
        calls = [self.pool.submit(self._send, url, headers, options) for _ in range(times)]
        self.replies[name] = calls

    def _send(self, url, headers, options):
        try:
            return httpx.post(url, headers=headers, timeout=60, trust_env=False, **options)
        except httpx.TransportError:
            return None

    def get(self, path, times):
        url = f"{self.daemon.url}{ROOT}/{path}"
        for _ in range(times):
            self.pool.submit(self._get, url)

    def _get(self, url):
        with suppress(httpx.TransportError):
            httpx.get(url, headers=self.headers, timeout=60, trust_env=False)

    def sockets(self, count, text=b""):
        host, port = self.daemon.url.removeprefix("http://").split(":")
        for _ in range(count):
            connection = self.stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(text)


def test_health_answers_and_the_daemon_ends_whatever_goes_on(daemon):
    quiet_s = max(health_s(daemon.url) for _ in range(5))
    with daemon.client() as client:
        for identifier, body in {"slow": "import time\n    time.sleep(30)", "spin": "while True: pass"}.items():
            source = f"def evaluate(messages, **row):\n    {body}\n    return 1.0\n"
            client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": identifier, "source": source}).raise_for_status()
        client.post(f"{ROOT}/datasets", json={"datasetId": "big"}).raise_for_status()
        client.post(f"{ROOT}/models:pull", json={"source": "/", "modelId": "m"}).raise_for_status()
        (job,) = client.get(f"{ROOT}/jobs").json()["jobs"]
    name = job["name"].rsplit("/", 1)[-1]
    stream = f"GET {ROOT}/jobs/{name}:events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.home.token()}"
    with ExitStack() as stack:
        attempts = Attempts(daemon, stack)
        attempts.post("checks", "evaluators/slow:check", 44, json={"rows": [ROW]})
        attempts.post("spins", "evaluators/spin:check", 2, json={"rows": [ROW]})
        attempts.post("json", "datasets", content=b'{"datasetId": "' + b"x" * 60_000_000 + b'"}', headers=JSON)
        attempts.post("values", "datasets", content=b"[" + b"[]," * 600_000 + b"1]", headers=JSON)
        attempts.post("deep", "datasets", content=b'{"a":' * 5_000_000, headers=JSON)
        attempts.post("upload", "datasets/big:upload", files={"file": rows_of(250_000)})
        attempts.post("rows", "datasets:check", 2, files={"file": rows_of(100_000)})
        attempts.get(f"jobs/{name}:wait?timeoutS=60", 150)
        attempts.sockets(300)
        attempts.sockets(20, b"POST /v1/accounts/local/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        attempts.sockets(20, f"{stream}\r\n\r\n".encode())
        took = []
        for _ in range(30):
            took.append(health_s(daemon.url))
            time.sleep(0.2)
        assert max(took) < max(ANSWER_S, 20 * quiet_s), f"quiet {quiet_s:.3f} s, then {[round(s, 2) for s in took]}"
        with daemon.client() as client:
            assert client.get(f"{ROOT}/datasets").json()["totalSize"] >= 1, "quick routes have threads all the while"
            replies = [call.result() for call in attempts.replies["checks"] if call.done()]
            refused = [reply for reply in replies if reply.status_code != 200]
            assert refused and {reply.status_code for reply in refused} == {429}
            assert error_of(refused[0])["code"] == "resource_exhausted" and refused[0].headers["retry-after"] == "5"
            began = time.monotonic()
            client.post(f"{ROOT}/daemon:shutdown", json={}).raise_for_status()
        daemon.process.wait(END_S + 20 * quiet_s)
    assert time.monotonic() - began < END_S + 20 * quiet_s


def test_out_of_descriptors_is_said_once_and_ends(tmp_path):
    limit = 80

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    daemon = DaemonProcess(Home(tmp_path / "home"), preexec=few).started()
    host, port = daemon.url.removeprefix("http://").split(":")
    try:
        with ExitStack() as stack:
            for _ in range(2 * limit):
                stack.enter_context(socket.create_connection((host, int(port))))
            log = daemon.home.logs / "daemon.log"
            wait_for(lambda: "No more connections" in log.read_text())
            time.sleep(2.5)
            assert log.read_text().count("No more connections") == 1 and "Traceback" not in log.read_text()
        wait_for(lambda: health_s(daemon.url) < 30)
    finally:
        daemon.kill()


def test_the_descriptor_limit_is_raised_as_far_as_it_may_be(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 500))

    daemon = DaemonProcess(Home(tmp_path / "home"), preexec=few).started()
    try:
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
        line = next(line for line in limits if line.startswith("Max open files"))
        assert line.split()[3:5] == ["500", "500"]
    finally:
        daemon.kill()
