"""The application in this process, where its engine can be broken on purpose."""

import asyncio
import json

import httpx
import pytest
import torch

from engine.inference import Engine, EngineLoop, Request, SamplingParams
from engine.inference.tests.failing import make_failing
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import load_adapter, load_model, save_adapter
from engine.serving.app import create_app
from engine.serving.served import Served
from engine.text import Renderer

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture
def loop(tmp_path):
    path = tiny_model(tmp_path / "model")
    engine = Engine(load_model(path, dtype=torch.float32), Renderer.load(path))
    broken = load_adapter(tiny_adapter(tmp_path / "nan", path, seed=1), engine.model.config, torch.float32)
    for _, up in broken.weights.values():
        up.fill_(torch.nan)
    save_adapter(tmp_path / "broken", broken, "tiny")
    engine.load_adapter("broken", tmp_path / "broken")
    loop = EngineLoop(engine, max_requests=2)
    loop.start()
    yield loop
    loop.stop()


def ask(loop, *requests, host="127.0.0.1", base="http://127.0.0.1"):
    """Responses to (method, path, body) in order."""
    app = create_app(Served.of("tiny", loop, loop.engine.renderer, "sha256:0"), token="t", host=host)

    async def main():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"authorization": "Bearer t"}
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
            return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(main())


def test_an_engine_that_failed_begins_anew_and_a_dead_one_is_reported(loop):
    runner = make_failing(loop.engine)
    health, chat = ("GET", "/health", None), ("POST", "/v1/chat/completions", ASK)
    fine, good = ask(loop, health, chat)
    assert (fine.status_code, fine.json()) == (200, {"status": "ok"})
    runner.failures = 1
    failed, again, after, metrics = ask(loop, chat, chat, health, ("GET", "/metrics", None))
    assert failed.status_code == 503
    assert failed.json()["error"]["code"] == "unavailable"
    assert "broken on purpose" in failed.json()["error"]["message"]
    assert failed.headers["x-should-retry"] == "true"
    assert again.status_code == good.status_code == 200
    assert (after.status_code, after.json()["status"], after.json()["restarts"]) == (200, "ok", 1)
    assert 'fw:engine_restarts_total{model_name="tiny"} 1.0' in metrics.text
    runner.failures = 2
    *refused, dead = ask(loop, chat, chat, chat, health)
    assert [answer.status_code for answer in (*refused, dead)] == [503] * 4
    assert dead.json()["status"] == "dead"
    assert "IndexError" in dead.json()["error"]


def test_a_full_queue_says_when_to_come_back(loop):
    async def main():
        held = loop.submit(Request("held", (1,), SamplingParams(max_tokens=200, ignore_eos=True)))
        transport = httpx.ASGITransport(
            create_app(Served.of("tiny", loop, loop.engine.renderer, "sha256:0"), token="t", host="x")
        )
        headers = {"authorization": "Bearer t"}
        async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
            answers = [await client.post("/v1/chat/completions", json={**ASK, "n": n}) for n in (2, 3)]
        await held.aclose()
        return answers

    full, never = asyncio.run(main())
    assert full.status_code == 429
    assert 1 <= int(full.headers["retry-after"]) <= 60
    assert full.headers["x-should-retry"] == "true"
    assert never.status_code == 400


def test_an_answer_that_fails_on_its_way_is_an_error(loop):
    body = {**ASK, "model": "broken"}
    whole, streamed, healthy = ask(
        loop,
        ("POST", "/v1/chat/completions", body),
        ("POST", "/v1/chat/completions", {**body, "stream": True}),
        ("POST", "/v1/chat/completions", ASK),
    )
    assert whole.status_code == 500
    assert whole.json()["error"]["code"] == "internal"
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "internal"
    assert "[DONE]" not in events
    assert healthy.status_code == 200


def test_a_worker_on_every_address_lets_every_host_in(loop):
    models = ("GET", "/v1/models", None)
    assert ask(loop, models, host="0.0.0.0", base="http://gpu-box:9000")[0].status_code == 200
    assert ask(loop, models, host="10.0.0.5", base="http://10.0.0.5:9000")[0].status_code == 200
    assert ask(loop, models, host="10.0.0.5", base="http://gpu-box:9000")[0].status_code == 403


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_pages_within_a_step(loop, stream, spec):
    body = {**ASK, "max_tokens": 200, "ignore_eos": True, "stream": stream}
    app = create_app(Served.of("tiny", loop, loop.engine.renderer, "sha256:0"), token="t", host="127.0.0.1")
    headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer t")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    scope |= {
        "asgi": {"version": "3.0", "spec_version": spec},
        "http_version": "1.1",
        "root_path": "",
        "scheme": "http",
    }

    async def main():
        gone = asyncio.Event()
        asked = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive():
            if asked:
                return asked.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if gone.is_set():
                raise OSError("the client is gone")

        task = asyncio.create_task(app(scope, receive, send))
        while loop.stats.generation_tokens < 5:
            await asyncio.sleep(0)
        gone.set()
        told = loop.stats.generation_tokens
        while loop.stats.running:
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        return loop.stats.generation_tokens - told, loop.stats.kv_usage

    drawn, used = asyncio.run(main())
    # The step that computes, and those until the event loop has its turn: far from the 195 that were left.
    assert drawn <= 8
    assert used == 0


def test_weights_are_updated_over_http(loop, tmp_path):
    new = tiny_model(tmp_path / "new", seed=1)
    other = tiny_adapter(tmp_path / "other", tmp_path / "model", seed=2)
    chat = ("POST", "/v1/chat/completions", {**ASK, "temperature": 0, "return_token_ids": True, "ignore_eos": True})
    update = "/v1/update_weights"
    before, done, after, adapter, wrong, unknown, missing = ask(
        loop,
        chat,
        ("POST", update, {"path": str(new), "mode": "abort"}),
        chat,
        ("POST", update, {"path": str(other), "lora_name": "broken", "mode": "keep"}),
        ("POST", update, {"path": str(new), "mode": "later"}),
        ("POST", update, {"path": str(new), "lora_name": "nobody"}),
        ("POST", update, {"path": str(tmp_path / "nowhere")}),
    )
    assert done.json() == {"status": "ok", "weight_version": 2}, "the adapter has version 1"
    first, second = (answer.json()["choices"][0] for answer in (before, after))
    assert (first["weight_versions"], second["weight_versions"]) == ([0] * 3, [2] * 3)
    assert first["token_ids"] != second["token_ids"]
    assert adapter.json()["weight_version"] == 3
    assert [answer.status_code for answer in (wrong, unknown, missing)] == [400, 404, 404]
    assert ask(loop, ("POST", "/v1/chat/completions", {**ASK, "model": "broken"}))[0].status_code == 200
