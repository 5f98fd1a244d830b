"""Log-likelihoods as lm-eval's ``local-completions`` asks for them, against transformers'."""

import json
import random
import subprocess
import sys
from operator import itemgetter

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.serving.tests.conftest import TOKEN

COUNT, BATCH = 100, 10


@pytest.fixture(scope="module")
def pairs():
    """Contexts and continuations, as token ids."""
    draw = random.Random(7)
    return [
        (
            [draw.randrange(256) for _ in range(draw.randint(1, 40))],
            [draw.randrange(256) for _ in range(draw.randint(1, 12))],
        )
        for _ in range(COUNT)
    ]


def score(folder, pairs):
    """(log-likelihood, whether greedy decoding would give the continuation) of each pair, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for context, continuation in pairs:
            logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
            scores = logits.log_softmax(-1)
            target = torch.tensor(continuation)
            value = scores.gather(1, target.unsqueeze(1)).sum().item()
            found.append((value, bool((scores.argmax(-1) == target).all())))
    return found


@pytest.fixture(scope="module")
def expected(worker, pairs):
    return score(worker.folder / "model", pairs)


def request_of(prompts):
    """What lm-eval sends for log-likelihoods."""
    return {
        "model": "tiny",
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }


def read(answer, lengths):
    """How lm-eval reads the answer."""
    found = []
    for choice, length in zip(sorted(answer["choices"], key=itemgetter("index")), lengths, strict=True):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        found.append((sum(values), greedy))
    return found


def test_loglikelihoods_equal_those_of_transformers(worker, pairs, expected):
    found = []
    for start in range(0, COUNT, BATCH):
        part = pairs[start : start + BATCH]
        answer = worker.http.post("/v1/completions", json=request_of([one + two for one, two in part]))
        assert answer.status_code == 200, answer.text
        found += read(answer.json(), [len(context) for context, _ in part])
    for (value, greedy), (wanted, wanted_greedy) in zip(found, expected, strict=True):
        assert value == pytest.approx(wanted, abs=1e-3)
        assert greedy == wanted_greedy


def test_the_last_token_may_be_left_undrawn(worker, pairs, expected):
    context, continuation = pairs[0]
    body = {**request_of(context + continuation), "max_tokens": 0}
    answer = worker.http.post("/v1/completions", json=body).json()
    (choice,) = answer["choices"]
    values = choice["logprobs"]["token_logprobs"]
    assert len(values) == len(context + continuation) == len(choice["logprobs"]["tokens"])
    assert values[0] is None and choice["logprobs"]["top_logprobs"][0] is None
    assert sum(values[len(context) :]) == pytest.approx(expected[0][0], abs=1e-3)
    assert answer["usage"]["completion_tokens"] == 0


def test_an_echo_begins_with_the_prompt(worker):
    body = {"model": "tiny", "prompt": "Grüße", "temperature": 0, "max_tokens": 4, "echo": True, "logprobs": 1}
    whole = worker.client.completions.create(**body).choices[0]
    assert whole.text.startswith("Grüße") and len(whole.logprobs.tokens) == 7 + 4
    choices = [chunk.choices[0] for chunk in worker.client.completions.create(**body, stream=True)]
    assert "".join(choice.text for choice in choices) == whole.text
    assert [token for choice in choices for token in choice.logprobs.tokens] == whole.logprobs.tokens
    assert [offset for choice in choices for offset in choice.logprobs.text_offset] == whole.logprobs.text_offset


SCRIPT = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, folder, token, pairs = json.load(sys.stdin)
lm = LocalCompletionsAPI(
    base_url=url + "/v1/completions", model="tiny", tokenizer=folder, tokenizer_backend="huggingface",
    batch_size=8, header={"Authorization": "Bearer " + token},
)
requests = [Instance("loglikelihood", {}, tuple(pair), number) for number, pair in enumerate(pairs)]
print(json.dumps([[value, bool(greedy)] for value, greedy in lm.loglikelihood(requests, disable_tqdm=True)]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lm_eval_itself_gets_those_of_transformers(worker, tmp_path):
    """lm-eval in an environment of its own, since its dependencies are many."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "lm-eval[api]", "transformers"], check=True)
    draw = random.Random(11)

    def text(least, most):
        return "".join(draw.choice("abcdefgh ,.XYZ0123") for _ in range(draw.randint(least, most)))

    pairs = [(text(1, 60).strip() + "x", " " + text(1, 20).strip() + "y") for _ in range(COUNT)]
    folder = str(worker.folder / "model")
    given = json.dumps([worker.ready["url"], folder, TOKEN, pairs])
    done = subprocess.run([python, "-c", SCRIPT], input=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ids = [tuple(list(part.encode()) for part in pair) for pair in pairs]
    tokens = [
        tuple(worker.http.post("/tokenize", json={"prompt": part}).json()["tokens"] for part in pair) for pair in pairs
    ]
    assert [tuple(map(len, pair)) for pair in tokens] == [tuple(map(len, pair)) for pair in ids], "a token per byte"
    for (value, greedy), (wanted, wanted_greedy) in zip(found, score(worker.folder / "model", tokens), strict=True):
        assert value == pytest.approx(wanted, abs=1e-3)
        assert greedy == wanted_greedy
