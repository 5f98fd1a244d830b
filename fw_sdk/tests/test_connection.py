"""What every call carries, how often it is sent, and the options of the clients."""

import asyncio
import inspect
import logging
from importlib.metadata import version

import httpx
import pytest

import fw_sdk as fw
from fw_sdk import groups, retries
from fw_sdk.calls import Call, EventStream, Listing
from fw_sdk.connection import Connection, server_root
from fw_sdk.methods import Group, Method
from fw_sdk.tests.scripted_server import Reply, scripted
from fw_sdk.tests.test_transport import JOB, chunk, error_reply

EVALUATOR = "def evaluate(messages, **row):\n    return 1.0\n"
ROWS = [{"messages": []}]
MUTATIONS = {
    "datasets.create": (ROWS,),
    "datasets.delete": ("d",),
    "evaluators.create": (EVALUATOR,),
    "evaluators.delete": ("e",),
    "models.pull": ("smollm2-135m",),
    "models.delete": ("m",),
    "finetunes.create": ("m", "d"),
    "finetunes.cancel": ("j",),
    "finetunes.resume": ("j",),
    "finetunes.delete": ("j",),
    "evaluations.create": ("m", "d", "e"),
    "evaluations.cancel": ("j",),
    "evaluations.resume": ("j",),
    "evaluations.delete": ("j",),
    "comparisons.create": ("a", "b"),
    "comparisons.delete": ("c",),
    "deployments.create": ("m",),
    "deployments.delete": ("m",),
    "pipelines.create": ("m", "d", "e"),
    "pipelines.cancel": ("j",),
    "pipelines.resume": ("j",),
    "jobs.start": ("pipelines", {}),
    "jobs.cancel": ("j",),
    "jobs.resume": ("j",),
    "jobs.delete": ("j",),
}
READS = {
    "datasets": {"check", "get", "list", "overlap", "rows"},
    "evaluators": {"check", "get", "list"},
    "models": {"estimate", "get", "list"},
    "finetunes": {"estimate", "plan", "preview", "get", "list"},
    "evaluations": {"plan", "get", "list", "scores"},
    "comparisons": {"get", "list"},
    "deployments": {"get", "list", "wait"},
    "pipelines": {"plan", "get", "list", "wait"},
    "jobs": {"get", "kinds", "list", "events", "past_events", "logs", "wait"},
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.01)


def client(url, **options):
    return fw.Client(base_url=url, api_key="secret", **options)


def test_every_operation_is_listed_here_as_a_mutation_or_a_read():
    for group, reads in READS.items():
        members = vars(getattr(groups, group.capitalize())).items()
        mutations = {name.partition(".")[2] for name in MUTATIONS if name.startswith(f"{group}.")}
        assert {name for name, value in members if isinstance(value, Method)} == reads | mutations, group
    held = {name for name, value in vars(client("http://localhost:1")).items() if isinstance(value, Group)}
    assert held - {"_server"} == set(READS)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_has_one_key_for_all_its_attempts_and_another_for_the_next_call(name):
    def answer(n, seen):
        return Reply(drop=True) if n % 3 == 0 else error_reply("unavailable") if n % 3 == 1 else Reply(body={})

    group, _, operation = name.partition(".")
    with scripted(answer) as server:
        method = getattr(getattr(client(server.url), group), operation)
        for _ in range(2):
            try:
                method(*MUTATIONS[name])
            except fw.InternalError as error:
                assert "not understood" in error.message, "the reply {} is no resource"
    keys = [request.headers["idempotency-key"] for request in server.seen]
    assert len(keys) == 6 and len(set(keys[:3])) == len(set(keys[3:])) == 1 and keys[0] != keys[3]


def test_the_asynchronous_client_and_chats_have_keys_too():
    async def act(url):
        async with fw.AsyncClient(base_url=url, api_key="k") as one:
            await one.jobs.resume("j1")
            await one.jobs.delete("j1")

    with scripted(lambda n, seen: error_reply("unavailable") if n % 2 == 0 else Reply(body=JOB)) as server:
        asyncio.run(act(server.url))
    keys = [request.headers["idempotency-key"] for request in server.seen]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    with scripted(lambda n, seen: Reply(chunks=[chunk("Bon")])) as server:
        assert list(client(server.url).chat("m", "hello", stream=True)) == ["Bon"]
    assert server.seen[0].headers["idempotency-key"]


@pytest.mark.parametrize(
    ("code", "said", "sent"),
    [
        ("unavailable", "false", 1),
        ("resource_exhausted", "false", 1),
        ("internal", "true", 3),
        ("already_exists", "TRUE", 3),
        ("internal", "perhaps", 1),
        ("unavailable", "perhaps", 3),
    ],
)
def test_x_should_retry_decides_over_our_own_rule(code, said, sent):
    def answer(n, seen):
        reply = error_reply(code)
        return Reply(reply.status, reply.body, {**reply.headers, "x-should-retry": said})

    with scripted(answer) as server, pytest.raises(fw.FwError):
        client(server.url).jobs.get("j1")
    assert len(server.seen) == sent


def test_each_retry_is_logged_and_every_request_names_the_client(caplog):
    def answer(n, seen):
        return [Reply(drop=True), error_reply("unavailable"), Reply(body=JOB)][n]

    with caplog.at_level(logging.INFO, "fw_sdk"), scripted(answer) as server:
        client(server.url).jobs.cancel("j1")
    lines = [record.getMessage() for record in caplog.records if record.name == "fw_sdk"]
    assert len(lines) == 2
    for number, (line, reason) in enumerate(zip(lines, ("RemoteProtocolError", "status 503"), strict=True), 1):
        assert f"retry {number} of POST /v1/accounts/local/jobs/j1:cancel in 0.0" in line and reason in line
    assert {request.headers["user-agent"] for request in server.seen} == {f"fw-python/{version('fw')}"}


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/inference", "/inference/v1", "/inference/v1//"])
def test_a_base_url_may_end_as_other_clients_write_it(end, monkeypatch):
    with scripted(lambda n, seen: Reply(body=JOB)) as server:
        client(server.url + end).jobs.get("j1")
        monkeypatch.setenv("FW_BASE_URL", server.url + end)
        fw.Client(api_key="k").jobs.get("j1")
    assert {request.path for request in server.seen} == {"/v1/accounts/local/jobs/j1"}
    assert server_root(f"https://example.org/fw{end}") == "https://example.org/fw"


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "ftp://host", "http://", "http://host:port", "/v1", "http://h?a=1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(fw.InvalidArgumentError) as caught:
        client(url)
    assert caught.value.param == "base_url" and "http://127.0.0.1" in caught.value.hint


@pytest.mark.parametrize("key", ["", " ", "\n", "two words", "schlüssel", "a\x00b"])
def test_an_empty_or_impossible_token_is_refused_before_anything_is_sent(key, monkeypatch, tmp_path):
    monkeypatch.setenv("FW_HOME", str(tmp_path))
    monkeypatch.setenv("FW_API_KEY", "another")
    with pytest.raises(fw.AuthenticationError):
        fw.Client("http://localhost:1", key)
    with pytest.raises(fw.AuthenticationError):
        client("http://localhost:1").with_options(api_key=key)
    assert not list(tmp_path.iterdir())


def test_a_blank_fw_api_key_counts_as_none(monkeypatch, tmp_path):
    monkeypatch.setenv("FW_HOME", str(tmp_path))
    for blank in ("", "  "):
        monkeypatch.setenv("FW_API_KEY", blank)
        assert fw.Client("http://localhost:1").api_key == (tmp_path / "token").read_text()
        with pytest.raises(fw.AuthenticationError):
            fw.Client("https://example.org")


def test_a_given_http_client_sends_and_stays_open():
    seen = []

    def reply(request):
        seen.append(request)
        return httpx.Response(200, json=JOB)

    pool = httpx.Client(transport=httpx.MockTransport(reply), headers={"x-mine": "1"}, base_url="http://elsewhere")
    with fw.Client("http://fw.example:9/v1", "k", http_client=pool) as one:
        assert one.jobs.get("j1").id == "j1"
    assert str(seen[0].url) == "http://fw.example:9/v1/accounts/local/jobs/j1" and seen[0].headers["x-mine"] == "1"
    assert seen[0].headers["authorization"] == "Bearer k" and not pool.is_closed

    async def ask():
        other = httpx.AsyncClient(transport=httpx.MockTransport(reply))
        async with fw.AsyncClient("http://fw.example:9", "k", http_client=other) as one:
            await one.jobs.get("j1")
        assert not other.is_closed
        with pytest.raises(fw.InvalidArgumentError, match=r"httpx\.Client"):
            fw.Client("http://fw.example:9", "k", http_client=other)

    asyncio.run(ask())


def test_options_change_a_copy_that_shares_the_connections():
    with scripted(lambda n, seen: error_reply("unavailable")) as server, client(server.url) as one:
        copy = one.with_options(max_retries=0, headers={"x-trace": "7"}, api_key="other")
        with copy, pytest.raises(fw.UnavailableError):
            copy.jobs.get("j1")
        assert len(server.seen) == 1 and copy._transport._http is one._transport._http
        assert server.seen[0].headers["x-trace"] == "7" and server.seen[0].headers["authorization"] == "Bearer other"
        with pytest.raises(fw.UnavailableError):
            one.jobs.get("j1")
        assert len(server.seen) == 4 and "x-trace" not in server.seen[1].headers
    assert one._transport._http.is_closed
    raw = client("http://localhost:1").with_raw_response
    with pytest.raises(fw.InvalidArgumentError, match="Options come first"):
        raw.with_options(max_retries=0)


def test_a_short_timeout_of_a_copy_ends_a_slow_reply(monkeypatch):
    connection = Connection.find("http://localhost:1", "k", 600.0, 2)
    changed = connection.changed(api_key=None, timeout_s=1.5, max_retries=None, headers=None)
    arguments = changed.arguments(Call("GET", "/x", lambda body: body), {}, None)
    assert arguments["timeout"].read == 1.5 and changed.max_retries == 2 and connection.timeout_s == 600.0


def test_the_asynchronous_client_gives_raw_responses_and_copies():
    async def ask(url):
        async with fw.AsyncClient(base_url=url, api_key="k") as one:
            raw = await one.with_options(max_retries=0).with_raw_response.jobs.get("j1")
            pages = [page.parse()[0].id async for page in one.with_raw_response.jobs.list()]
            text = await one.with_raw_response.chat("m", "hello")
            return raw, pages, text

    def answer(n, seen):
        choice = {"message": {"content": "Bon"}}
        body = {"choices": [choice]} if "chat" in seen.path else {"jobs": [JOB]} if n == 1 else JOB
        return Reply(body=body, headers={"x-request-id": f"req-{n}"})

    with scripted(answer) as server:
        raw, pages, text = asyncio.run(ask(server.url))
    assert (raw.status_code, raw.request_id, raw.parse()._request_id, raw.parse().id) == (200, "req-0", "req-0", "j1")
    assert pages == ["j1"] and (text.parse(), text.request_id) == ("Bon", "req-2")


def test_a_request_id_takes_no_part_in_comparing_copying_and_writing():
    one, other = fw.Job.model_validate(JOB), fw.Job.model_validate(JOB)
    one.came_with("req-1")
    assert one == other and one._request_id == "req-1" and other._request_id is None
    assert one.to_wire() == other.to_wire() and one.model_dump() == other.model_dump() and "req-1" not in repr(one)
    assert one != other.model_copy(update={"attempt": 2})


@pytest.mark.parametrize("as_model", [True, False])
def test_wire_types_may_be_given_as_models_or_dicts(as_model):
    gate = {"kind": "not_worse", "margin": 0.1}
    few_shot = {"dataset": "d", "count": 2}
    inference = {"max_tokens": 9}
    if as_model:
        gate, few_shot = fw.Gate.model_validate(gate), fw.FewShot.model_validate(few_shot)
        inference = fw.InferenceParameters.model_validate(inference)
    from fw_sdk.operations import deployments, evaluations, pipelines

    assert deployments.create("m", gate=gate).body["gate"] == {"kind": "not_worse", "margin": 0.1}
    assert evaluations.create("m", "d", "e", few_shot=few_shot).body["evaluationJob"]["fewShot"]["count"] == 2
    body = pipelines.create("m", "d", "e", gate=gate, inference_parameters=inference).body
    assert body["gate"]["margin"] == 0.1 and body["inferenceParameters"]["maxTokens"] == 9
    with pytest.raises(fw.FwError, match="margn"):
        deployments.create("m", gate={"margn": 1})


def test_what_is_no_json_or_no_text_is_refused_before_it_is_sent():
    with scripted(lambda n, seen: Reply()) as server:
        for message in ("\ud800", float("nan"), object()):
            with pytest.raises(fw.InvalidArgumentError, match="JSON"):
                client(server.url).chat("m", [{"role": "user", "content": message}])
        with pytest.raises(fw.InvalidArgumentError, match="JSON"):
            client(server.url).datasets.check([{"messages": "\ud800"}])
        for name in ("a\n", "\ud800", "a/b", ""):
            with pytest.raises(fw.InvalidArgumentError) as caught:
                client(server.url).jobs.get(name)
            caught.value.text().encode()
    assert not server.seen


def test_definitions_promise_what_methods_can_run():
    for group in vars(groups).values():
        if inspect.isclass(group) and issubclass(group, Group):
            for value in vars(group).values():
                if isinstance(value, Method):
                    promised = value.definition.__annotations__["return"].partition("[")[0]
                    assert promised in {"Steps", *(kind.__name__ for kind in (Call, Listing, EventStream))}
