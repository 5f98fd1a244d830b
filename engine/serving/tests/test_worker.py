"""A real worker process of a tiny model, driven by the official client."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from engine.jobs.process import ProcessId
from engine.serving.tests.conftest import TOKEN, start

MESSAGES = [{"role": "user", "content": "Say something."}]
FIXED = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def joined(stream):
    chunks = list(stream)
    return chunks, "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_ready_file_says_who_it_is(worker):
    ready = worker.ready
    assert ProcessId(ready["pid"], ready["startTicks"]).alive
    assert ready["pid"] == worker.process.pid
    assert ready["dtype"] == "float32"
    assert ready["device"] == "cpu"
    assert ready["numerics"] in ("exact", "fast")
    assert ready["modelDigest"].startswith("sha256:")
    assert ready["templateDigest"].startswith("sha256:")


def test_chat_whole_and_streamed_agree(worker):
    whole = worker.client.chat.completions.create(**FIXED)
    assert whole.model == "tiny"
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    chunks, text = joined(
        worker.client.chat.completions.create(**FIXED, stream=True, stream_options={"include_usage": True})
    )
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1
    no_usage, _ = joined(worker.client.chat.completions.create(**FIXED, stream=True))
    assert all(chunk.choices for chunk in no_usage)


def test_a_seed_fixes_the_sample_and_choices_differ(worker):
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 16, "n": 3, "seed": 7, "top_p": 0.95}
    first, second = (worker.client.chat.completions.create(**body) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in worker.client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    one = worker.client.chat.completions.create(**{**body, "n": 1})
    assert one.choices[0].message.content == texts[0]
    unseeded = {
        choice.message.content
        for answer in (worker.client.chat.completions.create(**{**body, "seed": None}) for _ in range(2))
        for choice in answer.choices
    }
    assert len(unseeded) == 6


def test_stop_strings(worker):
    text = worker.client.chat.completions.create(**FIXED).choices[0].message.content
    stop = text[4:6]
    cut = worker.client.chat.completions.create(**FIXED, stop=[stop, "never"])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == text[: text.index(stop)]
    _, streamed = joined(worker.client.chat.completions.create(**FIXED, stop=stop, stream=True))
    assert streamed == cut.choices[0].message.content


def test_logprobs(worker):
    whole = worker.client.chat.completions.create(**FIXED, logprobs=True, top_logprobs=3)
    content = whole.choices[0].logprobs.content
    assert len(content) == 12
    text = b"".join(bytes(item.bytes) for item in content).decode("utf-8", "replace")
    assert text == whole.choices[0].message.content
    for item in content:
        assert item.logprob == item.top_logprobs[0].logprob == max(top.logprob for top in item.top_logprobs)
        assert len(item.top_logprobs) == 3
    chunks, _ = joined(worker.client.chat.completions.create(**FIXED, logprobs=True, top_logprobs=3, stream=True))
    found = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [item for logprobs in found if logprobs for item in logprobs.content]
    assert [item.logprob for item in streamed] == pytest.approx([item.logprob for item in content], abs=1e-4)


def test_completions_and_token_ids(worker):
    one = worker.client.completions.create(model="tiny", prompt="abc", temperature=0, logprobs=2)
    assert one.usage.completion_tokens == 16
    assert len(one.choices[0].logprobs.tokens) == len(one.choices[0].logprobs.top_logprobs) == 16
    assert one.choices[0].logprobs.text_offset[0] == 0
    prompts = [[10, 11], [12, 13, 14]]
    raw = worker.client.completions.create(
        model="tiny", prompt=prompts, temperature=0, n=2, max_tokens=4, extra_body={"return_token_ids": True}
    ).to_dict()
    assert raw["prompt_token_ids"] == prompts
    assert [choice["index"] for choice in raw["choices"]] == [0, 1, 2, 3]
    assert [len(choice["token_ids"]) for choice in raw["choices"]] == [4] * 4
    assert raw["choices"][0]["token_ids"] == raw["choices"][1]["token_ids"] != raw["choices"][2]["token_ids"]
    assert raw["usage"]["prompt_tokens"] == 5
    stream = worker.client.completions.create(model="tiny", prompt="abc", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == one.choices[0].text


def test_every_answer_says_by_digest_what_gave_it(worker):
    def digest(**changes):
        answer = worker.http.post("/v1/chat/completions", json={**FIXED, **changes})
        return answer.headers["fw-digest"]

    assert digest() == digest(stream=True) != digest(model="first") == digest(model="first", stream=True)
    load = {"lora_name": "other", "lora_path": str(worker.adapter)}
    worker.http.post("/v1/load_lora_adapter", json=load).raise_for_status()
    assert digest(model="other") == digest(model="first"), "the same adapter under another name"
    worker.http.post("/v1/unload_lora_adapter", json={"lora_name": "other"}).raise_for_status()


def test_adapters_by_name_come_and_go(worker):
    assert [model.id for model in worker.client.models.list()] == ["tiny", "first"]
    base = worker.client.chat.completions.create(**FIXED)
    first = worker.client.chat.completions.create(**{**FIXED, "model": "first"})
    assert first.model == "first"
    assert first.choices[0].message.content != base.choices[0].message.content
    load = {"lora_name": "second", "lora_path": str(worker.adapter)}
    for _ in range(2):
        assert worker.http.post("/v1/load_lora_adapter", json=load).status_code == 200
    with ThreadPoolExecutor(6) as pool:
        names = ["tiny", "first", "second"] * 4
        answers = pool.map(lambda name: worker.client.chat.completions.create(**{**FIXED, "model": name}), names)
    for name, answer in zip(names, answers, strict=True):
        expected = base if name == "tiny" else first
        assert answer.choices[0].message.content == expected.choices[0].message.content
    assert worker.http.post("/v1/unload_lora_adapter", json={"lora_name": "second"}).status_code == 200
    with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny'"):
        worker.client.chat.completions.create(**{**FIXED, "model": "tinny"})
    gone = worker.http.post("/v1/unload_lora_adapter", json={"lora_name": "second"})
    assert gone.status_code == 404
    taken = worker.http.post("/v1/load_lora_adapter", json={**load, "lora_name": "tiny"})
    assert taken.status_code == 409
    missing = worker.http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/nowhere"})
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"temprature": 1}, 400, "invalid_argument", "did you mean 'temperature'"),
        ({"temperature": -1}, 400, "invalid_argument", "temperature"),
        ({"temperature": "hot"}, 400, "invalid_argument", "temperature"),
        ({"max_tokens": 0}, 400, "invalid_argument", "max_tokens"),
        ({"n": 0}, 400, "invalid_argument", "'n'"),
        ({"messages": []}, 400, "invalid_argument", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "invalid_argument", "role"),
        ({"top_logprobs": 3}, 400, "invalid_argument", "logprobs"),
        ({"presence_penalty": 2.5}, 400, "invalid_argument", "presence_penalty"),
        ({"logit_bias": {"a": 1}}, 400, "invalid_argument", "logit_bias"),
        ({"logit_bias": {"999": 1}}, 400, "invalid_argument", "logit_bias"),
        ({"priority": "high"}, 400, "invalid_argument", "priority"),
        ({"adapters": {"nobody": 1}}, 404, "not_found", "nobody"),
        ({"prompt_logprobs": 99}, 400, "invalid_argument", "prompt_logprobs"),
        ({"tools": [{"type": "function"}]}, 400, "invalid_argument", "name"),
        ({"tools": [{"type": "browser"}]}, 400, "invalid_argument", "browser"),
        ({"tools": [TOOL], "tool_choice": "unknown"}, 400, "invalid_argument", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            400,
            "invalid_argument",
            "x",
        ),
        ({"tool_choice": "required"}, 400, "invalid_argument", "no tools"),
        ({"tools": [TOOL], "structured_outputs": {"grammar": "start: 'a'"}}, 501, "unimplemented", "Lark"),
        ({"response_format": {"type": "xml"}}, 400, "invalid_argument", "response_format"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_argument", "json_schema"),
        ({"response_format": {"type": "json_object", "schema": {"type": "odd"}}}, 400, "invalid_argument", "odd"),
        ({"structured_outputs": {"regex": "("}}, 400, "invalid_argument", "regular expression"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, 400, "invalid_argument", "nothing"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, 400, "invalid_argument", "2 constraints"),
        ({"prediction": {"type": "content", "content": "x"}}, 501, "unimplemented", "prediction"),
        ({"messages": [{"role": "user", "content": "x" * 20_001}]}, 400, "context_length_exceeded", "20000"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_requests_are_errors_before_anything_runs(worker, change, status, code, words, stream):
    with pytest.raises(openai.APIStatusError) as caught:
        worker.client.chat.completions.create(
            **{"model": "tiny", "messages": MESSAGES, "stream": stream}, extra_body=change
        )
    assert caught.value.status_code == status
    assert caught.value.body["code"] == code
    assert words in caught.value.body["message"]
    assert caught.value.body["requestId"] == caught.value.response.headers["x-request-id"]
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_harmless_openai_fields_are_accepted(worker):
    answer = worker.client.chat.completions.create(
        **FIXED,
        user="me",
        metadata={"a": "b"},
        store=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        response_format={"type": "text"},
        tools=[],
        parallel_tool_calls=True,
        service_tier="auto",
    )
    assert answer.choices[0].finish_reason == "length"


def test_broken_bodies(worker):
    for content in (b"{", b"[]", b"[" * 100_000, b"\xff"):
        response = worker.http.post("/v1/chat/completions", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert worker.http.post("/v1/chat/completions", content=b"x" * (33 << 20)).status_code == 413
    embedding = worker.http.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
    assert embedding.status_code == 400 and "no embeddings" in embedding.json()["error"]["message"]
    assert worker.http.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_who_may_talk_to_it(worker):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=worker.ready["url"] + "/v1", api_key="wrong", max_retries=0).models.list()
    assert httpx.get(worker.ready["url"] + "/v1/models").status_code == 401
    assert httpx.get(worker.ready["url"] + "/metrics").status_code == 401
    assert httpx.get(worker.ready["url"] + "/health").json() == {"status": "ok"}
    for headers, status in (
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ):
        assert worker.http.get("/v1/models", headers=headers).status_code == status, headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(worker, stream):
    endless = {**FIXED, "max_tokens": 19_000, "stream": stream, "ignore_eos": True, "n": 2}
    before = worker.metrics()["vllm:request_success_total", "abort"]
    if stream:
        with worker.http.stream("POST", "/v1/chat/completions", json=endless) as response:
            # The opening chunk comes before the engine has begun; two chunks with text only after both requests run.
            lines = response.iter_lines()
            seen = set()
            while len(seen) < 2:
                line = next(lines)
                if line.startswith("data: {"):
                    (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                    seen |= {choice["index"]} if choice["delta"].get("content") else set()
            assert worker.metrics()["vllm:num_requests_running", None] == 2
    else:
        with pytest.raises(httpx.ReadTimeout):
            worker.http.post("/v1/chat/completions", json=endless, timeout=0.5)
    worker.wait_idle()
    assert worker.metrics()["vllm:kv_cache_usage_perc", None] == 0
    assert worker.metrics()["vllm:request_success_total", "abort"] == before + 2


def test_metrics_count(worker):
    before = worker.metrics()
    worker.client.chat.completions.create(**FIXED)
    after = worker.metrics()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["vllm:generation_tokens_total", None] == 12
    assert grown["vllm:prompt_tokens_total", None] == grown["vllm:prefix_cache_queries_total", None] > 12
    assert grown["vllm:prefix_cache_hits_total", None] > 0
    assert grown["vllm:request_success_total", "length"] == 1
    assert grown["vllm:time_to_first_token_seconds_count", None] == 1
    assert grown["vllm:inter_token_latency_seconds_count", None] == 11
    for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time"):
        assert grown[f"vllm:{name}_seconds_count", None] == 1
    assert grown["vllm:request_generation_tokens_sum", None] == 12
    assert grown["vllm:request_prompt_tokens_sum", None] == grown["vllm:prompt_tokens_total", None]
    parts = sum(grown[f"vllm:request_{name}_time_seconds_sum", None] for name in ("queue", "prefill", "decode"))
    assert 0 < parts <= grown["vllm:e2e_request_latency_seconds_sum", None] + 1e-6
    assert grown["vllm:spec_decode_num_accepted_tokens_total", None] == 0


def test_a_port_in_use_is_said_plainly(worker):
    port = worker.ready["url"].rsplit(":", 1)[1]
    ready = worker.folder / "second.json"
    second = start(worker.folder, "--port", port, "--ready-file", str(ready))
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 9
    assert f"port {port}" in errors
    assert "Traceback" not in errors
    assert not ready.exists()


def test_wrong_starts_end_with_an_error_and_no_traceback(worker):
    for arguments, token, code, words in (
        ((), "", 2, "FW_WORKER_TOKEN"),
        (("--adapter", "nopath"), TOKEN, 2, "NAME=PATH"),
        (("--model", str(worker.folder / "nowhere")), TOKEN, 3, "nowhere"),
        (("--host", "203.0.113.7"), TOKEN, 2, "203.0.113.7"),
    ):
        process = start(worker.folder, *arguments, token=token)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, words in errors, "Traceback" in errors) == (code, True, False), errors
