"""Tools, reasoning and formats through every protocol that has them, with the official clients."""

import json

import anthropic
import openai
import pytest

from engine.inference.request import Output, Usage
from engine.serving.answers import Answer
from engine.serving.generation import sse
from engine.text import Renderer

MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Bern"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK = {"type": "object", "properties": {}, "additionalProperties": False}
CHAT_TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "clock", "parameters": CLOCK}},
]
RESPONSE_TOOLS = [
    {"type": "function", "name": "weather", "parameters": CITY, "strict": True},
    {"type": "function", "name": "clock", "parameters": CLOCK, "strict": True},
]
CLAUDE_TOOLS = [
    {"name": "weather", "description": "The weather.", "input_schema": CITY},
    {"name": "clock", "input_schema": CLOCK},
]
THOUGHT = {"regex": "<think>\nhm, so\n</think>\n\nRome is sunny\\."}


@pytest.fixture(scope="module")
def outright(worker):
    """Keeps a random model from beginning with ``<think>``: where it may choose, it does not write an h."""
    (letter,) = worker.http.post("/tokenize", json={"prompt": "h"}).json()["tokens"]
    return {"logit_bias": {str(letter): -100}, "seed": 3}


def fits(name, arguments):
    assert name in ("weather", "clock")
    if name == "clock":
        return arguments == {}
    return arguments["city"] in ("Rome", "Bern") and 1 <= arguments["days"] <= 9 and set(arguments) == {"city", "days"}


def test_chat_calls_a_tool_and_goes_on(worker, outright):
    body = {"model": "tiny", "messages": MESSAGES, "tools": CHAT_TOOLS, "max_tokens": 900, **outright}
    body |= {"tool_choice": "required", "parallel_tool_calls": False}
    whole = worker.client.chat.completions.create(**body).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert fits(call.function.name, json.loads(call.function.arguments)) and whole.message.content is None
    streamed = {"name": "", "arguments": "", "id": ""}
    for chunk in worker.client.chat.completions.create(**body, stream=True):
        choice = chunk.choices[0]
        for part in choice.delta.tool_calls or ():
            assert part.index == 0
            streamed["id"] += part.id or ""
            streamed["name"] += part.function.name or ""
            streamed["arguments"] += part.function.arguments or ""
    assert choice.finish_reason == "tool_calls"
    assert (streamed["name"], streamed["arguments"]) == (call.function.name, call.function.arguments)
    assert streamed["id"]
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*MESSAGES, whole.message.model_dump(), result]
    then = worker.client.chat.completions.create(model="tiny", messages=messages, tools=CHAT_TOOLS, max_tokens=4)
    assert then.usage.prompt_tokens > 20


def test_a_named_tool_and_none(worker, outright):
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 900, **outright}
    named = {"type": "function", "function": {"name": "clock"}}
    answer = worker.client.chat.completions.create(**body, tools=CHAT_TOOLS, tool_choice=named).choices[0].message
    assert [call.function.name for call in answer.tool_calls] == ["clock"]
    body["max_tokens"] = 1
    none = worker.client.chat.completions.create(**body, tools=CHAT_TOOLS, tool_choice="none")
    plain = worker.client.chat.completions.create(**body)
    offered = worker.client.chat.completions.create(**body, tools=CHAT_TOOLS)
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens < offered.usage.prompt_tokens


def test_reasoning_stands_apart_in_chat(worker):
    body = {"model": "tiny", "messages": MESSAGES, "extra_body": {"structured_outputs": THOUGHT}}
    whole = worker.client.chat.completions.create(**body)
    message = whole.choices[0].message
    assert message.content == "Rome is sunny."
    assert whole.usage.completion_tokens_details.reasoning_tokens == len("hm, so")
    assert message.reasoning == message.reasoning_content == "hm, so"
    deltas = [chunk.choices[0].delta for chunk in worker.client.chat.completions.create(**body, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == "Rome is sunny."
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "hm, so"


def test_anthropic_tool_use_and_its_result(worker, outright):
    body = {"model": "tiny", "messages": MESSAGES, "tools": CLAUDE_TOOLS, "max_tokens": 900, "extra_body": outright}
    body["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    whole = worker.claude.messages.create(**body)
    assert whole.stop_reason == "tool_use"
    (block,) = whole.content
    assert block.type == "tool_use" and fits(block.name, block.input)
    with worker.claude.messages.stream(**body) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert "input_json" in kinds
    assert (final.content[0].name, final.content[0].input) == (block.name, block.input)
    assert final.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": [item.model_dump() for item in whole.content]},
        {"role": "user", "content": [result]},
    ]
    then = worker.claude.messages.create(model="tiny", messages=messages, tools=CLAUDE_TOOLS, max_tokens=4)
    counted = worker.claude.messages.count_tokens(model="tiny", messages=messages, tools=CLAUDE_TOOLS)
    assert counted.input_tokens == then.usage.input_tokens + then.usage.cache_read_input_tokens
    named = worker.claude.messages.create(**{**body, "tool_choice": {"type": "tool", "name": "clock"}})
    assert [item.name for item in named.content] == ["clock"]


def test_anthropic_thinking(worker):
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 200}
    body["extra_body"] = {"structured_outputs": THOUGHT, "thinking": {"type": "adaptive"}}
    thought, text = worker.claude.messages.create(**body).content
    assert (thought.type, thought.thinking, text.text) == ("thinking", "hm, so", "Rome is sunny.")
    with worker.claude.messages.stream(**body) as stream:
        final = stream.get_final_message()
    assert [item.type for item in final.content] == ["thinking", "text"]
    assert final.usage.output_tokens_details.thinking_tokens == len("hm, so")
    assert final.content[0].thinking == "hm, so" and final.content[0].signature == thought.signature
    messages = [*MESSAGES, {"role": "assistant", "content": [item.model_dump() for item in final.content]}, *MESSAGES]
    assert worker.claude.messages.create(model="tiny", messages=messages, max_tokens=1).usage.output_tokens == 1


def test_responses_call_and_reason(worker, outright):
    body = {
        "model": "tiny",
        "input": MESSAGES,
        "tools": RESPONSE_TOOLS,
        "tool_choice": "required",
        "extra_body": outright,
    }
    body["parallel_tool_calls"] = False
    whole = worker.client.responses.create(**body)
    (call,) = whole.output
    assert whole.status == "completed" and call.type == "function_call"
    assert fits(call.name, json.loads(call.arguments))
    assert whole.tools[0].name == "weather"
    with worker.client.responses.stream(**body) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds
    assert (final.output[0].name, final.output[0].arguments) == (call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    then = worker.client.responses.create(
        model="tiny", input=[result], previous_response_id=whole.id, tools=RESPONSE_TOOLS, max_output_tokens=4
    )
    assert then.usage.input_tokens > whole.usage.input_tokens
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    only = worker.client.responses.create(**{**body, "tool_choice": allowed})
    assert {item.name for item in only.output} == {"clock"}

    body = {"model": "tiny", "input": MESSAGES, "extra_body": {"structured_outputs": THOUGHT}}
    with worker.client.responses.stream(**body) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.reasoning_text.delta", "response.reasoning_text.done"} <= kinds
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.usage.output_tokens_details.reasoning_tokens == len("hm, so")
    assert final.output[0].content[0].text == "hm, so" and final.output_text == "Rome is sunny."


def test_formats_of_the_other_protocols(worker):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    answer = worker.client.responses.create(model="tiny", input="x", text=form)
    assert json.loads(answer.output_text)["a"] in (1, 2)
    assert answer.text.format.schema_ == schema
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    message = worker.claude.messages.create(model="tiny", max_tokens=400, messages=MESSAGES, output_config=wanted)
    assert json.loads(message.content[0].text)["a"] in (1, 2)


def test_a_format_beside_tools_is_for_answers_that_call_nothing(worker):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "fine"}}}
    (opening,) = worker.http.post("/tokenize", json={"prompt": "<"}).json()["tokens"]
    body = {"model": "tiny", "messages": MESSAGES, "tools": CHAT_TOOLS, "response_format": form, "max_tokens": 900}
    body |= {"parallel_tool_calls": False, "seed": 1}  # a second call might be one that is never finished
    for bias, calls in ((100, True), (-100, False)):
        answer = worker.client.chat.completions.create(**body, logit_bias={str(opening): bias}).choices[0]
        assert bool(answer.message.tool_calls) == calls
        assert answer.message.content == (None if calls else '"fine"')


@pytest.mark.parametrize("kind", ["web_search_20250305", "bash_20250124"])
def test_tools_of_the_vendor_are_refused_by_name(worker, kind):
    with pytest.raises(anthropic.APIStatusError, match=kind):
        tools = [{"type": kind, "name": "x"}]
        worker.claude.messages.create(model="tiny", max_tokens=4, messages=MESSAGES, tools=tools)
    with pytest.raises(openai.APIStatusError, match="web_search"):
        worker.client.responses.create(model="tiny", input="x", tools=[{"type": "web_search"}])


def test_parts_follow_each_other(worker):
    renderer = Renderer.load(worker.folder / "model")
    answer = Answer(renderer.output_parser(CHAT_TOOLS))
    text = '<think>\nhm\n</think>\n\nOne.<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    changes = []
    for place, character in enumerate(text):
        reason = "stop" if place == len(text) - 1 else None
        changes += answer.add(Output("r", (1,), character, (), reason, Usage(1, place + 1)))
    assert [(part.kind, part.index) for part in answer.parts] == [("reasoning", 0), ("text", 1), ("call", 2)]
    assert (answer.reasoning, answer.text, answer.calls[0].name) == ("hm", "One.", "clock")
    open_parts = []
    for change in changes:
        if change.kind == "open":
            assert not open_parts
            open_parts.append(change.part)
        assert open_parts == [change.part]
        if change.kind == "close":
            open_parts.clear()
    assert not open_parts
    joined = "".join(change.text for change in changes if change.part.kind == "text")
    assert joined == "One." and sse({"a": "é"}) == 'data: {"a":"é"}\n\n'.encode()
