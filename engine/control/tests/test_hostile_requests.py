"""No request is answered with a 5xx for what stands in it, and every answer is in the envelope of its protocol."""

import json
import socket

import httpx
import pytest

from engine.control.tests.support import ROOT, running_app, submit_little
from fw_sdk.types.home import Home

JSON = {"content-type": "application/json"}
SOURCE = "def evaluate(messages):\n    return 1\n"
ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("hostile") / "home").prepare()
    with running_app(home) as (client, app):
        client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "e", "source": SOURCE}).raise_for_status()
        client.post(f"{ROOT}/datasets", json={"datasetId": "d"}).raise_for_status()
        yield client, app.state.services


def fields_of(reply):
    """Our fields of an error in any of the three envelopes; all have the request's id."""
    body = reply.json()
    fields = body["details"][0] if "details" in body else body["error"]
    assert reply.headers["x-request-id"] and fields["message"] and reply.headers["x-should-retry"] in ("true", "false")
    assert {"type", "error", "request_id"} == set(body) or {"error"} == set(body) or len(body) == 3
    return fields


def refused(reply, *statuses):
    assert reply.status_code in (statuses or (400,)), (reply.status_code, reply.text[:300])
    return fields_of(reply)


BODIES = {
    f"{ROOT}/datasets": '{"datasetId": %s}',
    f"{ROOT}/evaluatorsV2": '{"evaluatorId": "x", "source": %s}',
    f"{ROOT}/evaluators/e:check": '{"rows": [{"messages": [{"role": "user", "content": %s}]}]}',
    f"{ROOT}/models:pull": '{"source": %s}',
    f"{ROOT}/models:estimate": '{"source": %s}',
    f"{ROOT}/comparisons": '{"baseline": %s, "candidate": "c"}',
    f"{ROOT}/deployments": '{"baseModel": %s}',
    f"{ROOT}/supervisedFineTuningJobs": '{"dataset": "d", "baseModel": "m", "learningRate": 0.1, "displayName": %s}',
    f"{ROOT}/supervisedFineTuningJobs:estimate": '{"dataset": "d", "baseModel": "m", "seed": %s}',
    f"{ROOT}/evaluationJobs": '{"evaluationJob": {"model": %s, "inputDataset": "d", "evaluator": "e"}}',
    f"{ROOT}/pipelines:plan": '{"baseModel": %s, "dataset": "d", "evaluator": "e"}',
    f"{ROOT}/jobs/j:cancel": '{"x": %s}',
    "/v1/chat/completions": '{"model": "m", "messages": [{"role": "user", "content": %s}]}',
    "/v1/completions": '{"model": %s, "prompt": "x"}',
    "/v1/messages": '{"model": "m", "max_tokens": %s, "messages": []}',
    "/v1/responses": '{"model": "m", "input": %s}',
}
VALUES = {
    "lone surrogate": ('"\\ud800"', "surrogate"),
    "surrogates the wrong way round": ('"\\udc00\\ud800 x"', "surrogate"),
    "surrogate in a key": ('{"\\udfff": 1}', "surrogate"),
    "2^63": (str(2**63), "64 bits"),
    "10^400": (str(10**400), "64 bits"),
    "9999 digits": ("9" * 9999, "64 bits"),
    "1e999": ("1e999", "too large"),
    "NaN": ("NaN", "NaN"),
    "-Infinity": ("-Infinity", "Infinity"),
    "300 deep": ("[" * 300 + "]" * 300, "levels deep"),
    "100,000 deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "levels deep"),
    "a key twice": ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
    "cut short": ('"abc', "not JSON"),
    "a control character": ('"\x01"', "not JSON"),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_is_no_json_or_too_much_is_a_mistake_in_the_body(shared, path, value):
    text, words = VALUES[value]
    fields = refused(shared[0].post(path, content=(BODIES[path] % text).encode(), headers=JSON))
    assert fields["code"] == "invalid_argument" and words in fields["message"]


@pytest.mark.parametrize("path", [f"{ROOT}/datasets", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (JSON, b"\xff\xfe{}", 400),
        (JSON, '{"a": 1}'.encode("utf-16"), 400),
        (JSON, b"\xef\xbb\xbf{}", 400),
        (JSON, b"{}{}", 400),
        (JSON, b"\x00" * 100, 400),
        (JSON, b"[1,2]", 400),
        (JSON, b"null", 400),
        ({"content-type": b"application/json\x80"}, b"{}", 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a=1", 415),
        ({}, b"{}", 415),
        ({**JSON, "content-encoding": "gzip"}, b"\x1f\x8b", 415),
        ({**JSON, "content-encoding": "br"}, b"{}", 415),
        (JSON, b"[" + b"1," * 2_000_000 + b"1]", 413),
    ],
)
def test_bodies_of_the_wrong_kind(shared, path, headers, content, status):
    refused(shared[0].post(path, content=content, headers=headers), status)


def test_an_escaped_pair_is_a_character_and_identity_no_encoding(shared):
    client, _ = shared
    content = json.dumps({"datasetId": "smile", "dataset": {"displayName": "\U0001f600"}}).encode()
    assert b"\\ud83d\\ude00" in content
    made = client.post(f"{ROOT}/datasets", content=content, headers={**JSON, "content-encoding": "identity"})
    assert made.json()["displayName"] == "\U0001f600"


FORM = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="r"\r\n\r\n%s\r\n--%s--\r\n'
BAD_ROWS = [
    rb'{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}',
    json.dumps({**ROW, "x": 1}).replace("1}", "1e999}").encode(),
    json.dumps({**ROW, "x": 1}).replace("1}", "[" * 500 + "]" * 500 + "}").encode(),
    json.dumps({**ROW, "x": 1}).replace("1}", "NaN}").encode(),
    b"\xff\xfe",
]


@pytest.mark.parametrize("path", [f"{ROOT}/datasets/d:upload", f"{ROOT}/datasets:check", f"{ROOT}/datasets:overlap"])
@pytest.mark.parametrize("boundary", [b"b" * 300, b"", b"\xc3\xa9", b'"'])
def test_odd_boundaries(shared, path, boundary):
    headers = {"content-type": b"multipart/form-data; boundary=" + boundary}
    reply = shared[0].post(path, content=FORM % (boundary, b"{}", boundary), headers=headers)
    assert reply.status_code == 200 or refused(reply, 400, 415)


@pytest.mark.parametrize("row", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_rows_that_no_reply_could_repeat_are_named_by_their_line(shared, row):
    client, _ = shared
    good = json.dumps(ROW).encode()
    report = client.post(f"{ROOT}/datasets:check", files={"file": good + b"\n" + row}).json()
    assert [problem["line"] for problem in report["problems"] if problem["severity"] == "error"] == [2]
    fields = refused(client.post(f"{ROOT}/datasets/d:upload", files={"file": good + b"\n" + row}))
    assert fields["code"] == "dataset_invalid"
    overlap = client.post(f"{ROOT}/datasets:overlap", files={"file": row, "other": row})
    assert overlap.status_code == 200


COLLECTIONS = ("datasets", "models", "evaluators", "comparisons", "deployments", "jobs", "pipelines", "evaluationJobs")
IDS = ("%00", "%0a", "d%0A", "%ff%fe", "%ed%a0%80", "x" * 5000, "..%2f..%2ftoken", "%F0%9F%98%80", "%20", "A", "-", "'")
IDS = (*IDS, "a%2Fb", "%2e%2e", "*", "null%3Aupload")


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_odd_ids_in_paths(shared, collection):
    for identifier in IDS:
        for method in ("GET", "DELETE"):
            refused(shared[0].request(method, f"{ROOT}/{collection}/{identifier}"), 400, 404, 405)
    refused(shared[0].get("/v1/responses/%00%ff"), 404)


QUERIES = (
    "after=99999999999999999999999",
    "after=-1",
    "after=9223372036854775808",
    "timeoutS=nan",
    "timeoutS=inf",
    "pageSize=abc",
    "pageSize=-1",
    "pageToken=%00",
    "pageToken=cDk5OTk5OTk5OTk5OTk5OTk5OTk5",
    "pageToken=" + "A" * 5000,
    "pageToken=%ED%A0%80",
    "limit=1e9",
    "limit=99999999999999999999",
    "lines=0",
    "follow=maybe",
    "split=x",
    "%00=1",
    "%ed%a0%80=%ed%a0%80",
    "pageSize=1&pageSize=2",
)


@pytest.mark.parametrize("path", ["datasets", "jobs", "jobs/j:events", "jobs/j:wait", "jobs/j:logs", "datasets/d:rows"])
def test_odd_queries(shared, path):
    for query in QUERIES:
        refused(shared[0].get(f"{ROOT}/{path}?{query}"), 400)


@pytest.mark.parametrize("value", [b"\xff", b"-1", b"9" * 40, b"1.5", b"%00", "\N{SUPERSCRIPT TWO}".encode()])
def test_odd_event_ids(shared, value):
    refused(shared[0].get(f"{ROOT}/jobs/j:events", headers={"last-event-id": value}))


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("host", b"127.0.0.1:99999", 403),
        ("host", b"\xff\xfe", 403),
        ("host", b"evil@127.0.0.1", 403),
        ("host", b"127.0.0.1/..", 403),
        ("host", b"[::1%25eth0]", 403),
        ("host", b"", 403),
        ("origin", b"\xff", 403),
        ("origin", b"http://", 403),
        ("origin", b"http://[::1", 403),
        ("origin", b"http://localhost@evil.example", 403),
        ("authorization", b"Bearer \xff", 401),
        ("authorization", b"Bearer", 401),
        ("idempotency-key", b"\xff" * 300, 400),
    ],
)
def test_odd_headers(shared, name, value, status):
    reply = shared[0].post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers={name: value})
    refused(reply, status)


RAW = {
    "no method": b"\x00\x01\x02\r\n\r\n",
    "an unknown method": b"FOO /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is not ASCII": b"GET /v1/accounts/local/\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "a length beyond 64 bits": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "two hosts": b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "no host": b"GET /v1/health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "a whole url": b"GET http://evil.example/v1/health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_hardly_http_is_answered_in_our_envelope_too(shared, name):
    url = shared[0].base_url
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(RAW[name])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"400", b"403"), answer
    assert b"x-request-id: req_" in head.lower() and b"x-should-retry: false" in head.lower()
    fields = json.loads(body)
    assert (fields["details"][0] if "details" in fields else fields["error"])["requestId"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/health", f"{ROOT}/datasets", f"{ROOT}/datasets/d", "/v1/models"])
def test_head_is_get_without_a_body(shared, path):
    client, _ = shared
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"] and int(head.headers["content-length"]) > 0
    assert client.head(f"{ROOT}/datasets/none").status_code == 404


def test_head_of_a_stream_ends(shared):
    client, services = shared
    services.jobs._draining = True
    submit_little(services, "waits")
    reply = client.head(f"{ROOT}/jobs/waits:events", timeout=httpx.Timeout(10))
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
