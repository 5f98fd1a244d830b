"""Conversations with tools: what the model is shown, whatever its template knows, and what training counts."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.text import Renderer, Tokenizer
from engine.text.tests.chat_templates import TEMPLATES
from engine.text.tests.test_parser import ANSWERS, TOOLS, message
from fw_sdk.types import FwError

USER = {"role": "user", "content": "Weather in Rome?"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "now", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "noon"}
CHAT = [USER, CALLING, RESULT, {"role": "assistant", "content": "It is noon."}]
IGNORANT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(folder, source, **fields):
    peer = Tokenizer.load(folder)
    return Renderer(Tokenizer(peer._backend, eos_ids=[2], chat_template=source, **fields))


@pytest.fixture(scope="module")
def ignorant(tiny_llama_dir):
    return with_template(tiny_llama_dir, IGNORANT)


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_equals_transformers(tiny_llama_dir, name):
    peer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    ours = with_template(tiny_llama_dir, TEMPLATES[name], special_tokens=Tokenizer.load(tiny_llama_dir).special_tokens)
    call = {**CALL, "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}}
    for messages in ([USER], [USER, {**CALLING, "content": "", "tool_calls": [call, CALL]}, RESULT]):
        for prompt in (True, False):
            as_objects = json.loads(json.dumps(messages).replace('"arguments": "{}"', '"arguments": {}'))
            expected = peer.apply_chat_template(
                as_objects, tools=TOOLS, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
            )
            assert ours.text(messages, tools=TOOLS, add_generation_prompt=prompt) == expected


def test_a_template_without_tools_is_helped_out(ignorant):
    assert ignorant.tools_support == "prompt"
    text = ignorant.text([{"role": "system", "content": "Be brief."}, *CHAT], tools=TOOLS, add_generation_prompt=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call")
    assert '"name": "get_weather"' in text
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\nnoon\n</tool_response><|im_end|>" in text
    assert ignorant.text([USER]) == f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"


def test_results_that_follow_each_other_are_one_turn(ignorant):
    text = ignorant.text([USER, {**CALLING, "tool_calls": [CALL, CALL]}, RESULT, RESULT], tools=TOOLS)
    assert text.count("<tool_response>\nnoon\n</tool_response>\n<tool_response>") == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS)
def test_what_the_default_prompt_teaches_is_read_back(ignorant, answer):
    made = message({**answer, "reasoning": ""})
    prompt = ignorant.text([USER], tools=TOOLS)
    whole = ignorant.text([USER, made], tools=TOOLS, add_generation_prompt=False)
    read = ignorant.parse(whole.removeprefix(prompt).removesuffix("<|im_end|>\n"), TOOLS)
    strip = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in read.get("tool_calls", [])
    ]
    assert (read["content"], strip) == (answer["content"], answer["calls"])


@pytest.mark.parametrize("name", [*TEMPLATES, "ignorant"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(ANSWERS, min_size=1, max_size=2))
def test_a_turn_is_a_prefix_of_the_next_or_it_says_why(tiny_llama_dir, name, answers):
    renderer = with_template(tiny_llama_dir, IGNORANT if name == "ignorant" else TEMPLATES[name])
    before = [USER]
    for answer in answers:
        after = [*before, message(answer), USER]
        reason = renderer.extension(before, after, tools=TOOLS)
        prompts = [renderer.render(messages, tools=TOOLS) for messages in (before, after)]
        assert (prompts[1][: len(prompts[0])] == prompts[0]) == (reason is None)
        assert reason is None
        before = after


def test_why_a_turn_is_no_prefix(tiny_llama_dir):
    forgets = TEMPLATES["hermes"].replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
    renderer = with_template(tiny_llama_dir, forgets)
    thought = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert "reasoning" in renderer.extension([USER, thought], [USER, thought, USER])
    counts = with_template(tiny_llama_dir, "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "'1" in counts.extension([USER], [USER, {"role": "assistant", "content": "b"}, USER])


@pytest.mark.parametrize("name", ["hermes", "qwen-xml", "deepseek", "ignorant"])
def test_calls_are_trained(tiny_llama_dir, name):
    renderer = with_template(tiny_llama_dir, IGNORANT if name == "ignorant" else TEMPLATES[name])
    ids, trained = renderer.render_training(CHAT, TOOLS)
    assert ids == renderer.render(CHAT, tools=TOOLS, add_generation_prompt=False)
    counted = renderer.tokenizer.decode([number for number, counts in zip(ids, trained, strict=True) if counts])
    first, second, rest = counted.split("<|im_end|>")
    assert renderer.parse(first, TOOLS)["tool_calls"][0]["function"]["name"] == "now"
    assert (second, rest) == ("It is noon.", "")


def test_arguments_may_be_objects_or_text(ignorant, tiny_llama_dir):
    as_object = {**CALL, "function": {"name": "now", "arguments": {}}}
    assert ignorant.render([USER, {**CALLING, "tool_calls": [as_object]}]) == ignorant.render([USER, CALLING])
    wants_text = TEMPLATES["hermes"].replace("{{ f.arguments | tojson }}", "{{ f.arguments }}")
    renderer = with_template(tiny_llama_dir, wants_text)
    call = {**CALL, "function": {"name": "now", "arguments": {"city": "Rome"}}}
    assert '"arguments": {"city": "Rome"}}' in renderer.text([USER, {**CALLING, "tool_calls": [call]}], tools=TOOLS)


@pytest.mark.parametrize(
    "calls",
    [
        "x",
        [1],
        [{"function": {}}],
        [{"function": {"name": "f", "arguments": "{"}}],
        [{"function": {"name": "f", "arguments": "[]"}}],
    ],
)
def test_wrong_calls_are_named(ignorant, calls):
    with pytest.raises(FwError) as caught:
        ignorant.render([USER, {**CALLING, "tool_calls": calls}])
    assert caught.value.code == "invalid_argument"
    assert "message 1" in caught.value.message


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ([], "fields"),
        ({"fields": {"content": {"color": 1}}}, "color"),
        ({"fields": {"content": {"open": ""}}}, "open"),
        ({"fields": {"content": {"open_pattern": "("}}}, "open_pattern"),
        ({"fields": {"content": {}, "x": {}}}, "'x'"),
        ({"fields": {"content": {"content": "yaml"}}}, "yaml"),
        ({"fields": {"content": {}}, "version": 2}, "version"),
    ],
)
def test_a_broken_response_template_is_named(tiny_llama_dir, source, named):
    renderer = with_template(tiny_llama_dir, TEMPLATES["hermes"], response_template=source)
    with pytest.raises(FwError) as caught:
        renderer.output_parser(TOOLS)
    assert caught.value.code == "model_unsupported"
    assert named in caught.value.message


def test_stop_ids_are_those_after_the_answer(tiny_llama_dir):
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(tiny_llama_dir / "tokenizer.json"))
    names = ["<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end|>"]
    backend.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    renderer = Renderer(Tokenizer(backend, eos_ids=[2], chat_template=TEMPLATES["harmony"]))
    assert renderer.stop_ids == (2, backend.token_to_id("<|return|>"))
    assert renderer.keep_special


@pytest.mark.model
def test_the_starter_is_taught_tools_by_a_prompt(starter_gguf):
    renderer = Renderer.load(starter_gguf)
    assert renderer.tools_support == "prompt"
    assert renderer.keep_special is False
    text = renderer.text(CHAT, tools=TOOLS)
    assert text.startswith("<|im_start|>system\nYou may call functions")
    assert text.endswith("It is noon.<|im_end|>\n<|im_start|>assistant\n")
    assert renderer.extension([USER], CHAT, tools=TOOLS) is None
