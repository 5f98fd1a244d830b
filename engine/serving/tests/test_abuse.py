"""A real worker under 64 clients that misbehave: everyone gets their own answer or error, and nothing leaks."""

import asyncio
import json
import random
import signal
import time
from pathlib import Path

import httpx
import pytest

from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.serving.tests.conftest import TOKEN, start

PROMPTS = [f"{word} " * (3 + 5 * place) for place, word in enumerate(("tell", "me", "all", "of", "it", "now"))]
MODELS = ("tiny", "first", "second")
CLIENTS = 64
REFUSED = {
    "oversized": ({"prompt": "x" * 3000}, 400, "context_length_exceeded"),
    "unknown adapter": ({"model": "nobody"}, 404, "not_found"),
    "unknown field": ({"temprature": 1}, 400, "invalid_argument"),
    "huge n": ({"n": 100_000}, 400, "invalid_argument"),
    "unknown token": ({"prompt": [1, 10**9]}, 400, "invalid_argument"),
    "not a number": ({"temperature": "hot"}, 400, "invalid_argument"),
    "broken regex": ({"structured_outputs": {"regex": "(((("}}, 400, "invalid_argument"),
    "broken grammar": ({"structured_outputs": {"grammar": "start: nothing_like_that"}}, 400, "invalid_argument"),
    "broken schema": ({"structured_outputs": {"json": {"type": "no-such-type"}}}, 400, "invalid_argument"),
    "unknown mixture": ({"adapters": {"first": 0.5, "nobody": 0.5}}, 404, "not_found"),
}
GARBAGE = [b"{", b"\xff\xfe{}", b'{"model": "tiny", "prompt": "\xc3("}', b"[" * 100_000, b'"\\ud800"', b"", b"null"]


class Crowd:
    """Clients of one worker; ``expected`` has the greedy text by model and prompt, as given alone."""

    def __init__(self, url, folder, expected, seed):
        self.url, self.folder, self.expected = url, folder, expected
        self.chance = random.Random(seed)
        self.counts = {}
        self.client = None

    def ask(self, **changes):
        return {"model": "tiny", "prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True, **changes}

    async def post(self, body, path="/v1/completions", **options):
        tenant = {"x-fw-tenant": self.chance.choice(("", "one", "two"))}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=tenant, **options)

    def fine(self, response, status=200):
        """Whether it went well; a full queue is an answer, too, if it says when to come back."""
        if response.status_code == 429:
            assert 1 <= int(response.headers["retry-after"]) <= 60
            return False
        assert response.status_code == status, response.text
        return True

    async def answer(self):
        model, place = self.chance.choice(MODELS), self.chance.randrange(len(PROMPTS))
        n, priority = self.chance.choice((1, 1, 2)), self.chance.randrange(3)
        response = await self.post(self.ask(model=model, prompt=PROMPTS[place], n=n, priority=priority))
        if self.fine(response):
            texts = [choice["text"] for choice in response.json()["choices"]]
            assert texts == [self.expected[model, place]] * n

    async def stream(self):
        model, place = self.chance.choice(MODELS), self.chance.randrange(len(PROMPTS))
        body = json.dumps(self.ask(model=model, prompt=PROMPTS[place], stream=True))
        async with self.client.stream("POST", "/v1/completions", content=body) as response:
            if response.status_code == 429:
                return
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == self.expected[model, place]

    async def leave(self):
        body = json.dumps(self.ask(prompt=self.chance.choice(PROMPTS), stream=True, max_tokens=500, n=2))
        async with self.client.stream("POST", "/v1/completions", content=body) as response:
            wanted = self.chance.randrange(6)
            async for _ in response.aiter_lines():
                wanted -= 1
                if wanted < 0:
                    return

    async def give_up(self):
        """Leave before anything was answered."""
        with pytest.raises(httpx.TimeoutException):
            response = await self.post(self.ask(max_tokens=800), timeout=0.05)
            raise httpx.ReadTimeout("refused") if response.status_code == 429 else AssertionError(response.text)

    async def wrong(self):
        changes, status, code = self.chance.choice(list(REFUSED.values()))
        response = await self.post(self.ask(**changes))
        if self.fine(response, status):
            assert response.json()["error"]["code"] == code, response.text

    async def garbage(self):
        response = await self.post(self.chance.choice(GARBAGE))
        assert response.status_code == 400, response.text
        assert response.json()["error"]["code"] == "invalid_argument"

    async def shape(self):
        """An answer within a grammar."""
        response = await self.post(self.ask(structured_outputs={"regex": "(yes|no)"}, ignore_eos=False))
        if self.fine(response):
            assert response.json()["choices"][0]["text"] in ("yes", "no")

    async def swap(self):
        """An adapter of one's own comes and goes; others with the same idea may be faster."""
        name = f"swap{self.chance.randrange(3)}"
        path = str(self.folder / self.chance.choice(("first", "second")))
        loaded = await self.post({"lora_name": name, "lora_path": path}, "/v1/load_lora_adapter")
        assert loaded.status_code in (200, 409), loaded.text
        response = await self.post(self.ask(model=name, prompt=PROMPTS[0]))
        if response.status_code == 200:
            either = {self.expected["first", 0], self.expected["second", 0]}
            assert response.json()["choices"][0]["text"] in either
        else:
            assert response.status_code in (404, 429), response.text
        gone = await self.post({"lora_name": name}, "/v1/unload_lora_adapter")
        assert gone.status_code in (200, 404), gone.text

    async def misbehave(self, until):
        actions = [self.answer] * 4 + [self.stream] * 4 + [self.leave] * 3 + [self.wrong] * 3
        actions += [self.garbage, self.give_up, self.shape, self.swap]
        while time.monotonic() < until:
            action = self.chance.choice(actions)
            await action()
            self.counts[action.__name__] = self.counts.get(action.__name__, 0) + 1

    async def run(self, seconds):
        headers, limits = {"authorization": f"Bearer {TOKEN}"}, httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, headers=headers, limits=limits, timeout=120) as self.client:
            until = time.monotonic() + seconds
            await asyncio.gather(*(self.misbehave(until) for _ in range(CLIENTS)))


@pytest.fixture
def worker(tmp_path):
    tiny_model(tmp_path / "model", max_position_embeddings=1024)
    for seed, name in ((3, "first"), (4, "second")):
        tiny_adapter(tmp_path / name, tmp_path / "model", seed=seed, rank=seed)
    ready = tmp_path / "ready.json"
    adapters = [item for name in ("first", "second") for item in ("--adapter", f"{name}={tmp_path / name}")]
    pages = str(150 * 2 * 2 * 16 * 16 * 4 / (1 << 30))
    small = ["--kv-gib", pages, "--max-requests", "100"]
    process = start(tmp_path, "--dtype", "float32", "--ready-file", str(ready), *adapters, *small)
    deadline = time.monotonic() + 120
    while not ready.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the worker did not become ready"
        time.sleep(0.05)
    yield process, json.loads(ready.read_text())["url"], tmp_path
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def greedy(http):
    """The answers of an idle worker, one after another."""
    found = {}
    for model in MODELS:
        for place, prompt in enumerate(PROMPTS):
            body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
            found[model, place] = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    return found


def held(process):
    """Open files and megabytes of a process."""
    folder = Path(f"/proc/{process.pid}")
    size = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(list((folder / "fd").iterdir())), int(size.split()[1]) / 1024


def settle(http):
    """Wait until nothing runs; returns the metrics."""
    deadline = time.monotonic() + 30
    while True:
        lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        found = {line.rpartition(" ")[0].partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
        if found["vllm:num_requests_running"] == found["vllm:num_requests_waiting"] == 0:
            return found
        assert time.monotonic() < deadline, "requests are still running"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "seconds", [pytest.param(10, id="short"), pytest.param(120, id="long", marks=pytest.mark.slow)]
)
def test_a_crowd_that_misbehaves(worker, seconds):
    process, url, folder = worker
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
        expected = greedy(http)
        assert len(set(expected.values())) > len(PROMPTS)
        asyncio.run(Crowd(url, folder, expected, seed=0).run(3))
        settle(http)
        files, size = held(process)
        crowd = Crowd(url, folder, expected, seed=1)
        asyncio.run(crowd.run(seconds))
        metrics = settle(http)
        time.sleep(0.5)
        more_files, larger = held(process)
        assert process.poll() is None
        health = http.get("/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        assert metrics["vllm:kv_cache_usage_perc"] == 0
        assert metrics["vllm:num_preemptions_total"] > 0, "the cache was not short"
        assert more_files <= files + 5
        assert larger <= size + 60, "memory grows"
        assert len(crowd.counts) == 8, crowd.counts
        assert greedy(http) == expected
