"""OpenAI's responses, asked with the official client."""

import json

import openai
import pytest

from engine.serving.responses import ResponsesBody
from engine.serving.responses_store import MAX_RESPONSES, ResponseStore
from fw_sdk.types import FwError

FIXED = {"model": "tiny", "input": "Say something.", "temperature": 0, "max_output_tokens": 12}


def test_whole_and_streamed_agree(worker):
    whole = worker.client.responses.create(**FIXED)
    assert whole.object == "response" and whole.model == "tiny"
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.output_text and whole.output[0].role == "assistant"
    assert whole.usage.output_tokens == 12
    assert whole.usage.total_tokens == whole.usage.input_tokens + 12
    events = list(worker.client.responses.create(**FIXED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage.input_tokens_details.cached_tokens > 0


def test_the_clients_own_accumulator_follows_the_stream(worker):
    with worker.client.responses.stream(**{**FIXED, "max_output_tokens": 400}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response() if "response.completed" in kinds else None
    assert "response.output_text.delta" in kinds
    whole = worker.client.responses.create(**{**FIXED, "max_output_tokens": 400})
    assert final is None or final.output_text == whole.output_text


def test_a_response_is_continued_retrieved_and_deleted(worker):
    first = worker.client.responses.create(**FIXED, instructions="Be brief.")
    assert worker.client.responses.retrieve(first.id) == first
    second = worker.client.responses.create(**{**FIXED, "input": "More."}, previous_response_id=first.id)
    messages = [
        {"role": "user", "content": "Say something."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "More."},
    ]
    by_hand = worker.client.responses.create(**{**FIXED, "input": messages})
    assert second.output_text == by_hand.output_text, "instructions are not carried over"
    chat = worker.client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=12)
    assert chat.choices[0].message.content == second.output_text
    worker.client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        worker.client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        worker.client.responses.create(**FIXED, previous_response_id=first.id)
    assert "whole conversation" in caught.value.body["hint"] and caught.value.param == "previous_response_id"
    unkept = worker.client.responses.create(**FIXED, store=False)
    with pytest.raises(openai.NotFoundError):
        worker.client.responses.retrieve(unkept.id)


def test_items_become_a_conversation():
    items = [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]
    calls = [
        {"id": identifier, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for identifier, name in (("c1", "f"), ("c2", "g"))
    ]
    before = ({"role": "assistant", "content": "old"},)
    body = ResponsesBody.model_validate({"model": "m", "input": items})
    assert body.conversation(before) == [
        *before,
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ]
    assert before == ({"role": "assistant", "content": "old"},)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"instruction": "x"}, 400, "did you mean 'instructions'"),
        ({"input": []}, 400, "empty"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, 501, "input_image"),
        ({"input": [{"type": "computer_call"}]}, 501, "computer_call"),
        ({"tools": [{"type": "web_search"}]}, 501, "web_search"),
        ({"background": True}, 501, "background"),
        ({"truncation": "auto"}, 501, "truncation"),
        ({"model": "tinny"}, 404, "Did you mean 'tiny'"),
    ],
)
def test_mistakes_are_named(worker, change, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        worker.client.responses.create(**{**FIXED, **change} if "input" in change else FIXED, extra_body=change)
    assert caught.value.status_code == status


def test_the_store_is_bounded_and_keeps_tenants_apart(monkeypatch):
    store = ResponseStore()
    for number in range(MAX_RESPONSES + 1):
        store.put({"id": f"r{number}"}, [], "me")
    with pytest.raises(FwError):
        store.get("r0", "me")
    assert store.get("r1", "me").body == {"id": "r1"}
    with pytest.raises(FwError):
        store.get("r1", "you")
    for number in range(3):
        store.put({"id": f"big{number}", "text": "x" * (30 << 20)}, [], "me")
    assert json.dumps(store.get("big2", "me").body)
    with pytest.raises(FwError):
        store.get("big0", "me")
    monkeypatch.setattr("engine.serving.responses_store.time.monotonic", lambda: 1e12)
    with pytest.raises(FwError):
        store.get("big2", "me")
