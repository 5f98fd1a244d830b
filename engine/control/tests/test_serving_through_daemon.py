"""A real daemon, a real worker, and the official client between them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from engine.catalog import digest_tree
from engine.control.store import Store
from engine.control.tests.daemon_process import Daemon, kill_now, write_adapter
from fw_sdk.types import Lineage, Model, ModelKind, ModelState, PeftDetails

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("serving")
    daemon = Daemon(folder / "home").start()
    try:
        base = daemon.pull(tiny_llama_dir, "tiny")
        for name, scale in (("tuned", 2.0), ("nothing", 0.0)):
            register(daemon, name, write_adapter(folder / name, scale=scale), base["digest"])
        yield daemon
    finally:
        daemon.shut_down()
    assert daemon.workers() == []


def register(daemon: Daemon, name: str, path: Path, base_digest: str) -> None:
    """An adapter as a fine-tune would leave it."""
    base = "accounts/local/models/tiny"
    model = Model(
        name=f"accounts/local/models/{name}",
        kind=ModelKind.ADAPTER,
        state=ModelState.READY,
        digest=digest_tree(path),
        path=str(path),
        peft_details=PeftDetails(base_model=base, r=4, alpha=4, target_modules=["q_proj"]),
        lineage=Lineage(base_model=base, base_digest=base_digest),
    )
    store = Store(daemon.home.database)
    store.models.create(model)
    store.close()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=daemon.home.token(), max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, model: str, **options):
    return client.chat.completions.create(model=model, messages=HELLO, **{"temperature": 0, "max_tokens": 8, **options})


def test_what_a_worker_says_about_trying_again_arrives(daemon: Daemon) -> None:
    refused = daemon.request("POST", "/v1/completions", json={"model": "tiny", "prompt": "a", "temperature": "hot"})
    assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")


def test_whole_and_streamed_answers_are_the_same_under_every_name(daemon: Daemon, client: openai.OpenAI) -> None:
    whole = ask(client, "tiny")
    assert whole.model == "tiny" and whole.usage.completion_tokens > 0
    for name in ("tiny", "accounts/local/models/tiny"):
        chunks = list(ask(client, name, stream=True))
        assert {chunk.model for chunk in chunks} == {name}
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert all(chunk.choices for chunk in chunks), "no usage event that was not asked for"
    counted = list(ask(client, "tiny", stream=True, stream_options={"include_usage": True}))[-1]
    assert counted.usage == whole.usage and not counted.choices
    inference = daemon.request("POST", "/inference/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert inference.status_code == 200 and inference.json()["model"] == "tiny"


@pytest.fixture
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url, api_key=daemon.home.token(), max_retries=0) as client:
        yield client


def test_every_protocol_passes_under_the_clients_name(
    daemon: Daemon, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    chat = ask(client, "tiny")
    text, prompt = chat.choices[0].message.content, chat.usage.prompt_tokens
    name = "accounts/local/models/tiny"
    body = {"model": name, "max_tokens": 8, "messages": HELLO, "extra_body": {"temperature": 0}}
    message = claude.messages.create(**body)
    assert (message.model, message.content[0].text) == (name, text)
    with claude.messages.stream(**body) as stream:
        assert "".join(stream.text_stream) == text
        assert stream.get_final_message().model == name
    counted = claude.messages.count_tokens(model="tiny", messages=HELLO)
    assert counted.input_tokens == prompt == message.usage.input_tokens + message.usage.cache_read_input_tokens
    response = client.responses.create(model=name, input=HELLO, temperature=0, max_output_tokens=8)
    assert (response.model, response.output_text) == (name, text)
    assert client.responses.retrieve(response.id) == response
    streamed = list(client.responses.create(model=name, input=HELLO, temperature=0, max_output_tokens=8, stream=True))
    assert streamed[-1].response.output_text == text and streamed[-1].response.model == name
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    ids = daemon.request("POST", "/tokenize", json={"model": "tiny", "messages": HELLO}).json()["tokens"]
    assert len(ids) == prompt
    under_inference = anthropic.Anthropic(base_url=f"{daemon.url}/inference", auth_token=daemon.home.token())
    assert under_inference.messages.create(**body).content == message.content
    assert "tiny" in {model.id for model in claude.models.list()}


def test_tools_and_formats_pass_too(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "pick", "parameters": schema}}]
    named = {"type": "function", "function": {"name": "pick"}}
    # A random model may think, and then endlessly, before it calls: some seeds call at once.
    for seed in range(20):
        answer = ask(client, "tiny", tools=tools, tool_choice=named, max_tokens=150, temperature=1, seed=seed).choices[
            0
        ]
        if answer.finish_reason == "tool_calls":
            break
    assert json.loads(answer.message.tool_calls[0].function.arguments)["a"] in (1, 2)
    body = {"model": "tiny", "max_tokens": 150, "messages": HELLO, "tools": [{"name": "pick", "input_schema": schema}]}
    with claude.messages.stream(**body, tool_choice={"type": "any"}, extra_body={"seed": seed}) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use" and final.content[0].input["a"] in (1, 2)
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    assert json.loads(client.responses.create(model="tiny", input="x", text=form).output_text)["a"] in (1, 2)


def test_errors_have_the_envelope_of_their_protocol(daemon: Daemon, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="tinny", max_tokens=8, messages=HELLO)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert "Did you mean 'tiny'?" in caught.value.body["error"]["message"]
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(model="tiny", max_tokens=8, messages=HELLO, extra_body={"temperature": -1})
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=daemon.url, api_key="wrong", max_retries=0).models.list()
    headers = {"x-api-key": daemon.home.token(), "content-type": "application/json"}
    for path, has in (("/v1/messages", "type"), ("/inference/v1/messages", "type"), ("/v1/responses", "error")):
        for content in (b"{", b"\xff", b"[]"):
            reply = httpx.post(daemon.url + path, content=content, headers=headers, timeout=60)
            assert reply.status_code == 400 and has in reply.json(), reply.text
            assert (reply.json().get("type") == "error") == ("messages" in path)


def test_the_headers_say_what_exactly_answered(daemon: Daemon, client: openai.OpenAI) -> None:
    models = {name: daemon.call("GET", f"models/{name}") for name in ("tiny", "tuned")}
    answers = {}
    for name, model in models.items():
        body = {"model": name, "messages": HELLO, "max_tokens": 8, "temperature": 0, "stream": name == "tuned"}
        raw = daemon.request("POST", "/v1/chat/completions", json=body)
        assert raw.headers["x-fw-model-digest"] == model["digest"]
        assert raw.headers["x-fw-base-digest"] == models["tiny"]["digest"]
        assert raw.headers["x-fw-dtype"] in ("float32", "bfloat16")
        assert raw.headers["x-fw-numerics"] in ("exact", "fast")
        assert raw.headers["x-fw-template-digest"] and raw.headers["x-request-id"].startswith("req_")
        answers[name] = ask(client, name).choices[0].message.content
    assert len(set(answers.values())) == 2
    listed = {model.id for model in client.models.list()}
    assert listed == {"tiny", "tuned"}


def test_tokens_are_counted_for_streams_too(daemon: Daemon, client: openai.OpenAI) -> None:
    def counted() -> dict[str, float]:
        lines = daemon.request("GET", "/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if 'model="tiny"' in line}

    ask(client, "tiny")
    before, usage = counted(), ask(client, "tiny").usage
    list(ask(client, "tiny", stream=True))
    daemon.until(lambda: counted() != before, "the counters")
    key = 'fw_gateway_tokens_total{kind="completion",model="tiny"}'
    assert counted()[key] == before[key] + 2 * usage.completion_tokens


def test_unknown_and_missing_names_are_openai_errors_that_help(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "tinny")
    assert caught.value.code == "not_found" and caught.value.param == "model"
    assert "Did you mean 'tiny'?" in caught.value.body["message"] and caught.value.body["requestId"]
    with pytest.raises(openai.NotFoundError):
        ask(client, "accounts/local/deployments/tiny")
    with pytest.raises(openai.BadRequestError, match="'model'"):
        ask(client, "")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)


def test_a_client_that_goes_away_ends_its_generation(daemon: Daemon, client: openai.OpenAI) -> None:
    def in_flight() -> str:
        (record,) = (daemon.home.root / "workers").glob("*.ready")
        url = json.loads(record.read_text())["url"]
        token = json.loads(record.with_suffix(".json").read_text())["token"]
        metrics = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {token}"}).text
        return next(line for line in metrics.splitlines() if "running" in line and not line.startswith("#"))

    ask(client, "tiny")
    idle = in_flight()
    stream = ask(client, "tiny", stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert in_flight() != idle
    stream.close()
    daemon.until(lambda: in_flight() == idle, "the worker to cancel a stream", 10)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2000, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{daemon.url}/v1/completions",
            json=body,
            headers={"authorization": f"Bearer {daemon.home.token()}"},
            timeout=0.3,
        )
    daemon.until(lambda: in_flight() == idle, "the worker to cancel a whole answer", 10)


def test_a_worker_that_dies_mid_stream_ends_it_with_an_error_and_the_next_request_works(
    daemon: Daemon, client: openai.OpenAI
) -> None:
    asks = {
        "/v1/completions": {"prompt": "a", "max_tokens": 2000},
        "/v1/messages": {"messages": HELLO, "max_tokens": 2000},
        "/v1/responses": {"input": "a"},
    }
    headers = {"authorization": f"Bearer {daemon.home.token()}"}
    with ExitStack() as stack:
        streams = {}
        for path, fields in asks.items():
            body = {"model": "tiny", **fields, "ignore_eos": True, "stream": True}
            reply = httpx.stream("POST", daemon.url + path, json=body, headers=headers, timeout=60)
            streams[path] = stack.enter_context(reply).iter_lines()
        for lines in streams.values():
            next(lines)
        (worker,) = daemon.workers()
        kill_now(worker)
        rests = {path: [line for line in lines if line] for path, lines in streams.items()}
    for path, rest in rests.items():
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert error["code"] == "unavailable" and error["retryable"] and "send the request again" in error["hint"]
        assert (error["type"] == "overloaded_error") == (path == "/v1/messages")
        assert ("event: error" in rest) == (path != "/v1/completions")
        assert not any("[DONE]" in line for line in rest)
    assert ask(client, "tiny").usage.completion_tokens > 0
    assert daemon.workers() not in ([], [worker])


def test_a_deployment_needs_its_gate_or_force_and_frees_everything(daemon: Daemon, client: openai.OpenAI) -> None:
    refused = daemon.call("POST", "deployments?deploymentId=live", {"baseModel": "tuned"}, expect=409)
    assert refused["details"][0]["code"] == "gate_not_met" and "force" in refused["details"][0]["hint"]
    assert daemon.request("GET", "/v1/accounts/local/deployments/live").status_code == 404

    created = daemon.call("POST", "deployments?deploymentId=live", {"baseModel": "tuned", "force": True})
    assert created["state"] == "CREATING" and created["forced"]
    ready = daemon.wait_deployment("live")
    assert ready["probeLatencyS"] > 0 and ready["url"] == f"{daemon.url}/v1"
    assert ask(client, "live").model == "live"
    assert ask(client, "live").choices == ask(client, "tuned").choices
    assert {"live", "tuned"} <= {model.id for model in client.models.list()}

    (worker,) = daemon.workers()
    daemon.call("DELETE", "deployments/live")
    assert not worker.alive and daemon.workers() == []
    assert daemon.call("GET", "deployments")["deployments"] == []
    assert "live" not in {model.id for model in client.models.list()}
    with pytest.raises(openai.NotFoundError):
        ask(client, "live")


def test_an_adapter_that_changes_nothing_is_not_ready_unless_forced(daemon: Daemon) -> None:
    daemon.call("POST", "deployments?deploymentId=same", {"baseModel": "nothing", "force": True})
    assert "changes nothing" in daemon.wait_deployment("same")["status"]["message"]
    daemon.call("DELETE", "deployments/same")


def test_a_deployment_is_brought_back_after_its_worker_and_after_its_daemon_died(daemon: Daemon) -> None:
    body = {"baseModel": "tuned", "force": True}
    daemon.call("POST", "deployments?deploymentId=live", body)
    daemon.wait_deployment("live")
    (worker,) = daemon.workers()
    kill_now(worker)
    answers = []
    request = {"model": "live", "messages": HELLO, "max_tokens": 4}
    threads = [
        threading.Thread(target=lambda: answers.append(daemon.request("POST", "/v1/chat/completions", json=request)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 8, answers[0].text
    (second,) = daemon.workers()
    assert second != worker
    daemon.kill()
    daemon.start()
    daemon.wait_deployment("live")
    assert daemon.workers() == [second], "the worker lives on and is adopted"
    began = time.monotonic()
    assert daemon.request("POST", "/v1/chat/completions", json=request).status_code == 200
    assert time.monotonic() - began < 5
    assert daemon.call("POST", "deployments?deploymentId=live", body)["state"] == "READY", (
        "an equal request changes nothing"
    )
    daemon.call("DELETE", "deployments/live")
