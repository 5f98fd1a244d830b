"""Every line that a client sends is answered, whatever it is, and the session goes on; over HTTP just as well."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fw_mcp.guard import MAX_BODY_BYTES
from fw_mcp.tests.conftest import Daemon

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
PING = b'"jsonrpc": "2.0", "method": "ping"'
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}


class Raw:
    """A client that sends bytes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._serial = 10_000
        threading.Thread(target=self._read, daemon=True).start()
        self.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode())
        assert "serverInfo" in self.answer()["result"]
        self.send(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))

    def send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return self._answers.get(timeout=60)

    def answers_to(self, line: bytes) -> list[dict[str, Any]]:
        """All that comes for ``line`` before the answer to a ping after it."""
        self._serial += 1
        self.send(line)
        self.send(b'{"id": %d, %s}' % (self._serial, PING))
        found: list[dict[str, Any]] = []
        while (said := self.answer()).get("id") != self._serial:
            found.append(said)
        assert said["result"] == {}
        return found


@contextmanager
def session(daemon: Daemon) -> Iterator[Raw]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fw_mcp.stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=daemon.workspace,
        env=daemon.environment,
    )
    try:
        yield Raw(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def raw(daemon: Daemon) -> Iterator[Raw]:
    with session(daemon) as client:
        yield client


MALFORMED = {
    "half a surrogate pair": (b'{"id": 901, %s, "params": {"x": "\\ud83d"}}' % PING, PARSE_ERROR, 901),
    "half a pair in the id": (b'{"id": "\\ud83d", %s}' % PING, PARSE_ERROR, "\ud83d"),
    "byte order mark": (b'\xef\xbb\xbf{"id": 5, %s}' % PING, PARSE_ERROR, 5),
    "no json": (b"hello", PARSE_ERROR, None),
    "cut": (b'{"id": 7, "jsonrpc": "2.0", "meth', PARSE_ERROR, None),
    "empty": (b"", PARSE_ERROR, None),
    "blank": (b" \t ", PARSE_ERROR, None),
    "nul": (b'{"id": 7, %s}\0' % PING, PARSE_ERROR, None),
    "nan": (b'{"id": 7, %s, "params": {"x": NaN}}' % PING, PARSE_ERROR, 7),
    "latin-1": (b'{"id": 8, %s, "params": {"x": "\xe9"}}' % PING, PARSE_ERROR, 8),
    "deep": (b'{"id": 9, %s, "params": {"x": %s%s}}' % (PING, b"[" * 100_000, b"]" * 100_000), PARSE_ERROR, None),
    "batch": (b'[{"id": 1, %s}, {"id": 2, %s}]' % (PING, PING), INVALID_REQUEST, None),
    "empty batch": (b"[]", INVALID_REQUEST, None),
    "float id": (b'{"id": 1.5, %s}' % PING, INVALID_REQUEST, 1.5),
    "boolean id": (b'{"id": true, %s}' % PING, INVALID_REQUEST, None),
    "null id": (b'{"id": null, %s}' % PING, INVALID_REQUEST, None),
    "object id": (b'{"id": {"a": 1}, %s}' % PING, INVALID_REQUEST, None),
    "array id": (b'{"id": [1], %s}' % PING, INVALID_REQUEST, None),
    "huge id": (b'{"id": 1%s, %s}' % (b"0" * 400, PING), INVALID_REQUEST, None),
    "number": (b"12", INVALID_REQUEST, None),
    "other version": (b'{"jsonrpc": "1.0", "id": 3, "method": "ping"}', INVALID_REQUEST, 3),
    "no version": (b'{"id": "a", "method": "ping"}', INVALID_REQUEST, "a"),
    "no method": (b'{"jsonrpc": "2.0", "id": 3}', INVALID_REQUEST, 3),
    "method of another type": (b'{"jsonrpc": "2.0", "id": 3, "method": 4}', INVALID_REQUEST, 3),
    "params in order": (b'{"jsonrpc": "2.0", "id": 3, "method": "ping", "params": [1]}', INVALID_REQUEST, 3),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_answered_and_the_session_goes_on(name: str, raw: Raw) -> None:
    line, code, identifier = MALFORMED[name]
    (said,) = raw.answers_to(line)
    assert said["jsonrpc"] == "2.0" and said["id"] == identifier and said["error"]["code"] == code
    fields = said["error"]["data"]
    assert fields["code"] == "invalid_argument" and fields["notDone"] and fields["hint"] and fields["message"]


@pytest.mark.parametrize("name", MALFORMED)
def test_http_says_the_same_of_it(name: str, daemon: Daemon) -> None:
    line, code, identifier = MALFORMED[name]
    for version in ("2025-06-18", "2026-07-28"):
        reply = post(daemon, line, **{"MCP-Protocol-Version": version})
        said = reply.json()
        assert reply.status_code == 400 and said["error"]["code"] == code and said["id"] == identifier


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2]) | JSON,
        "id": st.integers(1, 99) | st.text(max_size=3) | JSON,
        "method": st.sampled_from(["ping", "nope", "tools/list", "notifications/x"]) | JSON,
        "params": st.just({}) | JSON,
        "result": JSON,
        "error": JSON,
    },
)
LINES = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" ")) | (ENVELOPE | JSON).map(
    lambda value: json.dumps(value).encode()
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
@example(b'{"jsonrpc": "2.0", "id": "", "method": "ping"}')
def test_no_line_stays_without_an_answer_or_ends_the_session(raw: Raw, line: bytes) -> None:
    found = raw.answers_to(line)
    assert len(found) <= 1
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    owes_none = isinstance(value, dict) and value.get("jsonrpc") == "2.0"
    is_reply = owes_none and "method" not in value
    is_notification = owes_none and "id" not in value
    assert found or is_reply or is_notification
    for said in found:
        assert ("error" in said) != ("result" in said)
        assert said["id"] is None or (isinstance(value, dict) and said["id"] == value["id"])


def test_a_line_without_end_is_not_kept_and_the_next_one_is_answered(raw: Raw) -> None:
    rows = b"x" * (70 * 1024 * 1024)
    (said,) = raw.answers_to(b'{"id": 4, %s, "params": {"x": "%s"}}' % (PING, rows))
    assert said["error"]["data"]["code"] == "payload_too_large" and said["id"] is None


def test_text_of_data_that_no_utf8_can_say_does_not_end_the_session(raw: Raw, daemon: Daemon) -> None:
    messages = [{"role": "user", "content": "cut \ud83d"}, {"role": "assistant", "content": "b"}]
    (daemon.workspace / "surrogates.jsonl").write_text(json.dumps({"messages": messages, "role \ud83d": 1}) + "\n")
    arguments = {"path": "surrogates.jsonl", "detail": "full"}
    call = {"name": "dataset", "arguments": arguments}
    raw.send(json.dumps({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": call}).encode())
    assert raw.answer()["id"] == 77
    assert raw.answers_to(b'{"id": 78, %s}' % PING)[0]["id"] == 78


def post(daemon: Daemon, body: bytes, **changed: str) -> httpx2.Response:
    headers = {
        "Authorization": f"Bearer {daemon.home.token()}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        **changed,
    }
    return httpx2.post(f"{daemon.url}/mcp", content=body, headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("method", "body", "headers", "status", "says"),
    [
        ("POST", b'"%s"' % (b"x" * MAX_BODY_BYTES), {}, 413, "larger than 4 MiB"),
        ("POST", b"{}", {"Content-Type": "text/plain"}, 415, "'text/plain', not application/json"),
        ("POST", b"{}", {"Accept": "application/json"}, 406, "not text/event-stream"),
        ("POST", b"{}", {"Accept": "text/html"}, 406, "not application/json and text/event-stream"),
        ("GET", b"", {"Accept": "application/json"}, 406, "not text/event-stream"),
        ("PUT", b"{}", {}, 405, "not PUT"),
        ("GET", b"", {"MCP-Protocol-Version": "2026-07-28"}, 405, "not GET"),
    ],
)
def test_http_refuses_in_json_rpc_with_our_fields(
    method: str, body: bytes, headers: dict[str, str], status: int, says: str, daemon: Daemon
) -> None:
    common = {"Authorization": f"Bearer {daemon.home.token()}", "Content-Type": "application/json"}
    sent = {**common, "Accept": "application/json, text/event-stream", **headers}
    reply = httpx2.request(method, f"{daemon.url}/mcp", content=body, headers=sent, timeout=60)
    assert reply.status_code == status and reply.headers["content-type"] == "application/json"
    said = reply.json()
    assert said["jsonrpc"] == "2.0" and said["id"] is None and says in said["error"]["message"]
    fields = said["error"]["data"]
    assert fields["code"] == ("payload_too_large" if status == 413 else "invalid_argument")
    assert fields["notDone"] == "Nothing was run." and fields["hint"]
