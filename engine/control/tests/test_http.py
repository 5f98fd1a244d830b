"""The HTTP surface: who is let in, what bad requests are told, and how lists are paged."""

import json

import httpx
import openai
import pytest

from engine.control.access.authentication import AccessMiddleware
from engine.control.http.errors import error_response
from engine.control.tests.support import ROOT, error_of, running_app, upload, write_rows
from fw_sdk.types import CODES, FwError
from fw_sdk.types.home import Home

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("http") / "home").prepare()
    with running_app(home, max_json_bytes=20_000, max_upload_bytes=50_000) as (client, app):
        yield client, app.state.services


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": ""}, 401),
        ({"authorization": "Basic {token}"}, 401),
        ({"authorization": "{token}"}, 401),
        ({"authorization": "bearer {token}"}, 200),
        ({"authorization": "Bearer {token}x"}, 401),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8642"}, 403),
        ({"host": "localhost:8642"}, 200),
        ({"host": "[::1]:8642"}, 200),
        ({"host": "127.0.0.1@evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost:x"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "https://127.0.0.1"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "file://localhost"}, 403),
        ({"origin": "http://localhost.evil.example"}, 403),
        ({"host": "evil.example", "authorization": "Bearer wrong"}, 403),
    ],
)
def test_only_the_owner_on_this_machine_is_let_in(shared, headers, status):
    client, services = shared
    token = services.home.token()
    response = client.get(f"{ROOT}/datasets", headers={k: v.format(token=token) for k, v in headers.items()})
    assert response.status_code == status
    if status != 200:
        assert error_of(response)["code"] == {401: "unauthenticated", 403: "permission_denied"}[status]
        assert token not in response.text


def test_health_needs_no_token_but_a_local_host(shared):
    client, _ = shared
    bare = httpx.Client(base_url=client.base_url, trust_env=False)
    assert bare.get("/v1/health").json()["status"] == "ok"
    assert bare.get("/v1/health", headers={"host": "evil.example"}).status_code == 403
    assert bare.get(f"{ROOT}/overview").status_code == 401
    assert bare.get("/v1/models").json()["error"]["code"] == "unauthenticated"
    twice = [("authorization", "Bearer x"), ("authorization", client.headers["authorization"])]
    assert bare.get(f"{ROOT}/overview", headers=twice).status_code == 401


BAD_BODIES = [
    ({"content": b"{", "headers": JSON}, "invalid_argument", "line 1, column 2"),
    ({"content": b"\xff", "headers": JSON}, "invalid_argument", "UTF-8"),
    ({"content": b'{"datasetId": NaN}', "headers": JSON}, "invalid_argument", "NaN"),
    ({"content": b"[" * 9000, "headers": JSON}, "invalid_argument", "levels deep"),
    ({"content": b"{}", "headers": {"content-type": "text/plain"}}, "unsupported_media_type", "text/plain"),
    ({"content": b"x" * 20_001, "headers": JSON}, "payload_too_large", "MiB"),
    ({"content": iter([b"x" * 15_000, b"x" * 15_000]), "headers": JSON}, "payload_too_large", "MiB"),
    ({"json": [1]}, "invalid_argument", "valid dictionary"),
    ({"json": {}}, "invalid_argument", "'datasetId' is missing"),
    ({"json": {"datasetId": "x", "dataSet": {}}}, "invalid_argument", "did you mean 'dataset'?"),
    (
        {"json": {"datasetId": "x", "dataset": {"heldoutFractoin": 0.2}}},
        "invalid_argument",
        "did you mean 'heldoutFraction'?",
    ),
    ({"json": {"datasetId": "x", "dataset": {"heldoutFraction": 0.9}}}, "invalid_argument", "0.5, got 0.9"),
    ({"json": {"datasetId": "../etc"}}, "invalid_argument", "../etc"),
    ({"json": {"datasetId": "x", "dataset": {"format": "RL"}}}, "unimplemented", "'RL'"),
]


@pytest.mark.parametrize(("request_", "code", "words"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_body_is_told_what_is_wrong_and_stores_nothing(shared, request_, code, words):
    client, services = shared
    before = services.store.datasets.ids()
    response = client.post(f"{ROOT}/datasets", **request_)
    found = error_of(response)
    assert found["code"] == code and words in found["message"] and response.status_code == CODES[code].http
    assert services.store.datasets.ids() == before


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", f"{ROOT}/dataset", f"did you mean {ROOT}/datasets?"),
        ("GET", f"{ROOT}/datasets/", f"did you mean {ROOT}/datasets, without the slash?"),
        ("GET", "/v2/nothing/at/all/like/this", None),
        ("POST", f"{ROOT}/datasets/d:uplaod", f"did you mean {ROOT}/datasets/d:upload?"),
    ],
)
def test_unknown_paths_say_where_to_go(shared, method, path, words):
    response = shared[0].request(method, path)
    body = response.json()
    fields = body["details"][0] if "details" in body else body["error"]
    assert response.status_code == 404 and fields["code"] == "not_found" and (words or "") in fields.get("hint", "")


def test_an_empty_token_opens_nothing():
    middleware = AccessMiddleware(None, token="", reading_token="")
    for headers in ([(b"authorization", b"Bearer ")], [(b"x-api-key", b"")], [(b"authorization", b"Bearer")]):
        with pytest.raises(FwError, match="token is wrong"):
            middleware._check_token(headers, "GET", f"{ROOT}/datasets")


def test_clients_are_told_whether_to_repeat(shared):
    """OpenAI's clients repeat 409 and 500 unless a header says no; ours carry it on every error."""
    client, services = shared
    client.post(f"{ROOT}/datasets", json={"datasetId": "taken"}).raise_for_status()
    other = {"datasetId": "taken", "dataset": {"displayName": "x"}}
    conflict = client.post(f"{ROOT}/datasets", json=other)
    assert conflict.status_code == 409 and conflict.headers["x-should-retry"] == "false"
    full = error_response("/v1/chat/completions", FwError("resource_exhausted", "full", details={"retryAfterS": 7}))
    assert full.headers["x-should-retry"] == "true" and full.headers["retry-after"] == "7"
    counted = []
    openai_client = openai.OpenAI(
        base_url=str(client.base_url.join("/v1")),
        api_key=services.home.token(),
        max_retries=2,
        http_client=httpx.Client(trust_env=False, event_hooks={"response": [counted.append]}),
    )
    asked = {"model": "missing", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(**asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(services.gateway), "relay", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError):
            openai_client.chat.completions.create(**asked)
    assert [reply.status_code for reply in counted] == [404, 500], "neither was sent again"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", f"{ROOT}/overview", "GET"),
        ("PUT", f"{ROOT}/datasets/d", "DELETE, GET"),
        ("GET", f"{ROOT}/datasets/d:upload", "POST"),
        ("PATCH", f"{ROOT}/datasets", "GET, POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/health", "GET"),
        ("DELETE", f"{ROOT}/datasets/d:upload", "POST"),
    ],
)
def test_a_wrong_method_is_told_which_the_path_takes(shared, method, path, allow):
    response = shared[0].request(method, path)
    body = response.json()
    fields = body["details"][0] if "details" in body else body["error"]
    assert response.status_code == 405 and fields["code"] == "method_not_allowed" and response.headers["allow"] == allow


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/datasets?pagesize=1", "did you mean 'pageSize'?"),
        ("/datasets/d?x=1", "unknown query parameter 'x'"),
        ("/datasets?pageSize=1&pageSize=2", "given 2 times"),
        ("/overview?%00=1", "unknown query parameter"),
        ("/supervisedFineTuningJobs?pageTokn=x", "did you mean 'pageToken'?"),
    ],
)
def test_an_unknown_query_parameter_names_the_nearest(shared, path, words):
    response = shared[0].get(ROOT + path)
    assert response.status_code == 400 and words in error_of(response)["message"]


@pytest.mark.parametrize(
    "path", ["/datasets?pageSize=x", "/datasets?pageSize=-1", "/datasets?pageToken=zz", "/jobs/x:wait?timeoutS=-1"]
)
def test_wrong_query_parameters_are_named(shared, path):
    found = error_of(shared[0].get(ROOT + path))
    assert found["code"] == "invalid_argument" and found["param"] in path


def test_an_error_of_ours_is_internal_with_the_traceback_only_in_the_log(shared, monkeypatch, caplog):
    client, services = shared
    monkeypatch.setattr(type(services.store.datasets), "list", lambda *_: 1 / 0)
    response = client.get(f"{ROOT}/datasets")
    found = error_of(response)
    assert response.status_code == 500 and found["code"] == "internal" and "division" not in response.text
    assert "ZeroDivisionError: division by zero" in caplog.text and found["requestId"] in caplog.text


def test_lists_are_paged_and_keys_make_creates_harmless(shared):
    client, _ = shared
    for number in range(5):
        client.post(f"{ROOT}/datasets", json={"datasetId": f"page-{number}"}).raise_for_status()
    seen, token = [], ""
    while True:
        body = client.get(f"{ROOT}/datasets", params={"pageSize": 2, "pageToken": token}).json()
        assert len(body["datasets"]) <= 2 and body["totalSize"] >= 5
        seen += [item["name"].rsplit("/", 1)[-1] for item in body["datasets"]]
        token = body["nextPageToken"]
        if not token:
            break
    assert [name for name in seen if name.startswith("page-")] == [f"page-{n}" for n in (4, 3, 2, 1, 0)]
    same = [
        client.post(f"{ROOT}/datasets", json={"datasetId": "once"}, headers={"Idempotency-Key": "k1"}).json()
        for _ in range(2)
    ]
    assert same[0] == same[1]
    other = client.post(f"{ROOT}/datasets", json={"datasetId": "twice"}, headers={"Idempotency-Key": "k1"})
    assert error_of(other)["code"] == "already_exists" and other.status_code == 409


FORM = {"content-type": "multipart/form-data; boundary=B"}
PART = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="r.jsonl"\r\n\r\n%s\r\n'
BAD_FORMS = [
    ({"json": {}}, "unsupported_media_type", "not a multipart form"),
    ({"content": b"junk", "headers": FORM}, "invalid_argument", "form"),
    ({"content": PART % (b"file", b"{}"), "headers": FORM}, "invalid_argument", "ends too early"),
    ({"content": PART % (b"rows", b"{}") + b"--B--\r\n", "headers": FORM}, "invalid_argument", "no field 'file'"),
    ({"content": PART % (b"file", b"{}") * 2 + b"--B--\r\n", "headers": FORM}, "invalid_argument", "more than one"),
    ({"files": {"file": b"x" * 60_000}}, "payload_too_large", "larger than"),
]


@pytest.mark.parametrize(("request_", "code", "words"), BAD_FORMS, ids=range(len(BAD_FORMS)))
def test_bad_uploads_leave_nothing_behind(shared, request_, code, words):
    client, services = shared
    client.post(f"{ROOT}/datasets", json={"datasetId": "up"})
    found = error_of(client.post(f"{ROOT}/datasets/up:upload", **request_))
    assert found["code"] == code and words in found["message"]
    assert services.store.datasets.get("up").state == "UPLOADING"
    assert not list(services.home.datasets.glob(".upload*"))


def test_a_dataset_is_uploaded_read_and_immutable(shared, tmp_path):
    client, services = shared
    path = write_rows(tmp_path / "rows.jsonl", 40)
    ready = upload(client, "life", path, heldoutFraction=0.25).json()
    assert ready["state"] == "READY" and ready["exampleCount"] == "40" and ready["report"]["problems"] == []
    kept = services.home.datasets / f"{ready['digest'].removeprefix('sha256:')}.jsonl"
    assert kept.read_bytes() == path.read_bytes() and kept.stat().st_mode & 0o777 == 0o600
    sides = {
        s: client.get(f"{ROOT}/datasets/life:rows", params={"split": s, "limit": 100}).json()
        for s in ("train", "heldout")
    }
    assert sides["train"]["totalSize"] == ready["report"]["trainRows"]
    assert sorted(sides["train"]["lines"] + sides["heldout"]["lines"]) == list(range(1, 41))
    lines = path.read_text().splitlines()
    assert sides["heldout"]["rows"] == [json.loads(lines[n - 1]) for n in sides["heldout"]["lines"]]
    assert upload(client, "life", path, heldoutFraction=0.25).json() == ready
    other = client.post(f"{ROOT}/datasets/life:upload", files={"file": write_rows(path, 3).read_bytes()})
    assert (
        error_of(other)["code"] == "failed_precondition"
        and services.store.datasets.get("life").digest == ready["digest"]
    )
    overlap = client.get(f"{ROOT}/datasets/life:overlap", params={"other": "life"}).json()
    assert overlap["shared"] == 0 and overlap["rows"] == ready["report"]["heldoutRows"]
    assert upload(client, "part", path).json()["state"] == "READY"
    overlap = client.get(f"{ROOT}/datasets/part:overlap", params={"other": "life"}).json()
    assert overlap["shared"] == 3 and [[p["line"], p["otherLine"]] for p in overlap["pairs"]] == [
        [n, n] for n in (1, 2, 3)
    ]
    assert client.delete(f"{ROOT}/datasets/life").json() == {} and not kept.exists()


def test_overlap_of_files_and_stored_rows_in_any_mixture(shared, tmp_path):
    client, services = shared
    path = write_rows(tmp_path / "rows.jsonl", 5)
    assert upload(client, "whole", path).json()["state"] == "READY"
    lines = path.read_bytes().splitlines()
    broken = b"\n".join([b"{", lines[3], lines[1].replace(b"a 1", b"a 7")])
    files = set(services.home.datasets.iterdir())
    asked = {
        "both files": ({"file": broken, "other": path.read_bytes()}, {}),
        "file and stored": ({"file": broken}, {"other": "whole"}),
        "stored and file": ({"other": broken}, {"dataset": "whole"}),
    }
    for name, (parts, query) in asked.items():
        body = client.post(f"{ROOT}/datasets:overlap", files=parts, params=query).json()
        found = [(p["line"], p["otherLine"], p["sameAnswer"]) for p in body["pairs"]]
        assert found == ([(2, 3, False), (4, 2, True)] if name == "stored and file" else [(2, 4, True), (3, 2, False)])
        assert {body["rows"], body["otherRows"]} == {2, 5} and body["shared"] == 2
    assert set(services.home.datasets.iterdir()) == files
    missing = error_of(client.post(f"{ROOT}/datasets:overlap", files={"file": broken}))
    assert missing["code"] == "invalid_argument" and "no field 'other'" in missing["message"]
    twice = client.post(f"{ROOT}/datasets:overlap", files=[("other", broken), ("other", broken)])
    assert "more than one field 'other'" in error_of(twice)["message"]


def test_a_bad_line_leaves_the_dataset_waiting_and_check_stores_nothing(shared, tmp_path):
    client, services = shared
    path = write_rows(tmp_path / "rows.jsonl", 2)
    path.write_text(path.read_text() + '{"messages": [}\n')
    files = set(services.home.datasets.iterdir())
    found = error_of(upload(client, "bad", path))
    assert found["code"] == "dataset_invalid" and "line 3" in found["message"] and "uploaded" not in found["notDone"]
    assert [p["line"] for p in found["details"]["report"]["problems"]] == [3]
    report = client.post(f"{ROOT}/datasets:check", files={"file": path.read_bytes()}).json()
    assert report == found["details"]["report"] and set(services.home.datasets.iterdir()) == files
    waits = client.get(f"{ROOT}/datasets/bad:rows")
    assert error_of(waits)["code"] == "failed_precondition" and ":upload" in error_of(waits)["hint"]
    assert (
        client.post(f"{ROOT}/datasets/bad:upload", files={"file": write_rows(path, 2).read_bytes()}).status_code == 200
    )


GOOD_SOURCE = (
    "def evaluate(messages, ground_truth=None, **row):\n    return float(messages[-1]['content'] == ground_truth)\n"
)


def test_an_evaluator_is_checked_stored_and_tried(shared):
    client, services = shared
    bad = {"evaluatorId": "e", "source": "def evalute(messages):\n    return 1\n"}
    assert "did you mean 'evalute'" in error_of(client.post(f"{ROOT}/evaluatorsV2", json=bad))["message"]
    made = client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "e", "source": GOOD_SOURCE}).json()
    assert (services.home.evaluators / f"{made['digest'][7:]}.py").read_text() == GOOD_SOURCE
    ranged = {"evaluatorId": "ranged", "source": f"SCORE_RANGE = (-2, 0.5)\n{GOOD_SOURCE}"}
    assert client.post(f"{ROOT}/evaluatorsV2", json=ranged).json()["scoreRange"] == [-2.0, 0.5]
    assert client.get(f"{ROOT}/evaluators/ranged").json()["scoreRange"] == [-2.0, 0.5] and "scoreRange" not in made
    again = client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "e", "source": GOOD_SOURCE + "#"})
    assert error_of(again)["code"] == "already_exists"
    rows = [{"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}]
    check = f"{ROOT}/evaluators/e:check"
    assert client.post(check, json={"rows": rows}).json()["scores"][0]["score"] == 1.0
    assert client.post(check, json={"rows": rows, "answers": ["3"]}).json()["scores"][0]["score"] == 0.0
    assert error_of(client.post(check, json={"rows": rows, "answers": []}))["param"] == "answers"
    assert error_of(client.post(check, json={}))["code"] == "invalid_argument"
    assert error_of(client.post(check, json={"rows": [{"messages": []}]}))["param"] == "rows"
    empty = [{"messages": [rows[0]["messages"][0], {"role": "assistant", "content": ""}], "ground_truth": "2"}]
    assert client.post(check, json={"rows": empty}).json()["scores"][0]["score"] == 0.0
    question = [{"messages": empty[0]["messages"][:1], "ground_truth": "2"}]
    assert client.post(check, json={"rows": question}).json()["scores"][0]["score"] == 1.0
    calls = [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]
    asked = [{"messages": [rows[0]["messages"][0], {"role": "assistant", "content": None, "tool_calls": calls}]}]
    source = "def evaluate(messages, **row):\n    return len(messages[-1]['tool_calls'])\n"
    client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "calls", "source": source}).raise_for_status()
    called = client.post(f"{ROOT}/evaluators/calls:check", json={"rows": asked}).json()["scores"][0]
    assert called["score"] == 1.0 and '"add"' in called["output"]
    raising = {"evaluatorId": "r", "source": "def evaluate(messages):\n    raise KeyError('city')\n"}
    client.post(f"{ROOT}/evaluatorsV2", json=raising).raise_for_status()
    score = client.post(f"{ROOT}/evaluators/r:check", json={"rows": rows}).json()["scores"][0]
    assert "score" not in score and "KeyError" in score["error"]


def test_the_overview_shows_everything_and_says_what_to_do_next(shared):
    client, _ = shared
    body = client.get(f"{ROOT}/overview").json()
    assert body["device"]["cores"] >= 1 and 0 < body["device"]["memoryAvailableBytes"] <= body["device"]["memoryBytes"]
    assert "models:pull" in body["next"] and len(body["datasets"]) <= 20
    stop = client.post(f"{ROOT}/daemon:shutdown", json={"keepjobs": True})
    assert "did you mean 'keepJobs'" in error_of(stop)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{ROOT}/datasets", 200),
        ("GET", f"{ROOT}/overview", 200),
        ("GET", "/v1/models", 200),
        ("POST", "/v1/chat/completions", 404),
        ("POST", f"{ROOT}/datasets:overlap", 415),
        ("POST", "/inference/v1/messages", 404),
        ("POST", f"{ROOT}/supervisedFineTuningJobs:estimate", 404),
        ("POST", f"{ROOT}/datasets", 403),
        ("POST", f"{ROOT}/models:pull", 403),
        ("POST", f"{ROOT}/jobs/j:cancel", 403),
        ("POST", f"{ROOT}/daemon:shutdown", 403),
        ("POST", "/v1/responses", 403),
        ("POST", f"{ROOT}/comparisons", 403),
        ("DELETE", f"{ROOT}/deployments/d", 403),
        ("PATCH", f"{ROOT}/datasets/d", 403),
        ("POST", f"{ROOT}/datasets:check/../", 403),
    ],
)
def test_the_token_that_reads_lets_look_and_ask_and_nothing_else(shared, method, path, status):
    client, services = shared
    headers = {"authorization": f"Bearer {services.home.reading_token()}"}
    bodies = {
        "completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        "messages": {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]},
        "estimate": {"baseModel": "m", "dataset": "d"},
    }
    body = bodies.get(path.replace(":", "/").rsplit("/", 1)[-1], {})
    response = client.request(method, path, headers=headers, json=body if method == "POST" else None)
    assert response.status_code == status, response.text
    if status == 403:
        assert "only reads" in response.text and services.home.token() not in response.text
