"""A real worker process of a tiny embedding model, driven by the official client."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from engine.inference import EmbeddingEngine
from engine.inference.tests.tiny_bert import save_tiny_bert
from engine.serving.tests.conftest import TOKEN, start

TEXTS = ["The cat sat on the mat.", "a dog", "the big red house"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding-worker")
    (folder / "model").mkdir()
    save_tiny_bert(folder / "model")
    return folder


@pytest.fixture(scope="module")
def url(folder):
    ready = folder / "ready.json"
    process = start(folder, "--ready-file", str(ready))
    deadline = time.monotonic() + 90
    while not ready.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    facts = json.loads(ready.read_text())
    assert (facts["dtype"], facts["numerics"], facts["device"]) == ("float32", "fast", "cpu")
    yield facts["url"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url + "/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def engine(folder):
    return EmbeddingEngine.load(folder / "model")


def test_the_official_client_gets_the_engines_vectors(client, engine):
    expected = engine.embed(TEXTS)
    for form in ({}, {"encoding_format": "float"}):  # without, the client asks for base64 and decodes it
        answer = client.embeddings.create(model="tiny", input=TEXTS, **form)
        np.testing.assert_allclose([item.embedding for item in answer.data], expected.vectors, atol=1e-6)
        assert [item.index for item in answer.data] == [0, 1, 2]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(expected.token_counts)
        assert answer.model == "tiny"


def test_one_text_token_ids_and_fewer_dimensions(client, engine):
    ids = engine.tokenize(TEXTS)
    for given, count in ((TEXTS[0], 1), (ids[0], 1), (ids, 3)):
        answer = client.embeddings.create(model="tiny", input=given, dimensions=5)
        found = np.array([item.embedding for item in answer.data])
        np.testing.assert_allclose(found, engine.embed(TEXTS[:count], dimensions=5).vectors, atol=1e-6)


def test_many_clients_at_once(client, engine):
    texts = [f"the cat and {'the dog ' * (number % 9)}" for number in range(48)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.embeddings.create(model="tiny", input=text), texts))
    found = np.array([answer.data[0].embedding for answer in answers])
    np.testing.assert_allclose(found, engine.embed(texts).vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"input": "the cat " * 99}, 400, "200 tokens"),
        ({"input": []}, 400, "no input"),
        ({"input": [[99999]]}, 400, "99999"),
        ({"input": {"a": 1}}, 400, "input"),
        ({"dimensions": 33}, 400, "1 to 32"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"truncat": True}, 400, "truncate"),
        ({"model": "tinny"}, 404, "tiny"),
    ],
)
def test_mistakes_are_openai_errors(url, change, status, word):
    body = {"model": "tiny", "input": "a cat", **change}
    reply = httpx.post(f"{url}/v1/embeddings", json=body, headers={"authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == status, reply.text
    assert word in json.dumps(reply.json()["error"])


def test_truncation_models_health_and_metrics(url, client):
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as http:
        body = {"model": "tiny", "input": "the cat " * 99, "truncate": True}
        assert http.post("/v1/embeddings", json=body).json()["usage"]["prompt_tokens"] == 64
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert http.get("/health").json() == {"status": "ok"}
        assert 'vllm:prompt_tokens_total{model_name="tiny"}' in http.get("/metrics").text
        refused = http.post("/v1/chat/completions", json={"model": "tiny", "messages": []})
        assert refused.status_code == 400 and "generates no text" in refused.json()["error"]["message"]
        assert http.post("/v1/messages", json={}).json()["error"]["type"] == "invalid_request_error"
        assert httpx.post(f"{url}/v1/embeddings", json=body).status_code == 401


def test_adapters_are_refused(folder):
    process = start(folder, "--adapter", "a=/nowhere")
    assert process.wait(60) == 2
    assert "takes no adapters" in process.stderr.read()
