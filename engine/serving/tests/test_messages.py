"""Anthropic's messages, asked with the official client."""

import json

import anthropic
import httpx
import pytest

from engine.serving.messages import MessagesBody

ASK = {"model": "tiny", "max_tokens": 12, "messages": [{"role": "user", "content": "Say something."}]}
FIXED = {**ASK, "extra_body": {"temperature": 0}}


def test_whole_and_streamed_agree(worker):
    whole = worker.claude.messages.create(**FIXED)
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", "tiny")
    assert whole.stop_reason == "max_tokens" and whole.stop_sequence is None
    (block,) = whole.content
    assert block.type == "text" and block.text
    assert whole.usage.output_tokens == 12
    with worker.claude.messages.stream(**FIXED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == block.text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 12
    total = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == total
    assert final.usage.cache_read_input_tokens > 0


def test_events_come_in_anthropics_order(worker):
    kinds = [event.type for event in worker.claude.messages.create(**FIXED, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_it_says_what_chat_completions_say(worker):
    other = worker.client.chat.completions.create(
        model="tiny",
        temperature=0,
        max_tokens=12,
        messages=[{"role": "system", "content": "Be brief.\nAnd kind."}, *FIXED["messages"]],
    )
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    system.append({"type": "text", "text": "And kind."})
    message = worker.claude.messages.create(**FIXED, system=system)
    assert message.content[0].text == other.choices[0].message.content
    counted = worker.claude.messages.count_tokens(model="tiny", messages=FIXED["messages"], system=system)
    assert counted.input_tokens == other.usage.prompt_tokens


def test_a_given_beginning_is_continued(worker):
    begun = {"role": "assistant", "content": "Well, "}
    more = worker.claude.messages.create(**{**FIXED, "messages": [*FIXED["messages"], begun]}).content[0].text
    parts = ({"messages": FIXED["messages"]}, {"prompt": "Well, "})
    ids = [number for part in parts for number in worker.http.post("/tokenize", json=part).json()["tokens"]]
    same = worker.client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=12)
    assert more == same.choices[0].text
    assert worker.http.post("/detokenize", json={"tokens": ids}).json()["prompt"].endswith("assistant\nWell, ")


def test_stop_sequences_end_the_turn(worker):
    text = worker.claude.messages.create(**FIXED).content[0].text
    cut = worker.claude.messages.create(**FIXED, stop_sequences=[text[4:6]])
    assert cut.content[0].text == text[: text.index(text[4:6])]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", text[4:6])


def test_blocks_become_a_conversation():
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"where": "é"}},
    ]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": "t1",
            "content": [{"type": "text", "text": "nothing"}],
            "is_error": True,
        },
        {"type": "text", "text": "go on"},
    ]
    messages = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": results},
    ]
    body = MessagesBody.model_validate({"model": "m", "max_tokens": 1, "system": "s", "messages": messages})
    found, prefill = body.conversation()
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"where": "é"}'}}
    assert found == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "Let me look.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "Error: nothing"},
        {"role": "user", "content": "go on"},
    ]
    assert prefill == ""


@pytest.mark.parametrize(
    ("change", "status", "kind", "words"),
    [
        ({"temprature": 1}, 400, "invalid_request_error", "did you mean 'temperature'"),
        ({"max_tokens": -1}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "invalid_request_error", "image"),
        ({"model": "tinny"}, 404, "not_found_error", "Did you mean 'tiny'"),
        ({"container": "c"}, 501, "api_error", "container"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_have_anthropics_envelope(worker, change, status, kind, words, stream):
    with pytest.raises(anthropic.APIStatusError) as caught:
        worker.claude.messages.create(**ASK, stream=stream, extra_body=change)
    assert caught.value.status_code == status
    body = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == kind
    assert words in body["error"]["message"]
    assert body["request_id"] == caught.value.response.headers["x-request-id"]


def test_broken_bodies_have_it_too(worker):
    for content, status in ((b"{", 400), (b"[]", 400), (b"\xff", 400), (b'"\\ud800"', 400), (b"x" * (33 << 20), 413)):
        response = worker.http.post("/v1/messages", content=content)
        assert response.status_code == status
        assert response.json()["type"] == "error"
        assert response.json()["error"]["type"] == ("invalid_request_error" if status == 400 else "request_too_large")
    assert worker.http.get("/v1/messages").json()["error"]["type"] == "not_found_error"


def test_either_kind_of_token_opens(worker):
    url = worker.ready["url"]
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0).messages.create(**ASK)
    bearer = anthropic.Anthropic(base_url=url, auth_token="secret-of-the-test", max_retries=0)
    assert bearer.messages.create(**ASK).usage.output_tokens > 0
    assert next(model.id for model in worker.claude.models.list().data) == "tiny"
    refused = httpx.post(f"{url}/v1/messages", json=ASK)
    assert refused.status_code == 401 and json.loads(refused.text)["error"]["type"] == "authentication_error"
