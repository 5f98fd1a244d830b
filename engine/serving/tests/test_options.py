"""What a request may ask for beyond a plain answer: grammars, biases, penalties, salts, log-probabilities."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

MESSAGES = [{"role": "user", "content": "Say something."}]
FIXED = {"model": "tiny", "messages": MESSAGES, "max_tokens": 400}
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b", "c-d"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}


def ask(worker, **options):
    known = {key: options.pop(key) for key in tuple(options) if key in ("response_format", "logit_bias", "seed", "n")}
    answer = worker.client.chat.completions.create(**FIXED, **known, extra_body=options)
    return [choice.message.content for choice in answer.choices]


def test_answers_fit_their_schema(worker):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    for text in ask(worker, response_format=form, n=3):
        value = json.loads(text)
        assert value["kind"] in ("a", "b", "c-d") and isinstance(value["sure"], bool)
    for text in ask(worker, response_format={"type": "json_object", "schema": SCHEMA}):
        assert set(json.loads(text)) == {"kind", "sure"}


@pytest.mark.parametrize(
    ("constraint", "allowed"),
    [
        ({"choice": ["yes, really", "no (never)", "a|b"]}, {"yes, really", "no (never)", "a|b"}),
        ({"regex": "x{3}"}, {"xxx"}),
        ({"grammar": 'start: "left" | "right"'}, {"left", "right"}),
        ({"json": json.dumps({"const": 17})}, {"17"}),
    ],
)
def test_answers_fit_other_constraints(worker, constraint, allowed):
    assert set(ask(worker, structured_outputs=constraint, n=4)) <= allowed


def test_a_bad_grammar_fails_its_own_request_only(worker):
    bad = {"structured_outputs": {"regex": "(((("}}

    def one(number):
        body = {**FIXED, "max_tokens": 8, "temperature": 0, **(bad if number % 2 else {})}
        return worker.http.post("/v1/chat/completions", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [200, 400] * 8


def test_biases_and_penalties_reach_the_sampler(worker):
    (forced,) = ask(worker, logit_bias={"65": 100}, stop_token_ids=[256, 258], max_tokens=4)
    letter = worker.http.post("/detokenize", json={"tokens": [65]}).json()["prompt"]
    assert forced == letter * 4
    (steady,) = ask(worker, logit_bias={"65": 40}, temperature=0, max_tokens=60)
    (varied,) = ask(worker, logit_bias={"65": 40}, temperature=0, max_tokens=60, frequency_penalty=2)
    assert steady == letter * 60
    assert varied.startswith(letter) and set(varied) != {letter}


def test_a_salt_keeps_prefixes_apart(worker):
    def cached(**options):
        body = {**FIXED, "max_tokens": 1, "temperature": 0, **options}
        details = worker.http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens_details"]
        return details["cached_tokens"], details["cache_miss"]

    long = {"messages": [{"role": "user", "content": "A long beginning. " * 8}]}
    assert cached(**long, cache_salt="one") == (0, "first_seen")
    count, _ = cached(**long, cache_salt="one")
    assert count > 0
    assert cached(**long, cache_salt="two") == (0, "first_seen")
    assert cached(**long, cache_salt="one", priority=-5)[0] == count


def test_weighted_adapters(worker):
    def text(**options):
        body = {**FIXED, "max_tokens": 12, "temperature": 0, **options}
        return worker.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

    assert text(adapters={"first": 1.0}) == text(model="first") != text()
    assert text(adapters={"first": 0.0}) == text()


def test_prompt_logprobs_and_token_ids(worker):
    body = {**FIXED, "max_tokens": 3, "temperature": 0, "prompt_logprobs": 2, "return_token_ids": True}
    whole = worker.http.post("/v1/chat/completions", json=body).json()
    ids, scores = whole["prompt_token_ids"], whole["prompt_logprobs"]
    assert len(ids) == len(scores) and scores[0] is None
    for number, score in zip(ids[1:], scores[1:], strict=True):
        assert str(number) in score and 2 <= len(score) <= 3
        assert sorted(item["rank"] for item in score.values() if item["rank"]) == [1, 2]
    assert len(whole["choices"][0]["token_ids"]) == 3
    assert whole["choices"][0]["weight_versions"] == [0, 0, 0]


def test_nothing_is_generated_on_request(worker):
    whole = worker.client.completions.create(model="tiny", prompt="abc", max_tokens=0)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 0)
    warmed = worker.claude.messages.create(model="tiny", max_tokens=0, messages=MESSAGES)
    assert warmed.content == [] and warmed.usage.output_tokens == 0 and warmed.stop_reason == "max_tokens"
